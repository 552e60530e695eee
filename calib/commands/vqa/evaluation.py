"""The settings of `calib vqa evaluate`."""

from __future__ import annotations

from calib.commands.vqa.option import Option, Subcommand, words


def numbers(text: str) -> list[float]:
    """Return numbers that stand between commas.

    Example:
        >>> numbers("0.1,0.2")
        [0.1, 0.2]
    """
    return [float(word) for word in words(text)]


EVALUATE = Subcommand(
    summary="what answers and their uncertainties are worth: errors, calibration, collapse",
    main="calib.commands.vqa.evaluate:main",
    usage="""\
calib vqa evaluate ITEMS... OUTPUTS... out=FOLDER

  calib vqa evaluate demo out=runs/demo              (three real models, and None of the above)
  calib vqa evaluate items.parquet nota.parquet runs/vqa/outputs.parquet out=runs/evaluation
  calib vqa evaluate items.parquet runs/a runs/b methods=all by=modality,question_type shift=scanner:A

OUTPUTS are tables with a column model_id, or folders of calib vqa answer. FOLDER gets report.html, tables.md,
tables/*.csv and metrics.json; the findings are printed in words.
""",
    options={
        "methods": Option(
            ["panel"], "methods of calib.vqa.uncertainty; panel: eight and the baselines; all", words
        ),
        "reference": Option("option_msp", "the method that others are compared with"),
        "scores": Option("auto", "scores of options: logit, letter, sum, mean, pmi"),
        "by": Option(["modality"], "columns that make cells: does quality follow accuracy?", words),
        "shift": Option(None, "COLUMN:VALUE, VALUE being what is usual: relative robustness"),
        "min_cases": Option(20, "fewest wrong and right answers for a number that ranks them", int, 1),
        "n_resamples": Option(2000, "resamples of images or patients", int, 1),
        "n_permutations": Option(999, "permutations of tests", int, 1),
        "level": Option(0.95, "of intervals", float),
        "seed": Option(0, "of draws", int, 0),
        "n_bins": Option(15, "bins of the ECE", int, 1),
        "margin": Option(0.1, "what counts as no change of an uncertainty, in standard deviations", float),
        "budgets": Option([0.1, 0.2, 0.3], "shares of answers that can be reviewed", numbers),
        "tolerated": Option([0.05, 0.1, 0.2], "shares of errors tolerated among accepted answers", numbers),
        "confident": Option(0.9, "from which confidence on an answer is called confident", float),
        "folds": Option(5, "parts for corrections fitted on one and used on another", int, 2),
        "show": Option([], "tables to print: errors, collapse, shift, tracking, ...", words),
        "out": Option(None, "the folder of the results; nothing is written without"),
    },
)

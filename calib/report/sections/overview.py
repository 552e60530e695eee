"""What was done and found in plain sentences, and the methods beside each other with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from calib.core.text import few
from calib.metrics import METRICS, Column, columns_of, needed_by, summarize
from calib.metrics.outcomes import Outcomes
from calib.report.compare import compared, differences_of, ends_of, joint_bootstrap, over_seeds
from calib.report.document import Section, Table
from calib.report.subject import Subject
from calib.report.tables import Cell, Difference
from calib.stats import JointBootstrap, proportion_interval

FEW_ERRORS = 20  # below which shares of the errors say little
FEW_IMAGES = 200  # below which a calibration error is mostly chance
NONE_WRONG = (
    "No prediction is wrong: these images cannot say what a reader of the doubtful ones would change."
)
Joint: TypeAlias = JointBootstrap[tuple[str, int]]
Metrics: TypeAlias = Mapping[str, Mapping[int, Mapping[str, Any]]]  # method, seed, name


def metrics_of(subject: Subject) -> dict[str, dict[int, dict[str, Any]]]:
    """Return `calib.metrics.summarize` of every method and seed."""
    return {
        name: {
            seed: summarize(
                each.logits, each.labels, class_names=list(each.class_names), n_bins=subject.parts.n_bins
            )
            for seed, each in runs.items()
        }
        for name, runs in subject.by_method.items()
    }


def percent(share: float, decimals: int = 1) -> str:
    """Return a fraction in percent, as it stands in a sentence.

    Example:
        >>> percent(0.0614), percent(1 / 3, 0)
        ('6.1 %', '33 %')
    """
    return f"{100 * share:.{decimals}f} %"


def between(low: float, high: float) -> str:
    """Return the ends of an interval of fractions in percent.

    Example:
        >>> between(0.061, 0.129)
        '6.1 to 12.9 %'
    """
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def overview(
    subject: Subject, metrics: Metrics, differences: Mapping[str, Mapping[str, Difference]]
) -> Section:
    """Return the section that says in sentences what was done and what was found.

    Args:
        subject: What the report is about.
        metrics: From `metrics_of`.
        differences: Of the methods from the baseline, as `comparison` found them.
    """
    ours = metrics[subject.main][subject.seed]
    said = [_what(subject), _accuracy(subject, metrics), _calibration(ours), _triage(subject)]
    found = differences.get(subject.main)
    if found:
        said.append(_compared(subject, found))
    return Section("overview", "What was done, and what was found", said=said, notes=_beware(subject))


def _what(subject: Subject) -> str:
    names, data = subject.class_names, subject.data_name
    n = len(subject.correct)
    groups = f", which belong to {subject.n_groups:,} groups (patients, slides)" if subject.n_groups else ""
    of = f" of {data}" if data else ""
    seed = f" All that follows on single images is of seed {subject.seed}." if subject.several else ""
    return (
        f"{subject.main} was asked which of {len(names)} classes ({few(names, 8)}) each of {n:,} images{of} "
        f"shows{groups}. Its answers are compared with the labels the images came with.{seed}"
    )


def _accuracy(subject: Subject, metrics: Metrics) -> str:
    right, low, high = proportion_interval(subject.correct, subject.groups, level=subject.parts.level)
    wrong = int((~subject.correct).sum())
    text = (
        f"It was right in {percent(right)} of them ({percent(subject.parts.level, 0)} interval "
        f"{between(low, high)}) and wrong in {f'{wrong:,}' if wrong else 'none'}."
    )
    if subject.several:
        cell = over_seeds([each["accuracy"] for each in metrics[subject.main].values()])
        assert cell.value is not None
        spread = f" ± {100 * cell.sd:.1f}" if cell.sd is not None else ""
        listed = ", ".join(str(seed) for seed in subject.seeds)
        text += f" Over the seeds {listed} it was right in {100 * cell.value:.1f}{spread} %."
    return text


def _calibration(ours: Mapping[str, Any]) -> str:
    gap, ece, chance = ours["confidence_gap"], ours["ece"], ours["null_ece"]
    limit = ours["calibration"]["null_ece_95"]
    side = "more than it was right" if gap > 0 else "less than it was right"
    points = "as much as it was right" if abs(gap) < 0.0005 else f"{abs(100 * gap):.1f} points {side}"
    text = (
        f"It was {percent(ours['confidence'])} confident on average: {points}. Its calibration error (ECE) "
        f"is {percent(ece)}. A model whose every confidence is right would show {percent(chance)} on as many "
        f"images by chance alone, and less than {percent(limit)} in 95 of 100 such sets"
    )
    if ece > limit:
        how = "too high" if gap > 0 else "too low"
        return f"{text}: its confidences are off by more than chance explains, on the whole {how}."
    return f"{text}: nothing here says that its confidences are wrong."


def _triage(subject: Subject) -> str:
    order = subject.judged.argsort(stable=True).numpy()  # what is unlike comes last: it is reviewed
    n, kept = len(order), round(0.8 * len(order))
    if kept < 1:
        return "There are too few images to say what reviewing some of them would change."
    wrong = ~subject.correct[order]
    if not wrong.any():
        return NONE_WRONG
    share = wrong[:kept].mean()
    return (
        f"If a reader looks at the fifth with the most doubt ({n - kept:,} images), {percent(share)} of the "
        f"others are wrong instead of {percent(wrong.mean())} of all; {int(wrong[kept:].sum()):,} of the "
        f"{int(wrong.sum()):,} mistakes are among what is looked at."
    )


def _compared(subject: Subject, found: Mapping[str, Difference]) -> str:
    parts = []
    for name, words in (
        ("accuracy", "accuracy"),
        ("ece", "calibration error (ECE)"),
        ("nll", "negative log-likelihood"),
        ("brier", "Brier score"),
    ):
        if name not in found:
            continue
        each, column = found[name], METRICS[name].column
        assert column is not None
        scale, decimals = column.scale, column.decimals
        if each.low == each.estimate == each.high == 0:  # a calibrator that changes no predicted class
            parts.append(f"{words} the same")
            continue
        unit = " points" if scale == 100 else ""
        low, high = (f"{scale * end:+.{decimals}f}" for end in (each.low, each.high))
        clear = "" if each.low > 0 or each.high < 0 else ", which may be chance"
        parts.append(f"{words} {scale * each.estimate:+.{decimals}f}{unit} ({low} to {high}{clear})")
    return f"Beside {subject.baseline}, on the same images: {'; '.join(parts)}."


def _beware(subject: Subject) -> list[str]:
    n, wrong = len(subject.correct), int((~subject.correct).sum())
    fewer, notes = min(wrong, n - wrong), []
    if fewer < FEW_ERRORS:
        kind = "wrong" if wrong < n - wrong else "right"
        of_them = (
            f"Only {fewer} prediction{' is' if fewer == 1 else 's are'} {kind}: what is said about them"
            if fewer
            else f"No prediction is {kind}: what is said of sorting {kind} ones out"
        )
        notes.append(f"{of_them} says little, however narrow an interval looks.")
    if n < FEW_IMAGES:
        notes.append(f"There are {n} images: calibration errors are mostly chance in so small a set.")
    if subject.groups is None:
        notes.append(
            "It is not known which images are of the same patient. Intervals take each image for a patient "
            "of its own; where that is not so they are too narrow."
        )
    notes.append(
        "This page says how the model did on these images. It is no statement on its safety, and calib is no "
        "medical device."
    )
    return notes


def comparison(subject: Subject, metrics: Metrics) -> tuple[Section, dict[str, dict[str, Difference]]]:
    """Return the section of the methods beside each other, and their differences from the baseline.

    Args:
        subject: What the report is about.
        metrics: From `metrics_of`.
    """
    columns = {
        name: columns_of(METRICS).get(name) or Column("chance %") for name in needed_by(columns_of(METRICS))
    }
    columns = {
        name: Column(
            f"{column.title.removesuffix(' %')} %" if column.scale == 100 else column.title,
            decimals=column.decimals,
            signed=column.signed,
        )
        for name, column in columns.items()
    }
    rows: dict[str, dict[str, Cell]] = {}
    joint, unable = None, ""
    try:
        joint = joint_bootstrap(
            subject.by_method,
            n_bins=subject.parts.n_bins,
            n_resamples=subject.parts.n_resamples,
            level=subject.parts.level,
            seed=subject.parts.seed,
        )
    except ValueError as error:  # a single image or group
        unable = str(error)
    for method, runs in metrics.items():
        row = {name: over_seeds([each[name] for each in runs.values()]) for name in columns}
        rows[method] = {
            name: Cell(cell.value, cell.sd, _ends(subject, joint, name, method)) for name, cell in row.items()
        }
    notes = [f"No intervals but those of the accuracy: {unable}"] if unable else []
    if joint is not None and any(row[name].interval is None for row in rows.values() for name in compared()):
        notes.append(
            "Where no brackets stand, every resample gives the same number, as where all predictions are "
            "right: that is no certainty, and the interval of the accuracy says how far it may be off."
        )
    tables = [Table("comparison", "Methods", "method", columns, rows)]
    differences = {} if joint is None else _differences(subject, joint)
    if differences:
        differing = {name: columns[name] for name in next(iter(differences.values()))}
        cells = {
            name: {key: Cell(d.estimate, interval=(d.low, d.high)) for key, d in row.items()}
            for name, row in differences.items()
        }
        title = f"Minus {subject.baseline}, on the same images"
        tables.append(Table("differences", title, "method", differing, cells, difference=True))
    return Section(
        "comparison",
        "Comparison",
        said=[_reading(subject)],
        tables=tables,
        notes=notes,
    ), differences


def _reading(subject: Subject) -> str:
    parts = subject.parts
    unit = "image" if subject.groups is None else "group of images"
    spread = "Behind a mean stands ± its standard deviation over the seeds. " if subject.several else ""
    exact = "exact" if subject.groups is None else "exact, as wide as the groups make it"
    seeds = {len(runs) > 1 for runs in subject.by_method.values()}
    one_seed = "" if seeds == {False} else ", of one seed,"
    accuracy = "" if seeds == {True} else f"; that of the accuracy{one_seed} is {exact}"
    return (
        f"{spread}In brackets stand {percent(parts.level, 0)} bootstrap intervals ({parts.n_resamples:,} "
        f"resamples by {unit}){accuracy}. More is better for accuracies and F1, less for ECE, NLL and Brier; "
        "confidence minus accuracy is best at 0. An ECE says something only beside that of chance; NLL and "
        f"Brier score are the safer judges. ECE with {parts.n_bins} bins."
    )


def _ends(subject: Subject, joint: Joint | None, name: str, method: str) -> tuple[float, float] | None:
    """Return the interval of a metric over the seeds of a method. None: it has none.

    The accuracy of one seed is a share, and has the interval that the sentences have; that of several draws
    seeds, too.
    """
    runs = subject.by_method[method]
    if name == "accuracy" and len(runs) == 1:
        (each,) = runs.values()
        correct = Outcomes.from_logits(each.logits, each.labels).correct.cpu().numpy()
        return proportion_interval(correct, subject.groups, level=subject.parts.level)[1:]
    if joint is None or name not in compared():
        return None
    keys = [(method, seed) for seed in sorted(runs)]
    return ends_of(joint.interval(name, keys, kind=METRICS[name].interval_kind))


def _differences(subject: Subject, joint: Joint) -> dict[str, dict[str, Difference]]:
    if subject.baseline is None:
        return {}
    theirs = subject.by_method[subject.baseline].keys()
    return {
        name: differences_of(joint, name, subject.baseline, sorted(runs.keys() & theirs))
        for name, runs in subject.by_method.items()
        if name != subject.baseline and runs.keys() & theirs
    }

"""Tables, the list of doubtful images and the picture of a failure run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from calib.core.text import safe_path, safe_text
from calib.failure.data import FailureData
from calib.failure.evaluation import BASELINE, DOUBT, ECE, Judgements, by_source, head_uncertainty
from calib.failure.explain import Explanation
from calib.failure.export import FailureHead
from calib.metrics import FAILURE_METRICS, columns_of
from calib.metrics.columns import Column
from calib.metrics.failure import aurc
from calib.report.plots import risk_coverage_diagram
from calib.report.tables import Cell, metrics_table

FEW = 10  # wrong (or right) predictions below which a reader is warned
DRAWN = 5  # curves in the picture; more would hide each other
SINGLES = 2  # scores beside doubt, confidence and head in the short table
SHORT = ("auroc", "fpr95", "aurc")  # its metrics, beside the calibration of P(wrong)
COLUMN = Column("ECE of P(wrong) %")


def heading(results: Mapping[str, Any]) -> str:
    """Return what stands above the tables: images, errors, how to read the numbers, and a warning if few.

    Args:
        results: The content of metrics.json.
    """
    images, test = results["images"], results["test"]
    columns = columns_of(FAILURE_METRICS)
    better = [
        columns[name].title.removesuffix(" %") for name in columns if FAILURE_METRICS[name].higher_is_better
    ]
    text = (
        f"{results['data']}: {test['n']} test images, {test['n_failures']} predictions wrong. The head "
        f"learned from {images['train']} images ({images['fit_on'].replace('_', '-')}), "
        f"{images['failures']} wrong. Intervals: {results['level']:.0%}. More is better for "
        f"{' and '.join(better)}, less for the others."
    )
    least = min(test["n_failures"], test["n"] - test["n_failures"])
    if least < FEW:
        kind = "wrong" if test["n_failures"] == least else "right"
        text += (
            f"\nOnly {least} of the test predictions are {kind}: these numbers say little, and their "
            "intervals, which resample the same few, are too narrow."
        )
    return text


def short_report(results: Mapping[str, Any]) -> str:
    """Return what a run shows at its end: one table, how P(wrong) was made, and where the rest is.

    In the table are the doubt, the confidence, the head, and the other scores with the lowest AURC.

    Args:
        results: The content of metrics.json.
    """
    metrics, head = results["scores"], results["head"]
    doubt = results.get("doubt")
    firsts = [name for name in (DOUBT, BASELINE, head) if name in metrics]
    others = [name for name in metrics if name not in firsts and metrics[name].get("aurc") is not None]
    others = [name for name in others if metrics[name]["aurc"] == metrics[name]["aurc"]]  # NaN: not fitted
    others.sort(key=lambda name: float(metrics[name]["aurc"]))
    shown = {name: metrics[name] for name in (*firsts, *others[:SINGLES])}
    columns = columns_of(FAILURE_METRICS)
    table = failure_table(shown, {**{key: columns[key] for key in SHORT if key in columns}, ECE: COLUMN})
    best = " and ".join(others[:SINGLES])
    parts = [table]
    if best:
        parts.append(f"Of the other scores {best} have the lowest AURC on these test images.")
    if doubt is None:
        parts.append(f"The uncertainty in the files is that of the head ({head}).")
    else:
        parts.append(
            f"Use '{DOUBT}': the probability that a prediction is wrong, from several scores. "
            f"{' '.join(doubt['sentences'])}"
        )
    undefined = remarks(shown)
    return "\n\n".join([*parts, *undefined])


def tables(metrics: dict[str, dict[str, Any]]) -> str:
    """Return everything that is shown of a run: metrics, differences from MCP, and what is undefined.

    Args:
        metrics: Score to metrics, as in metrics.json.
    """
    differences = differences_table(metrics)
    parts = [failure_table(metrics), *([differences] if differences else []), *remarks(metrics)]
    return "\n\n".join(parts)


def failure_table(
    metrics: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Column] | None = None
) -> str:
    """Return a Markdown table: every score's metrics with their intervals.

    Args:
        metrics: Score to metrics, as in metrics.json.
        columns: Metric to column. None: all.
    """
    if columns is None:
        columns = {**columns_of(FAILURE_METRICS), ECE: COLUMN}
    rows = {
        name: {key: Cell(row.get(key), interval=row.get("intervals", {}).get(key)) for key in columns}
        for name, row in metrics.items()
    }
    return metrics_table("score", columns, rows)


def differences_table(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return a Markdown table of the paired differences from MCP. None: there is none.

    Args:
        metrics: Score to metrics, as in metrics.json.
    """
    rows = {
        name: {
            key: Cell(middle, interval=(low, high)) for key, (low, middle, high) in row["minus_mcp"].items()
        }
        for name, row in metrics.items()
        if row.get("minus_mcp")
    }
    return metrics_table("minus mcp", columns_of(FAILURE_METRICS), rows, difference=True) if rows else None


def remarks(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for everything in the table that is undefined, and why; each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, row in metrics.items():
        for metric, reason in row["undefined"].items():
            what = name if reason.startswith("not fitted") else metric
            reasons.setdefault(reason, []).append(what)
    texts = [f"{', '.join(dict.fromkeys(names))}: {reason.rstrip('.')}." for reason, names in reasons.items()]
    lacking = {row["no_interval"] for row in metrics.values() if row.get("no_interval")}
    return [f"n/a is undefined. {text}" for text in texts] + [
        f"No intervals: {text}" for text in sorted(lacking)
    ]


def failures_csv(data: FailureData, head: FailureHead, *, top: int = 3) -> str:
    """Return one CSV row per test image, the most doubtful first, with the reasons in numbers and in words.

    Args:
        data: The model and its predictions on the test images.
        head: The head.
        top: Alternative classes to name.
    """
    cases, predictions = data.test_cases, data.test
    uncertainty = head_uncertainty(head, cases)
    plain = cases.plain
    rows: dict[int, list[str]] = {}
    parts: list[str] = []
    for source, (index, texts) in enumerate(by_source(head, cases)):
        names, picked = data.names_of(source), plain.predictions[index]
        explanation = head.explain(
            plain.image_features[index], picked, text_features=texts, logits=plain.logits[index], top=top
        )
        parts, why = list(explanation.contributions), explanation.sentences(names)
        for at, row in enumerate(index.tolist()):
            label, prediction = int(cases.labels[row]), int(picked[at])
            rows[row] = [
                safe_path(predictions.names[row]),
                safe_text(names[label]),
                safe_text(names[prediction]),
                "yes" if label == prediction else "no",
                f"{float(explanation.probs[at, 0]):.6f}",  # the number that the words quote
                f"{float(uncertainty[row]):.6f}",
                safe_text(alternatives(explanation, at, names)),
                *(f"{float(explanation.contributions[part][at]):+.4f}" for part in parts),
                safe_text(why[at]),
            ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["name", "label", "prediction", "correct", "confidence", "uncertainty", "weighed against"]
    writer.writerow([*columns, *(f"doubt from {part}" for part in parts), "why"])
    writer.writerows(rows[row] for row in uncertainty.argsort(descending=True, stable=True).tolist())
    return text.getvalue()


def alternatives(explanation: Explanation, row: int, names: Sequence[str]) -> str:
    """Return the classes weighed against the predicted one, with their weights, in words."""
    classes = explanation.alternatives[row].tolist()
    weights = explanation.alternative_weights[row].tolist()
    return "; ".join(f"{names[c]} {weight:.0%}" for c, weight in zip(classes, weights, strict=True))


def risk_coverage_figure(judgements: Judgements, head: str) -> Any:
    """Return the risk-coverage curves of the head, of MCP and of the others with the lowest AURC.

    Args:
        judgements: Uncertainties of the test images.
        head: The head's name among them.
    """
    others = [name for name in judgements.values if name not in (head, BASELINE)]
    others.sort(key=lambda name: float(aurc(judgements.values[name], judgements.failure)))
    shown = [head, BASELINE, *others[: DRAWN - 2]]
    return risk_coverage_diagram({name: (judgements.values[name], judgements.failure) for name in shown})

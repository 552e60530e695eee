"""A metric is one function and one row: everything else follows from the table, as it is at that moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_facts import metric_names

from calib.config import DataConfig, FailureRun, PromptRun
from calib.failure.report import failure_table
from calib.metrics import (
    FAILURE_METRICS,
    METRICS,
    BinSums,
    ClassCounts,
    Column,
    FailureMetric,
    MeanOverSamples,
    Metric,
    WholeSet,
    failure_statistic,
    interval_statistic,
    metric_collection,
    summarize,
    summarize_failure,
)
from calib.report.tables import results_table
from calib.stats import bootstrap_interval

PROBS = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.0, 0.8]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1])


def margin(probs):
    first, second = probs.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def median_of_the_label(probs, labels, *, n_bins=3):
    return n_bins * probs.gather(1, labels[:, None]).median()


def fullest(sums):
    return sums[0].amax(dim=-1) / sums[0].sum(dim=-1)


def worst_recall(hits, true, predicted):
    return torch.where(true > 0, hits / true, 1.0).amin(dim=-1)


# kind, value on the three samples above with 4 bins
TOYS = {
    "mean over samples": (MeanOverSamples(margin), (0.3 + 0.7 + 0.6) / 3),
    "function of the whole set": (WholeSet(median_of_the_label), 4 * 0.6),
    "sums per bin": (BinSums(fullest), 2 / 3),
    "sums per bin and class": (BinSums(fullest, per_class=True), (2 / 3 + 1 / 3 + 2 / 3) / 3),
    "counts per class": (ClassCounts(worst_recall), 1 / 2),
}


@pytest.fixture(params=TOYS)
def toy(request, monkeypatch):
    """Return the value that a new metric has on the samples above, once it is in the table."""
    kind, value = TOYS[request.param]
    row = Metric(kind, "a toy", higher_is_better=True, column=Column("TOY", decimals=4))
    monkeypatch.setitem(METRICS, "toy", row)
    return value


def test_one_row_is_a_metric_everywhere(toy):
    logits = PROBS.clamp(min=1e-300).log()
    summary = summarize(logits, LABELS, n_bins=4)
    assert summary["toy"] == pytest.approx(toy, abs=1e-12)

    collection = metric_collection(3, n_bins=4)
    for rows in (slice(0, 1), slice(1, 3)):
        collection.update(logits=logits[rows], labels=LABELS[rows])
    assert float(collection.compute()["toy"]) == pytest.approx(toy, abs=1e-12)

    statistic = interval_statistic("toy", n_bins=4)
    interval = bootstrap_interval(statistic, logits.numpy(), LABELS.numpy(), n_resamples=50)
    assert interval.estimate == pytest.approx(toy, abs=1e-12)
    assert interval.low < interval.high

    assert {"val/toy", "test/toy"} <= metric_names(PromptRun(data=DataConfig(val_shots=4)))
    assert "val/toy" not in metric_names(PromptRun())  # there are no validation images

    header, _, row = results_table({"mine": summary}).splitlines()
    assert header.split("|")[-2].strip() == "TOY"  # the last column, where none is asked for
    assert row.split("|")[-2].strip() == f"{toy:.4f}"


def doubt_at_the_end(steps):
    return steps.failures[:, -1] / steps.n_failures[:, 0]


def test_one_row_is_a_failure_metric_everywhere(monkeypatch):
    row = FailureMetric(doubt_at_the_end, needs_failure=True, column=Column("TOY %"), watched=True)
    monkeypatch.setitem(FAILURE_METRICS, "toy", row)
    uncertainty, failure = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([False, True, True])
    summary = summarize_failure(uncertainty, failure)
    assert summary["toy"] == 0.5
    assert summarize_failure(uncertainty, failure & False)["undefined"]["toy"] == "no prediction is wrong"
    arrays = np.tile(uncertainty.numpy(), 9), np.tile(failure.numpy(), 9)
    interval = bootstrap_interval(failure_statistic("toy"), *arrays, n_resamples=50)
    assert interval.low < interval.estimate == 0.5 < interval.high
    assert {"val/toy", "test/toy"} <= metric_names(FailureRun())
    header, _, shown = failure_table({"mine": summary | {"intervals": {"toy": [0.25, 0.75]}}}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in (header, shown)]
    assert dict(zip(*cells, strict=True))["TOY %"] == "50.0 [25.0, 75.0]"

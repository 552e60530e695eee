"""What a reliability diagram draws, read back from the figure."""

from __future__ import annotations

import sys

import pytest
import torch

from calib.metrics import summarize
from calib.plots import reliability_diagram, reliability_panels


def example():
    """Return four samples in the bins 0.5-0.75 (one of two right) and 0.75-1 (none of two right)."""
    confidence = torch.tensor([0.6, 0.7, 0.8, 1.0], dtype=torch.float64)
    return torch.stack([confidence, 1 - confidence], dim=1), torch.tensor([0, 1, 1, 1])


def bars(container):
    return [(round(bar.get_x(), 6), round(bar.get_y(), 6), round(bar.get_height(), 6)) for bar in container]


def test_bars_are_accuracy_and_gap_and_an_empty_bin_has_none():
    axes = reliability_diagram(*example(), n_bins=4).axes[0]
    accuracy, gap = axes.containers
    assert bars(accuracy) == [(0.5, 0.0, 0.5), (0.75, 0.0, 0.0)]
    assert bars(gap) == [(0.5, 0.5, 0.15), (0.75, 0.0, 0.9)]


def test_histogram_shows_shares_and_counts_and_leaves_empty_bins_unwritten():
    below = reliability_diagram(*example(), n_bins=4).axes[1]
    assert [height for _, _, height in bars(below.containers[0])] == [0, 0, 0.5, 0.5]
    assert [text.get_text() for text in below.texts] == ["", "", "2", "2"]
    lines = {line.get_label(): line.get_xdata()[0] for line in below.lines}
    assert lines == {"Accuracy of all samples": 0.25, "Confidence of all samples": pytest.approx(0.775)}


def test_large_counts_are_written_short():
    probs, labels = example()
    below = reliability_diagram(probs.repeat(30_000, 1), labels.repeat(30_000), n_bins=4).axes[1]
    assert [text.get_text() for text in below.texts] == ["", "", "60k", "60k"]


def test_the_numbers_written_are_the_metrics():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (60,), generator=generator)
    summary = summarize(logits, labels)
    text = reliability_diagram(logits.softmax(dim=1), labels, title="CE").axes[0].texts[0].get_text()
    names = {"ECE": "ece", "Accuracy": "accuracy", "Confidence": "confidence"}
    assert text.splitlines() == [*(f"{k} {100 * summary[v]:.1f} %" for k, v in names.items()), "n = 60"]


def test_panels_share_their_axes_and_keep_their_order():
    figure = reliability_panels({"zero-shot": example(), "CE": example(), "CE / SMAC": example()})
    top, bottom = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in top] == ["zero-shot", "CE", "CE / SMAC"]
    assert {axes.get_ylim() for axes in top} == {(0, 1)}
    assert {axes.get_xlim() for axes in figure.axes} == {(0, 1)}
    assert len({axes.get_ylim() for axes in bottom}) == 1
    assert len(figure.legends[0].get_texts()) == 5


def test_figures_are_saved_without_pyplot(tmp_path):
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    reliability_panels({"a": example(), "b": example()}, n_bins=15).savefig(tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert (pyplot.get_fignums() if pyplot else []) == before


def test_unusable_inputs_raise():
    with pytest.raises(ValueError, match="at least one system"):
        reliability_panels({})
    with pytest.raises(ValueError, match="Logits need a softmax"):
        reliability_diagram(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))

"""What a reliability diagram draws, read back from the figure."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from calib.metrics import consistency_band, summarize
from calib.metrics.failure import aurc
from calib.report import plots
from calib.report.plots import reliability_panels, risk_coverage_diagram


def reliability_diagram(probs, labels, *, title="", **settings):
    return reliability_panels({title: (probs, labels)}, **settings)


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
    ece, accuracy, confidence = (f"{k} {100 * summary[v]:.1f} %" for k, v in names.items())
    chance = f"(chance {100 * summary['null_ece']:.1f} %)"
    assert text.splitlines() == [f"{ece} {chance}, n = 60", f"{accuracy}, {confidence}"]


def test_brackets_hold_the_accuracies_of_calibrated_models() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    probs, labels = logits.softmax(dim=1), torch.randint(0, 3, (60,), generator=generator)
    axes = reliability_diagram(probs, labels).axes[0]
    low, high = consistency_band(probs.max(dim=1).values, n_bins=10)
    held = (~low.isnan()).nonzero().flatten().tolist()
    bracket = next(each for each in axes.collections if "Calibrated" in each.get_label())
    drawn = [np.array(segment)[:, 1] for segment in bracket.get_segments()]
    assert np.allclose(drawn, np.stack([low[held], high[held]], axis=1))
    assert [segment[0, 0] for segment in bracket.get_segments()] == pytest.approx(
        [b / 10 + 0.05 for b in held]
    )


def test_pooled_seeds_have_no_brackets_and_no_chance() -> None:
    axes = reliability_panels({"pooled": example()}, independent=False).axes[0]
    assert not axes.collections
    assert "chance" not in axes.texts[0].get_text()


def test_panels_share_their_axes_and_keep_their_order():
    figure = reliability_panels({"zero-shot": example(), "CE": example(), "CE / SMAC": example()})
    top, bottom = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in top] == ["zero-shot", "CE", "CE / SMAC"]
    assert {axes.get_ylim() for axes in top} == {(0, 1)}
    assert {axes.get_xlim() for axes in figure.axes} == {(0, 1)}
    assert len({axes.get_ylim() for axes in bottom}) == 1
    assert len(figure.legends[0].get_texts()) == 6


def test_figures_are_saved_without_pyplot(tmp_path):
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    reliability_panels({"a": example(), "b": example()}, n_bins=15).savefig(tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert (pyplot.get_fignums() if pyplot else []) == before


def test_a_figure_that_is_drawn_once_is_the_one_of_savefig(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "FigureCanvasAgg", FigureCanvasAgg)  # not the one that saves tests the drawing
    for name, save in (("ours", plots.save_figure), ("theirs", lambda f, path: f.savefig(path, dpi=150))):
        save(reliability_panels({"a": example(), "b": example()}), tmp_path / f"{name}.png")
    ours, theirs = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("ours", "theirs"))
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


def test_unusable_inputs_raise():
    with pytest.raises(ValueError, match="at least one system"):
        reliability_panels({})
    with pytest.raises(ValueError, match="Logits need a softmax"):
        reliability_diagram(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))


def test_risk_coverage_curves_stand_between_chance_and_the_best_order():
    generator = torch.Generator().manual_seed(0)
    failure = torch.rand(400, generator=generator) < 0.3
    good = failure + torch.rand(400, generator=generator)
    best = failure + torch.rand(400, generator=generator) / 1e3
    figure = risk_coverage_diagram({"good": (good, failure), "best": (best, failure)})
    axes = figure.axes[0]
    lines = {line.get_label().split(" (")[0]: line for line in axes.lines}
    assert list(lines) == ["good", "best", "Accepted at random", "Right ones first"]
    ideal = lines["Right ones first"].get_ydata()
    assert np.allclose(lines["best"].get_ydata(), ideal, atol=1e-6)
    assert (lines["good"].get_ydata() >= ideal - 1e-6).all()
    assert lines["Accepted at random"].get_ydata()[0] == pytest.approx(failure.double().mean().item())
    assert lines["good"].get_label() == f"good (AURC {100 * aurc(good, failure).item():.1f} %)"
    assert axes.get_title() == f"400 samples, {int(failure.sum())} predicted wrongly"
    assert len(figure.legends[0].get_texts()) == 4


def test_chance_among_the_first_accepted_does_not_squeeze_the_picture():
    failure = torch.zeros(100, dtype=torch.bool)
    failure[[0, 50, 51]] = True  # the very first is wrong: a risk of 100 %
    axes = risk_coverage_diagram({"mine": (torch.arange(100.0), failure)}).axes[0]
    assert axes.get_ylim()[1] < 0.1
    (ground,) = axes.patches  # grey; of another type in matplotlib 3.8
    assert ground.get_path().transformed(ground.get_patch_transform()).get_extents().width == pytest.approx(
        0.2
    )
    none = risk_coverage_diagram({"mine": (torch.arange(5.0), torch.zeros(5, dtype=torch.bool))}).axes[0]
    assert none.get_ylim() == (0, 0.05)
    assert not none.patches
    with pytest.raises(ValueError, match="no samples of 'mine'"):
        risk_coverage_diagram({"mine": (torch.zeros(0), torch.zeros(0, dtype=torch.bool))})

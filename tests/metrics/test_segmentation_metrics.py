"""Metrics of segmentation: the releases' numbers, hand cases, batches and processes, what is not defined."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calib.core.binning import BinStatistics
from calib.metrics import (
    ImageSums,
    SegmentationCalibration,
    SegmentationSums,
    image_sums,
    per_class,
    per_image,
    pooled_bins,
    reliability_histogram,
    summarize_segmentation,
)

GOLDEN = Path(__file__).parents[1] / "golden"
ABOUT = json.loads((GOLDEN / "segmentation_ace.json").read_text())
TENSORS = load_file(GOLDEN / "segmentation_ace.safetensors")
NAMES = {"expected": "ece", "average": "ace", "maximum": "mce"}


def images(n=4, n_classes=3, size=(5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(n, n_classes, *size, generator=generator).mul(2).softmax(1)
    return probs, torch.randint(0, n_classes, (n, *size), generator=generator)


@pytest.mark.parametrize(
    "case", ABOUT["metrics"], ids=lambda case: f"{case['data']}{case['include_background']}"
)
def test_metrics_pools_and_histogram_of_the_releases(case):
    probs = TENSORS[f"{case['data']}/logits"].softmax(1)
    first = 0 if case["include_background"] else 1
    sums = image_sums(probs, TENSORS[f"{case['data']}/label"][:, 0], n_bins=case["num_bins"])

    def same(found, expected):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0, atol=1e-6, equal_nan=True)

    for official, ours in NAMES.items():
        each = per_image(sums, ours)[:, first:]
        same(each, case[f"{official}/none"])
        same(each.mean(0), case[f"{official}/mean_batch"])
        same(per_class(sums, ours)[first:].mean(), case[f"{official}/mean"][0])
    bins = BinStatistics(*(each[:, first:] for each in sums.bins))
    for version in ("v1", "v2"):
        counts, values, targets = pooled_bins(bins, f"official_{version}")
        floats = [[[float(x) for x in row] for row in each] for each in case[f"aggregate_{version}"]]
        same(torch.stack([values / counts, targets / counts, counts], dim=1), floats)
    assert reliability_histogram(bins).flip(-2).tolist() == case["heatmap"]


def test_pools_by_counts_differ_from_both_releases():
    """An image of 4 pixels at 0.3 (1 of the class) and one of a pixel at 0.5 (of the class)."""
    bins = BinStatistics(*torch.tensor([[[4.0], [1.0]], [[1.2], [0.5]], [[1.0], [1.0]]], dtype=torch.float64))
    gaps = {}
    for pooling in ("counts", "official_v1", "official_v2"):
        counts, values, targets = pooled_bins(bins, pooling)
        gaps[pooling] = ((values - targets) / counts).item()
    assert gaps["counts"] == pytest.approx(1.7 / 5 - 2 / 5)
    assert gaps["official_v1"] == pytest.approx((0.3 + 0.5) / 2 - (0.25 + 1) / 2)
    assert gaps["official_v2"] == pytest.approx((0.3 + 0.5) / 2 - 2 / 5)


def test_batches_and_three_dimensions_and_torchmetrics_give_what_all_images_give():
    probs, labels = images(n=5, size=(3, 4, 2))
    whole = image_sums(probs, labels, n_bins=7)
    metric, modules = SegmentationSums(n_bins=7), SegmentationCalibration(["a", "b", "c"], n_bins=7)
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        metric.update(probs[rows], labels[rows])
        modules.update(probs[rows], labels[rows])
    for name, tensor in metric.sums.tensors.items():
        assert torch.equal(tensor, whole.tensors[name]), name
    assert modules.compute() == summarize_segmentation(whole, ["a", "b", "c"])
    assert per_image(whole, "ace").shape == (5, 3)
    order = [3, 0, 4, 1, 2]
    assert torch.equal(per_image(whole.rows(order), "ece"), per_image(whole, "ece")[order])


def test_images_without_a_class_have_no_dice_and_no_invented_numbers():
    probs = torch.zeros(2, 3, 1, 4)
    probs[:, 0] = 1.0
    probs[1, :, 0, 0] = torch.tensor([0.4, 0.6, 0.0])
    labels = torch.zeros(2, 1, 4, dtype=torch.int64)
    labels[1, 0, 0] = 1
    sums = image_sums(probs, labels)
    dice = per_image(sums, "dice")
    assert dice[0, 0] == 1
    assert dice[0, 1:].isnan().all()
    assert dice[1, 1] == 1
    result = summarize_segmentation(sums, ["rest", "cell", "border"])
    assert result["classes"]["border"]["dice"] is None
    assert (
        result["classes"]["border"]["ace"] == 0.0
    )  # it is never promised, and never there: that is a number
    assert result["dice"] == 1.0  # of the image that has a cell
    left_out = summarize_segmentation(sums, ["rest", "cell", "border"], absent="leave_out")
    assert left_out["classes"]["border"]["ace"] is None
    assert left_out["classes"]["cell"]["ace"] == pytest.approx(per_image(sums, "ace")[1, 1].item())


def test_a_histogram_counts_units_and_not_pixels():
    counts = torch.tensor([[[4.0, 0.0]], [[100.0, 2.0]], [[1.0, 2.0]]])
    targets = torch.tensor([[[1.0, 0.0]], [[90.0, 2.0]], [[0.0, 1.0]]])
    table = reliability_histogram(BinStatistics(counts, counts / 2, targets), n_rows=4)
    assert table.tolist() == [[[2, 0], [0, 1], [0, 0], [1, 1]]]


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), "at least 2 classes"),
        (torch.full((1, 2, 2, 2), 0.5), torch.zeros(1, 2, 3, dtype=torch.int64), "integers of shape"),
        (torch.full((1, 2, 2, 2), 0.5), torch.full((1, 2, 2), 255), r"labels must lie in 0\.\.1, got 255"),
        (torch.full((1, 2, 2, 2), 1.5), torch.zeros(1, 2, 2, dtype=torch.int64), r"must lie in \[0, 1\]"),
        (torch.full((1, 2, 2, 2), float("nan")), torch.zeros(1, 2, 2, dtype=torch.int64), "must lie"),
    ],
)
def test_what_is_no_probability_or_no_mask_is_refused(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        image_sums(probs, labels)


def test_unknown_words_and_nothing_are_refused():
    sums = image_sums(*images())
    with pytest.raises(ValueError, match=r"Unknown metric of segmentation 'acee'\. Did you mean 'ace'"):
        per_image(sums, "acee")
    with pytest.raises(ValueError, match="absent must be one of keep, leave_out"):
        per_image(sums, "ace", absent="zero")
    with pytest.raises(ValueError, match="Unknown pooling 'official'"):
        per_class(sums, "ace", average="micro", pooling="official")
    with pytest.raises(ValueError, match="There are no images to measure"):
        _ = SegmentationSums().sums
    with pytest.raises(ValueError, match="other numbers of classes or bins"):
        ImageSums.joined([sums, image_sums(*images(n_classes=2))])
    with pytest.raises(ValueError, match="Expected names of 3 classes, got 2"):
        summarize_segmentation(sums, ["a", "b"])


def test_a_probability_on_an_edge_is_in_the_bin_that_was_asked_for():
    probs, labels = torch.full((1, 2, 3), 0.5), torch.zeros(1, 3, dtype=torch.int64)
    for closed, counts in (("right", [3, 0]), ("left", [0, 3])):
        assert image_sums(probs, labels, n_bins=2, closed=closed).counts.tolist() == [[counts] * 2]

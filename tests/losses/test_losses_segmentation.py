"""Losses of images with a class per pixel: released values, hand cases, a batch of samples as an image."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calib.core.binning import bin_statistics
from calib.losses import LOSSES, Objective, cross_entropy, dice, mdca, ml1_ace, ml1_ace_per_class, smac
from calib.losses.binned import binned_gaps, hard_bins

GOLDEN = Path(__file__).parents[1] / "golden"
ABOUT = json.loads((GOLDEN / "segmentation_ace.json").read_text())
TENSORS = load_file(GOLDEN / "segmentation_ace.safetensors")


def released(case, logits):
    """Return the loss of a golden case, made of ours."""
    given, version = case["kwargs"], case["version"]
    labels = TENSORS[f"{case['data']}/label"][:, 0]
    combined = "ace_params" in given or "dice_params" in given or version.endswith("_ce")
    ace = given.get("ace_params", {}) if combined else given
    each = ml1_ace_per_class(
        logits,
        labels,
        n_bins=ace.get("num_bins", 20),
        soft="soft" in version,
        activation="sigmoid" if given.get("sigmoid") else "softmax",
        include_background=ace.get("include_background", True),
        absent="keep" if version[:2] == "v1" or "keep_empty" in version else "zero",
        class_weights=ace.get("weight"),
        closed="left" if ace.get("right") else "right",
    )
    if not combined:
        return {"none": each, "sum": each.sum()}.get(given.get("reduction"), each.mean())
    parts = [each.mean()]
    if "dice" in version:
        words = given["dice_params"]
        names = {"squared_pred": "squared", "smooth_nr": "smooth_nr", "smooth_dr": "smooth_dr"}
        parts.append(dice(logits, labels, **{names[key]: words[key] for key in names if key in words}))
    if version.endswith("_ce"):
        parts.append(cross_entropy(logits, labels))
    return {2: 0.5, 3: 0.33}[len(parts)] * sum(parts)


def test_all_released_values_and_gradients_are_those_of_the_release():
    gradients = 0
    for case in ABOUT["cases"]:
        logits = TENSORS[f"{case['data']}/logits"].clone().requires_grad_()
        value = released(case, logits)
        torch.testing.assert_close(
            value.flatten(), torch.tensor(case["value"]), rtol=0, atol=1e-6, msg=case["id"]
        )
        if f"{case['id']}/grad" in TENSORS:
            (gradient,) = torch.autograd.grad(value.sum(), logits)
            torch.testing.assert_close(
                gradient, TENSORS[f"{case['id']}/grad"], rtol=0, atol=1e-6, msg=case["id"]
            )
            gradients += 1
    assert (len(ABOUT["cases"]), gradients) == (203, 56)


def test_the_release_counts_probabilities_on_the_edges_of_bins_as_we_do():
    """How many of twelve probabilities are in each bin, for both sides of closing, and their means."""
    values = [0, 0.05, 0.1, 0.1000001, 0.15, 0.2, 0.25, 0.5, 0.75, 0.95, 0.9999, 1]  # 12 that give its means
    probs = torch.tensor(values)
    for edge in (edge for edge in ABOUT["edge"] if edge["binning"] == "hard"):
        n_bins = edge["num_bins"]
        bins = hard_bins(probs, n_bins, "left" if edge["right"] else "right")
        counts = torch.bincount(bins, minlength=n_bins)
        assert counts.tolist() == edge["count"]
        means = torch.bincount(bins, weights=probs, minlength=n_bins) / counts
        torch.testing.assert_close(
            means, torch.tensor([float(mean) for mean in edge["mean_p"]]), equal_nan=True
        )


@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("n_bins", [1, 3, 20])
def test_hard_gaps_are_those_of_the_binning_kernel(n_bins, closed):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(2, 3, 50, generator=generator, dtype=torch.float64)
    targets = torch.rand(2, 3, 50, generator=generator) < values
    counts, value_sums, target_sums = bin_statistics(values, targets, n_bins, closed=closed)
    expected = ((value_sums - target_sums) / counts).abs().nanmean(-1)
    torch.testing.assert_close(binned_gaps(values, targets, n_bins=n_bins, closed=closed), expected)


def test_a_value_by_hand():
    # p of class 1: .2 .2 | .6 .8 in two bins; gaps |.2 - 1/2| and |.7 - 1|; class 0 mirrors them
    probs = torch.tensor([0.2, 0.2, 0.6, 0.8]).view(1, 1, 2, 2)
    logits = torch.cat([1 - probs, probs], dim=1).log()
    labels = torch.tensor([0, 1, 1, 1]).view(1, 2, 2)
    assert ml1_ace(logits, labels, n_bins=2).item() == pytest.approx(0.3, abs=1e-6)
    # soft, centres 1/4 and 3/4: .2 is low, .8 high, .6 is low by 0.3 and high by 0.7
    low = (0.2 + (0.2 - 1) + 0.3 * (0.6 - 1)) / 2.3
    high = (0.7 * (0.6 - 1) + (0.8 - 1)) / 1.7
    soft = ml1_ace_per_class(logits, labels, n_bins=2, soft=True)[0, 1].item()
    assert soft == pytest.approx((abs(low) + abs(high)) / 2, abs=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_those_of_the_value_in_three_dimensions(soft):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 2, 3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (2, 2, 3, 2), generator=generator)
    assert torch.autograd.gradcheck(lambda x: ml1_ace_per_class(x, labels, n_bins=4, soft=soft), logits)


@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_of_samples_is_one_image(soft):
    """(B, C) logits: one bin is MDCA and SMAC, no smoothing is mL1-ACE."""
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(7, 3, generator=generator), torch.randint(0, 3, (7,), generator=generator)
    as_image = ml1_ace(logits.T[None], labels[None], n_bins=4, soft=soft)
    torch.testing.assert_close(ml1_ace(logits, labels, n_bins=4, soft=soft), as_image, rtol=0, atol=1e-7)
    torch.testing.assert_close(smac(logits, labels, alpha=0.0, n_bins=4, soft=soft), as_image)
    torch.testing.assert_close(ml1_ace(logits, labels, n_bins=1, soft=soft), mdca(logits, labels))
    targets = 0.8 * torch.nn.functional.one_hot(labels, 3) + 0.2 / 2 * (
        1 - torch.nn.functional.one_hot(labels, 3)
    )
    one_bin = binned_gaps(logits.softmax(1).T, targets.T, n_bins=1, soft=soft).mean()
    torch.testing.assert_close(smac(logits, labels, alpha=0.2), one_bin)


def test_binned_smac_by_hand():
    """Two bins; smoothed targets 0.8 at the label, 0.2 elsewhere."""
    probs = torch.tensor([[0.3, 0.7], [0.4, 0.6], [0.9, 0.1]])
    labels = torch.tensor([0, 1, 0])
    # class 0: bin 1 holds .3 .4, targets .8 .2; bin 2 holds .9, target .8. Class 1 mirrors it.
    expected = (abs(0.35 - 0.5) + abs(0.9 - 0.8)) / 2
    assert smac(probs.log(), labels, alpha=0.2, n_bins=2).item() == pytest.approx(expected, abs=1e-6)
    objective = Objective({"smac": {"alpha": 0.2, "n_bins": 2}})
    assert objective(logits=probs.log(), labels=labels)["smac"].item() == pytest.approx(expected, abs=1e-6)


def test_absent_classes_count_as_each_release_says_or_not_at_all():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 0], [0, 1]]])
    gaps = [5 / 12, 1 / 12, 1 / 3]  # |1/3 - share|
    for absent, expected in (
        ("keep", sum(gaps) / 3),
        ("zero", sum(gaps[:2]) / 3),
        ("leave_out", sum(gaps[:2]) / 2),
    ):
        assert ml1_ace(logits, labels, absent=absent).item() == pytest.approx(expected)
    gap = ml1_ace(logits, labels, absent="leave_out", include_background=False, class_weights=[0.5, 1.0])
    assert gap.item() == pytest.approx(1 / 24)
    nothing = torch.zeros(1, 2, 2, dtype=torch.int64)
    only = ml1_ace(logits.requires_grad_(), nothing, absent="leave_out", include_background=False)
    assert only.item() == 0.0
    assert not torch.autograd.grad(only, logits)[0].isnan().any()


def test_nan_comes_out_whatever_counts():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 0], [0, 1]]])
    logits[0, 1, 0, 0] = float("nan")
    for absent in ("keep", "zero", "leave_out"):
        assert ml1_ace(logits, labels, absent=absent).isnan()


def test_overlapping_classes_have_labels_of_their_own():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 2, (2, 3, 4, 5), generator=generator)
    each = ml1_ace_per_class(logits, labels, activation="sigmoid", n_bins=3)
    for channel in range(3):
        alone = ml1_ace_per_class(logits[:, [channel]], labels[:, channel], activation="sigmoid", n_bins=3)
        torch.testing.assert_close(alone, each[:, [channel]])
    assert dice(logits, labels, activation="sigmoid").isfinite()


def test_dice_is_that_of_the_sets_where_the_model_is_certain():
    labels = torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 0], [0, 0, 1, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1).float()
    # class 1: 4 and 3 pixels, 2 in both; class 0: 4 and 5, 3 in both
    assert dice(logits, labels).item() == pytest.approx(1 - (2 * 2 / 7 + 2 * 3 / 9) / 2, abs=1e-4)
    assert dice(logits, labels, include_background=False).item() == pytest.approx(1 - 4 / 7, abs=1e-4)


def test_an_objective_takes_images_only_where_every_loss_does():
    logits, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    terms = {"ce": {}, "dice": {}, "ml1_ace": {"weight": 0.3, "n_bins": 5}}
    values = Objective(terms)(logits=logits, labels=labels)
    expected = sum(
        weight * LOSSES[name](logits, labels) for name, weight in (("ce", 1), ("dice", 1), ("ml1_ace", 0.3))
    )
    torch.testing.assert_close(values["total"], expected)
    with pytest.raises(ValueError, match="loss 'smac' takes logits"):
        Objective({**terms, "smac": {}})(logits=logits, labels=labels)
    with pytest.raises(ValueError, match=r"labels must have shape \(B, \*S\) = \(2, 4, 4\)"):
        Objective(terms)(logits=logits, labels=labels[:, :3])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2 \(C = 3\), got 7"):
        Objective(terms)(logits=logits, labels=labels + 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n_bins": 0}, "n_bins must be a whole number from 1"),
        ({"activation": "tanh"}, "activation must be softmax or sigmoid"),
        ({"absent": "v3"}, "absent must be one of keep, zero, leave_out"),
        ({"closed": "both"}, "closed must be 'left' or 'right'"),
        ({"class_weights": [1.0]}, "class_weights must be 2 finite numbers"),
    ],
)
def test_settings_out_of_range_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        ml1_ace(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), **words)


def test_shapes_that_say_nothing_are_refused():
    one = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="softmax of one channel is always 1"):
        ml1_ace(one, torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels of overlapping classes must be 0 or 1, got 3"):
        ml1_ace(one, torch.full((1, 2, 2), 3), activation="sigmoid")
    with pytest.raises(ValueError, match="labels must have shape"):
        dice(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="smooth_dr of the Dice loss must be above 0"):
        dice(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), smooth_dr=0)


def test_memory_is_linear_in_pixels_whatever_the_number_of_bins():
    """What autograd keeps: probabilities, whether each pixel is of a class, a bin of two bytes."""
    kept = []
    logits = torch.randn(1, 2, 16, 16, 16, requires_grad=True)
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.int64)
    for n_bins in (5, 500):
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            ml1_ace(logits, labels, n_bins=n_bins, soft=True)
        kept.append(sum(sizes) / logits.numel())
    assert kept[0] < 12
    assert kept[1] < 14

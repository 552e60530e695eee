import math

import pytest
import torch

from calib.losses import dca, mdca, mmce, smac


def toy(labels=(0, 2, 0, 1, 0)):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return logits.requires_grad_(), torch.tensor(labels)


def with_confidence(*pairs):
    """Return two-class logits and labels for (confidence, right) pairs; class 0 is always predicted."""
    logits = torch.tensor([[math.log(r), math.log(1 - r)] for r, _ in pairs], dtype=torch.float64)
    return logits.requires_grad_(), torch.tensor([0 if right else 1 for _, right in pairs])


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def test_smac_by_hand():
    logits, labels = with_confidence((0.9, True), (0.7, True), (0.6, True), (0.8, False))  # p = .75, f = 3/4
    target = 0.75 * 0.8 + 0.25 * 0.2
    assert smac(logits, labels, alpha=0.2).item() == pytest.approx(0.75 - target)
    assert mdca(logits, labels).item() == pytest.approx(0.0, abs=1e-12)


def test_smac_without_smoothing_is_mdca():
    logits, labels = toy()
    torch.testing.assert_close(smac(logits, labels, alpha=0.0), mdca(logits, labels))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.9])
def test_smac_is_mdca_in_a_balanced_batch_whatever_alpha(alpha):
    logits = torch.randn(
        16, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ).requires_grad_()
    balanced, tilted = torch.tensor([0, 1] * 8), torch.tensor([0] * 9 + [1] * 7)
    value, reference = smac(logits, balanced, alpha=alpha), mdca(logits, balanced)
    torch.testing.assert_close(value, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(value, logits), gradient(reference, logits), rtol=0, atol=0)
    assert (smac(logits, tilted, alpha=alpha) - mdca(logits, tilted)).abs() > 1e-3


def test_mdca_by_hand_with_three_classes():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)  # mean .3 .45 .25
    expected = (abs(0.3 - 0.5) + 0.45 + abs(0.25 - 0.5)) / 3
    assert mdca(probs.log(), torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_dca_by_hand_and_its_gradient_only_through_the_confidence():
    logits, labels = with_confidence((0.9, True), (0.7, False), (0.6, False))
    value = dca(logits, labels)
    assert value.item() == pytest.approx((0.9 + 0.7 + 0.6) / 3 - 1 / 3)
    mean_confidence = logits.softmax(1).amax(1).mean()  # above the accuracy, so the sign is +
    torch.testing.assert_close(gradient(value, logits), gradient(mean_confidence, logits))


MIXED = [(0.8, True), (0.6, True), (0.7, False)]


def test_mmce_is_the_weighted_one_of_the_paper_and_official_the_released_one():
    right = 0.2**2 + 0.4**2 + 2 * 0.2 * 0.4 * math.exp(-0.5)  # sums over pairs, k = exp(-|difference| / 0.4)
    wrong = 0.7**2
    mixed = (0.2 + 0.4) * 0.7 * math.exp(-0.25)
    paper = math.sqrt(right / 4 + wrong / 1 - 2 * mixed / 2)
    # The release takes means over pairs and divides them by the number of pairs once more.
    released = math.sqrt(right / 4 / (4 + 1e-5) + wrong / (1 + 1e-5) - mixed / (2 + 1e-5) + 1e-10)
    assert (round(paper, 4), round(released, 4)) == (0.4870, 0.5874)
    logits, labels = with_confidence(*MIXED)
    assert mmce(logits, labels).item() == pytest.approx(paper, rel=1e-9)
    assert mmce(logits, labels, official=True).item() == pytest.approx(released, rel=1e-9)


def test_mmce_agrees_with_sums_written_as_loops():
    logits, labels = toy()
    confidence, predictions = logits.softmax(1).max(1)
    right = [r.item() for r, p, y in zip(confidence, predictions, labels, strict=True) if p == y]
    wrong = [r.item() for r, p, y in zip(confidence, predictions, labels, strict=True) if p != y]
    assert len(right) in {1, 2, 3, 4}

    def mean(left, right_side, left_weight, right_weight):
        total = sum(
            left_weight(a) * right_weight(b) * math.exp(-abs(a - b) / 0.3) for a in left for b in right_side
        )
        return total / (len(left) * len(right_side))

    def gap(r):
        return 1 - r

    def same(r):
        return r

    squared = (
        mean(right, right, gap, gap) + mean(wrong, wrong, same, same) - 2 * mean(right, wrong, gap, same)
    )
    assert mmce(logits, labels, kernel_width=0.3).item() == pytest.approx(math.sqrt(squared), rel=1e-9)


@pytest.mark.parametrize(("right", "gaps"), [(True, (0.2, 0.4)), (False, (0.8, 0.6))])
def test_mmce_keeps_the_one_group_there_is_where_the_release_gives_nothing(right, gaps):
    logits, labels = with_confidence((0.8, right), (0.6, right), (0.6, right))
    a, b = gaps
    expected = math.sqrt((a * a + 4 * b * b + 4 * a * b * math.exp(-0.5)) / 9)
    value, official = mmce(logits, labels), mmce(logits, labels, official=True)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert official.item() == 0.0
    assert gradient(official, logits).abs().max() == 0
    # A step down the gradient raises the confidence of right and lowers that of wrong predictions.
    step = -gradient(value, logits)[:, 0]
    assert (step > 0).all() if right else (step < 0).all()


def test_mmce_of_one_image_is_its_calibration_gap():
    assert mmce(*with_confidence((0.8, True))).item() == pytest.approx(0.2)
    assert mmce(*with_confidence((0.8, False))).item() == pytest.approx(0.8)


def test_mmce_is_zero_with_zero_gradient_where_everything_is_certain_and_right():
    logits = torch.tensor([[1e3, 0.0], [0.0, 1e3]], requires_grad=True)
    value = mmce(logits, torch.tensor([0, 1]))
    assert value.item() == 0.0
    torch.testing.assert_close(gradient(value, logits), torch.zeros(2, 2))


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_mmce_refuses_a_kernel_without_width(width):
    with pytest.raises(ValueError, match="kernel_width of MMCE must be above 0, got"):
        mmce(*toy(), kernel_width=width)


def test_smac_refuses_alpha_outside_its_range_and_a_single_class():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1.5"):
        smac(*toy(), alpha=1.5)
    with pytest.raises(ValueError, match="at least 2 classes"):
        mdca(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))

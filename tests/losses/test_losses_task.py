import math

import pytest
import torch

from calib.losses import cross_entropy, focal, label_smoothing


def toy():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits, torch.tensor([0, 2, 1, 1, 0])


def two_classes(*right):
    """Return logits (B, 2) whose softmax is (p, 1 - p), with label 0."""
    logits = torch.tensor([[math.log(p), math.log(1 - p)] for p in right], dtype=torch.float64)
    return logits, torch.zeros(len(right), dtype=torch.int64)


def test_cross_entropy_by_hand_and_as_torch():
    assert cross_entropy(*two_classes(0.8, 0.5)).item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    torch.testing.assert_close(cross_entropy(*toy()), torch.nn.functional.cross_entropy(*toy()))


def test_label_smoothing_by_hand():
    expected = -0.9 * math.log(0.8) - 0.1 * math.log(0.2)
    assert label_smoothing(*two_classes(0.8), alpha=0.1).item() == pytest.approx(expected)


def test_label_smoothing_spreads_over_the_other_classes_unlike_torch():
    epsilon = 0.3
    torch_value = torch.nn.functional.cross_entropy(*toy(), label_smoothing=epsilon)
    torch.testing.assert_close(label_smoothing(*toy(), alpha=epsilon * 2 / 3), torch_value)


def test_without_smoothing_or_focus_the_losses_are_cross_entropy():
    torch.testing.assert_close(label_smoothing(*toy(), alpha=0.0), cross_entropy(*toy()))
    torch.testing.assert_close(focal(*toy(), gamma=0.0), cross_entropy(*toy()))


def test_label_smoothing_is_least_at_the_smoothed_target():
    logits = torch.tensor(
        [[math.log(0.8), math.log(0.1), math.log(0.1)]], dtype=torch.float64, requires_grad=True
    )
    label_smoothing(logits, torch.tensor([0]), alpha=0.2).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-12, rtol=0)


def test_focal_by_hand():
    expected = -(0.2**3 * math.log(0.8) + 0.5**3 * math.log(0.5)) / 2
    assert focal(*two_classes(0.8, 0.5)).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_focal_has_a_gradient_where_the_label_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    focal(logits, torch.tensor([0, 0]), gamma=gamma).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha \(label smoothing\) must be in \[0, 1\), got"):
        label_smoothing(*toy(), alpha=alpha)


@pytest.mark.parametrize("gamma", [-1.0, float("nan")])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma of the focal loss must be at least 0, got"):
        focal(*toy(), gamma=gamma)


def test_smoothing_needs_a_second_class():
    with pytest.raises(ValueError, match="at least 2 classes, the logits have 1"):
        label_smoothing(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))

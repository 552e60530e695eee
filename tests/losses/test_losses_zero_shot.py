import math

import pytest
import torch

from calib.losses import cross_entropy, penalty, zs_norm


def toy(seed, classes=3):
    return torch.randn(5, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1, 1, 0])


def test_penalty_by_hand():
    logits = torch.tensor([[5.0, 0.0, 2.0], [1.0, 1.5, 1.2]])
    zero_shot = torch.tensor(
        [[3.0, 1.0, 2.0], [2.0, 1.0, 1.1]]
    )  # first image 2 above, 1 below; second inside
    assert penalty(logits, zero_shot).item() == pytest.approx((2 + 1) / 6)


def test_penalty_vanishes_with_its_gradient_inside_the_range():
    logits = (toy(0) * 0.9).requires_grad_()
    value = penalty(logits, 2 * toy(0))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad.abs().max() == 0.0


def test_zs_norm_by_hand():
    logits, zero_shot = torch.tensor([[30.0, 10.0, 15.0]]), torch.tensor([[-1.0, 3.0, 0.0]])  # -> 3, -1, 0
    expected = math.log(math.exp(3) + math.exp(-1) + 1) - 3
    assert zs_norm(logits, torch.tensor([0]), zero_shot).item() == pytest.approx(expected, rel=1e-6)


def test_zs_norm_of_logits_with_the_zero_shot_range_is_cross_entropy():
    logits = toy(0)
    torch.testing.assert_close(zs_norm(logits, LABELS, logits[:, [2, 0, 1]]), cross_entropy(logits, LABELS))


def test_zs_norm_cannot_train_two_classes():
    logits, labels = toy(1, classes=2).requires_grad_(), LABELS.clamp_max(1)
    value = zs_norm(logits, labels, toy(2, classes=2))
    value.backward()
    assert value > 0.1
    assert logits.grad.abs().max() == 0.0


def test_the_extreme_classes_of_an_image_get_no_gradient_from_zs_norm_unless_others_lie_between():
    logits = torch.tensor([[4.0, 4.0, 1.0], [2.0, 2.0, 2.0], [4.0, 2.0, 1.0]], requires_grad=True)
    zs_norm(logits, torch.tensor([0, 1, 0]), toy(3)[:3].float()).backward()
    assert logits.grad[:2].abs().max() == 0.0
    assert (logits.grad[2].abs() > 1e-3).all()
    assert logits.grad[2].sum().abs() < 1e-6

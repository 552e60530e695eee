import math

import pytest
import torch

from calib.losses import cross_entropy, logitnorm, margin_mean_var, mbls


def toy():
    logits = 4 * torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return logits, torch.tensor([0, 2, 1, 1, 0])


def test_mbls_by_hand():
    logits = torch.tensor([[14.0, 1.0, 0.0], [2.0, 5.0, 1.0]], dtype=torch.float64)  # beyond 10: 3 and 4
    labels = torch.tensor([0, 1])
    expected = cross_entropy(logits, labels).item() + 0.1 * 7 / 6
    assert mbls(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{"alpha": 0.0, "margin": 0.0}, {"margin": 1e3}])
def test_mbls_without_weight_or_within_the_margin_is_cross_entropy(settings):
    torch.testing.assert_close(mbls(*toy(), **settings), cross_entropy(*toy()))


def test_logitnorm_by_hand():
    logits = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    expected = math.log(1 + math.exp(-0.2 / 0.04))
    assert logitnorm(logits, torch.tensor([1]), temperature=0.04).item() == pytest.approx(expected, rel=1e-6)


def test_logitnorm_has_a_bounded_gradient_at_zero_where_the_release_has_millions():
    logits, labels = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([1, 2, 1, 2])
    (bounded,) = torch.autograd.grad(logitnorm(logits, labels), logits)
    (official,) = torch.autograd.grad(logitnorm(logits, labels, min_norm=0.0), logits)
    assert bounded.abs().max().item() == pytest.approx(2 / 3 / 4 / 1e-2)
    assert official.abs().max().item() == pytest.approx(2 / 3 / 4 / 1e-7)
    assert bounded.norm(dim=1).max() <= math.sqrt(2) / 1e-2 / 4


def test_logitnorm_is_continuous_at_the_shortest_norm():
    direction, labels = torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([0])
    below, above = (logitnorm(direction * norm, labels) for norm in (0.0099999, 0.0100001))
    torch.testing.assert_close(below, above, atol=1e-5, rtol=0)


def test_margin_mean_var_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0], [5.0, 4.0, 1.0]], dtype=torch.float64)  # margins 2 and -1
    value = margin_mean_var(logits, torch.tensor([0, 1]), mean_weight=2.0, variance_weight=3.0)
    assert value.item() == pytest.approx(-2 * 0.5 + 3 * 1.5**2)


def test_margins_of_one_image_do_not_vary():
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    assert margin_mean_var(logits, torch.tensor([0]), variance_weight=5.0).item() == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (mbls, {"margin": -1.0}, "margin and alpha of MbLS must be at least 0, got -1.0 and 0.1"),
        (mbls, {"alpha": float("nan")}, "margin and alpha of MbLS must be at least 0"),
        (logitnorm, {"temperature": 0.0}, "temperature above 0 and min_norm at least 0, got 0.0"),
        (logitnorm, {"min_norm": -0.1}, "min_norm at least 0"),
        (margin_mean_var, {"mean_weight": -0.1}, "must be at least 0, got -0.1 and 0.01"),
        (margin_mean_var, {"variance_weight": float("nan")}, "must be at least 0"),
    ],
)
def test_settings_outside_their_range_are_refused(loss, settings, message):
    with pytest.raises(ValueError, match=message):
        loss(*toy(), **settings)


def test_a_margin_needs_a_second_class():
    with pytest.raises(ValueError, match="at least 2 classes, the logits have 1"):
        margin_mean_var(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))

import math

import pytest
import torch

from calib.losses import angular_separation, text_moment_matching


def unit(seed, rows=3, width=8):
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(features, dim=1)


def test_angular_separation_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)  # cosines .6 0 .8
    assert angular_separation(rows).item() == pytest.approx(1.4 / 3)


def test_angular_separation_is_one_for_equal_and_least_for_a_regular_simplex():
    assert angular_separation(unit(0, rows=1).expand(4, 8)).item() == pytest.approx(1.0)
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    simplex = torch.stack([angles.cos(), angles.sin()], dim=1)  # (3, 2)
    assert angular_separation(simplex).item() == pytest.approx(-1 / 2)


def test_angular_separation_of_one_class_is_refused():
    with pytest.raises(ValueError, match="Angular separation needs at least 2 classes, got 1"):
        angular_separation(unit(0, rows=1))


def test_text_moment_matching_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # mean (.5, .5), cov +-.25
    zero_shot = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # mean 0, cov (1, 0; 0, 0)
    expected = 0.5 + (0.75**2 + 3 * 0.25**2)
    assert text_moment_matching(features, zero_shot).item() == pytest.approx(expected)


def test_moments_do_not_see_the_order_of_the_classes():
    assert text_moment_matching(unit(1)[[2, 0, 1]], unit(1)).item() == pytest.approx(0.0, abs=1e-15)


def test_neither_loss_sees_a_rotation():
    rotation = torch.linalg.qr(unit(2, rows=8)).Q
    torch.testing.assert_close(angular_separation(unit(1) @ rotation), angular_separation(unit(1)))
    torch.testing.assert_close(
        text_moment_matching(unit(1) @ rotation, unit(3) @ rotation), text_moment_matching(unit(1), unit(3))
    )

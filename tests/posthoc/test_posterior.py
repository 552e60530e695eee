"""The posterior over weights of experts: against grids, left-out rows against leaving them out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calib.posthoc import posterior
from calib.posthoc.posterior import weight_posterior


def toy(n: int, n_classes: int = 3, seed: int = 0, scale: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)  # whose draws no version of torch changes
    logits = torch.from_numpy(generator.normal(size=(n, n_classes))) * scale
    labels = (logits * 0.4 + torch.from_numpy(generator.gumbel(size=(n, n_classes)))).argmax(dim=1)
    return logits, labels


def test_moments_and_mode_are_those_of_a_fine_grid() -> None:
    logits, labels = toy(20)
    found = weight_posterior({"prompt": logits}, labels, sd=0.7)
    theta = torch.linspace(-5, 4, 40001).double()
    right = logits.gather(1, labels[:, None])  # (N, 1)
    log_z = torch.stack([(logits * a).logsumexp(dim=1) for a in theta.exp()])  # (M, N)
    log_post = (theta.exp()[:, None] * right.T - log_z).sum(dim=1) - (theta / 0.7).square() / 2
    shares = log_post.softmax(dim=0)
    assert float(found.mean) == pytest.approx(float(shares @ theta.exp()), rel=2e-3)
    assert float(found.mode) == pytest.approx(float(theta[log_post.argmax()].exp()), rel=1e-3)
    assert found.effective > 300


def test_two_experts_agree_with_a_grid_of_both() -> None:
    (first, labels), (second, _) = toy(15), toy(15, seed=1, scale=2.0)
    found = weight_posterior({"a": first, "b": second}, labels, median={"a": 0.5, "b": 1.0}, sd=0.8)
    steps = torch.linspace(-4, 3, 141).double()
    grid = torch.cartesian_prod(steps, steps)
    combined = torch.einsum("me,enc->mnc", grid.exp(), torch.stack([first, second]))
    picked = combined.log_softmax(dim=2).gather(2, labels.expand(len(grid), -1)[:, :, None]).sum(dim=(1, 2))
    centre = torch.tensor([math.log(0.5), 0.0]).double()
    shares = (picked - ((grid - centre) / 0.8).square().sum(dim=1) / 2).softmax(dim=0)
    torch.testing.assert_close(found.mean, shares @ grid.exp(), rtol=0.01, atol=0)


def test_the_left_out_likelihood_is_that_of_leaving_each_row_out() -> None:
    logits, labels = toy(12)
    found = weight_posterior({"prompt": logits}, labels).left_out_nll
    for row in range(12):
        rest = [other for other in range(12) if other != row]
        without = weight_posterior({"prompt": logits[rest]}, labels[rest])
        expected = -without.probs({"prompt": logits[row : row + 1]})[0, labels[row]].log()
        assert float(found[row]) == pytest.approx(float(expected), abs=2e-3)
    weights = torch.tensor([0.0] + [1.0] * 11)  # a row that does not count has nothing to be left out of
    unseen = weight_posterior({"prompt": logits}, labels, row_weights=weights)
    expected = -unseen.probs({"prompt": logits[:1]})[0, labels[0]].log()
    assert float(unseen.left_out_nll[0]) == pytest.approx(float(expected), rel=1e-9)


def test_the_nearest_weights_are_nearer_to_the_mean_probabilities_than_mode_and_mean() -> None:
    logits, labels = toy(10)
    found = weight_posterior({"prompt": logits}, labels)
    target = found.probs({"prompt": logits})

    def divergence(weight: Tensor) -> float:
        return float((target * (target.log() - (weight * logits).log_softmax(dim=1))).sum())

    nearest = divergence(found.nearest)
    assert nearest < divergence(found.mode)
    assert nearest < divergence(found.mean)


def test_separable_rows_leave_the_prior_in_charge() -> None:
    logits = torch.eye(6).double() * 30
    found = weight_posterior({"prompt": logits}, torch.arange(6), sd=0.7)
    assert float(found.mode) == pytest.approx(1, abs=1e-3)
    assert 0.1 < float(found.nearest) < math.exp(2 * 0.7)


def test_many_rows_recover_a_known_factor() -> None:
    logits, labels = toy(4000)
    assert float(weight_posterior({"prompt": logits}, labels).nearest) == pytest.approx(0.4, abs=0.02)


def test_weights_of_rows_count_as_copies() -> None:
    logits, labels = toy(9)
    weights = torch.tensor([1, 2, 3] * 3)
    copied = weight_posterior(
        {"prompt": logits.repeat_interleave(weights, 0)}, labels.repeat_interleave(weights)
    )
    weighted = weight_posterior({"prompt": logits}, labels, row_weights=weights)
    torch.testing.assert_close(weighted.mean, copied.mean)


def test_an_offset_and_a_shift_of_logits() -> None:
    logits, labels = toy(9)
    offset = torch.tensor([0.3, -0.2, 0.0])
    shifted = weight_posterior({"prompt": logits + 7.0}, labels, offset=offset + 2.0)
    torch.testing.assert_close(shifted.mean, weight_posterior({"prompt": logits}, labels, offset=offset).mean)


def test_thousands_of_classes_take_fewer_draws_and_say_how_many_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posterior, "BUDGET", 2**25)  # an eighth: what 1500 would take, 500 take
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 500, generator=generator)
    labels = torch.arange(500)
    logits[labels, labels] += 6.0
    found = weight_posterior({"prompt": logits}, labels)
    assert len(found.draws) < 512
    assert found.effective > 8
    assert bool(found.nearest.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sd": 0.0}, "must be above 0"),
        ({"median": -1.0}, "must be above 0"),
        ({"offset": torch.zeros(2)}, r"offset must be \(3,\)"),
        ({"row_weights": torch.tensor([1.0, -1.0, 1.0])}, "row_weights must be"),
        ({"experts": {}}, "an expert at least"),
        ({"experts": {"prompt": torch.full((3, 3), torch.nan)}}, "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"experts": {"prompt": torch.eye(3)}, "labels": torch.arange(3)} | change
    with pytest.raises(ValueError, match=message):
        weight_posterior(**given)  # type: ignore[arg-type]

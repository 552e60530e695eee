"""What holds of every loss on any batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from calib.core.byname import bind, tensors
from calib.losses import LOSSES
from calib.losses.failure import FAILURE_LOSSES

LOGITS = st.one_of(st.floats(-30, 30, width=32), st.sampled_from([0.0, 1.0, -1.0, 100.0, -100.0]))
SHIFTS = ("ce", "dca", "fl", "ls", "margin_mean_var", "mbls", "mdca", "mmce", "smac", "zs_norm")
NOT_NEGATIVE = sorted(set(LOSSES) - {"margin_mean_var", "as", "text_moment_matching"})


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Tensor]:
    b, c, d = draw(st.integers(2, 7)), draw(st.integers(2, 4)), 5
    rows = st.lists(st.lists(LOGITS, min_size=c, max_size=c), min_size=b, max_size=b)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return {
        "logits": torch.tensor(draw(rows), dtype=torch.float64),
        "zero_shot_logits": torch.tensor(draw(rows), dtype=torch.float64),
        "labels": torch.tensor(draw(st.lists(st.integers(0, c - 1), min_size=b, max_size=b))),
        "text_features": normalize(torch.randn(c, d, generator=generator, dtype=torch.float64), dim=1),
        "zero_shot_text_features": normalize(
            torch.randn(c, d, generator=generator, dtype=torch.float64), dim=1
        ),
    }


def value(name: str, batch: dict[str, Tensor]) -> Tensor:
    return bind(LOSSES[name], {}, name=name)(**batch)


def close(one: Tensor, other: Tensor) -> bool:
    return math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-6)


@given(batches())
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_value_and_gradient_are_finite_and_of_the_right_sign(name: str, batch: dict[str, Tensor]) -> None:
    needed = [each for each in ("logits", "text_features") if each in tensors(LOSSES[name])]
    leaves = {each: batch[each].clone().requires_grad_() for each in needed}
    loss = value(name, batch | leaves)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    if name in NOT_NEGATIVE:
        assert float(loss.detach()) >= -1e-9
    loss.sum().backward()
    assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves.values())


@given(batches(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_order_of_a_batch_does_not_matter(name: str, batch: dict[str, Tensor], random) -> None:
    order = list(range(len(batch["labels"])))
    random.shuffle(order)
    moved = {each: batch[each][order] for each in ("logits", "zero_shot_logits", "labels")}
    assert close(value(name, batch), value(name, batch | moved))


@given(batches(), st.floats(-50, 50))
@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_of_an_images_logits_does_not_matter(
    name: str, batch: dict[str, Tensor], shift: float
) -> None:
    shifts = shift * torch.arange(1, len(batch["labels"]) + 1, dtype=torch.float64)[:, None]
    if name in ("mbls",) and bool((batch["logits"].diff(dim=1).abs() % 1 == 0).any()):
        return  # at the hinge of a margin rounding decides between 0 and 1e-15, which is no matter either
    assert close(value(name, batch), value(name, batch | {"logits": batch["logits"] + shifts}))


@st.composite
def failures(draw: st.DrawFn) -> dict[str, Tensor]:
    n = draw(st.integers(2, 9))
    numbers = st.lists(st.floats(-60, 60, width=32), min_size=n, max_size=n)
    wrong = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda f: 0 < sum(f) < len(f)))
    probs = torch.tensor(draw(numbers), dtype=torch.float64)
    logits = torch.stack([probs, -probs, 0 * probs], dim=1)
    labels = logits.argmax(dim=1)
    labels = torch.where(torch.tensor(wrong), (labels + 1) % 3, labels)
    return {
        "failure_logits": torch.tensor(draw(numbers), dtype=torch.float64),
        "failure": torch.tensor(wrong),
        "logits": logits,
        "labels": labels,
    }


@given(failures(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", sorted(FAILURE_LOSSES))
def test_failure_losses_are_finite_not_negative_and_blind_to_the_order(
    name: str, batch: dict[str, Tensor], random
) -> None:
    loss = bind(FAILURE_LOSSES[name], {}, name=name)
    leaf = batch["failure_logits"].clone().requires_grad_()
    result = loss(**batch | {"failure_logits": leaf})
    result.backward()
    assert float(result.detach()) >= 0
    assert torch.isfinite(leaf.grad).all()
    order = list(range(len(leaf)))
    random.shuffle(order)
    assert close(result.detach(), loss(**{key: tensor[order] for key, tensor in batch.items()}))

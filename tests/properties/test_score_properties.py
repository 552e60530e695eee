"""What holds of every uncertainty score: sure images are doubted less, and none depends on its neighbours."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.scores import SCORES, ReadyScore, fit

PLAIN = sorted(name for name, row in SCORES.items() if not isinstance(row, type))
LEARNED = {"rel_u", "logistic", "logit_scaling"}  # these follow what they were fitted on
DIM = 6
VALUES = st.one_of(st.floats(-20, 20, width=32), st.sampled_from([0.0, 1.0, 50.0, -50.0]))
ROWS = st.integers(2, 4).flatmap(
    lambda c: st.lists(st.lists(VALUES, min_size=c, max_size=c), min_size=2, max_size=9)
)


def images(n: int, seed: int = 5) -> torch.Tensor:
    noise = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(noise, dim=1)


@cache
def fitted(name: str, classes: int) -> ReadyScore:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(60, classes, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(60, generator=generator) < 0.6, logits.argmax(dim=1), 0)
    given = {"image_features": images(60, seed=6), "text_features": images(classes, seed=7)}
    return fit(name, logits=logits, labels=labels, **given)


@given(ROWS, st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_score_of_an_image_does_not_depend_on_the_others(name: str, rows: list, random) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    score, seen = fitted(name, logits.shape[1]), images(len(rows))
    order = list(range(len(rows)))
    random.shuffle(order)
    values = score(logits=logits, image_features=seen)
    assert values.shape == (len(rows),)
    assert torch.isfinite(values).all()
    mixed = score(logits=logits[order], image_features=seen[order])
    torch.testing.assert_close(mixed, values[order], rtol=1e-9, atol=1e-12)
    alone = score(logits=logits[:1], image_features=seen[:1])
    torch.testing.assert_close(alone, values[:1], rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=4), st.floats(0.5, 5))
@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"energy"}))
def test_a_larger_lead_of_the_first_class_means_less_doubt(name: str, row: list, lead: float) -> None:
    """Adding to the largest logit alone makes every score but the energy's scale smaller, that one too."""
    logits = torch.tensor([row, row], dtype=torch.float64)
    logits[1, logits[0].argmax()] += lead
    unsure, sure = fit(name)(logits=logits).tolist()
    assert sure <= unsure + 1e-12


@given(st.integers(2, 5), st.floats(0.1, 8))
@pytest.mark.parametrize("name", sorted({*SCORES} - LEARNED))
def test_an_image_that_could_be_anything_is_doubted_more_than_a_clear_one(
    name: str, classes: int, lead: float
) -> None:
    logits = torch.zeros(2, classes, dtype=torch.float64)
    logits[1, 0] = lead
    vague, clear = fitted(name, classes)(logits=logits, image_features=images(1).expand(2, -1)).tolist()
    assert vague > clear

"""Strategies that choose which images to label: what each picks of a toy pool, and what holds for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.core.byname import settings
from calib.data.selection import NEED_MODEL, STRATEGIES, Selection, select
from calib.data.selection.doubt import align
from calib.data.selection.gain import _gain, _Head
from calib.data.selection.pool import Picks, Pool, head_of
from calib.data.selection.spread import spherical_clusters
from calib.posthoc.not_drawn import RANDOM

N, DIM, CLASSES = 60, 6, 3


def pool(n: int = N, seed: int = 0) -> tuple[Tensor, list[str], Tensor]:
    """Return features in three clouds, ids, and the weights of a model that tells the clouds apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(CLASSES, DIM, generator=generator), dim=1)
    cloud = torch.arange(n) % CLASSES
    features = normalize(centres[cloud] + 0.35 * torch.randn(n, DIM, generator=generator), dim=1)
    return features, [f"{row:064x}" for row in range(n)], 10 * centres


def chosen(strategy: str, budget: int = 6, **changes: Any) -> Selection:
    features, ids, weight = pool()
    given = {"weight": weight, "source": features[:20] if strategy == "aligned" else None, "seed": 1}
    return select(features, ids, budget, strategy=strategy, **{**given, **changes})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_choice_depends_on_images_and_seed_and_on_no_order(strategy: str) -> None:
    features, ids, _ = pool()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()
    here = chosen(strategy)
    kept = {"source": features[:20]} if strategy == "aligned" else {}
    other = select(
        features[order], [ids[row] for row in order], 6, strategy=strategy, weight=pool()[2], seed=1, **kept
    )
    assert [ids[row] for row in here.rows] == [ids[order[row]] for row in other.rows]
    assert here.why == other.why
    assert len(set(here.rows)) == 6
    assert here.settings == settings(STRATEGIES[strategy])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_patients_copies_and_earlier_rounds_are_respected(strategy: str) -> None:
    features, ids, weight = pool()
    features = torch.cat([features, features])  # every image saved again, under another content
    ids = [*ids, *(f"{row:064x}" for row in range(1000, 1000 + N))]
    groups = [f"p{row % N // 2}" for row in range(2 * N)]
    first = {ids[0]: 0, ids[4]: 1}
    found = select(
        features,
        ids,
        20,
        strategy=strategy,
        weight=weight,
        groups=groups,
        per_group=1,
        labelled=first,
        source=features[:20] if strategy == "aligned" else None,
    )
    patients = [groups[row] for row in found.rows]
    assert len(set(patients)) == 20
    assert not {groups[0], groups[4]} & set(patients)
    assert found.pool == 2 * N - 2


@pytest.mark.parametrize("strategy", NEED_MODEL)
def test_labels_change_what_the_model_doubts(strategy: str) -> None:
    features, ids, _ = pool()
    labelled = {ids[row]: 2 - row % CLASSES for row in range(0, 24)}  # the model is told it is mostly wrong
    told, knows = (
        chosen(strategy, 8, labelled=labelled, learned=learned, near=1.0).rows for learned in (False, True)
    )
    assert told != knows
    assert not {ids[row] for row in told} & labelled.keys()
    assert len(features) == N


def test_random_is_a_draw_without_regard_to_anything_but_content_and_seed() -> None:
    counts = np.zeros(N)
    for seed in range(200):
        counts[chosen(RANDOM, 6, seed=seed).rows] += 1
    assert np.square(counts - 20).sum() / 18 == pytest.approx(N, abs=40)  # chi-squared of a fair draw


def test_k_centre_takes_what_is_farthest() -> None:
    angles = torch.tensor([0.0, 5, 10, 90, 95, 200])
    points = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=1)
    ids = [f"{row:064x}" for row in range(6)]
    found = select(points, ids, 2, strategy="k_centre", labelled={ids[0]: 0}, near=1.0)
    assert found.rows == [5, 3] or found.rows == [5, 4]
    assert found.scores[0] == pytest.approx(1 - np.cos(np.deg2rad(160)), abs=1e-6)


def test_images_with_the_same_features_are_copies_however_near_is_rounded() -> None:
    for seed in range(20):
        points = normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)), dim=1)
        found = select(torch.cat([points, points]), [f"{row:064x}" for row in range(10)], 5, near=1.0)
        assert sorted(row % 5 for row in found.rows) == [0, 1, 2, 3, 4]


def test_typicality_takes_the_middle_of_each_cloud_and_no_outlier() -> None:
    generator = torch.Generator().manual_seed(1)
    clouds = torch.eye(4)[:3].repeat_interleave(10, dim=0)
    spread = torch.linspace(0.02, 0.4, 10).repeat(3)[:, None]
    points = normalize(clouds + spread * torch.randn(30, 4, generator=generator), dim=1)
    points = torch.cat([points, torch.tensor([[0.0, 0, 0, 1]])])  # alone
    found = select(points, [f"{row:064x}" for row in range(31)], 3, strategy="typicality", near=1.0)
    assert sorted(row // 10 for row in found.rows) == [0, 1, 2]
    assert all(row % 10 < 5 for row in found.rows)
    assert 30 not in found.rows
    ids = [f"{row:064x}" for row in range(31)]
    assert len(select(points, ids, 3, strategy="typicality", near=1.0, seed=2**40).rows) == 3


def test_typicality_looks_at_half_of_a_small_cluster_at_most() -> None:
    """Of five images and three farther on: the middle of the five, and not that of all eight."""
    angles = torch.tensor([0.0, 1, 2, 3, 4, 14, 15, 16]).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = select(points, [f"{row:064x}" for row in range(8)], 1, strategy="typicality", near=1.0)
    assert found.rows == [2]


def test_entropy_and_margin_take_what_lies_between_classes() -> None:
    angles = torch.tensor([0.0, 20, 44, 60, 90])
    points = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=1)
    ids = [f"{row:064x}" for row in range(5)]
    for strategy in ("entropy", "margin"):
        found = select(points, ids, 2, strategy=strategy, weight=5 * torch.eye(2), class_names=["a", "b"])
        assert found.rows == [2, 3]
        assert found.why[0] == "a 0.53, b 0.47"


def test_dual_gives_every_cluster_its_share_and_weighs_doubt_against_being_central() -> None:
    central, doubtful = (chosen("dual", 12, doubt_share=share, clusters=3) for share in (0.0, 1.0))
    features, _, weight = pool()
    clusters, centres = spherical_clusters(features.double().numpy(), 3, seed=1)
    sizes = np.bincount(clusters)
    for found in (central, doubtful):
        assert np.abs(np.bincount([k or 0 for k in found.clusters]) - 12 * sizes / N).max() < 1
    assert np.allclose(np.linalg.norm(centres, axis=1), 1)
    entropy = torch.special.entr((features @ weight.T).softmax(dim=1)).sum(dim=1)
    assert entropy[doubtful.rows].mean() > 3 * entropy[central.rows].mean()
    with pytest.raises(ValueError, match="doubt_share must be from 0 to 1"):
        chosen("dual", doubt_share=1.5)


def test_alignment_gives_the_pool_mean_and_covariance_of_the_source() -> None:
    generator = np.random.default_rng(0)
    # on a small cap, where dividing by the norm changes little
    source = np.concatenate([0.05 * generator.normal(size=(400, 3)), np.ones((400, 1))], axis=1)
    narrow = np.array([0.02, 0.04, 0.01]) * generator.normal(size=(400, 3)) + [0.1, 0, 0]
    target = np.concatenate([narrow, np.ones((400, 1))], axis=1)
    source, target = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (source, target))
    moved = align(target, source)
    assert np.abs(moved.mean(axis=0) - source.mean(axis=0)).max() < 2e-3
    assert np.abs(np.cov(moved.T) - np.cov(source.T)).max() < 3e-4
    assert np.allclose(align(source, source), source, atol=1e-6)
    with pytest.raises(ValueError, match="at least two images"):
        align(target[:1], source)


def test_the_gain_is_the_mutual_information_of_two_classes() -> None:
    generator = np.random.default_rng(0)
    here, there = (generator.dirichlet([1, 1], size=(40, size)) for size in (3, 2))
    by_hand = np.zeros((3, 2))
    for i in range(3):
        for j in range(2):
            joint = (here[:, i, :, None] * there[:, j, None, :]).mean(axis=0)
            apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
            by_hand[i, j] = (joint * np.log(joint / apart)).sum()
    assert np.allclose(_gain(here, there), by_hand.mean(axis=1))


def test_a_label_makes_the_head_as_sure_as_its_posterior_covariance() -> None:
    generator = np.random.default_rng(0)
    head = _Head(np.zeros((1, 3)), 2, 1.5, 20_000, generator)
    row, probs = np.array([1.0, 2.0, 0.0]), np.array([0.3, 0.7])
    head.learn(row, probs)
    exact = np.linalg.inv(np.eye(3) / 1.5**2 + 0.21 * np.outer(row, row))
    assert np.allclose(head._covariance[0], exact)
    assert np.abs(np.cov(head._draws[:, 1].T) - exact).max() < 0.06


def test_epig_asks_about_the_crowd_and_not_about_the_strange() -> None:
    generator = torch.Generator().manual_seed(0)
    crowd = normalize(torch.tensor([[1.0, 0, 0, 0]]) + 0.3 * torch.randn(40, 4, generator=generator), dim=1)
    points = torch.cat([crowd, torch.tensor([[-1.0, 0, 0, 0]])])
    ids = [f"{row:064x}" for row in range(41)]
    found = select(points, ids, 3, strategy="epig", weight=torch.zeros(2, 4), near=1.0, head_sd=1.0)
    assert 40 not in found.rows
    assert found.scores[0] > found.scores[2]  # what one label says, the next says less


def test_the_head_that_learns_from_labels_is_the_most_probable_one() -> None:
    inputs, logits = np.array([[1.0], [-1.0], [0.5]]), np.zeros((3, 2))
    added = head_of(logits, inputs, np.array([0]), np.array([1]), 1.0)
    v = added[0, 1]  # solves v = 1 - p, p = sigmoid(2 v), by symmetry
    assert v == pytest.approx(1 / (1 + np.exp(2 * v)), abs=1e-5)
    assert added[2].tolist() == pytest.approx([-v / 2, v / 2], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 61}, "budget=61 is more than the pool has: 60 different images"),
        ({"budget": 0}, "budget must be"),
        ({"strategy": "entrpy"}, "Did you mean 'entropy'"),
        ({"near": 0.0}, "near must be above 0"),
        (
            {"budget": 40, "groups": ["p"] * 30 + ["q"] * 30},
            r"Only 2 of 40 images can be chosen.*per_group=2",
        ),
        ({"labelled": {"f" * 64: 0}}, "1 labelled images are not in the pool"),
        ({"strategy": "entropy", "weight": None}, "needs a model: class names"),
        ({"strategy": "entropy", "labelled": {pool()[1][0]: 3}}, "classes from 0 to 2, got 3"),
        ({"strategy": "entropy", "weight": torch.ones(3, 5)}, r"weight must be \(C, 6\), as wide"),
        ({"strategy": "aligned"}, "source=FOLDER"),
        ({"strategy": "typicality", "neighbours": 0}, "neighbours must be"),
        ({"strategy": "epig", "head_sd": 0.0}, "head_sd must be above 0"),
        ({"strategy": "random", "clusters": 3}, "strategy 'random' has no settings"),
        ({"features": torch.ones(60, 6)}, "unit norm"),
        ({"ids": ["a"] * 3}, "There are 60 images, but 3 ids"),
    ],
)
def test_what_cannot_be_chosen_is_refused(change: dict[str, Any], message: str) -> None:
    features, ids, weight = pool()
    given = {"features": features, "ids": ids, "budget": 5, "strategy": "random", "weight": weight, **change}
    with pytest.raises(ValueError, match=message):
        select(**given)


def test_a_strategy_that_finds_too_few_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(pool: Pool, picks: Picks) -> None:
        picks.take(0, 1.0, "the first")

    table: dict[str, Callable[..., None]] = STRATEGIES
    monkeypatch.setitem(table, "lazy", lazy)
    with pytest.raises(ValueError, match="Only 1 of 5 images can be chosen"):
        chosen("lazy", 5)

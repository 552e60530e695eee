"""The bootstrap of many statistics at once: the same numbers as one by one, and intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib.metrics.failure import failure_statistic
from calib.vqa.resampling import ClusterBootstrap, mean_of_first, ranked, summed

NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "auroc": ("auroc", {}),
    "aurc": ("aurc", {}),
    "augrc": ("augrc", {}),
    "prr": ("prr", {}),
    "prr@0.5": ("prr", {"max_rejection": 0.5}),
    "aupr_error": ("aupr_error", {}),
    "capture@0.2": ("capture", {"budget": 0.2}),
    "coverage_at_risk@0.1": ("coverage_at_risk", {"risk": 0.1}),
}


@pytest.mark.parametrize("digits", [9, 1, 0], ids=["no ties", "some ties", "few values"])
def test_resamples_have_the_numbers_of_the_metrics(digits: int) -> None:
    rng = np.random.default_rng(digits)
    n, groups = 157, rng.integers(0, 40, 157)
    uncertainty, failure = rng.normal(size=n).round(digits), rng.random(n) < 0.4
    boot = ClusterBootstrap(groups, n_resamples=30, seed=3)
    found = boot.values(ranked(list(NAMES), uncertainty, failure, boot.index))
    drawn = np.concatenate([np.ones((1, boot.n_clusters)), boot._kept])[:, boot.index]
    for column, (name, settings) in enumerate(NAMES.values()):
        one_by_one = failure_statistic(name, **settings).of_counts(uncertainty, failure)(drawn)
        assert found[:, column] == pytest.approx(one_by_one, abs=1e-12), name


def test_without_a_failure_only_what_is_defined_has_a_number() -> None:
    counted = ranked(["auroc", "augrc", "aurc", "prr"], np.arange(5.0), np.zeros(5, bool), np.arange(5))
    found = counted.of_counts(np.ones((1, 5), dtype=np.uint8))[0]
    assert np.isnan(found).tolist() == [True, False, False, True]
    assert found[1:3].tolist() == [0, 0]


def test_statistics_of_other_rows_see_the_same_draws() -> None:
    """Differences are paired: the same images are drawn for both, also where one knows fewer rows."""
    boot = ClusterBootstrap([f"image{i}" for i in range(30)], n_resamples=50)
    columns = np.stack([np.arange(30.0), np.ones(30)], axis=1)
    whole = boot.values(summed(["mean"], columns, boot.index, 30, mean_of_first))
    again = boot.values(summed(["mean"], columns, boot.index, 30, mean_of_first))
    assert (whole == again).all()
    assert boot.p_value(whole[:, 0] - again[:, 0]) == 1.0
    higher = boot.values(summed(["mean"], columns + np.array([1.0, 0.0]), boot.index, 30, mean_of_first))
    assert (higher - whole) == pytest.approx(np.ones((51, 1)))
    assert boot.p_value((higher - whole)[:, 0]) == pytest.approx(2 / 51)


def test_draws_that_are_not_kept_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.stack([np.arange(20.0), np.ones(20)], axis=1)
    boots = [ClusterBootstrap(np.arange(20), n_resamples=40, seed=5) for _ in range(2)]
    kept = boots[0].values(summed(["mean"], columns, boots[0].index, 20, mean_of_first))
    monkeypatch.setattr("calib.vqa.resampling._KEPT", 0)
    monkeypatch.setattr("calib.vqa.resampling._DRAWN", 60)
    drawn = boots[1].values(summed(["mean"], columns, boots[1].index, 20, mean_of_first))
    assert drawn.shape == (41, 1)
    assert (kept == drawn).all()


def test_clusters_that_are_too_few_and_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="at least 2 clusters"):
        ClusterBootstrap(["a"] * 5)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        ClusterBootstrap(["a", "b"], level=95)
    with pytest.raises(ValueError, match="'aucroc' is no failure metric"):
        ranked(["aucroc"], np.arange(2.0), np.array([True, False]), np.arange(2))


@pytest.mark.slow
def test_intervals_cover_where_questions_share_their_image() -> None:
    """80 images of 6 questions each; draws of single questions are too sure."""
    truth = auroc(*shared(np.random.default_rng(0), 60_000)[:2])
    rng, covered = np.random.default_rng(1), np.zeros(2)
    for draw in range(300):
        uncertainty, failure, image = shared(rng, 80)
        for i, groups in enumerate((image, np.arange(len(image)))):
            boot = ClusterBootstrap(groups, n_resamples=600, seed=draw)
            low, high = boot.interval(boot.values(ranked(["auroc"], uncertainty, failure, boot.index))[:, 0])
            covered[i] += low <= truth <= high
    assert covered[0] / 300 >= 0.92
    assert covered[1] < covered[0]


def shared(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    common, style = rng.normal(size=(2, images, 1))
    hard = 0.7 * common + 0.7 * rng.normal(size=(images, 6))
    failure = hard + 0.8 * rng.normal(size=(images, 6)) > 0.3
    uncertainty = 0.45 * hard + 0.8 * style + 0.6 * rng.normal(size=(images, 6))
    return uncertainty.ravel(), failure.ravel(), np.repeat(np.arange(images), 6)


def auroc(uncertainty: np.ndarray, failure: np.ndarray) -> float:
    return failure_statistic("auroc")(uncertainty, failure)

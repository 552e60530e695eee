"""Collapse: the null without fragility, regressions, and simulations of both."""

from __future__ import annotations

import numpy as np
import pytest

from calib.vqa.collapse import CollapseNull, _Exchange, collapse_null, nested_regression
from calib.vqa.uncertainty.options import option_entropy, option_msp, softmax_rows


def drawn(
    rng: np.random.Generator, *, n: int = 600, fragility: float = 0.0, offset: float = 0.0, level: bool = True
) -> CollapseNull:
    """Return the test of one draw: 4 options, the right one 2 higher, None of the above in its place.

    Args:
        fragility: By how much None of the above loses where the original uncertainty is a standard deviation
            higher.
        offset: Standard deviation of what all logits of a question share, which no softmax sees.
        level: Whether the test knows the level of the logits.
    """
    logits = rng.normal(size=(n, 4)) + np.array([2.0, 0, 0, 0])
    shared = offset * rng.normal(size=n)
    right = logits.argmax(axis=1) == 0
    logits, shared = logits[right], shared[right]
    doubts = np.stack([f(softmax_rows(logits)) for f in (option_entropy, option_msp)], axis=1)
    standard = (doubts[:, 0] - doubts[:, 0].mean()) / doubts[:, 0].std()
    nota = rng.normal(size=len(logits)) - fragility * standard + shared
    raw = logits + shared[:, None]
    return collapse_null(
        doubts,
        nota,
        raw[:, 1:].max(axis=1),
        level=raw.mean(axis=1) if level else None,
        n_permutations=199,
        seed=int(rng.integers(1 << 30)),
    )


def test_uncertainty_foresees_collapse_without_any_fragility_and_the_null_says_so() -> None:
    found = drawn(np.random.default_rng(0), n=4000)
    assert found.auroc[1] > 0.6  # far above chance, and nothing but the best rival
    assert found.auroc == pytest.approx(found.null_mean, abs=3 * float(found.null_sd.max()))
    assert abs(found.level_slope) < 0.1
    fragile = drawn(np.random.default_rng(0), n=4000, fragility=0.5)
    assert (fragile.auroc > fragile.null_mean + 0.1).all()
    assert fragile.p.tolist() == [1 / 200, 1 / 200]


def test_what_all_logits_of_a_question_share_is_no_fragility() -> None:
    """Logits of language models are higher for some questions as a whole; raw ones cannot be exchanged."""
    rng = np.random.default_rng(1)
    known, unknown = (drawn(rng, n=4000, offset=3.0, level=level) for level in (True, False))
    assert known.auroc == pytest.approx(known.null_mean, abs=4 * float(known.null_sd.max()))
    assert known.level_slope == pytest.approx(0.97, abs=0.05)
    assert (unknown.auroc > unknown.null_mean + 0.03).all()  # what the level is for
    assert (drawn(rng, n=4000, offset=3.0, fragility=0.5).p == 1 / 200).all()


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "level"), [(0.0, True), (0.0, False), (2.0, True)])
def test_without_fragility_five_percent_are_rejected(offset: float, level: bool) -> None:
    rng = np.random.default_rng(2)
    p = np.array([drawn(rng, offset=offset, level=level).p for _ in range(500)])
    assert (np.abs((p <= 0.05).mean(axis=0) - 0.05) < 0.03).all()  # 3 standard errors of 500 draws


def test_love_of_a_letter_is_no_fragility() -> None:
    """None of the above inherits the right option's letter; columns of its place take that away."""
    rng, bias = np.random.default_rng(7), np.array([0.75, 0.25, -0.25, -0.75])
    p: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(60):
        gold = rng.integers(0, 4, 600)
        logits = rng.normal(size=(600, 4)) + bias + 2.0 * (gold[:, None] == np.arange(4))
        right = logits.argmax(axis=1) == gold
        logits, gold = logits[right], gold[right]
        there = gold[:, None] == np.arange(4)
        nota = rng.normal(size=len(gold)) + bias[gold]
        rival = np.where(there, -np.inf, logits).max(axis=1)
        doubt, level = option_msp(softmax_rows(logits))[:, None], logits.mean(axis=1)
        for places in p:
            known = np.column_stack([level, there[:, 1:]]) if places else level
            found = collapse_null(doubt, nota, rival, level=known, n_permutations=99, seed=seed)
            p[places].append(float(found.p[0]))
    assert np.mean(np.array(p[False]) <= 0.05) > 0.8
    assert np.mean(np.array(p[True]) <= 0.05) < 0.15  # 3 standard errors of 60 draws


@pytest.mark.slow
def test_fragility_is_found() -> None:
    rng = np.random.default_rng(3)
    p = np.array([drawn(rng, n=800, fragility=0.3, offset=1.0).p[0] for _ in range(100)])
    assert (p <= 0.05).mean() > 0.95


def test_a_threshold_is_foreseen_by_the_rival_alone() -> None:
    rng = np.random.default_rng(4)
    rival, doubt = rng.normal(size=200), rng.normal(size=(200, 1))
    found = collapse_null(doubt, np.full(200, 0.3), rival, n_permutations=50)
    assert (found.p[0], found.null_sd[0]) == (1.0, 0.0)


def test_clusters_of_one_size_exchange_their_questions_together() -> None:
    groups = np.array([0, 0, 1, 1, 2, 3, 4, 4, 4])
    order = _Exchange(9, groups, np.random.default_rng(0)).draw(200)
    assert (np.sort(order, axis=1) == np.arange(9)).all()
    assert (order[:, 6:] == [6, 7, 8]).all()  # the only cluster of three stays
    assert {tuple(row) for row in order[:, :2].tolist()} == {(0, 1), (2, 3)}
    assert set(order[:, 4].tolist()) == {4, 5}


def test_what_cannot_be_foreseen_is_refused() -> None:
    ones = np.ones((30, 1))
    with pytest.raises(ValueError, match="30 of 30 answers collapse"):
        collapse_null(ones, np.zeros(30), np.ones(30))
    with pytest.raises(ValueError, match="must be finite"):
        collapse_null(ones * np.nan, np.zeros(30), np.ones(30))
    with pytest.raises(ValueError, match=r"Expected \(n, M\)"):
        collapse_null(np.ones(30), np.zeros(30), np.ones(30))


def test_nested_regression_is_the_one_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    rival, doubt = rng.normal(size=(2, 400)) * [[3.0], [0.2]]
    fallen = rng.random(400) < 1 / (1 + np.exp(-0.5 * rival - 4 * doubt - 0.2))
    found = nested_regression(fallen, rival, doubt)
    columns = np.column_stack([rival, doubt])
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(columns, fallen)
    assert found.slope == pytest.approx(theirs.coef_[0, 1] * doubt.std(), rel=1e-4)
    alone = LogisticRegression(C=np.inf, tol=1e-10).fit(columns[:, :1], fallen)

    def log_likelihood(model: LogisticRegression, x: np.ndarray) -> float:
        return float(np.log(np.where(fallen, *model.predict_proba(x).T[::-1])).sum())

    lr = 2 * (log_likelihood(theirs, columns) - log_likelihood(alone, columns[:, :1]))
    assert found.lr == pytest.approx(lr, rel=1e-4)
    assert (found.p < 1e-4, found.lr_p < 1e-4) == (True, True)
    in_pairs = nested_regression(
        np.repeat(fallen, 2), np.repeat(rival, 2), np.repeat(doubt, 2), np.repeat(np.arange(400), 2)
    )
    assert in_pairs.p == pytest.approx(found.p, rel=0.01)  # every question twice says nothing more
    assert in_pairs.lr == pytest.approx(2 * found.lr)  # which a likelihood ratio does not know


def test_a_regression_without_a_finite_fit_is_refused() -> None:
    rival = np.arange(40.0)
    with pytest.raises(ValueError, match="told apart perfectly"):
        nested_regression(rival > 20, rival, np.sin(rival))
    with pytest.raises(ValueError, match="same everywhere"):
        nested_regression(rival > 20, rival, np.zeros(40))


# (skill of the right option, mean of None of the above) -> accuracy, share that falls, AUROC of MSP, entropy,
# best rival; simulated by another program.
COUPLED = {
    (0.5, 1.0): (0.391, 0.227, 0.564, 0.503, 0.888),
    (1.5, 0.0): (0.704, 0.772, 0.643, 0.615, 0.893),
    (3.0, -1.0): (0.956, 0.982, 0.770, 0.763, 0.955),
    (3.0, 1.0): (0.957, 0.407, 0.686, 0.674, 0.896),
}


@pytest.mark.parametrize("setting", COUPLED, ids=str)
def test_collapse_is_coupled_to_uncertainty_as_another_program_finds(setting: tuple[float, float]) -> None:
    from calib.stats import delong

    skill, mean = setting
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(20_000, 4)) + np.array([skill, 0, 0, 0])
    right = logits.argmax(axis=1) == 0
    logits = logits[right]
    rival = logits[:, 1:].max(axis=1)
    fallen = mean + 0.5 * rng.normal(size=len(logits)) < rival
    probs = softmax_rows(logits)
    aurocs = delong(np.stack([option_msp(probs), option_entropy(probs), rival], axis=1), fallen)[0]
    assert [right.mean(), fallen.mean(), *aurocs] == pytest.approx(COUPLED[setting], abs=0.03)

"""Does uncertainty on the original question foresee that the answer falls when the right option is hidden?

Only questions that were answered rightly count: among all, the same numbers would measure ordinary error
detection again. And even without any fragility an uncertainty foresees collapse: the answer falls where "None
of the above" scores below the best rival, and the uncertainty of the original answer contains that rival.
`collapse_null` is what that alone gives, `nested_regression` what the uncertainty adds to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calib.stats.groups import group_numbers

_BLOCK = 2_000_000  # permuted numbers held at once


@dataclass(frozen=True)
class CollapseNull:
    """How well uncertainties foresee collapse, and how well they would if only the best rival mattered.

    Attributes:
        auroc: (M,) of the data, by the logits.
        null_mean: (M,) mean over permutations.
        null_sd: (M,) standard deviation over permutations.
        p: (M,) one-sided: small where the uncertainty knows more than the best rival.
        level_slope: Slope of the hidden option's substitute on the level of the question's logits: about 0 if
            logits of different questions can be compared as they are.
        n_permutations: Permutations in which some answers collapsed and some did not.
    """

    auroc: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p: np.ndarray
    level_slope: float
    n_permutations: int


def collapse_null(
    doubts: np.ndarray,
    nota: np.ndarray,
    rival: np.ndarray,
    *,
    level: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_permutations: int = 999,
    seed: int = 0,
) -> CollapseNull:
    """Return the AUROC of uncertainties for collapse beside that of permuted data without fragility.

    An answer collapses where the logit of "None of the above" is below that of the best rival. If only the
    right option's logit was replaced (independence of irrelevant alternatives) and nothing makes some answers
    more fragile than others, the substitute's logit has nothing to do with the rest of the question, and may
    be exchanged between questions. The AUROC after such exchanges is the null.

    Logits of a language model may be higher for one question than for another as a whole, which changes no
    answer. So not the substitute's logit n is exchanged but what is left of it when a line in the level of
    the question's logits, n = a + b level + r, is taken away: b is about 0 where there is no such shift. The
    level, a mean of all options' logits, says nothing of their differences and so nothing of an uncertainty.
    The substitute inherits the right option's letter, and with it what the model gives to that letter anyway:
    columns of its place, beside the level, take this away.

    Args:
        doubts: (n, M) uncertainties on the original questions, all answered rightly; no NaN.
        nota: (n,) raw logit of "None of the above" in the changed question.
        rival: (n,) the largest other raw logit there.
        level: (n,) or (n, L) what the questions' logits are as a whole, e.g. the mean of the original ones,
            first; then what else moves the substitute's logit, e.g. a column for each place it stands at.
            None: logits of questions are compared as they are.
        groups: (n,) image or patient; clusters of one size exchange their questions together. None: questions
            are exchanged singly.
        n_permutations: At least 1.
        seed: Of the permutations.

    Raises:
        ValueError: The shapes do not fit, something is not finite, or all answers collapse or none.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(2000, 4)) + [2.0, 0, 0, 0]  # the first option is right
        >>> logits = logits[logits.argmax(axis=1) == 0]
        >>> doubt, rival = -logits[:, :1], logits[:, 1:].max(axis=1)  # the uncertainty of a low right logit
        >>> found = collapse_null(doubt + rival[:, None], rng.normal(size=len(logits)), rival)
        >>> bool(found.auroc[0] > 0.6), bool(found.p[0] > 0.05)
        (True, True)

    Source: no published method; the exchange of residuals is that of Freedman and Lane 1983.
    """
    doubts = np.asarray(doubts, dtype=np.float64)
    n = len(doubts)
    if doubts.ndim != 2 or nota.shape != (n,) or rival.shape != (n,):
        raise ValueError(f"Expected (n, M), (n,) and (n,), got {doubts.shape}, {nota.shape}, {rival.shape}.")
    design = np.ones((n, 1))
    if level is not None:
        design = np.column_stack([design, level])
    if not all(np.isfinite(x).all() for x in (doubts, nota, rival, design)):
        raise ValueError("Uncertainties and logits must be finite: leave out questions that lack one.")
    fallen = nota < rival
    if fallen.all() or not fallen.any():
        raise ValueError(f"{fallen.sum()} of {n} answers collapse: there is nothing to foresee.")
    # A level that is the same everywhere, but for rounding, says nothing.
    keep = np.ptp(design, axis=0) > 1e-9 * (1 + np.abs(design).max(axis=0))
    keep[0] = True
    design = design[:, keep]
    slopes = np.linalg.lstsq(design, nota, rcond=None)[0]
    fitted = design @ slopes
    residual = nota - fitted
    ranks = _midranks(doubts)
    observed = _aurocs(fallen[None].astype(np.float64), ranks)[0]
    order = _Exchange(n, groups, np.random.default_rng(seed))
    null = []
    for start in range(0, n_permutations, max(1, _BLOCK // n)):
        times = min(max(1, _BLOCK // n), n_permutations - start)
        moved = fitted + residual[order.draw(times)]
        null.append(_aurocs((moved < rival).astype(np.float64), ranks))
    values = np.concatenate(null)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        raise ValueError("In every permutation all answers collapse or none does: there is no null.")
    p = (1 + (values >= observed - 1e-12).sum(axis=0)) / (1 + len(values))
    slope = float(slopes[1]) if len(keep) > 1 and keep[1] else 0.0
    return CollapseNull(observed, values.mean(axis=0), values.std(axis=0), p, slope, len(values))


@dataclass(frozen=True)
class Nested:
    """What an uncertainty adds to a baseline that foresees collapse.

    Attributes:
        slope: Change of the log-odds of collapse per standard deviation of the uncertainty.
        p: Of the slope, two-sided, by a variance that allows for clusters.
        lr: Likelihood ratio statistic, 1 degree of freedom.
        lr_p: Its p-value, which takes questions as independent.
        auroc_baseline: AUROC of the baseline's regression, on the rows it was fitted to.
        auroc_both: AUROC of the regression on both, likewise.
    """

    slope: float
    p: float
    lr: float
    lr_p: float
    auroc_baseline: float
    auroc_both: float


def nested_regression(
    fallen: np.ndarray, baseline: np.ndarray, doubt: np.ndarray, groups: np.ndarray | None = None
) -> Nested:
    """Return what an uncertainty adds to a baseline in a logistic regression of collapse.

    Args:
        fallen: (n,) bool, the answer collapsed.
        baseline: (n,) or (n, L), e.g. the logit of the best rival and the level of the logits.
        doubt: (n,) the uncertainty.
        groups: (n,) image or patient. None: questions are independent.

    Raises:
        ValueError: The baseline or both separate the answers perfectly, so that there is no finite fit; an
            uncertainty is the same everywhere; or all questions are of one group.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> rival, doubt = rng.normal(size=(2, 500))
        >>> fallen = rng.random(500) < 1 / (1 + np.exp(-rival - doubt))
        >>> found = nested_regression(fallen, rival, doubt)
        >>> bool(0.7 < found.slope < 1.3), found.p < 0.001, found.auroc_both > found.auroc_baseline
        (True, True, True)

    Source: McCullagh and Nelder 1989, section 4; Liang and Zeger 1986 (clusters).
    """
    from scipy.stats import chi2, norm

    target = np.asarray(fallen, dtype=np.float64)
    given = np.asarray(baseline, dtype=np.float64).reshape(len(target), -1)
    given = given[:, np.ptp(given, axis=0) > 0]
    if np.ptp(doubt) == 0:
        raise ValueError("The uncertainty is the same everywhere: it can add nothing.")
    columns = np.column_stack([given, doubt])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    design = np.column_stack([np.ones(len(target)), columns])
    less, more = _logistic(design[:, :-1], target), _logistic(design, target)
    lr = max(0.0, 2 * (more.log_likelihood - less.log_likelihood))
    index = group_numbers(groups, len(target))
    score = design * (target - more.probs)[:, None]
    sums = np.stack([np.bincount(index, weights=column) for column in score.T], axis=1)
    count = len(sums)
    if count < 2:
        raise ValueError("All questions are of one image: nothing can be said of others.")
    bread = np.linalg.inv(design.T @ (design * (more.probs * (1 - more.probs))[:, None]))
    error = math.sqrt((bread @ (sums.T @ sums) @ bread)[-1, -1] * count / (count - 1))
    z = more.slopes[-1] / error
    ranks = [_midranks(fit.probs[:, None]) for fit in (less, more)]
    aurocs = [float(_aurocs(target[None], rank)[0, 0]) for rank in ranks]
    return Nested(
        float(more.slopes[-1]), float(2 * norm.sf(abs(z))), lr, float(chi2.sf(lr, 1)), aurocs[0], aurocs[1]
    )


@dataclass(frozen=True)
class _Fit:
    slopes: np.ndarray
    probs: np.ndarray
    log_likelihood: float


def _logistic(design: np.ndarray, target: np.ndarray) -> _Fit:
    """Return the logistic regression of maximum likelihood, by Newton's method."""
    slopes = np.zeros(design.shape[1])
    for _ in range(50):
        probs = 1 / (1 + np.exp(-np.clip(design @ slopes, -500, 500)))
        weights = np.maximum(probs * (1 - probs), 1e-12)
        try:
            step = np.linalg.solve(design.T @ (design * weights[:, None]), design.T @ (target - probs))
        except np.linalg.LinAlgError:
            break
        slopes = slopes + step * min(1.0, 5.0 / float(np.abs(step).max() + 1e-300))
        if np.abs(slopes).max() > 60:
            break
        if np.abs(step).max() < 1e-9:
            z = design @ slopes
            return _Fit(slopes, 1 / (1 + np.exp(-z)), float((target * z - np.logaddexp(0, z)).sum()))
    raise ValueError(
        "The regression of collapse has no finite fit: the answers that collapse are told apart perfectly, "
        "or two of its columns say the same."
    )


class _Exchange:
    """Random exchanges of rows: singly, or clusters of one size as wholes."""

    def __init__(self, n: int, groups: np.ndarray | None, rng: np.random.Generator) -> None:
        self.n, self.rng = n, rng
        index = group_numbers(groups, n)
        sizes = np.bincount(index)
        by_cluster = np.argsort(index, kind="stable")
        ends = np.cumsum(sizes)
        self.blocks = [  # (C, size) rows of the clusters of one size
            np.stack([by_cluster[ends[c] - size : ends[c]] for c in np.flatnonzero(sizes == size)])
            for size in np.unique(sizes)
        ]

    def draw(self, times: int) -> np.ndarray:
        """Return where each row's residual comes from, (times, n)."""
        found = np.empty((times, self.n), dtype=np.int64)
        for block in self.blocks:
            order = self.rng.permuted(np.tile(np.arange(len(block)), (times, 1)), axis=1)
            found[:, block.ravel()] = block[order].reshape(times, -1)
        return found


def _midranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    ranks: np.ndarray = rankdata(values, axis=0)
    return ranks


def _aurocs(positive: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the AUROC of M rankings (n, M) for B sets of positives (B, n), (B, M); NaN of one class."""
    n, m = len(ranks), positive.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = (positive @ ranks - m * (m + 1) / 2) / (m * (n - m))
    return found

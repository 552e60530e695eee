"""One doubt from many scores: the probability of being wrong, by a non-negative logistic regression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_tensor
from calib.posthoc.affine import Floats
from calib.scores.stack_fit import best_ridge, dealt, fitted, of_prior
from calib.scores.state import require_fitted

# Chosen on images of training and validation splits, see `benchmarks/doubt_study.py --development`.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
PRIOR_RIDGE = 3.0  # where too few cases would have to choose one
FEW = 16  # wrong, or right, cases below which cross-validation would choose a ridge by chance
HOW = ("cross_validated", "prior_ridge", "prior")


class DoubtStack:
    """P(wrong) = sigmoid(b + sum_j w_j z_j), z_j = (s_j - centre_j) / spread_j and w_j at least 0.

    s_j are P uncertainty scores of a prediction, each higher = more likely wrong, so that no weight may be
    negative: more doubt by one score never lowers it. With prior weights m_j, and t_i = 1 where i is wrong,

        minimised:  sum_i BCE(sigmoid(b + w z_i), t_i) + BCE_0 + ridge / 2 sum_j (w_j - m_j)^2

    BCE_0 is that of half a wrong and half a right case at the average scores (z = 0), which keeps b finite
    whatever the cases. The ridge is the one of `ridges` under which cases left out are likeliest; below `FEW`
    wrong or right cases it is `PRIOR_RIDGE`; with none wrong or none right the weights are m_j, and b is such
    that P(wrong) is (wrong + 1/2) / (N + 1) on average. `how` and `sentence` say which it was.

    The scores must be out of sample: a score fitted on a case knows its label, and would get all the weight.

    Args:
        names: What the P scores are called, all different.
        prior: m_j by name, at least 0; a name that is not there has 0. None: 1 / P each.
        ridges: The strengths to choose from, above 0, in cases: 10 weighs as ten cases do.

    Attributes:
        centre: (P,) float64, the means of the scores. None: not fitted.
        spread: (P,) their standard deviations; 1 where a score never changes.
        weights: (P,) at least 0, in log-odds per standard deviation.
        intercept: b.
        ridge: The strength that was used; inf where the weights are those of the prior.
        how: One of `HOW`.
        rows: Cases it was fitted on.
        wrong: How many of them were wrong.

    Raises:
        ValueError: There are no names, or two are the same, a prior weight is below 0, or a strength is not
            above 0.

    Example:
        >>> told = torch.tensor([0.0, 1.0] * 100)  # of low ones a third is wrong, of high ones two thirds
        >>> noise = torch.tensor([0.0, 0.0, 1.0, 1.0] * 50)
        >>> wrong = torch.arange(200) // 2 % 3 <= told
        >>> stack = DoubtStack(["told", "noise"]).fit(torch.stack([told, noise], dim=1), wrong)
        >>> bool(stack.weights[0] > 10 * stack.weights[1]), stack.how
        (True, 'cross_validated')
        >>> [round(p, 2) for p in stack(torch.tensor([[0.0, 0.5], [1.0, 0.5]])).tolist()]
        [0.34, 0.67]

    Source: Wolpert 1992 (stacking); Breiman 1996 (weights that are not negative).
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        prior: Mapping[str, float] | None = None,
        ridges: Sequence[float] = RIDGES,
    ) -> None:
        self.names = list(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"A stack needs scores of different names, got {self.names}.")
        if not ridges or not all(math.isfinite(ridge) and ridge > 0 for ridge in ridges):
            raise ValueError(f"ridges must be finite numbers above 0, got {list(ridges)}.")
        self.ridges = tuple(float(ridge) for ridge in ridges)
        equal = dict.fromkeys(self.names, 1 / len(self.names))
        start = equal if prior is None else prior
        self.prior = torch.tensor([start.get(name, 0.0) for name in self.names], dtype=torch.float64)
        if not bool((self.prior >= 0).all() and self.prior.isfinite().all()):
            raise ValueError(f"prior weights must be finite numbers of at least 0, got {dict(start)}.")
        self.centre: Tensor | None = None

    def fit(self, scores: Tensor, failure: Tensor, *, folds: Tensor | None = None) -> DoubtStack:
        """Return self, fitted on cases that the scores have not seen.

        Args:
            scores: (N, P) out of sample, finite, N at least 1.
            failure: (N,) bool, the prediction is wrong.
            folds: (N,) int64, of the cross-validation that chooses the ridge; cases of one patient are in
                one. None: five, wrong and right cases dealt out in turn.

        Raises:
            ValueError: An input is not as above.
        """
        values = self._checked(scores)
        check_tensor(failure, "failure")
        if failure.dtype != torch.bool or failure.shape != scores.shape[:1]:
            raise ValueError(
                f"failure must be ({len(values)},) bool, not {tuple(failure.shape)} {failure.dtype}."
            )
        targets = failure.cpu().double().numpy()
        fold = dealt(targets) if folds is None else _checked_folds(folds, len(values))
        centre, spread = values.mean(axis=0), values.std(axis=0)
        spread = np.where(spread > 1e-12 * (1 + np.abs(centre)), spread, 1.0)  # one that never changes
        z = (values - centre) / spread
        wrong, prior = int(targets.sum()), self.prior.numpy()
        least = min(wrong, len(targets) - wrong)
        if least == 0:
            self.how, self.ridge = "prior", math.inf
            weights, intercept = of_prior(z, wrong, prior)
        else:
            chosen = least >= FEW and len(set(fold.tolist())) > 1
            self.how = "cross_validated" if chosen else "prior_ridge"
            self.ridge = best_ridge(z, targets, fold, prior, self.ridges) if chosen else PRIOR_RIDGE
            weights, intercept = fitted(z, targets, self.ridge, prior)
        self.centre, self.spread = torch.from_numpy(centre), torch.from_numpy(spread)
        self.weights, self.intercept = torch.from_numpy(weights), intercept
        self.rows, self.wrong = len(values), wrong
        return self

    def __call__(self, scores: Tensor) -> Tensor:
        """Return P(wrong) (N,), float64.

        Args:
            scores: (N, P) in the order of `names`, finite.

        Raises:
            ValueError: Not fitted, or the scores are not as above.
        """
        return self.logit(scores).sigmoid()

    def logit(self, scores: Tensor) -> Tensor:
        """Return the log-odds of being wrong (N,): `intercept` plus the sum of the contributions.

        Args:
            scores: As in `__call__`.

        Raises:
            ValueError: As in `__call__`.
        """
        return self.intercept_of_fit() + self.contributions(scores).sum(dim=1)

    def contributions(self, scores: Tensor) -> Tensor:
        """Return what each score adds to the log-odds of being wrong, (N, P), 0 for an average score.

        Args:
            scores: As in `__call__`.

        Raises:
            ValueError: As in `__call__`.
        """
        centre = require_fitted(self, self.centre)
        values = torch.from_numpy(self._checked(scores))
        return (self.weights * (values - centre) / self.spread).to(scores.device)

    def intercept_of_fit(self) -> float:
        """Return b, the log-odds of being wrong where every score is average.

        Raises:
            ValueError: Not fitted.
        """
        require_fitted(self, self.centre)
        return self.intercept

    def sentence(self) -> str:
        """Return how it was fitted, in plain words.

        Raises:
            ValueError: Not fitted.
        """
        require_fitted(self, self.centre)
        right = self.rows - self.wrong
        if self.how == "prior":
            kind, other = ("wrong", "right") if self.wrong == 0 else ("right", "wrong")
            return (
                f"None of the {self.rows} out-of-fold predictions is {kind}, so that nothing tells {kind} "
                f"ones from {other} ones: every part has its prior weight, and P(wrong) is "
                f"({self.wrong} + 1/2) / ({self.rows} + 1) = {(self.wrong + 0.5) / (self.rows + 1):.1%} on "
                "average."
            )
        text = f"Fitted on {self.rows} out-of-fold predictions, {self.wrong} wrong"
        if self.how == "prior_ridge":
            few, count = ("wrong", self.wrong) if self.wrong < right else ("right", right)
            return (
                f"{text}: with {count} {few} ones the weights stay near those of the prior (ridge "
                f"{self.ridge:g}, not chosen by these cases)."
            )
        return f"{text}; ridge {self.ridge:g} towards the prior weights, by cross-validated likelihood."

    def tensors(self) -> dict[str, Tensor]:
        """Return centre, spread, weights, prior weights and intercept, for a file.

        Raises:
            ValueError: Not fitted.
        """
        return {
            "centre": require_fitted(self, self.centre),
            "spread": self.spread,
            "weights": self.weights,
            "prior": self.prior,
            "intercept": torch.tensor(self.intercept, dtype=torch.float64),
        }

    def to_record(self) -> dict[str, Any]:
        """Return the rest as plain values for JSON.

        Raises:
            ValueError: Not fitted.
        """
        require_fitted(self, self.centre)
        return {
            "names": self.names,
            "ridge": None if math.isinf(self.ridge) else self.ridge,
            "how": self.how,
            "rows": self.rows,
            "wrong": self.wrong,
        }

    @classmethod
    def from_record(cls, record: Any, tensors: Mapping[str, Tensor]) -> DoubtStack:
        """Return the stack that `to_record` and `tensors` have written, checked.

        Args:
            record: What was read from a file.
            tensors: Likewise.

        Raises:
            ValueError: They are not as above.
        """
        keys = {"names", "ridge", "how", "rows", "wrong"}
        if not isinstance(record, dict) or {*record} != keys:
            raise ValueError(f"The record of a stack has the keys {', '.join(sorted(keys))}.")
        names = record["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names of a stack must be a list of names, not {str(names)[:80]}.")
        stack = cls(names)
        counts = [record["rows"], record["wrong"]]
        if not all(type(count) is int for count in counts) or not 0 <= counts[1] <= counts[0] < 2**53:
            raise ValueError(f"rows and wrong of a stack must be whole numbers, wrong <= rows, not {counts}.")
        ridge = record["ridge"]
        number = isinstance(ridge, int | float) and not isinstance(ridge, bool)
        if record["how"] not in HOW or (ridge is None) != (record["how"] == "prior"):
            raise ValueError(
                f"how and ridge of a stack are {record['how']!r} and {ridge!r}, which do not fit."
            )
        if ridge is not None and not (number and math.isfinite(ridge) and ridge > 0):
            raise ValueError(f"ridge of a stack must be a finite number above 0, not {ridge!r}.")
        shapes: dict[str, tuple[int, ...]] = {
            name: (len(names),) for name in ("centre", "spread", "weights", "prior")
        }
        shapes |= {"intercept": ()}
        if tensors.keys() != shapes.keys():
            raise ValueError(f"The tensors of a stack are {sorted(tensors)}, expected {sorted(shapes)}.")
        for name, shape in shapes.items():
            value = tensors[name]
            if tuple(value.shape) != shape or value.dtype != torch.float64:
                raise ValueError(f"{name} of a stack must be {shape} float64, not {tuple(value.shape)}.")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} of a stack holds NaN or infinite values.")
        if bool((torch.minimum(tensors["weights"], tensors["prior"]) < 0).any()) or not bool(
            (tensors["spread"] > 0).all()
        ):
            raise ValueError("The weights of a stack must be at least 0, and the spreads above 0.")
        stack.centre, stack.spread, stack.weights = (tensors[k] for k in ("centre", "spread", "weights"))
        stack.prior = tensors["prior"]
        stack.intercept = float(tensors["intercept"])
        stack.rows, stack.wrong = counts
        stack.how, stack.ridge = record["how"], math.inf if ridge is None else float(ridge)
        return stack

    def _checked(self, scores: Tensor) -> Floats:
        """Return the scores as an array, once they are (N, P), finite and not empty."""
        check_tensor(scores, "scores")
        wanted = len(self.names)
        if scores.dim() != 2 or scores.shape[1] != wanted or not scores.is_floating_point():
            raise ValueError(
                f"scores must be (N, {wanted}) floats, one column for each of {', '.join(self.names)}; got "
                f"{tuple(scores.shape)} {scores.dtype}."
            )
        if len(scores) == 0:
            raise ValueError("scores is empty.")
        bad = [
            name for name, ok in zip(self.names, scores.isfinite().all(dim=0).tolist(), strict=True) if not ok
        ]
        if bad:
            raise ValueError(f"scores must be finite; those of {', '.join(bad)} are not.")
        values: Floats = as_float64(scores.detach()).cpu().numpy()
        return values


def _checked_folds(folds: Tensor, n: int) -> np.ndarray:
    check_tensor(folds, "folds")
    if tuple(folds.shape) != (n,) or folds.dtype != torch.int64:
        raise ValueError(f"folds must be ({n},) int64, not {tuple(folds.shape)} {folds.dtype}.")
    array: np.ndarray = folds.cpu().numpy()
    return array

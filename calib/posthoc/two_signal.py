"""The probability that a prediction is right, from its confidence and a second signal, a doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_tensor
from calib.posthoc.affine import fit_logistic
from calib.posthoc.records import VERSION, numbers

NAME = "two_signal"
SD = 10.0  # of the priors, in units of a signal's spread: they matter where rows are separable


class TwoSignalPlatt:
    """P(right) = sigmoid(a * log_odds - b * doubt + c) with a, b at least 0.

    More confidence never lowers it, and more doubt never raises it, whatever few rows seem to say. Minimised
    is the NLL with normal priors of standard deviation 10 around a = 1, b = 0, c = 0, each signal measured in
    its own standard deviations.

    Attributes:
        coefficients: a, b and c, (3,) float64. None: not fitted.

    Example:
        >>> log_odds, doubt = torch.tensor([2.0, 2.0, 2.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> model = TwoSignalPlatt().fit(log_odds, doubt, torch.tensor([True, True, True, False]))
        >>> bool(model(log_odds, doubt)[0] > model(log_odds, doubt)[3])
        True

    Source: Platt 1999, with the signs of the slopes fixed.
    """

    def __init__(self) -> None:
        self.coefficients: Tensor | None = None

    def fit(self, log_odds: Tensor, doubt: Tensor, correct: Tensor) -> TwoSignalPlatt:
        """Return self, fitted.

        Args:
            log_odds: (N,) log(p / (1 - p)) of the predicted class, -calib.scores.mcp(logits): a probability
                may round to 1, its log-odds do not.
            doubt: (N,) any other uncertainty, higher = more likely wrong.
            correct: (N,) bool.

        Raises:
            ValueError: An input is not as above, or all predictions are right or all wrong.
        """
        signals = _signals(log_odds, doubt)
        check_tensor(correct, "correct")
        if correct.dtype != torch.bool or correct.shape != log_odds.shape:
            raise ValueError(
                f"correct must be ({len(signals)},) bool, not {tuple(correct.shape)} {correct.dtype}."
            )
        if bool(correct.all()) or not bool(correct.any()):
            which = "right" if bool(correct.all()) else "wrong"
            raise ValueError(
                f"All {len(correct)} predictions are {which}: nothing tells what makes one wrong. Fit on "
                "samples outside the training shots, some of them predicted wrongly and some rightly."
            )
        spread = signals.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)  # a signal that never changes
        scaled = fit_logistic(
            signals / spread,
            correct.cpu().double().numpy(),
            np.ones(len(signals)),
            centre=np.array([spread[0], 0.0, 0.0]),
            sd=np.full(3, SD),
            lower=np.array([0.0, 0.0, -np.inf]),
            what="'two_signal'",
        )
        self.coefficients = torch.from_numpy(scaled / np.append(spread, 1.0))
        return self

    def __call__(self, log_odds: Tensor, doubt: Tensor) -> Tensor:
        """Return the probability that each prediction is right, (N,) float64.

        Args:
            log_odds: (N,) as in `fit`.
            doubt: (N,) as in `fit`.

        Raises:
            ValueError: Not fitted, or an input is not as above.
        """
        found = self._require_fitted()
        signals = torch.from_numpy(_signals(log_odds, doubt))
        return (signals @ found[:2] + found[2]).sigmoid().to(as_float64(log_odds).device)

    def to_record(self) -> dict[str, Any]:
        """Return the fitted model as plain values for JSON; `from_record` reads them.

        Raises:
            ValueError: Not fitted.
        """
        return {"name": NAME, "version": VERSION, "coefficients": self._require_fitted().tolist()}

    @classmethod
    def from_record(cls, record: Any) -> TwoSignalPlatt:
        """Return the model that `to_record` has written, checked.

        Args:
            record: What was read from a file.

        Raises:
            ValueError: It is not as above, or a or b is below 0.
        """
        keys = {"name", "version", "coefficients"}
        known = isinstance(record, dict) and {*record} == keys and record["name"] == NAME
        if not known or type(record["version"]) is not int or record["version"] != VERSION:
            raise ValueError(
                f"A record of '{NAME}' has the keys name, version ({VERSION}) and coefficients, and is "
                f"{str(record)[:80]!r}."
            )
        model = cls()
        model.coefficients = numbers(record["coefficients"], (3,), f"coefficients of '{NAME}'")
        if not bool((model.coefficients[:2] >= 0).all()):
            raise ValueError(f"a and b of '{NAME}' must be at least 0.")
        return model

    def _require_fitted(self) -> Tensor:
        if self.coefficients is None:
            raise ValueError(f"'{NAME}' is not fitted: call its fit first.")
        return self.coefficients


def _signals(log_odds: Tensor, doubt: Tensor) -> np.ndarray:
    """Return checked signals (N, 2): log-odds and trust, which is minus the doubt."""
    for name, values in (("log_odds", log_odds), ("doubt", doubt)):
        check_tensor(values, name)
        if values.dim() != 1 or not values.is_floating_point() or len(values) == 0:
            raise ValueError(f"{name} must be (N,) floats, not {tuple(values.shape)} {values.dtype}.")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite; {int((~values.isfinite()).sum())} values are not.")
    if log_odds.shape != doubt.shape:
        raise ValueError(f"There are {len(log_odds)} log_odds and {len(doubt)} doubts.")
    columns = [as_float64(values.detach()).cpu() for values in (log_odds, doubt)]
    return torch.stack([columns[0], -columns[1]], dim=1).numpy()

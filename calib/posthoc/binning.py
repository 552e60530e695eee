"""Isotonic regression, histogram binning and beta calibration: a curve for each class, then normalised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from calib.core.binning import bin_edges, equal_mass_indices
from calib.posthoc.affine import Floats, fit_logistic
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.linear import log_chances
from calib.posthoc.records import Shape


class CurvePerClass(Calibrator):
    """q_c = curve_c(p_c), p' = q / sum_c q_c; all classes alike where every q_c is 0.

    Args:
        mix: See `Calibrator`. By default on: the curves reach 0, and few rows never show that.

    Attributes:
        parameters: Of all classes one after another, x (M,) increasing within a class and y (M,), and sizes
            (C,): how many of them each class has.
    """

    def __init__(self, *, mix: bool = True) -> None:
        super().__init__(mix=mix)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        probs = values.softmax(dim=1)
        curves = [
            self._curve(probs[:, c].numpy(), (labels == c).double().numpy(), weights.numpy())
            for c in range(values.shape[1])
        ]
        x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*curves, strict=True))
        return {
            "sizes": torch.tensor([float(len(x)) for x, _ in curves], dtype=torch.float64),
            "x": x,
            "y": y,
        }

    def _probs(self, values: Tensor) -> Tensor:
        probs, sizes = values.softmax(dim=1).numpy(), self.parameters["sizes"].to(torch.int64).tolist()
        curves = zip(*(self.parameters[part].split(sizes) for part in ("x", "y")), strict=True)
        raw = torch.from_numpy(
            np.column_stack([self._at(probs[:, c], x.numpy(), y.numpy()) for c, (x, y) in enumerate(curves)])
        )
        sums = raw.sum(dim=1, keepdim=True)
        return torch.where(sums > 0, raw / sums, 1 / raw.shape[1])

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"sizes": (classes,), "x": (None,), "y": (None,)}

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        sizes, x, y = (parameters[part] for part in ("sizes", "x", "y"))
        if not bool(
            (sizes >= 1).all() and (sizes == sizes.round()).all() and sizes.sum() == len(x) == len(y)
        ):
            raise ValueError(f"sizes, x and y of '{self.name}' do not fit together.")
        for part in x.split(sizes.to(torch.int64).tolist()):
            if not bool((part.diff() >= 0).all()):
                raise ValueError(f"x of '{self.name}' must not fall within a class.")
        if not bool((x >= 0).all() and (x <= 1).all() and (y >= 0).all() and (y <= 1).all()):
            raise ValueError(f"x and y of '{self.name}' must lie in [0, 1].")

    @abstractmethod
    def _curve(self, probs: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Return x and y of one class's curve for its probabilities (N,) and whether rows are of it (N,)."""

    @abstractmethod
    def _at(self, probs: Floats, x: Floats, y: Floats) -> Floats:
        """Return the curve at probabilities (N,)."""


class IsotonicCalibration(CurvePerClass):
    """`CurvePerClass` with the best curve that never falls, straight between the rows it was fitted on.

    Args:
        mix: See `CurvePerClass`.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0]] * 4)
        >>> calibrator = IsotonicCalibration(mix=False).fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> calibrator(logits[:1]).tolist()
        [[0.75, 0.25]]

    Source: Zadrozny and Elkan 2002; one-versus-rest as scikit-learn's CalibratedClassifierCV.
    """

    name: ClassVar[str] = "isotonic"

    def _curve(self, probs: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats]:
        from sklearn.isotonic import IsotonicRegression  # slow to import and needed here only

        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        model.fit(probs, targets, sample_weight=weights)
        return model.X_thresholds_.astype(np.float64), model.y_thresholds_.astype(np.float64)

    def _at(self, probs: Floats, x: Floats, y: Floats) -> Floats:
        return np.interp(probs, x, y)


class HistogramBinning(CurvePerClass):
    """`CurvePerClass` with steps: the share of the class among the rows of each of the equally full bins.

    Tied probabilities share a bin. Between two bins, the edge lies in the middle.

    Args:
        n_bins: At least 1; fewer where there are fewer distinct probabilities.
        mix: See `CurvePerClass`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 4 + [[0.0, 2.0]] * 2)
        >>> calibrator = HistogramBinning(n_bins=2, mix=False).fit(logits, torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> calibrator(torch.tensor([[2.0, 0.0], [0.0, 2.0]])).tolist()
        [[0.75, 0.25], [0.0, 1.0]]

    Source: Zadrozny and Elkan 2001.
    """

    name: ClassVar[str] = "histogram"

    def __init__(self, *, n_bins: int = 10, mix: bool = True) -> None:
        super().__init__(mix=mix)
        bin_edges(n_bins)  # refuses what is no number of bins
        self.n_bins = n_bins

    def _curve(self, probs: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats]:
        indices = equal_mass_indices(torch.from_numpy(probs), self.n_bins).numpy()
        filled = np.unique(indices)
        first, last = (np.array([f(probs[indices == m]) for m in filled]) for f in (np.min, np.max))
        y = [np.average(targets[indices == m], weights=weights[indices == m]) for m in filled]
        return np.concatenate([[0.0], (last[:-1] + first[1:]) / 2]), np.array(y)

    def _at(self, probs: Floats, x: Floats, y: Floats) -> Floats:
        return y[np.searchsorted(x, probs, side="right") - 1]


class BetaCalibration(Calibrator):
    """q_c = sigmoid(a_c log p_c - b_c log(1 - p_c) + m_c) with a_c, b_c at least 0, then normalised to sum 1.

    With priors a_c, b_c ~ N(1, 10^2), m_c ~ N(0, 10^2), which matter where rows are separable.

    Attributes:
        parameters: coefficients (C, 3): a, b and m of each class.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 40 + [[0.0, 4.0]] * 40)
        >>> labels = torch.tensor(([0] * 30 + [1] * 10) + ([1] * 30 + [0] * 10))  # three of four right
        >>> BetaCalibration().fit(logits, labels)(torch.tensor([[4.0, 0.0]])).round(decimals=3).tolist()
        [[0.75, 0.25]]

    Source: Kull, Silva Filho and Flach 2017 (AISTATS), equation 4, one-versus-rest.
    Differs: a and b are fitted within their bounds, not fitted again where one came out below 0; the prior.
    """

    name: ClassVar[str] = "beta"

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        log_p, log_rest = log_chances(values)
        found = [
            fit_logistic(
                torch.stack([log_p[:, c], -log_rest[:, c]], dim=1).numpy(),
                (labels == c).double().numpy(),
                weights.numpy(),
                centre=np.array([1.0, 1.0, 0.0]),
                sd=np.full(3, 10.0),
                lower=np.array([0.0, 0.0, -np.inf]),
                what=f"class {c} of 'beta'",
            )
            for c in range(values.shape[1])
        ]
        return {"coefficients": torch.from_numpy(np.array(found))}

    def _probs(self, values: Tensor) -> Tensor:
        log_p, log_rest = log_chances(values)
        a, b, m = self.parameters["coefficients"].T
        return logsigmoid(a * log_p - b * log_rest + m).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"coefficients": (classes, 3)}

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        if not bool((parameters["coefficients"][:, :2] >= 0).all()):
            raise ValueError("a and b of 'beta' must be at least 0.")

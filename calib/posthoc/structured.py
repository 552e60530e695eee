"""Structured vector and matrix scaling, and Dirichlet calibration: affine maps of log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from calib.posthoc.affine import fit_affine
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.records import Shape, check_positive
from calib.posthoc.scaling import bounded_temperature
from calib.posthoc.shares import mixed

WEAK = 10.0  # standard deviation of a prior that is there so that separable rows have a fit


class StructuredVectorScaling(Calibrator):
    """softmax(z' + v * z' + b), z' = log of the probabilities of `TemperatureMix` on the same rows.

    Minimised is mean_i w_i CE + strength C / n (|b|^2 + |v|^2): the fewer rows and the more classes, the
    nearer to `TemperatureMix`.

    Args:
        strength: lambda, above 0.
        mix: See `Calibrator`; the inputs are mixed anyway.

    Attributes:
        parameters: temperature (), scales 1 + v and offsets b, each (C,).

    Example:
        >>> logits = torch.zeros(400, 2)  # that say nothing: the offsets learn that three of four are class 0
        >>> labels = torch.tensor([0, 0, 0, 1] * 100)
        >>> StructuredVectorScaling().fit(logits, labels)(torch.zeros(1, 2)).round(decimals=3).tolist()
        [[0.746, 0.254]]

    Source: Berta et al. 2025 (arXiv 2511.03685), SVS with lambda = rho = tau = 1; dholzmueller/probmetrics
        34123ba.
    """

    name: ClassVar[str] = "svs"

    def __init__(self, *, strength: float = 1.0, mix: bool = False) -> None:
        super().__init__(mix=mix)
        self.strength = check_positive("strength", strength)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        temperature, (n, classes) = bounded_temperature(values, labels, weights), values.shape
        pull = self.strength * classes / n
        scales, offsets = fit_affine(
            _log_mixed(values, temperature, n).numpy(),
            labels.numpy(),
            weights.numpy(),
            diagonal=pull,
            off_diagonal=pull * (classes - 1) if self.quadratic else None,
            offset=pull,
            what=f"'{self.name}'",
        )
        return {
            "temperature": torch.tensor(temperature, dtype=torch.float64),
            "matrix" if self.quadratic else "scales": torch.from_numpy(scales.copy()),
            "offsets": torch.from_numpy(offsets.copy()),
        }

    def _probs(self, values: Tensor) -> Tensor:
        inputs = _log_mixed(values, float(self.parameters["temperature"]), self.rows)
        return (inputs * self.parameters["scales"] + self.parameters["offsets"]).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"temperature": (), "scales": (classes,), "offsets": (classes,)}

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        check_positive("temperature", float(parameters["temperature"]))


class StructuredMatrixScaling(StructuredVectorScaling):
    """softmax(z' + v * z' + M z' + b), M without diagonal, which is held most tightly.

    As `StructuredVectorScaling`, with strength C (C - 1) / n |M|^2 added to what is minimised.

    Args:
        strength: lambda, above 0.
        mix: See `Calibrator`; the inputs are mixed anyway.

    Attributes:
        parameters: temperature (), matrix 1 + diag(v) + M (C, C), offsets b (C,).

    Example:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> calibrator = StructuredMatrixScaling().fit(logits, labels)
        >>> calibrator(torch.tensor([[4.0, 0.0]])).round(decimals=3).tolist()
        [[0.726, 0.274]]

    Source: Berta et al. 2025 (arXiv 2511.03685), SMS with lambda = rho = tau = 1.
    """

    name: ClassVar[str] = "sms"
    quadratic: ClassVar[bool] = True

    def _probs(self, values: Tensor) -> Tensor:
        inputs = _log_mixed(values, float(self.parameters["temperature"]), self.rows)
        return (inputs @ self.parameters["matrix"].T + self.parameters["offsets"]).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"temperature": (), "matrix": (classes, classes), "offsets": (classes,)}


class DirichletCalibration(Calibrator):
    """softmax(A log p + b), off-diagonal entries and offsets held near 0 (ODIR).

    Minimised is mean_i w_i CE + off_diagonal / (C (C - 1)) sum_{c != d} A_cd^2 + offset / C |b|^2.

    Args:
        off_diagonal: lambda, at least 0.
        offset: mu, at least 0.
        mix: See `Calibrator`.

    Attributes:
        parameters: matrix (C, C) and offsets (C,).

    Example:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 40), torch.tensor([0, 0, 0, 1] * 10)
        >>> DirichletCalibration().fit(logits, labels)(torch.tensor([[4.0, 0.0]])).round(decimals=3).tolist()
        [[0.75, 0.25]]

    Source: Kull et al. 2019 (arXiv 1910.12656), equation 9 and ODIR of section 4.
    Differs: a prior A_cc ~ N(1, 10^2), so that separable rows have a fit; probabilities of 0 are not clipped,
        as logits have their logarithms.
    """

    name: ClassVar[str] = "dirichlet"
    quadratic: ClassVar[bool] = True

    def __init__(self, *, off_diagonal: float = 0.01, offset: float = 0.01, mix: bool = False) -> None:
        super().__init__(mix=mix)
        self.off_diagonal = check_positive("off_diagonal", off_diagonal, zero=True)
        self.offset = check_positive("offset", offset, zero=True)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        n, classes = values.shape
        matrix, offsets = fit_affine(
            values.log_softmax(dim=1).numpy(),
            labels.numpy(),
            weights.numpy(),
            diagonal=1 / (2 * n * WEAK**2),
            off_diagonal=self.off_diagonal / (classes * (classes - 1)),
            offset=self.offset / classes,
            what="'dirichlet'",
        )
        return {"matrix": torch.from_numpy(matrix.copy()), "offsets": torch.from_numpy(offsets.copy())}

    def _probs(self, values: Tensor) -> Tensor:
        log_p = values.log_softmax(dim=1)
        return (log_p @ self.parameters["matrix"].T + self.parameters["offsets"]).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"matrix": (classes, classes), "offsets": (classes,)}


def _log_mixed(values: Tensor, temperature: float, rows: int) -> Tensor:
    """Return the log of the probabilities of `TemperatureMix`, (N, C)."""
    relative = values - values.max(dim=1, keepdim=True).values
    return mixed((relative / temperature).softmax(dim=1), rows).log()

"""Platt, vector and matrix scaling: logits, or log-odds, stretched and moved class by class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from calib.posthoc.affine import fit_affine, fit_logistic
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.records import Shape, check_positive


class PlattScaling(Calibrator):
    """One logistic regression per class on its log-odds, then normalised to sum 1.

    q_c = sigmoid(a_c log(p_c / (1 - p_c)) + b_c), p' = q / sum_c q_c. Targets are Platt's: with N+ rows of
    the class and N- others, (N+ + 1) / (N+ + 2) for its rows and 1 / (N- + 2) for the others, so that
    separable rows have a fit as well. With two classes it is Platt's sigmoid of the logit difference.

    Attributes:
        parameters: slopes and offsets, each (C,).

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 40 + [[0.0, 4.0]] * 40)
        >>> labels = torch.tensor(([0] * 30 + [1] * 10) + ([1] * 30 + [0] * 10))  # three of four right
        >>> PlattScaling().fit(logits, labels)(torch.tensor([[4.0, 0.0]])).round(decimals=4).tolist()
        [[0.7381, 0.2619]]

    Source: Platt 1999; one-versus-rest by Zadrozny and Elkan 2002, as scikit-learn's
        CalibratedClassifierCV(method="sigmoid").
    Differs: the log-odds of each class instead of its decision function or probability, which makes the
        identity one of the maps that can be learned.
    """

    name: ClassVar[str] = "platt"

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        log_p, log_rest = log_chances(values)
        odds, w, found = (log_p - log_rest).numpy(), weights.numpy(), []
        for c in range(values.shape[1]):
            yes = labels.numpy() == c
            inside, outside = w[yes].sum(), w[~yes].sum()
            targets = np.where(yes, (inside + 1) / (inside + 2), 1 / (outside + 2))
            start, free = np.array([1.0, 0.0]), np.full(2, np.inf)
            what = f"class {c} of 'platt'"
            found.append(fit_logistic(odds[:, [c]], targets, w, centre=start, sd=free, what=what))
        slopes, offsets = torch.from_numpy(np.array(found)).T
        return {"slopes": slopes.contiguous(), "offsets": offsets.contiguous()}

    def _probs(self, values: Tensor) -> Tensor:
        log_p, log_rest = log_chances(values)
        scores = self.parameters["slopes"] * (log_p - log_rest) + self.parameters["offsets"]
        return logsigmoid(scores).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"slopes": (classes,), "offsets": (classes,)}


class VectorScaling(Calibrator):
    """softmax(s * (z - mean_c z) + b): a factor and an offset for each class.

    Minimised is the NLL with normal priors s_c ~ N(1, prior_sd^2), b_c ~ N(0, prior_sd^2), which matter where
    rows are separable.

    Args:
        prior_sd: Above 0. None: no prior; then separable rows allow no fit.
        mix: See `Calibrator`.

    Attributes:
        parameters: scales and offsets, each (C,).

    Example:
        >>> logits = torch.zeros(4, 2)  # that say nothing: the offsets learn that three of four are class 0
        >>> calibrator = VectorScaling(prior_sd=None).fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> calibrator(torch.zeros(1, 2)).round(decimals=6).tolist()
        [[0.75, 0.25]]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    Differs: logits relative to their mean over classes. What all logits of a row have in common says nothing,
        and times different factors it would; logits and log-probabilities give the same calibrator.
    """

    name: ClassVar[str] = "vector"

    def __init__(self, *, prior_sd: float | None = 10.0, mix: bool = False) -> None:
        super().__init__(mix=mix)
        self.prior_sd = check_positive("prior_sd", prior_sd, none=True)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        ridge = 0.0 if self.prior_sd is None else 1 / (2 * len(values) * self.prior_sd**2)
        scales, offsets = fit_affine(
            centred(values).numpy(),
            labels.numpy(),
            weights.numpy(),
            diagonal=ridge,
            off_diagonal=ridge if self.quadratic else None,
            offset=ridge,
            what=f"'{self.name}'",
        )
        return {
            "matrix" if self.quadratic else "scales": torch.from_numpy(scales.copy()),
            "offsets": torch.from_numpy(offsets.copy()),
        }

    def _probs(self, values: Tensor) -> Tensor:
        return (centred(values) * self.parameters["scales"] + self.parameters["offsets"]).softmax(dim=1)

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        return _with_centring(self.parameters["scales"].diag()), self.parameters["offsets"]

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"scales": (classes,), "offsets": (classes,)}


class MatrixScaling(VectorScaling):
    """softmax(A (z - mean_c z) + b): every logit may speak for every class. It needs many rows per class.

    Minimised is the NLL with normal priors of `prior_sd` around A = 1 (the identity) and b = 0.

    Args:
        prior_sd: Above 0. None: no prior; then separable rows allow no fit.
        mix: See `Calibrator`.

    Attributes:
        parameters: matrix (C, C) and offsets (C,).

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4 + [[0.0, 4.0]] * 4)
        >>> labels = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1])
        >>> calibrator = MatrixScaling().fit(logits, labels)  # the classes are exchanged: 3 of 4, 3 of 4
        >>> calibrator(torch.tensor([[4.0, 0.0]])).round(decimals=2).tolist()
        [[0.25, 0.75]]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    Differs: as `VectorScaling`.
    """

    name: ClassVar[str] = "matrix"
    quadratic: ClassVar[bool] = True

    def _probs(self, values: Tensor) -> Tensor:
        return (centred(values) @ self.parameters["matrix"].T + self.parameters["offsets"]).softmax(dim=1)

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        return _with_centring(self.parameters["matrix"]), self.parameters["offsets"]

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"matrix": (classes, classes), "offsets": (classes,)}


def centred(values: Tensor) -> Tensor:
    """Return logits (N, C) relative to their mean over classes.

    Example:
        >>> centred(torch.tensor([[3.0, 1.0]])).tolist()
        [[1.0, -1.0]]
    """
    return values - values.mean(dim=1, keepdim=True)


def log_chances(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p_c and log(1 - p_c) of every class, both (N, C) and finite where logits are.

    Args:
        values: (N, C) float64 logits.

    Example:
        >>> log_p, log_rest = log_chances(torch.tensor([[800.0, 0.0]], dtype=torch.float64))
        >>> log_p.tolist(), log_rest.tolist()
        ([[0.0, -800.0]], [[-800.0, 0.0]])
    """
    log_p = values.log_softmax(dim=1)
    top = values.argmax(dim=1, keepdim=True)
    others = values.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_rest = torch.log1p(-log_p.exp())  # exact but for the largest, whose p may round to 1
    return log_p, log_rest.scatter(1, top, others - values.logsumexp(dim=1, keepdim=True)) + 0.0


def _with_centring(matrix: Tensor) -> Tensor:
    """Return A (1 - 11'/C): the map of logits that have not been centred."""
    return matrix - matrix.mean(dim=1, keepdim=True)

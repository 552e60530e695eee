"""Calibration of tuned logits by the zero-shot model beside them: no labels are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from calib.core.checks import HALF_NORM, as_float64, check_logits, check_unit_norm, check_whole
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.records import Shape

SAME = 0.05  # a tuned text this near to a base class is one of the base classes


def sample_adaptive_scaling(logits: Tensor, logits_zs: Tensor) -> Tensor:
    """Return tuned logits in the range that the zero-shot logits of the same sample have, (N, C) float64.

    (z - min z) / (max z - min z) (max z0 - min z0) + min z0. The predicted class stays, unless all zero-shot
    logits of the row are equal: then there is no range, and all become that number. A row whose tuned logits
    are all equal says nothing, and becomes the mean of its zero-shot logits.

    Args:
        logits: (N, C) of the tuned model, finite.
        logits_zs: (N, C) of the zero-shot model, finite.

    Raises:
        ValueError: An input is not as above.

    Example:
        >>> tuned, zero_shot = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[21.0, 20.0, 20.5]])
        >>> sample_adaptive_scaling(tuned, zero_shot).tolist()
        [[21.0, 20.5, 20.0]]

    Source: Murugesan et al. 2024 (arXiv 2407.13588), SaLS; Bala93/CLIPCalib af03b29.
    Differs: 0 / 0 of equal tuned logits is defined.
    """
    check_logits(logits)
    check_logits(logits_zs)
    if logits.shape != logits_zs.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and logits_zs {tuple(logits_zs.shape)} must be of the same "
            "samples and classes."
        )
    tuned, plain = as_float64(logits), as_float64(logits_zs).to(as_float64(logits).device)
    (low, high), (low0, high0) = (
        (z.min(dim=1, keepdim=True).values, z.max(dim=1, keepdim=True).values) for z in (tuned, plain)
    )
    within = (tuned - low) / torch.where(high > low, high - low, 1.0)
    scaled = within * (high0 - low0) + low0
    return torch.where(high > low, scaled, plain.mean(dim=1, keepdim=True).expand_as(scaled))


class DistanceAwareCalibration(Calibrator):
    """softmax(z * g[argmax z]): logits are weakened where tuning moved a new class away from the known ones.

    g_c = exp(-d_c) / exp(-d0_c), d_c the mean distance from class c to its k nearest base classes among the
    tuned texts, d0_c among the zero-shot texts; 1 where the nearest is within 0.05: a base class itself.

    It learns from texts, by `from_texts`; `fit` refuses.

    Attributes:
        parameters: factors (C,), above 0.

    Example:
        >>> e = torch.eye(3)
        >>> calibrator = DistanceAwareCalibration.from_texts(e[:2], e[:2], e[[0, 2]], e[[0, 2]], k=1)
        >>> calibrator.parameters["factors"].tolist()  # nothing was tuned
        [1.0, 1.0]

    Source: Wang et al. 2024 (arXiv 2402.04655), DAC; ml-stat-Sustech/CLIP_Calibration 5b68fb1,
        trainers/calibration/distanse_aware_calibration.py.
    """

    name: ClassVar[str] = "dac"
    keeps_argmax: ClassVar[bool] = True
    needs_two_classes: ClassVar[bool] = False

    @classmethod
    def from_texts(
        cls, tuned: Tensor, zero_shot: Tensor, base_tuned: Tensor, base_zero_shot: Tensor, *, k: int
    ) -> DistanceAwareCalibration:
        """Return the calibrator of these texts.

        Args:
            tuned: (C, D) unit norm: the tuned texts of the classes.
            zero_shot: (C, D) unit norm: their zero-shot texts.
            base_tuned: (B, D) unit norm: the tuned texts of the classes the prompt was tuned on.
            base_zero_shot: (B, D) unit norm: their zero-shot texts.
            k: Nearest base classes, from 1 to B.

        Raises:
            ValueError: An input is not as above.
        """
        check_whole(1, k=k)
        texts = {"tuned": tuned, "zero_shot": zero_shot}
        base = {"base_tuned": base_tuned, "base_zero_shot": base_zero_shot}
        for name, text in {**texts, **base}.items():
            check_unit_norm(text, name, tolerance=HALF_NORM)
        for first, second in (texts.values(), base.values()):
            if first.dim() != 2 or first.shape != second.shape or first.shape[1] != tuned.shape[1]:
                raise ValueError(
                    "Texts must be (classes, D), tuned and zero-shot ones of the same classes; got "
                    + ", ".join(f"{name} {tuple(text.shape)}" for name, text in {**texts, **base}.items())
                    + "."
                )
        if k > len(base_tuned) or len(tuned) < 2:
            raise ValueError(
                f"k must be at most the number of base classes, {len(base_tuned)}, and there must be at "
                f"least 2 classes; got k={k} and {len(tuned)} classes."
            )
        near, near0 = (
            torch.cdist(as_float64(ours), as_float64(theirs)).topk(k, dim=1, largest=False).values
            for ours, theirs in ((tuned, base_tuned), (zero_shot, base_zero_shot))
        )
        factors = (near0.mean(dim=1) - near.mean(dim=1)).exp()
        calibrator = cls()
        calibrator.classes, calibrator.rows = len(tuned), len(base_tuned)
        calibrator.parameters = {"factors": torch.where(near[:, 0] < SAME, 1.0, factors).cpu()}
        return calibrator

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        raise ValueError(
            "'dac' learns from texts, not from labels: call DistanceAwareCalibration.from_texts."
        )

    def _probs(self, values: Tensor) -> Tensor:
        factors = self.parameters["factors"][values.argmax(dim=1)][:, None]
        return (values * factors).softmax(dim=1)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"factors": (classes,)}

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        if not bool((parameters["factors"] > 0).all()):
            raise ValueError("factors of 'dac' must be above 0.")

"""What calibrates a prompt at prediction: one linear map in the place of the prompt's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.core.text import few
from calib.io.tensors import require_tensor
from calib.posthoc.shot_parts import IMAGES, PROMPT, ZERO_SHOT

EXPERTS = (PROMPT, IMAGES, ZERO_SHOT)
METHODS = ("scale", "experts", "prevalence")
OWN = ("method", "weights", "shrinkage", "tilt")
WEIGHT, BIAS = "calibrated_weight", "calibrated_bias"  # tensors in a prompt's file
ROUNDING = 1e-4  # of the largest number of a map
LARGEST = 1e7  # of a number in the map: logits of a scale of exp(12), weighted tens of times


@dataclass(frozen=True, eq=False)
class Calibration:
    """`logits = image_features @ weight.T + bias`, beside an untouched prompt.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        method: "scale" (the prompt's logits times one factor), "experts" (weighted with those of zero-shot
            and of a linear discriminant of the shots) or "prevalence" (only shifted to stated class shares).
        weights: What the logits of each expert are multiplied with: "prompt", and for "experts" "images" and
            "zero_shot".
        shrinkage: Of the discriminant's covariance.
        tilt: Class name to what a stated prevalence adds to its logit. Empty: none is stated.
        facts: How sure it is, for readers: draws, left-out likelihood of each candidate; JSON-able.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    method: str
    weights: dict[str, float]
    shrinkage: float = 0.8
    tilt: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return the calibrated logits (N, C) of features (N, D)."""
        return image_features @ self.weight.to(image_features).T + self.bias.to(image_features)

    def in_order(self, order: Sequence[int]) -> Calibration:
        """Return the map for the same classes in another order."""
        rows = list(order)
        return replace(self, weight=self.weight[rows], bias=self.bias[rows])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a prompt's file holds of it."""
        return {WEIGHT: self.weight.float(), BIAS: self.bias.float()}

    def record(self) -> dict[str, Any]:
        """Return what the record of a prompt's file says of it."""
        own = {"method": self.method, "weights": self.weights, "shrinkage": self.shrinkage, "tilt": self.tilt}
        return {**own, **self.facts}

    @classmethod
    def read(
        cls, tensors: Mapping[str, Tensor], record: Any, shape: tuple[int, int], *, path: str | Path
    ) -> Calibration | None:
        """Return the map in a prompt's file, checked. None: the file has none.

        Args:
            tensors: Those of the file.
            record: What its record says under "calibration".
            shape: (C, D) of the prompt.
            path: The file, for messages.

        Raises:
            ValueError: A tensor is missing, of another shape or not finite, or the method is none.
        """
        if record is None:
            if WEIGHT in tensors or BIAS in tensors:
                raise ValueError(f"{path} holds a calibration, and its record does not say of which method.")
            return None
        if not isinstance(record, dict) or record.get("method") not in METHODS:
            said = record.get("method") if isinstance(record, dict) else record
            raise ValueError(f"{path}: calibration.method must be one of {', '.join(METHODS)}, not {said!r}.")
        weight = require_tensor(tensors, WEIGHT, shape, path=path)
        bias = require_tensor(tensors, BIAS, shape[:1], path=path)
        for name, tensor in ((WEIGHT, weight), (BIAS, bias)):
            if float(tensor.abs().max()) > LARGEST:
                raise ValueError(f"{path}: {name} holds a number larger than {LARGEST:g}.")
        for key in ("weights", "tilt"):
            if not isinstance(record.get(key), dict) or not all(map(_is_number, record[key].values())):
                raise ValueError(f"{path}: calibration.{key} must be finite numbers by name.")
        needed = EXPERTS if record["method"] == "experts" else EXPERTS[:1]
        if set(record["weights"]) != set(needed):
            raise ValueError(f"{path}: calibration.weights must be of {few(needed)}.")
        shrinkage: Any = record.get("shrinkage")
        if not _is_number(shrinkage) or not 0 < shrinkage <= 1:
            raise ValueError(f"{path}: calibration.shrinkage must be in (0, 1], not {shrinkage!r}.")
        return cls(
            weight=weight,
            bias=bias,
            method=record["method"],
            weights={str(name): float(value) for name, value in record["weights"].items()},
            tilt={str(name): float(value) for name, value in record["tilt"].items()},
            shrinkage=float(shrinkage),
            facts={key: value for key, value in record.items() if key not in OWN},
        )


def same_calibration(ours: Calibration | None, theirs: Calibration | None) -> bool:
    """Return whether two calibrations give the same logits, but for rounding; None and None do."""
    if ours is None or theirs is None:
        return ours is theirs
    pairs = ((ours.weight, theirs.weight), (ours.bias, theirs.bias))
    size = max(float(ours.weight.abs().max()), float(ours.bias.abs().max()))
    return ours.weight.shape == theirs.weight.shape and all(
        float((mine - other).abs().max()) <= ROUNDING * size for mine, other in pairs
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

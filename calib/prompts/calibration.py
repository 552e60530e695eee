"""What calibrates a prompt at prediction: one linear map in the place of the prompt's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.core.text import few
from calib.data.mapping import OutputMapping
from calib.io.tensors import require_tensor
from calib.posthoc.shot_parts import IMAGES, PROMPT, ZERO_SHOT

EXPERTS = (PROMPT, IMAGES, ZERO_SHOT)
METHODS = ("scale", "experts", "prevalence", "mapping")
FACTORS = ("scale", "mapping")  # the prompt's logits times one factor
OWN = ("method", "weights", "shrinkage", "tilt", "mappings")
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
            and of a linear discriminant of the shots), "prevalence" (only shifted to stated class shares) or
            "mapping" (the prompt's own, changed by `mappings` only).
        weights: What the logits of each expert are multiplied with: "prompt", and for "experts" "images" and
            "zero_shot".
        shrinkage: Of the discriminant's covariance.
        tilt: Class name to what a stated prevalence adds to its logit. Empty: none is stated.
        mappings: Calibrators fitted to labelled outputs that the map contains, in the order in which they
            came; each is a linear map of logits. `weights` and `tilt` are of what was before them.
        facts: How sure it is, for readers: draws, left-out likelihood of each candidate; JSON-able.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    method: str
    weights: dict[str, float]
    shrinkage: float = 0.8
    tilt: dict[str, float] = field(default_factory=dict)
    mappings: tuple[OutputMapping, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return the calibrated logits (N, C) of features (N, D)."""
        return image_features @ self.weight.to(image_features).T + self.bias.to(image_features)

    @property
    def keeps_predictions(self) -> bool:
        """Whether it changes confidences only: the predicted class is that of the bare prompt."""
        alone = self.method in FACTORS and not self.tilt
        return alone and all(each.calibrator.keeps_argmax for each in self.mappings)

    def mapped(self, mapping: OutputMapping, class_names: Sequence[str]) -> Calibration:
        """Return the map with a calibrator of its outputs behind it.

        Args:
            mapping: Fitted to outputs of this map.
            class_names: C names in the order of this map.

        Raises:
            ValueError: The calibrator is no linear map of logits, or of other classes.
        """
        weight, bias = with_mapping(self.weight, self.bias, mapping, class_names)
        largest = max(float(weight.abs().max()), float(bias.abs().max()))
        if not largest <= LARGEST:
            raise ValueError(
                f"The calibrator '{mapping.calibrator.name}' would make logits of {largest:.1g} times the "
                "features: the labelled outputs say nothing about how sure they are. 'temperature_prior' has "
                "a fit whatever they are."
            )
        mappings = (*self.mappings, mapping)
        return replace(self, weight=weight.float(), bias=bias.float(), mappings=mappings)

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
        mappings = [each.to_record() for each in self.mappings]
        return {**own, **({"mappings": mappings} if mappings else {}), **self.facts}

    @classmethod
    def read(
        cls,
        tensors: Mapping[str, Tensor],
        record: Any,
        class_names: Sequence[str],
        width: int,
        *,
        path: str | Path,
    ) -> Calibration | None:
        """Return the map in a prompt's file, checked. None: the file has none.

        Args:
            tensors: Those of the file.
            record: What its record says under "calibration".
            class_names: C names of the prompt.
            width: D of the prompt.
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
        n_classes = len(class_names)
        weight = require_tensor(tensors, WEIGHT, (n_classes, width), path=path)
        bias = require_tensor(tensors, BIAS, (n_classes,), path=path)
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
        mappings = record.get("mappings", [])
        listed = "mappings" in record or record["method"] == "mapping"
        if not isinstance(mappings, list) or (listed and not mappings):
            raise ValueError(f"{path}: calibration.mappings must be a list of calibrators, not empty.")
        return cls(
            weight=weight,
            bias=bias,
            method=record["method"],
            weights={str(name): float(value) for name, value in record["weights"].items()},
            tilt={str(name): float(value) for name, value in record["tilt"].items()},
            shrinkage=float(shrinkage),
            mappings=tuple(_linear_mapping(each, class_names, path) for each in mappings),
            facts={key: value for key, value in record.items() if key not in OWN},
        )


def with_mapping(
    weight: Tensor, bias: Tensor, mapping: OutputMapping, class_names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the map (C, D) and offsets (C,), float64, of A (W x + b) + c: a calibrator behind a map.

    Args:
        weight: (C, D).
        bias: (C,).
        mapping: Whose calibrator is softmax(A z + c).
        class_names: C names in the order of the rows.

    Raises:
        ValueError: The calibrator is no linear map of logits, or of other classes.
    """
    found = mapping.linear_map(class_names)
    if found is None:
        raise ValueError(
            f"The calibrator '{mapping.calibrator.name}' is no linear map of logits: the file of a prompt "
            "cannot hold it. Apply it to predictions: calib calibrate calibrator.json --apply FILE."
        )
    matrix, offsets = found
    return matrix @ weight.double().cpu(), matrix @ bias.double().cpu() + offsets


def same_calibration(ours: Calibration | None, theirs: Calibration | None) -> bool:
    """Return whether two calibrations give the same logits, but for rounding; None and None do."""
    if ours is None or theirs is None:
        return ours is theirs
    pairs = ((ours.weight, theirs.weight), (ours.bias, theirs.bias))
    size = max(float(ours.weight.abs().max()), float(ours.bias.abs().max()))
    return ours.weight.shape == theirs.weight.shape and all(
        float((mine - other).abs().max()) <= ROUNDING * size for mine, other in pairs
    )


def _linear_mapping(record: Any, class_names: Sequence[str], path: str | Path) -> OutputMapping:
    mapping = OutputMapping.from_record(record, path=f"{path}: calibration.mappings")
    try:
        linear = mapping.linear_map(class_names) is not None
    except ValueError as error:
        raise ValueError(f"{path}: calibration.mappings: {error}") from error
    if not linear:
        raise ValueError(
            f"{path}: calibration.mappings must be linear maps of logits, and '{mapping.calibrator.name}' is "
            "none."
        )
    return mapping


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

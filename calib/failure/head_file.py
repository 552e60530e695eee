"""The file of a failure head: what its record and its tensors must hold, and what they become."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.core.checks import FLOAT32_NORM, check_unit_norm
from calib.core.errors import unknown_name
from calib.failure.digests import text_digest
from calib.failure.doubt import Doubt
from calib.failure.official import check_names_and_shapes
from calib.failure.vilu import ViLU
from calib.io.tensors import load_tensors, require_keys, require_strings, require_tensor, require_version
from calib.posthoc.decisions import Decisions
from calib.prompts.calibration import Calibration

KIND = "failure"
VERSION = 3
OLDER = (1, 2)  # without a doubt of several scores and without decisions; 1 of prompts without a calibration
RECORD = ("version", "head", "logit_scale", "class_names", "backbone", "prompt", "text_digest", "training")


def read_head_file(path: str | Path) -> dict[str, Any]:
    """Return what `FailureHead` is made of, from a file written by its `save`, checked.

    Args:
        path: The file.

    Returns:
        head, text_features, class_names, means, backbone, prompt, training, calibration, doubt and decisions.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another kind or version, or its parts do not fit together.
    """
    tensors, record = load_tensors(path, kind=KIND)
    _check_record(record, path)
    head = _read_head(tensors, record, path)
    return {
        "head": head,
        "text_features": _read_texts(tensors, record, head, path),
        "means": _read_means(tensors, head, path),
        **{key: record[key] for key in ("class_names", "backbone", "prompt", "training")},
        "calibration": Calibration.read(
            tensors, record.get("calibration"), record["class_names"], head.dim, path=path
        ),
        "doubt": Doubt.read(
            tensors, record.get("doubt"), classes=len(record["class_names"]), dim=head.dim, path=path
        ),
        "decisions": Decisions.from_record(record.get("decisions"), tensors, width=head.dim, path=path),
    }


def _check_record(record: Mapping[str, Any], path: str | Path) -> None:
    require_version(record, VERSION, path=path, older=OLDER)
    require_keys(record, RECORD, path=path)
    if not require_strings(record, "class_names", path=path) and record["text_digest"] is not None:
        raise ValueError(f"{path}: class_names must be a list of names, and it is empty.")
    backbone = record["backbone"]
    if not isinstance(record["logit_scale"], int | float) or isinstance(record["logit_scale"], bool):
        raise ValueError(f"{path}: logit_scale must be a number, not {record['logit_scale']!r}.")
    for key in ("head", "training"):
        if not isinstance(record[key], dict):
            raise ValueError(f"{path}: {key} must be a mapping, not {record[key]!r}.")
    if record["prompt"] is not None and not isinstance(record["prompt"], str):
        raise ValueError(f"{path}: prompt must be a digest or null, not {record['prompt']!r}.")
    if backbone is None:
        return
    weights = backbone.get("weights") if isinstance(backbone, dict) else None
    if not isinstance(weights, dict) or not isinstance(weights.get("digest"), str) or "name" not in backbone:
        raise ValueError(f"{path}: the description of the backbone lacks its name or its weights' digest.")


def _read_head(tensors: Mapping[str, Tensor], record: Mapping[str, Any], path: str | Path) -> ViLU:
    known = set(inspect.signature(ViLU).parameters) - {"logit_scale"}
    for name in record["head"]:
        if name not in known:
            raise unknown_name(f"head option in {path}", name, known)
    state = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    try:
        with torch.device("meta"):  # no memory is taken before the shapes have been compared
            head = ViLU(**record["head"], logit_scale=record["logit_scale"])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: the options of the head are not valid: {error}") from error
    check_names_and_shapes(state, head.state_dict(), path)
    for name, value in state.items():
        floating = name != "iteration_count"
        require_tensor(state, name, tuple(value.shape), path=path, floating=floating)
    head.load_state_dict(state, assign=True)
    return head


def _read_texts(
    tensors: Mapping[str, Tensor], record: Mapping[str, Any], head: ViLU, path: str | Path
) -> Tensor | None:
    names = record["class_names"]
    if not names:
        return None
    text_features = require_tensor(tensors, "text_features", (len(names), head.dim), path=path)
    check_unit_norm(text_features, f"{path}: text_features", tolerance=FLOAT32_NORM)
    if text_digest(text_features) != record["text_digest"]:
        raise ValueError(f"{path}: text_features were changed after saving: their digest is another one.")
    return text_features


def _read_means(tensors: Mapping[str, Tensor], head: ViLU, path: str | Path) -> dict[str, Tensor]:
    stored = {name for name in tensors if name.startswith("mean.")}
    if not stored:
        return {}
    shapes: dict[str, tuple[int, ...]] = {f"mean.{name}": (head.dim,) for name in head.part_names}
    if head.options["residual"]:
        shapes["mean.confidence"] = ()
    if stored != shapes.keys():
        raise ValueError(f"{path}: the training means are {sorted(stored)}, expected {sorted(shapes)}.")
    return {
        name.removeprefix("mean."): require_tensor(tensors, name, shape, path=path)
        for name, shape in shapes.items()
    }

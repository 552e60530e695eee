"""Decisions in a run's exports: what they are fitted on, and how they are written beside what was trained."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.data.judged import CLASSES, Judged, rounded_doubt
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead
from calib.io.tensors import is_kind, kind_of, mark_of
from calib.posthoc.decisions import Decisions
from calib.posthoc.familiarity import Familiarity
from calib.prompts.export import Prompt
from calib.runs.exports import failure_path, load, prompt_path
from calib.runs.folder import FILES, RunFolder
from calib.runs.left_out import left_out_shots, metrics_beside
from calib.runs.validation import validation_predictions


def export_of(run: str | Path) -> Path:
    """Return the export whose doubt decides in a run: its failure head where it has one, else its prompt.

    Args:
        run: A run folder, prompt.safetensors or failure.safetensors.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is of another kind.
    """
    path = Path(run)
    if path.is_dir():
        return failure_path(path) if RunFolder(path).failure.is_file() else prompt_path(path)
    kind = kind_of(path)
    if kind not in ("prompt", "failure"):
        raise ValueError(
            f"{path} is of the kind {kind!r}, and decisions lie beside a prompt or failure head."
        )
    return path


def is_export(path: str | Path) -> bool:
    """Return whether a path names a run or an export, and not a file of doubts.

    Example:
        >>> is_export("runs/mine/prompt.safetensors"), is_export("outputs.csv")
        (True, False)
    """
    path, kinds = Path(path), ("prompt", "failure")
    if path.is_dir() or path.name in {FILES[name].path for name in kinds}:
        return True
    return path.suffix == ".safetensors" and path.is_file() and any(is_kind(path, kind) for kind in kinds)


def keep_decisions(
    path: str | Path, about: dict[str, Any], *, fitted_for: str | None = None, **parts: Any
) -> Decisions:
    """Write parts of the decisions into an export, beside all else it holds, and return them all.

    The file is replaced at once and keeps its run's mark; in a run's folder no other process is at work
    meanwhile.

    Args:
        path: The export, from `export_of`.
        about: Name of a part to what it was fitted on, JSON-able.
        fitted_for: `doubt_digest` of the export when the parts were fitted. None: it is the one at hand.
        **parts: review, sets, familiarity: what is new.

    Raises:
        ValueError: The export is damaged or another one by now, or another process is at work in its folder.
        WriteError: It cannot be written.
    """
    path = Path(path)
    folder = RunFolder(path.parent)
    with folder.locked() if folder.config.is_file() else nullcontext():
        export = load(path)
        assert isinstance(export, Prompt | FailureHead)
        if fitted_for not in (None, export.doubt_digest()):
            raise ValueError(f"{path} was replaced while this was fitted. The same command fits it anew.")
        held = export.decisions or Decisions()
        told = {**held.about, **about}
        new = replace(held, **parts, doubt=export.doubt_digest(), about=told)
        changed = replace(export, decisions=new)
        changed.save(path, run=mark_of(path))
    return new


def judged_on_validation(
    path: Path, *, weights: str | None = None, tokenizer: str | None = None
) -> tuple[Judged, str]:
    """Return what a prompt says of its run's validation images, or left-out shots, and what these are called.

    An image that is unlike those the prompt knows has the doubt inf, as it is never accepted.

    Args:
        path: The prompt's file.
        weights: The backbone's weights where they have moved since training. None: where the export says.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The backbone's weights or the images are not there.
        ValueError: There are neither validation images nor left-out shots, or they are not the run's.
    """
    prompt = Prompt.load(path)
    config = prompt.training.get("config") or {}
    if (config.get("data") or {}).get("val_shots"):
        found = validation_predictions(path, weights=weights, tokenizer=tokenizer)
        return judged_predictions(found, prompt, path), "validation images"
    return _judged_on_shots(path, prompt), "left-out shots"


def judged_predictions(found: Predictions, prompt: Prompt, path: Path) -> Judged:
    """Return labelled predictions of a prompt as doubts and outcomes; what is unlike is never accepted."""
    known = None if prompt.decisions is None else prompt.decisions.familiarity
    doubt = judged_doubt(1 - found.confidence, found, known)
    return _judged(path, doubt, found.failure, found.labels, found.groups, found.class_names)


def judged_doubt(doubt: Tensor, found: Predictions, known: Familiarity | None) -> Tensor:
    """Return doubts as `calib predict` judges them, (N,) float64: rounded, and inf for what is unlike.

    Args:
        doubt: (N,).
        found: The predictions, whose image features are looked at.
        known: What tells unlike images, of the prompt. None: nobody knows.
    """
    doubt = rounded_doubt(doubt)
    if known is None:
        return doubt
    return doubt.masked_fill(known(found.image_features).to(doubt.device), torch.inf)


def _judged_on_shots(path: Path, prompt: Prompt) -> Judged:
    shots = left_out_shots(path, prompt)
    if shots is None:
        raise ValueError(
            f"{path} was trained with data.val_shots=0, and there is nothing else to fit on: "
            f"{metrics_beside(path)} holds no left-out shots. Give labelled outputs of the prompt for other "
            "images: --on FILE."
        )
    assert shots.labels is not None
    doubt = rounded_doubt(1 - shots.logits.softmax(dim=1).max(dim=1).values)
    wrong = shots.logits.argmax(dim=1) != shots.labels
    return _judged(path, doubt, wrong, shots.labels, shots.groups, shots.class_names)


def _judged(
    path: Path,
    doubt: Tensor,
    wrong: Tensor,
    labels: Tensor,
    groups: list[str] | None,
    class_names: list[str],
) -> Judged:
    known = torch.ones(len(doubt), dtype=torch.bool)
    classes = [class_names[label] for label in labels.tolist()]
    return Judged(path, doubt, wrong, known, groups, CLASSES, list(class_names), classes)

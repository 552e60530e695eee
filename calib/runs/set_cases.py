"""What prediction sets of a run are fitted on: its validation images, or its left-out shots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from calib.data.outputs import Outputs, in_order, of_predictions
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs.decisions import LEFT_OUT
from calib.runs.folder import FILES
from calib.runs.validation import validation_predictions

VALIDATION, SHOTS = "validation", "shots"


def set_cases(
    path: Path, *, cases: str | None = None, weights: str | None = None, tokenizer: str | None = None
) -> tuple[Outputs, bool]:
    """Return labelled outputs of a run's prompt in its order of classes, and whether they are of its shots.

    Args:
        path: The prompt's file.
        cases: "validation" or "shots". None: validation images where the run has any, else the shots, each
            judged by prompts that did not see it.
        weights: The backbone's weights where they have moved since training. None: where the export says.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The backbone's weights or the images are not there.
        ValueError: There are no such cases, or they are not the run's.
    """
    prompt = Prompt.load(path)
    data = (prompt.training.get("config") or {}).get("data") or {}
    if cases == SHOTS or (cases is None and not data.get("val_shots")):
        return _left_out(path, prompt), True
    found = validation_predictions(path, weights=weights, tokenizer=tokenizer)
    return in_order(of_predictions(found, path), prompt.class_names), False


def _left_out(path: Path, prompt: Prompt) -> Outputs:
    metrics = path.parent / FILES["metrics"].path
    written = read_json(metrics) if metrics.is_file() else {}
    record: Any = written.get(LEFT_OUT) if isinstance(written, dict) else None
    if not isinstance(record, dict):
        raise ValueError(
            f"{path}: there is nothing to fit on. {metrics} holds no left-out shots; runs keep them that "
            "calibrate by them. Give labelled outputs of the prompt for other images: --on FILE."
        )
    names = prompt.class_names
    try:
        logits = torch.tensor(record["logits"], dtype=torch.float64)
        labels = torch.tensor(record["labels"], dtype=torch.int64)
        groups = None if record["groups"] is None else [str(each) for each in record["groups"]]
        fits = logits.shape == (len(labels), len(names)) and len(labels) > 0 and bool(logits.isfinite().all())
        if not fits or not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
            raise ValueError
        if groups is not None and len(groups) != len(labels):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{metrics}: {LEFT_OUT} does not fit the prompt beside it. Train the run anew."
        ) from error
    return Outputs(path, logits, list(names), "logits", labels, groups)

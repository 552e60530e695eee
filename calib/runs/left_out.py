"""The left-out shots of a run, each with what a prompt said that did not see it, from metrics.json."""

from __future__ import annotations

from pathlib import Path

import torch

from calib.data.outputs import Outputs
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs.folder import FILES

LEFT_OUT = "left_out"  # the key of metrics.json


def left_out_shots(path: Path, prompt: Prompt) -> Outputs | None:
    """Return the left-out shots in metrics.json beside a prompt, with its classes; None where there are none.

    Args:
        path: The prompt's file.
        prompt: The prompt.

    Raises:
        ValueError: They do not fit the prompt, or the file is damaged.
    """
    metrics = metrics_beside(path)
    written = read_json(metrics) if metrics.is_file() else {}
    record = written.get(LEFT_OUT) if isinstance(written, dict) else None
    if not isinstance(record, dict):
        return None
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


def metrics_beside(path: Path) -> Path:
    """Return the metrics.json beside a prompt's file.

    Example:
        >>> metrics_beside(Path("runs/mine/prompt.safetensors")).as_posix()
        'runs/mine/metrics.json'
    """
    return path.parent / FILES["metrics"].path

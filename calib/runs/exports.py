"""What a run exported, found and restored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from calib.backbones.base import Backbone
from calib.config import BackboneConfig, part_from_dict
from calib.prompts.export import Prompt
from calib.runs.folder import RunFolder
from calib.runs.prepare import make_backbone


def failure_path(path: str | Path) -> Path:
    """Return the failure head that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        path = RunFolder(path).failure
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no failure head at '{path}'. Train one with train.py task=failure, or name the file."
        )
    return path


def prompt_path(path: str | Path) -> Path:
    """Return the export that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        path = RunFolder(path).prompt
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no exported prompt at '{path}'. Train one with train.py, or name the file."
        )
    return path


def restore_backbone(prompt: Prompt, *, weights: str | None = None, tokenizer: str | None = None) -> Backbone:
    """Return the backbone a prompt was made for, with the same weights and preprocessing.

    Args:
        prompt: The export.
        weights: Where the weights are now. None: where they were at training.
        tokenizer: Likewise for the tokenizer.

    Raises:
        ValueError: The weights found are not those the prompt was trained with.
    """
    said = prompt.backbone.get("build", {"name": prompt.backbone["name"]})
    build = part_from_dict(BackboneConfig, said, source="the prompt's description of its backbone")
    moved = replace(build, weights=weights or build.weights, tokenizer=tokenizer or build.tokenizer)
    backbone = make_backbone(moved, prompt.backbone.get("parity", {}))
    prompt.check_backbone(backbone)
    return backbone

"""What a run exported, found and restored."""

from __future__ import annotations

from pathlib import Path


def failure_path(path: str | Path) -> Path:
    """Return the failure head that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "failure.safetensors"
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
        path = path / "prompt.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no exported prompt at '{path}'. Train one with train.py, or name the file."
        )
    return path

"""What a run exported, found and restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calib.core.errors import unknown_name
from calib.data.features import FeatureTable
from calib.data.mapping import OutputMapping, is_mapping
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead
from calib.io.tensors import kind_of
from calib.prompts.export import Prompt
from calib.runs.folder import FILES, RunFolder
from calib.runs.marks import check_file

Loaded = Prompt | FailureHead | Predictions | FeatureTable | OutputMapping
LOADERS: dict[str, Callable[[Path], Loaded]] = {
    "prompt": Prompt.load,
    "failure": FailureHead.load,
    "predictions": Predictions.load,
    "features": FeatureTable.load,
}


def failure_path(path: str | Path) -> Path:
    """Return the failure head that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    return _export_path(path, "failure", "failure head", "train.py task=failure")


def prompt_path(path: str | Path) -> Path:
    """Return the export that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    return _export_path(path, "prompt", "exported prompt", "train.py")


def _export_path(path: str | Path, name: str, what: str, made_by: str) -> Path:
    """Return a file, or of a run folder the one of that name in `FILES`, once it is the run's own."""
    found = Path(path)
    if found.is_dir():
        folder = RunFolder(found)
        found = folder.path / FILES[name].path
        check_file(found, folder.mark)
    if not found.is_file():
        raise FileNotFoundError(
            f"There is no {what} at '{found}'. Train one with {made_by}, or name the file."
        )
    return found


def load(path: str | Path) -> Loaded:
    """Return what a file or run folder holds, by its kind, checked.

    Args:
        path: A file that calib wrote (prompt, failure head, predictions, features, calibrator.json). Of a run
            folder its failure head where there is one, else its prompt.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: The file is damaged, or of a kind that is not loaded this way.
    """
    path = Path(path)
    if path.is_dir():
        head = RunFolder(path).failure.is_file()
        return load(failure_path(path) if head else prompt_path(path))
    if is_mapping(path):
        return OutputMapping.load(path)
    kind = kind_of(path)
    if kind not in LOADERS:
        raise ValueError(f"{path}: {unknown_name('kind of file', kind, LOADERS)}")
    return LOADERS[kind](path)

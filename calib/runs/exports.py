"""What a run exported, found and restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calib.core.errors import meant_run, unknown_name
from calib.data.features import FeatureTable
from calib.data.images import has_image_suffix
from calib.data.mapping import OutputMapping, is_mapping
from calib.data.predictions import Predictions
from calib.data.review_file import ReviewFile
from calib.data.set_file import SetFile
from calib.failure.export import FailureHead
from calib.io.files import read_json
from calib.io.tensors import kind_of
from calib.prompts.export import Prompt
from calib.runs.folder import FILES, RunFolder
from calib.runs.hub import HUB, fetch
from calib.runs.marks import check_file
from calib.segmentation.export import Segmenter

Loaded = Prompt | FailureHead | Segmenter | Predictions | FeatureTable | OutputMapping | SetFile | ReviewFile
LOADERS: dict[str, Callable[[Path], Loaded]] = {
    "prompt": Prompt.load,
    "failure": FailureHead.load,
    "segment": Segmenter.load,
    "predictions": Predictions.load,
    "features": FeatureTable.load,
    "calibrator": OutputMapping.load,
    "prediction sets": SetFile.load,
    "review": ReviewFile.load,
}


def failure_path(path: str | Path) -> Path:
    """Return the failure head that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    return _export_path(path, "failure", "failure head", "calib train task=failure")


def prompt_path(path: str | Path) -> Path:
    """Return the export that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    return _export_path(path, "prompt", "exported prompt", "calib train")


def segment_path(path: str | Path) -> Path:
    """Return the segmentation network that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    return _export_path(path, "segment", "segmentation network", "calib segment")


def _export_path(path: str | Path, name: str, what: str, made_by: str) -> Path:
    """Return a file, or of a run folder the one of that name in `FILES`, once it is the run's own."""
    found = Path(path)
    hint = f"{meant_run(found)} Train one ({made_by}), or name the file."
    if found.is_dir():
        folder = RunFolder(found)
        found = folder.path / FILES[name].path
        check_file(found, folder.mark)
        hint = _instead(folder, name) or hint
    if has_image_suffix(found) and found.is_file():
        raise ValueError(f"'{found}' is an image, where a run or its export is expected: it comes first.")
    if not found.is_file():
        raise FileNotFoundError(f"There is no {what} at '{found}'.{hint}")
    return found


def _instead(folder: RunFolder, wanted: str) -> str:
    """Return what a run folder holds in the place of what was wanted, and what may be done with it."""
    path = folder.path
    if folder.config.is_file() and not folder.finished:
        return f" '{path}' is a run that is not finished: the command that began it goes on."
    if wanted != "segment" and folder.segment.is_file():
        return f" {of_segmentation(path)}"
    if wanted == "segment" and folder.prompt.is_file():
        return f" '{path}' is a run of a prompt, for whole images: calib predict {path} IMAGES."
    if wanted == "failure" and folder.prompt.is_file():
        return f" '{path}' holds a prompt alone. Train a head for it: calib train task=failure prompt={path}."
    return ""


def of_segmentation(path: str | Path) -> str:
    """Return what a run of `calib segment` is for, where something else was asked of it.

    Args:
        path: Its folder.

    Example:
        >>> of_segmentation("runs/ace").split(": ")[0]
        "'runs/ace' is a run of calib segment"
    """
    return (
        f"'{path}' is a run of calib segment: its results are table.md and images.csv there, its network is "
        f"{FILES['segment'].path}, all that somebody else needs (it names the folder of its images). "
        f"calib segment evaluate {path} shows or compares results, on other images with --data FOLDER; "
        f"calib segment predict {path} IMAGES --out FOLDER writes masks."
    )


def load(path: str | Path, *, revision: str | None = None) -> Loaded:
    """Return what a file, a folder, or an export on the Hugging Face hub holds, by its kind, checked.

    Args:
        path: A file that calib wrote (prompt, failure head, segmentation network, predictions, features,
            calibrator.json, sets.json, review.json). Of the folder of a run or of `calib export` its failure
            head where there is one, else its prompt. On the hub "hf://owner/name", or
            "hf://owner/name/prompt.safetensors".
        revision: Of an export on the hub, and needed there: its commit.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: The file is damaged, or of a kind that is not loaded this way; of an export on the hub no
            revision was said, or one was said of something else.
    """
    if str(path).startswith(HUB):
        return load(fetch(str(path), revision))
    if revision is not None:
        raise ValueError(
            f"revision={revision} is for exports on the hub (hf://owner/name), not for '{path}'."
        )
    path = Path(path)
    if path.is_dir():
        folder = RunFolder(path)
        if folder.segment.is_file() and not folder.prompt.is_file():
            return load(segment_path(path))
        head = folder.failure.is_file()
        return load(failure_path(path) if head else prompt_path(path))
    kind = _kind_of_json(path) if is_mapping(path) else kind_of(path)
    if kind not in LOADERS:
        raise ValueError(f"{path}: {unknown_name('kind of file', kind, LOADERS)}")
    return LOADERS[kind](path)


def _kind_of_json(path: Path) -> str:
    record = read_json(path)
    return str(record.get("kind")) if isinstance(record, dict) else "none"

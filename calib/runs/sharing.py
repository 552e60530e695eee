"""A run as a folder for others: its exports without places of this machine, and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from calib.config import ReportRun, find_setting
from calib.config.schema import SCHEMAS
from calib.core.errors import meant_run
from calib.data.images import file_id
from calib.failure.export import FailureHead
from calib.io.files import blocking_file, write_text
from calib.prompts.export import Prompt
from calib.report.card import card_of, card_text, in_words
from calib.report.document import Document
from calib.report.subject import Subject
from calib.runs.exports import of_segmentation
from calib.runs.folder import FILES, RunFolder
from calib.runs.hub import HUB, Shared
from calib.runs.material import Material, material_of
from calib.runs.reports import document_of_material

CARD = "README.md"  # which the hub shows
Export = TypeVar("Export", Prompt, FailureHead)


def share(
    run: str | Path,
    out: str | Path,
    *,
    hub_id: str | None = None,
    title: str | None = None,
    licence: str | None = None,
) -> Shared:
    """Return the folder that was written: README.md with the card, prompt.safetensors, failure.safetensors.

    What an export says of this machine is left out: folders of images, weights and results.

    Args:
        run: The folder of a finished run of a prompt or of a failure head that judges one.
        out: The folder to write; an earlier export there is replaced, anything else refused.
        hub_id: "owner/name" where it will lie. None: nowhere.
        title: Heading of the card. None: method and data.
        licence: Of the files, as the hub calls it, e.g. "mit". None: not stated.

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: The run cannot be shared, or `out` holds other files.
    """
    folder, target = RunFolder(run), Path(out)
    if not folder.path.is_dir():
        raise FileNotFoundError(f"There is no folder of a run at '{run}'.{meant_run(run)}")
    if folder.evaluation.is_file() and not folder.prompt.is_file():
        raise ValueError(
            f"'{run}' is an evaluation; export the run it is of: calib export RUN out={target}. Its runs "
            f"are listed in {folder.evaluation}."
        )
    if folder.segment.is_file() and not folder.prompt.is_file():
        raise ValueError(f"There is no card for a segmentation network. {of_segmentation(run)}")
    folder.check_marks()
    if folder.config.is_file() and not folder.finished:
        raise ValueError(f"'{run}' is a run that is not finished: the command that began it goes on.")
    if not folder.config.is_file():
        raise ValueError(f"'{run}' is no run: there is nothing to share.{meant_run(run)}")
    if not folder.prompt.is_file():
        raise ValueError(
            f"'{run}' holds no finished run with a prompt: there is nothing to share. A head for embeddings "
            "of an unknown model has none."
        )
    names = (FILES["prompt"].path, FILES["failure"].path if folder.failure.is_file() else "")
    _check_target(target, {CARD, *names} - {""})
    prompt = without_places(Prompt.load(folder.prompt))
    head = without_places(FailureHead.load(folder.failure)) if names[1] else None
    found = _reported(run, folder)
    data_name = in_words(_data_name(prompt), found[0].origin)
    title = title or f"{prompt.training.get('method', 'prompt')} on {data_name}"
    target.mkdir(parents=True, exist_ok=True)
    prompt.save(target / names[0])
    if head is not None:
        head.save(target / names[1])
    files = {name: file_id(target / name) for name in names if name}
    card = card_of(
        prompt.class_names,
        replace(found[0].origin, files=files),
        title=title,
        hub_id=f"{HUB}{hub_id}" if hub_id else None,
        files=names,
        licence=licence,
        held={name: each.decisions for name, each in zip(names, (prompt, head), strict=True) if each},
        document=found[1],
        subject=found[2],
    )
    write_text(target / CARD, card_text(card, licence=licence, document=found[1]))
    return Shared(target, tuple(name for name in (CARD, *names) if name))


def _reported(run: str | Path, folder: RunFolder) -> tuple[Material, Document | None, Subject | None]:
    """Return where a run comes from, and the report on its test images, where it has any."""
    config = ReportRun(runs=[str(run)], names=False, images=False)
    if not folder.tested:
        return material_of(config, tested=False), None, None
    material = replace(material_of(config), called=None)  # the name of a folder here is nobody else's
    document, subject = document_of_material(material, config)
    return material, document, subject


def _data_name(prompt: Prompt) -> str:
    return str(((prompt.training.get("config") or {}).get("data") or {}).get("name") or "data of one's own")


def _check_target(target: Path, ours: set[str]) -> None:
    blocking = blocking_file(target)
    if blocking is not None:
        raise ValueError(f"The folder '{target}' cannot be made: '{blocking}' is a file (out=FOLDER).")
    others = (
        sorted(path.name for path in target.iterdir() if path.name not in ours) if target.is_dir() else []
    )
    if others:
        raise ValueError(
            f"The folder '{target}' holds other files ({others[0]}), and they would be shared with the run. "
            "Give another folder (out=FOLDER)."
        )
    card = target / CARD
    if card.is_file() and "library_name: calib" not in card.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{card} is not a card that calib wrote; it is left as it is (out=FOLDER).")


def without_places(export: Export) -> Export:
    """Return an export without what it says of the machine it was trained on.

    Settings that say where files lie are left out, and so is every absolute path. Whoever loads it says where
    images and weights are there.

    Args:
        export: A prompt or a failure head.
    """
    training = dict(export.training)
    if isinstance(training.get("config"), Mapping):
        config = training["config"]
        schema = SCHEMAS.get(str(config.get("task")), SCHEMAS["prompt"])
        training["config"] = {key: _plain(value, key, schema) for key, value in config.items()}
    backbone = export.backbone
    if backbone is not None:
        backbone = {key: _plain(value, "", None) for key, value in backbone.items()}
    return replace(export, training=training, backbone=backbone)


def _plain(value: Any, key: str, schema: type | None) -> Any:
    """Return a setting without places of this machine; a path becomes null, others stay as they are."""
    if isinstance(value, Mapping):
        inside = f"{key}." if key else ""
        return {name: _plain(each, f"{inside}{name}", schema) for name, each in value.items()}
    if isinstance(value, list):
        return [each for each in (_plain(each, key, schema) for each in value) if each is not None]
    if not isinstance(value, str):
        return value
    one = None if schema is None or not key else find_setting(schema, key)
    return None if is_place(value) or (one is not None and one.place) else value


def is_place(text: str) -> bool:
    r"""Return whether a text is a path that begins at the root, the home, or a drive.

    Example:
        >>> [is_place(text) for text in ("/data/x", "~/x", "C:\\x", "hf://a/b", "runs/mine")]
        [True, True, True, False, False]
    """
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive != "" or text.startswith("~")

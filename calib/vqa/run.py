"""Having a model answer items: in a folder it goes on after an interruption, and processes share the work."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.core.checks import check_kind
from calib.core.hashing import json_digest
from calib.data.notices import ProgressLog
from calib.io.files import read_json, remove_unfinished, write_json
from calib.io.locks import BusyError, locked
from calib.vqa.answerers.base import Answerer
from calib.vqa.files import read_table
from calib.vqa.schema import OUTPUTS, OUTPUTS_NEED
from calib.vqa.tables import Items, Outputs, join_items, join_outputs, read_outputs

RECORD, PARTS, LOCKS, RESULT = "answers.json", "parts", ".locks", "outputs.parquet"
VERSION = 2  # of the record: 1 knew neither templates of items, nor where images are, nor how they are put
PAUSE = 0.2  # seconds between two looks at what other processes are still at
log = logging.getLogger(__name__)


def answer(
    answerer: Answerer, items: Items | Sequence[Items], folder: str | Path | None = None, *, chunk: int = 64
) -> Outputs:
    """Return what a model says of items.

    With a folder, every `chunk` items are written whole as soon as they are answered: the same call goes on
    after any interruption, in any number of processes at once, which share the chunks; the result is the
    same. In the end `outputs.parquet` is there, and the parts are gone.

    Args:
        answerer: The model.
        items: What is asked, one table or several.
        folder: Where results go. None: nowhere, they are only returned.
        chunk: Items that are answered and written together.

    Raises:
        ValueError: The folder holds answers of another model, other settings or to other items; or what the
            model says cannot be right.
    """
    check_kind(answerer, Answerer, "answerer", "calib.vqa.ZeroShot makes one of a backbone or a prompt.")
    items = items if isinstance(items, Items) else join_items(list(items))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}.")
    starts = list(range(0, len(items), chunk))
    if folder is None:
        progress = ProgressLog(log, f"{answerer.model_id} answers", len(items))
        parts = []
        for start in starts:
            parts.append(_answered(answerer, items, start, chunk))
            progress.update(min(start + chunk, len(items)))
        return join_outputs(parts, items)
    folder = Path(folder)
    _claim(answerer.describe(), items, folder, chunk)
    if not (folder / RESULT).is_file():
        _work(answerer, items, folder, starts, chunk)
    return read_outputs(folder / RESULT, items=items)


def keep_recorded(
    outputs: Outputs, items: Items, folder: str | Path, source: str | Path, settings: Mapping[str, Any]
) -> None:
    """Write outputs of recorded answers into a folder of their own, with a record of where they are from.

    Args:
        outputs: What was read.
        items: What was asked.
        folder: Where outputs.parquet goes.
        source: The file of answers; its digest is in the record.
        settings: With what it was read.

    Raises:
        ValueError: The folder holds answers of another run.
    """
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    _claim({"answerer": "recorded", "answers": digest, **settings}, items, Path(folder), len(items))
    outputs.write(Path(folder) / RESULT)


def _claim(described: Mapping[str, Any], items: Items, folder: Path, chunk: int) -> None:
    """Note whose folder it is, or refuse one of others."""
    record = {
        "kind": "vqa-answers",
        "version": VERSION,
        "answerer": dict(described),
        "items": json_digest([_of_item(row) for row in items.rows()]),
        "count": len(items),
        "chunk": chunk,
    }
    with locked(
        folder / LOCKS / "record.lock", waiting=f"Another process looks at {folder}; waiting for it."
    ):
        path = folder / RECORD
        if not path.is_file():
            if (folder / RESULT).exists():
                raise ValueError(
                    f"The folder {folder} holds {RESULT} of another run, without {RECORD}. Choose another "
                    "folder, or remove that one."
                )
            write_json(path, record)
            return
        there = read_json(path)
        for key, mine in record.items():
            theirs = there.get(key) if isinstance(there, dict) else None
            if theirs == mine:
                continue
            if key == "answerer":
                key, theirs, mine = _difference(theirs, mine)
            raise ValueError(
                f"The folder {folder} holds answers of another run: {key} is {theirs!r} there, {mine!r} "
                "here. Choose another folder, or remove that one."
            )


def _difference(theirs: Any, mine: Any) -> tuple[str, Any, Any]:
    theirs = theirs if isinstance(theirs, Mapping) else {}
    key = next((key for key in sorted({*theirs, *mine}) if theirs.get(key) != mine.get(key)), "answerer")
    return key, theirs.get(key), mine.get(key)


def _of_item(row: Mapping[str, Any]) -> list[Any]:
    keys = ("item_id", "base_id", "question", "options", "option_ids", "correct_index", "image")
    template = row.get("template")  # of zero-shot answers, a column of some items
    return [*(row[key] for key in keys), None if template is None else str(template)]


def _work(answerer: Answerer, items: Items, folder: Path, starts: Sequence[int], chunk: int) -> None:
    """Answer what nobody has answered or is answering, until all is answered; then join the parts."""
    paths = {start: folder / PARTS / f"{start:08d}.parquet" for start in starts}
    progress = ProgressLog(log, f"{answerer.model_id} answers", len(items))
    while True:
        busy = False
        for start, path in paths.items():
            if _is_whole(path) or (folder / RESULT).is_file():
                continue
            try:
                with locked(folder / LOCKS / f"{start:08d}.lock"):
                    if _is_whole(path) or (folder / RESULT).is_file():
                        continue
                    remove_unfinished(path.parent, path.name)
                    _answered(answerer, items, start, chunk).write(path)
            except BusyError:
                busy = True
                continue
            progress.update(min(chunk * sum(map(_there, paths.values())), len(items)))
        if (folder / RESULT).is_file():
            return
        if not busy:
            break
        time.sleep(PAUSE)
    with locked(
        folder / LOCKS / "result.lock", waiting=f"Another process finishes {folder}; waiting for it."
    ):
        if (folder / RESULT).is_file():
            return
        outputs = read_outputs(*paths.values(), items=items)
        remove_unfinished(folder, RESULT)
        outputs.write(folder / RESULT)
        for path in paths.values():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / PARTS).rmdir()


def _there(path: Path) -> bool:
    return path.is_file()


def _is_whole(path: Path) -> bool:
    """Return whether a part is there and sound; a damaged one is made anew."""
    if not path.is_file():
        return False
    try:
        read_table(path, OUTPUTS, OUTPUTS_NEED, {})
    except FileNotFoundError:  # another process has just joined the parts
        return False
    except ValueError as error:
        log.warning("%s; it is made anew.", error)
        return False
    return True


def _answered(answerer: Answerer, items: Items, start: int, chunk: int) -> Outputs:
    asked = items.take(range(start, min(start + chunk, len(items))))
    rows, size, made = asked.rows(), answerer.batch_size, []
    for first in range(0, len(rows), size):
        made += answerer.answer(rows[first : first + size])
    outputs = Outputs.of_rows(made, asked, source=f"answers of {answerer.model_id}")
    silent = set(asked.ids.tolist()) - set(outputs.texts("item_id").tolist())
    if silent:
        raise ValueError(f"{answerer.model_id} gave no output for the item '{min(silent)}'.")
    return outputs

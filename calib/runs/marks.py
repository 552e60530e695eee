"""Whose a file is: what a run writes carries the run's mark, and another run's file is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calib.config import FailureRun, PromptRun, SegmentRun
from calib.core.hashing import json_digest
from calib.io.files import MARK, finite, read_json
from calib.io.tensors import mark_of
from calib.runs.identity import each_setting, relevant_settings

NAMES = {"train_names", "val_names"}  # in split.json, for readers: the same image may be called otherwise
BACKBONE = (
    "backbone"  # in split.json: the digest of its weights; older versions wrote none, and marks are without
)
SCHEME = 8  # letters of a mark that say which settings and defaults there were when it was made
log = logging.getLogger(__name__)
AGAIN = (
    "Put the folder's own file back; or delete it and metrics.json, and the command that trained the run "
    "makes them again from its last checkpoint."
)


class ForeignFileError(ValueError):
    """A file in a run's folder is another run's; the message names it."""


def run_mark(config: PromptRun | FailureRun | SegmentRun, record: Mapping[str, Any]) -> str:
    """Return what tells the files of a run from those of any other run, whatever folder they lie in.

    It is a digest of the settings that matter for the result, but for where files lie, and of the images.
    Before it stands one of the settings there are, with their defaults: a version that knows others does not
    take a mark of its own for that of another run.

    Args:
        config: The run's settings.
        record: What split.json says about the data.

    Example:
        >>> first, other = run_mark(PromptRun(), {}), run_mark(PromptRun(seed=2), {})
        >>> first == run_mark(PromptRun(out="x"), {}), first == other, _comparable(first, other)
        (True, False, True)
    """
    images = {key: value for key, value in record.items() if key not in NAMES | {MARK, BACKBONE}}
    scheme = json_digest(finite(relevant_settings(type(config)())))[:SCHEME]
    own = {
        key: value for key, value, one in each_setting(config) if one.affects != "nothing" and not one.place
    }
    return f"{scheme}-{json_digest(finite([own, images]))[:24]}"


def _comparable(mark: str, other: str) -> bool:
    """Return whether two marks were made by versions that know the same settings and defaults."""
    return mark[:SCHEME] == other[:SCHEME]


def mark_in(split: Path) -> str | None:
    """Return the mark that a split.json says. Empty: it was written without; None: there is no such file."""
    return str(record_in(split).get(MARK) or "") if split.is_file() else None


def record_in(split: Path) -> dict[str, Any]:
    """Return what a split.json says about the data of its run; nothing where there is none."""
    said = read_json(split) if split.is_file() else {}
    return said if isinstance(said, dict) else {}


def checked_mark(split: Path, config: PromptRun | FailureRun | SegmentRun, record: Mapping[str, Any]) -> str:
    """Return the mark of a folder's run: the one it has, where a version with other settings made it.

    Args:
        split: The folder's split.json, which may be missing.
        config: The run's settings.
        record: What split.json says, or is to say, about the data.

    Raises:
        ForeignFileError: split.json is that of another run.
    """
    new, old = run_mark(config, record), mark_in(split)
    if old and old != new and _comparable(old, new):
        raise ForeignFileError(
            f"{split} belongs to another run than the folder, by its config.yaml. Was it copied here? Put "
            "the folder's own back, replace the run (overwrite=true), or give another folder (out=FOLDER)."
        )
    return old or new


def warn_if_other(path: Path, holds: Callable[[str], bool], *, advice: str = AGAIN) -> None:
    """Say in the log that a text for people, which has no mark, is not what its folder's results give.

    It is left as it is, since nothing reads it: somebody may have written into it, or it may be of another
    version. Curves (logs/metrics.csv) are not looked at: a run that goes on writes them from its checkpoint.

    Args:
        path: The file, which may be missing.
        holds: Whether its content is what the results give.
        advice: How it is made again.
    """
    if path.is_file() and not holds(path.read_text(encoding="utf-8", errors="replace")):
        log.warning(
            "%s is not what this run's results give: it is of another run or version, or was changed. %s",
            path,
            advice,
        )


def check_file(path: Path, own: str | None) -> None:
    """Refuse a safetensors file of another run.

    One without a mark, of a version that knew none, passes; so does one that is missing or cannot be read,
    which whoever reads it will say.

    Args:
        path: The file.
        own: The mark of the folder's run, from `mark_in`.

    Raises:
        ForeignFileError: It is another run's.
    """
    try:
        found = mark_of(path)
    except (ValueError, OSError):
        return
    refuse_foreign(path, found, own)


def data_differences(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in what the data that a run began with differ from those at hand: keys of split.json.

    Args:
        folder: The run's folder, for the message.
        old: What its split.json says.
        new: What it would say now.

    Raises:
        ValueError: The weights of the backbone are others, such as those of a file that was replaced. Where
            one of the two does not say which they are, they pass.
    """
    if BACKBONE in old and BACKBONE in new and old[BACKBONE] != new[BACKBONE]:
        raise ValueError(
            f"The weights of the backbone have changed since the run in '{folder}' began. Put back those "
            "that it began with, replace the run (overwrite=true), or give another folder (out=FOLDER)."
        )
    differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    return sorted(differing - NAMES - {MARK, BACKBONE})


def refuse_foreign(path: Path, found: object, own: str | None, *, advice: str = AGAIN) -> None:
    """Refuse a file whose mark is not that of its folder.

    Args:
        path: The file.
        found: Its mark. None: it has none.
        own: The mark of the folder's run, from `mark_in`. None: nobody knows.
        advice: What to do.

    Raises:
        ForeignFileError: It is another run's.
    """
    if found is not None and own is not None and found != own:
        raise ForeignFileError(
            f"{path} belongs to another run than its folder: its mark is {found}, that in split.json is "
            f"{own or 'missing'}. Was it copied here? {advice}"
        )

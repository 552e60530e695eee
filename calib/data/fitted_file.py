"""Files of what was fitted to outputs: kind, version and keys of a JSON record, and arrays as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.data.outputs import Outputs
from calib.io.files import atomic_path


def checked_record(
    record: Any, path: str | Path, *, kind: str, version: int, keys: Sequence[str], written: str
) -> dict[str, Any]:
    """Return the record of a file, of this kind and version, with these keys and no others.

    Args:
        record: What was read from the file.
        path: The file, for messages.
        kind: What its key "kind" must be.
        version: What its key "version" must be.
        keys: All its keys.
        written: What the file is of, and what writes it, for messages.

    Raises:
        ValueError: It is not so.

    Example:
        >>> checked_record([], "a.json", kind="review", version=1, keys=(), written="a threshold")
        Traceback (most recent call last):
        ValueError: a.json is not a file of a threshold.
    """
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise ValueError(f"{path} is not a file of {written}.")
    if record.get("version") != version or {*record} != {*keys}:
        raise ValueError(
            f"{path} must have version {version} and the keys {', '.join(keys)}; it has version "
            f"{record.get('version')!r} and {', '.join(record)}. Fit it anew."
        )
    return record


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz file of those arrays that are there, atomically.

    Args:
        path: The file.
        arrays: Name to array or list; None: it is not there.

    Raises:
        WriteError: It cannot be written.
    """
    ready = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, **ready)  # type: ignore[arg-type]


def names_and_facts(outputs: Outputs) -> dict[str, Any]:
    """Return the class names of outputs, and their labels, groups and ids or None, for `write_arrays`."""
    return {
        "class_names": outputs.class_names,
        "labels": None if outputs.labels is None else outputs.labels.numpy(),
        "groups": outputs.groups,
        "ids": outputs.ids,
    }

"""Arrays of `.npz` and `.safetensors` files of others, and the lists of strings among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.io.npz import plain_npz
from calib.io.strictjson import parse_json
from calib.io.tensors import read_safetensors

ARRAYS = (".npz", ".safetensors")


def read_arrays(path: Path, strings: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays in a file by name; floats of safetensors as float64.

    Args:
        path: One of `ARRAYS`.
        strings: Lists of strings, which a safetensors file cannot hold: there they are JSON in its metadata.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or such metadata are no list of strings; the message names the file.
    """
    if path.suffix.lower() == ".npz":
        return plain_npz(path)
    tensors, metadata = read_safetensors(path)
    arrays = {n: (t.double() if t.is_floating_point() else t).numpy() for n, t in tensors.items()}
    return arrays | {name: _listed(metadata[name], name, path) for name in strings if name in metadata}


def strings_in(arrays: Mapping[str, Any], name: str, count: int, path: Path) -> list[str] | None:
    """Return an array of strings or integers as strings. None: there is none of that name.

    Args:
        arrays: As `read_arrays` returned them.
        name: One of them.
        count: How many there must be.
        path: The file, for messages.

    Raises:
        ValueError: There are more or fewer, or they are something else.

    Example:
        >>> strings_in({"groups": np.array([7, 8])}, "groups", 2, Path("a.npz"))
        ['7', '8']
    """
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.shape != (count,) or values.dtype.kind not in "Uiu":
        raise ValueError(
            f"{path}: {name} must be {count} strings or integers, not {tuple(values.shape)} {values.dtype}."
        )
    return [str(value) for value in values.tolist()]


def _listed(text: str, name: str, path: Path) -> np.ndarray:
    values = parse_json(text, source=f"The metadata '{name}' of {path}, to be a JSON list of strings,")
    if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
        raise ValueError(f"{path}: the metadata '{name}' must be a JSON list of strings.")
    return np.asarray([str(value) for value in values], dtype=np.str_)

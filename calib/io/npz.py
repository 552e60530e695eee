"""Arrays of `.npz` files from others: sizes are compared with the file before memory is taken for them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from calib.core.hashing import CHUNK
from calib.io.archives import checked_members

HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name; nothing in it is unpickled.

    Args:
        path: The file.
        wanted: Says of a name whether its array is read.

    Raises:
        ValueError: The file is damaged, holds Python objects, a name twice, or a member that inflates to far
            more than the file has. The caller names the file.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in checked_members(archive):
                name = info.filename.removesuffix(".npy")
                if wanted(name):
                    with archive.open(info) as file:
                        arrays[name] = _read_array(file, name, info.file_size)
    except Exception as error:  # zipfile, zlib and numpy raise errors of many types on damaged files
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays


def plain_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file of numbers and strings, by name.

    Raises:
        ValueError: As `read_npz`; the message names the file and says what to do.
    """
    try:
        return read_npz(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as npz without pickled objects ({error}). Save plain arrays of "
            "numbers and strings."
        ) from error


def names_in_npz(path: str | Path) -> list[str]:
    """Return the names of the arrays in an npz file that was read before."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read_array(file: IO[bytes], name: str, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"the array '{name}' has the unknown format {version}")
    shape, fortran_order, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"the array '{name}' holds Python objects, which would have to be unpickled")
    said = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or said != size - file.tell():
        raise ValueError(
            f"the array '{name}' says it has {said:,} bytes, shape {shape} of {dtype}, and the file holds "
            f"{size - file.tell():,}"
        )
    array = np.empty(shape, dtype, order="F" if fortran_order else "C")
    into = array.reshape(-1, order="A").view(np.uint8).data if said else memoryview(b"")
    at = 0
    while part := file.read(CHUNK):  # the last one is where zipfile compares the checksum
        if at + len(part) > said:
            break
        into[at : at + len(part)] = part
        at += len(part)
    if at != said:
        raise ValueError(f"the array '{name}' is cut off")
    return array

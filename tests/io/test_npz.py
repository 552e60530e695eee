from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from calib.io.npz import read_npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(tmp_path: Path, save) -> None:
    arrays = {
        "a": np.arange(12, dtype=np.int16).reshape(3, 4).T,  # Fortran order
        "empty": np.zeros((0, 3)),
        "one": np.float64(2.5),
        "names": np.array(["é", "bc"]),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype
    assert list(read_npz(tmp_path / "a.npz", {"a"}.__contains__)) == ["a"]


def member(header: bytes, body: bytes = b"") -> bytes:
    return np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header + body


def bad(path: Path, content: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
        for name, data in more.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_a_header_that_promises_terabytes_takes_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}\n"
    with pytest.raises(ValueError, match=r"'a' says it has 8,000,000,000,000 bytes.*the file holds 16"):
        read_npz(bad(tmp_path / "a.npz", member(header, b"\0" * 16)))


def test_a_decompression_bomb_is_refused_before_it_inflates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a.npy' would grow from .* to 100,000,\d+ bytes.*bomb"):
        read_npz(bad(tmp_path / "a.npz", bytes(100_000_000)))


def test_python_objects_and_doubles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="'a' holds Python objects"):
        read_npz(tmp_path / "o.npz")
    file = io.BytesIO()
    np.save(file, np.zeros(2))
    path = bad(tmp_path / "d.npz", file.getvalue())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", file.getvalue())
    with pytest.raises(ValueError, match="stands in it twice"):
        read_npz(path)

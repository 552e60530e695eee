"""The tensors of a TorchScript archive, read without running it.

OpenAI's own CLIP files are TorchScript archives. `torch.jit.load` is deprecated and may run code of the
archive; `torch.load(weights_only=True)` refuses them. Here the pickle inside is read by an unpickler that
knows tensors and plain containers only, so nothing of the file is ever run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Storage class name in the file -> type of its numbers.
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Node:
    """A scripted module: only its attributes are kept."""

    def __init__(self, *args: object) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.fields = state


class _StorageType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _plain_list(items: list[Any]) -> list[Any]:
    return items


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        }
        if module.startswith("__torch__"):
            return _Node
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return _plain_list
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which is neither a tensor nor a scripted module"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, _, numel = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = (
                torch.frombuffer(data, dtype=kind.dtype) if numel else torch.empty(0, dtype=kind.dtype)
            )
        return self._storages[key]


def archive_root(path: Path) -> str | None:
    """Return the folder inside a TorchScript archive, None for any other file."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    roots = (name.removesuffix("/constants.pkl") for name in names if name.endswith("/constants.pkl"))
    return next((root for root in roots if f"{root}/data.pkl" in names), None)


def read_torchscript(path: Path, root: str) -> dict[str, Tensor]:
    """Return all tensors of a TorchScript archive by dotted name, parameters and buffers alike.

    Args:
        path: The archive.
        root: What `archive_root` returned for it.

    Raises:
        pickle.UnpicklingError: The archive names something besides tensors, containers and scripted modules.
    """
    with zipfile.ZipFile(path) as archive:
        module = _TensorUnpickler(archive, root).load()
    return dict(_tensors(module, ""))


def _tensors(node: object, prefix: str) -> list[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        return [(prefix, node)]
    if not isinstance(node, _Node):
        return []
    dot = f"{prefix}." if prefix else ""
    return [found for name, value in node.fields.items() for found in _tensors(value, dot + name)]

"""Encoding in parts: an interrupted one goes on, and the processes of a job share it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from calib.core import ranks
from calib.io.tensors import load_tensors, require_tensor, save_tensors

BATCHES_PER_PART = 32  # of images; an interrupted encoding loses one part at most
KIND = "feature rows"
logger = logging.getLogger(__name__)


class Encoding(Protocol):
    """Something that encodes its inputs batch by batch, such as the looks at a table's images."""

    batch_size: int

    @property
    def per_image(self) -> int:
        """Return the number of inputs per image."""

    def __len__(self) -> int:
        """Return the number of inputs."""

    def encode(self, start: int, stop: int) -> Tensor:
        """Return the features (stop - start, D) of inputs; `start` is a multiple of `batch_size`."""


def encode_in_parts(work: Encoding, folder: Path) -> Tensor | None:
    """Return the features of all inputs in the first process, and None in the others.

    Parts are whole batches, the same ones as without parts, so the features do not depend on their number.
    Each process writes its parts to the folder; what an interrupted call wrote there is taken up. The folder
    stays: who asked removes it once the features are on the disk in whole. The first process holds the
    features of all, and besides them one part at a time.

    Args:
        work: What is encoded.
        folder: Where the parts are kept. All processes see it, and no other job uses it meanwhile.

    Raises:
        ValueError: As `work.encode`.
    """
    parts = _divided(work)
    if len(parts) == 1:
        return work.encode(0, len(work)) if ranks.rank() == 0 else None
    missing = ranks.decided(lambda: _missing(work, parts, folder))
    for start, stop in missing[ranks.rank() :: ranks.world_size()]:
        _save(_place(folder, start, stop), work.encode(start, stop), work.batch_size)
        logger.info("encoded %d of %d images", stop // work.per_image, len(work) // work.per_image)
    ranks.meet()
    return _joined(work, parts, folder) if ranks.rank() == 0 else None


def _divided(work: Encoding) -> list[tuple[int, int]]:
    """Return first and last inputs of the parts: whole batches, as many parts for every process."""
    batches, among = -(-len(work) // work.batch_size), ranks.world_size()
    largest = BATCHES_PER_PART * work.per_image
    count = min(batches, among * -(-batches // (among * largest)))
    shares = [ranks.share(batches, of=part, among=count) for part in range(count)]
    return [(each.start * work.batch_size, min(each.stop * work.batch_size, len(work))) for each in shares]


def _missing(work: Encoding, parts: list[tuple[int, int]], folder: Path) -> list[tuple[int, int]]:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [
        (start, stop)
        for start, stop in parts
        if _place(folder, start, stop).name not in there or _read(work, start, stop, folder) is None
    ]


def _joined(work: Encoding, parts: list[tuple[int, int]], folder: Path) -> Tensor:
    features = None
    for start, stop in parts:
        part = _read(work, start, stop, folder)
        if part is None:
            raise ValueError(
                f"A part of the encoding in {folder} is gone. All processes must see this folder "
                "(data.cache_dir)."
            )
        if features is None:
            features = torch.empty(len(work), part.shape[1])
        features[start:stop] = part
    assert features is not None
    return features


def _place(folder: Path, start: int, stop: int) -> Path:
    return folder / f"{start:09d}-{stop:09d}.safetensors"


def _save(path: Path, features: Tensor, batch_size: int) -> None:
    save_tensors(path, {"features": features}, {"kind": KIND, "batch_size": batch_size})


def _read(work: Encoding, start: int, stop: int, folder: Path) -> Tensor | None:
    """Return a part; None: it is not there, damaged, or was encoded in batches of another size."""
    path = _place(folder, start, stop)
    try:
        tensors, record = load_tensors(path, kind=KIND)
        features = require_tensor(tensors, "features", (stop - start, None), path=path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("A part of an interrupted encoding is damaged and is made anew: %s", error)
        return None
    return features if record.get("batch_size") == work.batch_size else None

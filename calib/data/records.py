"""The images of one split, not yet read: where each is, its label, its group and its content id."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calib.core.checks import row_numbers
from calib.core.text import few
from calib.data.dicom import AS_FILED, DicomView
from calib.data.images import check_image, file_id, open_image, read_image_file
from calib.data.notices import ProgressLog
from calib.data.pixels import to_rgb

logger = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Something one image can be read from."""

    def content_id(self) -> str:
        """Return the SHA-256 hex digest of the image's content."""

    def look(self, *, view: DicomView = AS_FILED) -> str:
        """Return the content id of an image that can be opened, by its header.

        Args:
            view: Which frame of a DICOM file is meant.

        Raises:
            ValueError: It is none, or of a kind that is not read; see `calib.data.images.check_image`.
        """

    def open(
        self, *, grey16_max: int | None = None, view: DicomView = AS_FILED, id: str | None = None
    ) -> Image.Image:
        """Return the image as RGB, refusing content of another id; see `calib.data.images.open_image`."""


@dataclass(frozen=True)
class FileSource:
    """An image file.

    Attributes:
        path: The file.
    """

    path: Path

    def content_id(self) -> str:
        """Return the digest of the file's bytes."""
        return file_id(self.path)

    def look(self, *, view: DicomView = AS_FILED) -> str:
        """Return the digest of the file's bytes if its header is an image's."""
        return check_image(read_image_file(self.path), str(self.path), view=view)

    def open(
        self, *, grey16_max: int | None = None, view: DicomView = AS_FILED, id: str | None = None
    ) -> Image.Image:
        """Return the image as RGB; the file must still be the one with this id."""
        return open_image(self.path, grey16_max=grey16_max, view=view, id=id)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """One image of an array of images.

    Attributes:
        images: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        index: Which of the N.
        name: What error messages call it.
    """

    images: np.ndarray
    index: int
    name: str

    def content_id(self) -> str:
        """Return the digest of the image's shape and pixels."""
        pixels = np.ascontiguousarray(self.images[self.index])
        return hashlib.sha256(f"{pixels.shape}:{pixels.dtype}:".encode() + pixels.tobytes()).hexdigest()

    def look(self, *, view: DicomView = AS_FILED) -> str:
        """Return the digest; an array was checked when it was read."""
        return self.content_id()

    def open(
        self, *, grey16_max: int | None = None, view: DicomView = AS_FILED, id: str | None = None
    ) -> Image.Image:
        """Return the image as RGB. It is in memory: nobody else changes it."""
        return to_rgb(Image.fromarray(self.images[self.index]), self.name, grey16_max=grey16_max)


@dataclass(frozen=True)
class ImageRecord:
    """One image of a table.

    Attributes:
        source: Where its pixels are.
        label: Class index.
        id: SHA-256 hex digest of its content.
        group: Patient, slide or whatever images share when they must not be split apart; None when unknown.
        name: A readable name, such as the path within the data set.
    """

    source: ImageSource
    label: int
    id: str
    group: str | None
    name: str


class ImageTable:
    """The images of one split, in a fixed order. Nothing is read before it is asked for.

    Args:
        sources: N images.
        labels: N class indices, from 0.
        names: N readable names, all different.
        groups: N group names, e.g. patients. None: not known.
        ids: N content ids where they are already known (None for those that are not).
        grey16_max: The white of 16-bit grey images; see `calib.data.images.open_image`.
        view: Which frame of DICOM files, and through which window.

    Raises:
        ValueError: The lengths differ, a label is negative or no whole number, or a name occurs twice.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        labels: Sequence[int] | Tensor,
        names: Sequence[str],
        *,
        groups: Sequence[str] | None = None,
        ids: Sequence[str | None] | None = None,
        grey16_max: int | None = None,
        view: DicomView = AS_FILED,
    ) -> None:
        given = torch.as_tensor(labels).reshape(-1)
        if given.is_floating_point() and len(given):  # of which the fraction would be cut off
            raise ValueError(f"Labels are class indices, whole numbers; they came as {given.dtype}.")
        self.labels = given.to(torch.int64)
        self.names = list(names)
        self.groups = None if groups is None else [str(group) for group in groups]
        self.grey16_max, self.view = grey16_max, view
        self._sources = list(sources)
        self._ids: list[str | None] = [None] * len(self._sources) if ids is None else list(ids)
        sizes = {"labels": len(self.labels), "names": len(self.names), "ids": len(self._ids)}
        if self.groups is not None:
            sizes["groups"] = len(self.groups)
        wrong = [f"{size} {column}" for column, size in sizes.items() if size != len(self)]
        if wrong:
            raise ValueError(f"There are {len(self)} images, but {few(wrong)}.")
        if len(self) and int(self.labels.min()) < 0:
            raise ValueError(f"Labels are class indices from 0; the smallest is {int(self.labels.min())}.")
        odd = next((name for name in self.names if not _is_text(name)), None)
        if odd is not None:
            raise ValueError(
                f"The name {odd!a} of an image is not UTF-8 text and could not be written to any table. "
                "Rename the file."
            )
        if len(set(self.names)) < len(self):
            twice = [name for name, count in Counter(self.names).items() if count > 1]
            raise ValueError(f"Names of images must differ; these occur more than once: {few(twice)}.")

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> ImageRecord:
        """Return one image's record. Its file is hashed if its id is not known yet."""
        index = range(len(self))[index]
        group = None if self.groups is None else self.groups[index]
        return ImageRecord(
            self._sources[index], int(self.labels[index]), self._id(index), group, self.names[index]
        )

    @property
    def ids(self) -> list[str]:
        """The N content ids; files are hashed the first time this is asked for."""
        progress = ProgressLog(logger, "hashing images", len(self))
        ids = []
        for index in range(len(self)):
            ids.append(self._id(index))
            progress.update(index + 1)
        return ids

    def unreadable(self, *, wholly: bool = False) -> dict[int, str]:
        """Return by row why images cannot be read; ids of the others are known afterwards.

        Args:
            wholly: Decode the pixels too, instead of a look at the header.
        """
        progress, bad = ProgressLog(logger, "looking at images", len(self)), {}
        for index in range(len(self)):
            try:
                self._ids[index] = self._sources[index].look(view=self.view)
                if wholly:
                    self.open(index)
            except (ValueError, OSError) as error:
                bad[index] = str(error)
            progress.update(index + 1)
        return bad

    def open(self, index: int) -> Image.Image:
        """Return one image as RGB.

        Raises:
            ValueError: It cannot be read, or is no longer the image of its id where this is known already;
                the message names it.
        """
        return self._sources[index].open(grey16_max=self.grey16_max, view=self.view, id=self._ids[index])

    def subset(self, indices: Iterable[int] | Tensor) -> ImageTable:
        """Return a table of some of the images, in the order of the indices.

        Args:
            indices: (n,) row numbers.

        Raises:
            ValueError: They are a mask of true and false.
        """
        rows = row_numbers(indices)
        return ImageTable(
            [self._sources[i] for i in rows],
            self.labels[torch.as_tensor(rows, dtype=torch.int64)],
            [self.names[i] for i in rows],
            groups=None if self.groups is None else [self.groups[i] for i in rows],
            ids=[self._ids[i] for i in rows],
            **self._reading,
        )

    def with_labels(self, labels: Tensor) -> ImageTable:
        """Return the same images with other labels (N,)."""
        return ImageTable(
            self._sources, labels, self.names, groups=self.groups, ids=self._ids, **self._reading
        )

    def with_groups(self, groups: Sequence[str] | None) -> ImageTable:
        """Return the same images with other groups, one name per image; None: not known."""
        return ImageTable(
            self._sources, self.labels, self.names, groups=groups, ids=self._ids, **self._reading
        )

    @property
    def _reading(self) -> dict[str, Any]:
        """What decides how images are read: passed on to every table made of this one."""
        return {"grey16_max": self.grey16_max, "view": self.view}

    def _id(self, index: int) -> str:
        known = self._ids[index]
        if known is None:
            known = self._ids[index] = self._sources[index].content_id()
        return known


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return False
    return True

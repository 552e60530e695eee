"""Tables of corrupted images: encoded, cached and gone on with like any other images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from calib.core.checks import check_kind
from calib.data.dicom import AS_FILED, DicomView
from calib.data.encode import encode
from calib.data.features import FeatureTable
from calib.data.records import ImageSource, ImageTable
from calib.robustness.corruptions import (
    USUAL,
    VERSION,
    checked_corruption,
    checked_severity,
    corrupt,
    is_grey,
)

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

LOOKED_AT = 16  # images by which a table is told to be of grey ones


@dataclass(frozen=True)
class CorruptedSource:
    """An image that is corrupted whenever it is opened.

    Attributes:
        source: Where it is.
        key: Its content id.
        name: A key of `CORRUPTIONS`.
        severity: 1 to 5.
        size: Pixels of its shorter side, see `corrupt`.
    """

    source: ImageSource
    key: str
    name: str
    severity: int
    size: int | None

    def content_id(self) -> str:
        """Return the digest of what decides about the pixels: the image, corruption, severity and size."""
        parts = (f"calib corruption {VERSION}", self.key, self.name, self.severity, self.size)
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

    def look(self, *, view: DicomView = AS_FILED) -> str:
        """Return the digest if the image can be opened, by its header."""
        self.source.look(view=view)
        return self.content_id()

    def open(
        self, *, grey16_max: int | None = None, view: DicomView = AS_FILED, id: str | None = None
    ) -> Image.Image:
        """Return the corrupted image as RGB; the file must still be the one with this source's key."""
        image = self.source.open(grey16_max=grey16_max, view=view, id=self.key)
        return corrupt(image, self.name, self.severity, key=self.key, size=self.size)


def corrupted(table: ImageTable, name: str, severity: int, *, size: int | None = USUAL) -> ImageTable:
    """Return a table of the same images, corrupted when they are opened; with severity 0 the table itself.

    Labels, names and groups are those of the table, content ids are others: so that a cache of features knows
    each corruption and severity by itself.

    Args:
        table: N images.
        name: A key of `CORRUPTIONS`.
        severity: 0 to 5.
        size: Pixels of the shorter side before corruption, see `corrupt`.

    Raises:
        ValueError: The table holds features, the name is unknown, or the severity is none.
    """
    check_kind(table, ImageTable, "table", "Features of images cannot be corrupted: give data.root=IMAGES.")
    checked_corruption(name)
    if checked_severity(severity) == 0:
        return table
    records = [table[row] for row in range(len(table))]
    sources = [CorruptedSource(each.source, each.id, name, severity, size) for each in records]
    return ImageTable(
        sources,
        table.labels,
        table.names,
        groups=table.groups,
        ids=[each.content_id() for each in sources],
        grey16_max=table.grey16_max,
        view=table.view,
    )


def encode_corrupted(
    backbone: Backbone,
    table: ImageTable,
    name: str,
    severity: int,
    *,
    cache: str | Path | None = ".calib_cache",
    batch_size: int = 16,
    on_batch: Callable[[], object] = lambda: None,
) -> FeatureTable:
    """Return the features of corrupted images, under the ids of the images as they are.

    They are encoded batch by batch and cached by corruption and severity; an interrupted encoding goes on.

    Args:
        backbone: The frozen model; its preprocessing says how large the images are when they are corrupted.
        table: N images.
        name: A key of `CORRUPTIONS`.
        severity: 0 to 5.
        cache: Folder of the cache. None: encoded for this call only.
        batch_size: Images encoded at once.
        on_batch: Called before every batch that is encoded.

    Raises:
        ValueError: As `corrupted` and `calib.encode`.
    """
    changed = corrupted(table, name, severity, size=backbone.preprocess.image_size)
    found = encode(backbone, changed, cache=cache, batch_size=batch_size, on_batch=on_batch)
    return replace(found, ids=list(table.ids))


def of_grey_images(table: ImageTable) -> bool:
    """Return whether the first images of a table are all grey: corruptions of colour do nothing there."""
    return all(is_grey(table.open(row)) for row in range(min(LOOKED_AT, len(table))))

"""What images are, one by one: kind, depth, size, and which cannot be read; nothing is encoded."""

from __future__ import annotations

import io
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from calib.core.quiet import quiet
from calib.data.dicom import DicomView, is_dicom, open_dicom
from calib.data.images import read_image_file
from calib.data.notices import ProgressLog
from calib.data.pixels import is_deep
from calib.data.records import FileSource, ImageTable
from calib.data.task import Splits
from calib.data.unreadable import FORMATS

logger = logging.getLogger(__name__)

MODES = {
    "1": "black and white",
    "L": "grey 8-bit",
    "P": "palette",
    "PA": "palette with transparency",
    "LA": "grey with transparency",
    "RGB": "colour 8-bit",
    "RGBA": "colour with transparency",
    "CMYK": "CMYK",
    "YCbCr": "colour 8-bit",
    "I": "grey 16-bit",
    "F": "floating-point",
}


@dataclass
class Inspection:
    """What was found among the images of a data set.

    Attributes:
        kinds: How many there are of each kind, e.g. "PNG grey 8-bit".
        sizes: How many have each size, (width, height) in pixels.
        unreadable: Split to name to reason.
        burned_in: Names of DICOM files that say that their pixels show text about the patient.
        looked_at: Images altogether, those that cannot be read among them.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)
    burned_in: list[str] = field(default_factory=list)
    looked_at: int = 0

    def look(self, splits: Splits, *, wholly: bool = True) -> Splits:
        """Return the splits without what cannot be read, once every image was looked at.

        Args:
            splits: From a reader. Features are not looked at.
            wholly: Decode all pixels, instead of reading headers alone.
        """
        tables = dict(splits.tables)
        for split, table in splits.tables.items():
            if not isinstance(table, ImageTable):
                continue
            bad = table.unreadable(wholly=wholly)
            self.looked_at += len(table)
            if bad:
                self.unreadable[split] = {table.names[row]: reason for row, reason in bad.items()}
                tables[split] = table = table.subset(row for row in range(len(table)) if row not in bad)
            self._count(table)
        return replace(splits, tables=tables)

    def _count(self, table: ImageTable) -> None:
        progress = ProgressLog(logger, "reading headers", len(table))
        for row in range(len(table)):
            source = table[row].source
            if isinstance(source, FileSource):
                kind, size, burned_in = kind_of(source.path, table.view)
            else:
                kind, size, burned_in = "held in a data set's file", table.open(row).size, False
            self.kinds[kind] += 1
            self.sizes[size] += 1
            if burned_in:
                self.burned_in.append(table.names[row])
            progress.update(row + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: sizes as "640 x 480", and how many are smallest and largest."""
        sizes = {f"{width} x {height}": count for (width, height), count in self.sizes.most_common()}
        return {
            "looked_at": self.looked_at,
            "kinds": dict(self.kinds.most_common()),
            "sizes": sizes,
            "unreadable": self.unreadable,
            "burned_in": self.burned_in,
        }


def kind_of(path: Path, view: DicomView) -> tuple[str, tuple[int, int], bool]:
    """Return what an image file holds, its (width, height), and whether text may be burned into its pixels.

    Args:
        path: A file that can be read.
        view: Which frame of a DICOM file.
    """
    content = read_image_file(path)
    if is_dicom(content):
        opened = open_dicom(content, str(path), view)
        return f"DICOM {opened.bits}-bit {opened.kind}", opened.size, opened.burned_in
    with quiet():  # about large images, texts: the reader has its own rules
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    depth = "colour 16-bit" if is_deep(image) else MODES.get(image.mode, image.mode)
    return f"{image.format} {'grey 16-bit' if image.mode.startswith('I;16') else depth}", image.size, False

"""A picture of images by class: a row for each, those for training first, then those for validation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calib.io.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SIDE, GAP, MARGIN, NAME = 112, 6, 16, 24  # pixels: of an image, between two, around all, of a line of text
PAPER, INK, FAINT, FRAME = "#ffffff", "#1a1a1a", "#6b6b6b", "#c9c9c9"


@dataclass(frozen=True)
class SheetRow:
    """One class of a contact sheet.

    Attributes:
        name: What stands above its images.
        train: Images to train on.
        val: Images to validate on.
    """

    name: str
    train: Sequence[Image.Image]
    val: Sequence[Image.Image] = ()


def save_contact_sheet(
    rows: Sequence[SheetRow],
    title: str,
    path: str | Path,
    *,
    wide: int = 12,
    side: int = SIDE,
    tagged: bool = True,
) -> None:
    """Write a picture of images by class as PNG; no name of a file stands on it.

    Args:
        rows: A row for each class; more than `wide` images go on in further lines.
        title: The line above all.
        path: The file.
        wide: Images side by side at most.
        side: Pixels of an image's longer side.
        tagged: Whether it stands beside the images what they are for.

    Raises:
        ValueError: There is no image.
    """
    from PIL import Image, ImageDraw

    if not any(len(row.train) + len(row.val) for row in rows):
        raise ValueError("There is no image to draw.")
    columns = min(wide, max(max(len(row.train), len(row.val)) for row in rows))
    words = ("train", "val") if tagged else ("", "")
    parts = [
        (row, [each for each in zip(words, (row.train, row.val), strict=True) if each[1]]) for row in rows
    ]
    height = (
        2 * MARGIN
        + NAME
        + sum(
            NAME + sum(-(-len(images) // columns) * (side + GAP) for _, images in lines) + GAP
            for _, lines in parts
        )
    )
    tag = 44 * tagged  # pixels for the word beside the images
    text_width = round(max(_font(15).getlength(title), *(_font(13).getlength(row.name) for row in rows)))
    width = 2 * MARGIN + max(tag + columns * (side + GAP), text_width)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=INK, font=_font(15))
    y = MARGIN + NAME
    for row, lines in parts:
        pen.text((MARGIN, y + 4), row.name, fill=INK, font=_font(13))
        y += NAME
        for word, images in lines:
            pen.text((MARGIN, y + 4), word, fill=FAINT, font=_font(11))
            for place, image in enumerate(images):
                left = MARGIN + tag + place % columns * (side + GAP)
                top = y + place // columns * (side + GAP)
                small = image.copy()
                small.thumbnail((side, side))
                at = (left + (side - small.width) // 2, top + (side - small.height) // 2)
                sheet.paste(small, at)
                pen.rectangle((left, top, left + side - 1, top + side - 1), outline=FRAME)
            y += -(-len(images) // columns) * (side + GAP)
        y += GAP
    with atomic_path(Path(path)) as part:
        sheet.save(part, format="PNG")


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the other figures, which knows more alphabets than Pillow's own."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)

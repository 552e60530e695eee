"""Contact sheets: chosen images as small pictures in their order, for whoever is to label them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from calib.core.text import printable
from calib.data.records import ImageTable
from calib.io.files import atomic_path

COLUMNS, ROWS = 6, 8  # pictures on a sheet
PICTURE, LINE, GAP = 180, 17, 10  # pixels


def save_sheets(table: ImageTable, captions: Sequence[Sequence[str]], folder: str | Path) -> list[Path]:
    """Write contact sheets to `sheet-1.png`, `sheet-2.png`, ... and return their paths.

    Args:
        table: N images, in order.
        captions: N lists of lines that stand below the pictures; each is cut to the picture's width.
        folder: Where they go.

    Raises:
        ValueError: An image cannot be read, or there is not a caption for each.
    """
    if len(captions) != len(table):
        raise ValueError(f"There are {len(table)} images and {len(captions)} captions.")
    most = COLUMNS * ROWS
    paths = []
    for number, start in enumerate(range(0, len(table), most), start=1):
        rows = range(start, min(start + most, len(table)))
        path = Path(folder) / f"sheet-{number}.png"
        sheet = _sheet([table.open(row) for row in rows], [captions[row] for row in rows])
        with atomic_path(path) as part:
            sheet.save(part, "PNG", optimize=True)
        paths.append(path)
    return paths


def _sheet(images: Sequence[Image.Image], captions: Sequence[Sequence[str]]) -> Image.Image:
    lines = max(len(each) for each in captions)
    across = min(COLUMNS, len(images))
    down = -(-len(images) // COLUMNS)
    width, height = PICTURE + GAP, PICTURE + LINE * lines + GAP
    sheet = Image.new("RGB", (GAP + across * width, GAP + down * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        small = image.convert("RGB")
        small.thumbnail((PICTURE, PICTURE))
        sheet.paste(small, (left + (PICTURE - small.width) // 2, top + (PICTURE - small.height) // 2))
        for number, text in enumerate(caption):
            said = _cut(printable(text).replace("\n", " "), font)
            draw.text((left, top + PICTURE + LINE * number), said, fill="black", font=font)
    return sheet


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text that is no wider than a picture; what does not fit is left out at its beginning."""
    if font.getlength(text) <= PICTURE:
        return text
    while text and font.getlength(f"...{text}") > PICTURE:
        text = text[1:]
    return f"...{text}"

"""TIFF files: what Pillow would read otherwise than it is meant, and pages that are copies of the first."""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL import TiffImagePlugin as Tiff

NEW_SUBFILE, OLD_SUBFILE, INK_SET = 254, 255, 332
REDUCED, MASK = 1, 4  # bits of NewSubfileType
SEPARATE = 2  # planar configuration: each channel by itself
GREY, YCBCR, INKS = (0, 1), 6, 5  # photometric interpretations


def why_misread(image: Image.Image) -> str | None:
    """Return what would come out wrong of a TIFF, as the end of "it ...", and what to do. None: nothing.

    Args:
        image: Opened, but not decoded.
    """
    tags = tags_of(image)
    photo, palette = tags.get(Tiff.PHOTOMETRIC_INTERPRETATION), tags.get(Tiff.COLORMAP)
    bits, channels = tags.get(Tiff.BITSPERSAMPLE, (1,))[0], tags.get(Tiff.SAMPLESPERPIXEL, 1)
    plain = tags.get(Tiff.COMPRESSION, 1) == 1
    if photo is None and image.mode not in ("RGB", "YCbCr"):
        return "does not say whether 0 is black or white. Save it again with a photometric interpretation"
    if image.mode.startswith("I;16") and photo == 0:
        return "is a 16-bit TIFF that stores white as 0. Invert it (BlackIsZero) and save it again"
    if bits == 8 and tags.get(Tiff.SAMPLEFORMAT, (1,))[0] == 2:
        return "has signed 8-bit values, which have no agreed range. Save it as unsigned 8-bit"
    if bits > 8 and channels > 1 and tags.get(Tiff.PLANAR_CONFIGURATION, 1) == SEPARATE:
        return f"stores the channels of its {bits}-bit colours one after the other. Save them interleaved"
    if photo == YCBCR and plain and channels == 3 and tags.get(Tiff.YCBCRSUBSAMPLING, (2, 2)) != (1, 1):
        return "stores colour (YCbCr) at a lower resolution, uncompressed. Save it as RGB"
    if photo == INKS and tags.get(INK_SET, 1) != 1:
        return "is of inks other than cyan, magenta, yellow and black. Save it as RGB"
    if photo == INKS and bits > 8:  # Pillow keeps the upper half of each value
        return f"has inks (CMYK) of {bits} bits, of which no more than 8 are read. Save it as RGB"
    if image.mode in ("P", "PA") and palette is not None and 0 < max(palette) < 256:
        return "has a palette of 8-bit colours, where 16 bits are meant, and would be black. Save it as RGB"
    return None


def is_signed(image: Image.Image) -> bool:
    """Return whether a TIFF holds signed 16-bit values."""
    tags = tags_of(image)
    return bool(tags.get(Tiff.SAMPLEFORMAT, (1,))[0] == 2 and tags.get(Tiff.BITSPERSAMPLE, (1,))[0] == 16)


def frames_beside_copies(image: Image.Image) -> int:
    """Return how many pages a TIFF has, without smaller copies and masks of its first one, as slides have.

    Args:
        image: Opened; the first page is the current one again in the end.
    """
    pages = getattr(image, "n_frames", 1)
    size, copies = image.size, 0
    for page in range(1, pages):
        image.seek(page)
        tags = tags_of(image)
        marked = tags.get(NEW_SUBFILE, 0) & (REDUCED | MASK) or tags.get(OLD_SUBFILE) == 2
        copies += bool(marked and image.size[0] <= size[0] and image.size[1] <= size[1])
    if pages > 1:
        image.seek(0)
    return pages - copies


def tags_of(image: Image.Image) -> dict[int, Any]:
    """Return the tags of the current page."""
    return getattr(image, "tag_v2", {})

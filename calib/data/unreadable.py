"""Why a file is no image that can be read: empty, another kind of file, or one that is not decoded here."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, TiffImagePlugin

from calib.core.errors import first_line

UNKNOWN = "another kind of file"
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# How files of known kinds begin: offset, bytes, what they are. The first that fits counts.
KINDS = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "a GIF"),
    (4, b"jP  \r\n", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (4, b"JXL \r\n", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (4, b"ftyp", "a HEIC, AVIF or video file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS in the place of the image; run `git lfs pull`"),
    (0, b"<!DOCTYPE", "a web page in the place of the image; download it again"),
    (0, b"<!doctype", "a web page in the place of the image; download it again"),
    (0, b"<html", "a web page in the place of the image; download it again"),
    (0, b"<svg", "an SVG drawing"),
)
COMPRESSIONS = {
    6: "old JPEG",
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
EVERYWHERE = (1, 2, 3, 4, 5, 8, 32771, 32773, 32946)  # compressions that every Pillow reads
SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
FRAMES_OF_JPEG = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "lossless",
}


def why_unreadable(content: bytes) -> str:
    """Return why Pillow does not recognise a file's content as an image, as the end of "it is ...".

    Example:
        >>> why_unreadable(b""), why_unreadable(b"GIF89a")
        ('empty (0 bytes)', 'a GIF')
        >>> why_unreadable(b"patient,age")
        'another kind of file'
    """
    if not content.strip(b"\0"):
        return f"nothing but {len(content)} zero bytes; copy it again" if content else "empty (0 bytes)"
    kind = next((kind for at, magic, kind in KINDS if content.startswith(magic, at)), UNKNOWN)
    if kind not in FORMATS:
        return kind
    special = {"TIFF": _special_tiff, "JPEG": _special_jpeg}.get(kind, lambda content: "")(content)
    return f"a {kind} {special or 'that cannot be opened' + _reason(content, kind)}"


def why_undecodable(content: bytes, error: Exception) -> str:
    """Return what a recognised image has that Pillow may not decode, or that it is damaged.

    Args:
        content: The file.
        error: What Pillow said.
    """
    reason = first_line(error)
    tags = _tags(content)
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    if compression not in EVERYWHERE:
        called = COMPRESSIONS.get(compression, "unknown")
        return (
            f"is a TIFF that cannot be decoded ({reason}): it is damaged, or compressed ({called}, "
            f"{compression}) as this Pillow does not read. Save it with LZW or deflate."
        )
    special = _special_jpeg(content)
    if special:
        return f"is a JPEG {special} ({reason})."
    return f"is a damaged image ({reason}). Was it cut off? Replace or remove it."


def _reason(content: bytes, kind: str) -> str:
    """Return what the reader of one format says, which `Image.open` keeps to itself, in brackets."""
    Image.preinit()
    try:
        Image.OPEN[kind][0](io.BytesIO(content), "")
    except Exception as error:  # of many types, as the file may be anything: what it says is the answer
        return f" ({first_line(error)}). Was it cut off? Replace or remove it"
    return ""


def _tags(content: bytes) -> dict[int, Any]:
    """Return the tags of a TIFF's first page; none where they cannot be read."""
    try:
        header = content[:16] if content[2:3] == b"+" or content[3:4] == b"+" else content[:8]
        found = TiffImagePlugin.ImageFileDirectory_v2(header)
        stream = io.BytesIO(content)
        stream.seek(found.next)
        found.load(stream)
        return dict(found)
    except Exception:  # of many types, as the file may be anything
        return {}


def _special_tiff(content: bytes) -> str:
    tags = _tags(content)
    if TiffImagePlugin.IMAGEWIDTH not in tags or TiffImagePlugin.IMAGELENGTH not in tags:
        return ""
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        called = COMPRESSIONS.get(compression, "unknown")
        said = f"with the compression {called} ({compression}), which is not read here"
        return f"{said}. Save it with LZW or deflate"
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, len(bits))
    samples = SAMPLES.get(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], "unknown")
    return (
        f"with {channels} channel{'s' * (channels != 1)} of {bits[0]}-bit {samples} values "
        f"(photometric interpretation {tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)}), which have no "
        "agreed meaning as colours. Save it as 8-bit or 16-bit grey, RGB or RGBA"
    )


def _special_jpeg(content: bytes) -> str:
    """Return which rare kind of JPEG a file is; empty: none that is known."""
    at = 2
    while content.startswith(b"\xff\xd8") and content[at : at + 1] == b"\xff" and at + 10 <= len(content):
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, channels = content[at + 4], content[at + 9]
            kinds = [FRAMES_OF_JPEG[marker]] if marker in FRAMES_OF_JPEG else []
            kinds += [f"{bits}-bit"] if bits != 8 else []
            kinds += [f"{channels}-channel"] if channels not in (1, 3, 4) else []
            return f"of a kind that is not read here: {', '.join(kinds)}. Save it as PNG" if kinds else ""
        at += 2 + length
    return ""

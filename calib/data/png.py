"""PNG files: checked against their own checksums, and freed of what does not decide about pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour profiles and texts inflate to any size, and Pillow refuses a file for them; nothing here reads them.
DECIDING = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
ORIENTING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may say which way is up
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
LARGEST_TEXT = 1 << 20  # what Pillow inflates at most
PALETTE = 3  # colour type


def without_metadata(content: bytes) -> bytes:
    """Return a PNG file with the chunks that decide about its pixels and its orientation.

    Args:
        content: The file.

    Raises:
        ValueError: A checksum is wrong, or a chunk that every PNG needs is missing; the message says which.

    Example:
        >>> without_metadata(SIGNATURE)
        Traceback (most recent call last):
        ValueError: it ends before its IEND chunk
    """
    kinds: set[bytes] = set()
    kept, dropped = [SIGNATURE], False
    for kind, start, stop in _chunks(content):
        if not kinds and (kind != b"IHDR" or stop - start != 25):  # 13 bytes and what is around every chunk
            raise ValueError("it does not begin with an IHDR chunk")
        if kind in DECIDING or _may_orient(kind, content[start + 8 : stop - 4]):
            kinds.add(kind)
            kept.append(content[start:stop])
        else:
            dropped = True
    colour_type = content[len(SIGNATURE) + 17]
    missing = [
        kind for kind in (b"IDAT", *([b"PLTE"] if colour_type == PALETTE else [])) if kind not in kinds
    ]
    if missing:
        raise ValueError(f"it has no {missing[0].decode()} chunk")
    return b"".join(kept) if dropped else content


def transparent_grey(content: bytes, value: int) -> int:
    """Return the 8-bit grey that a tRNS chunk means, which counts in the file's own depth.

    Args:
        content: The file, of grey pixels of at most 8 bits.
        value: What its tRNS chunk says.

    Example:
        >>> transparent_grey(SIGNATURE + b"....IHDR........" + bytes([4]), 15)
        255
    """
    white = 2 ** content[len(SIGNATURE) + 16] - 1
    return (value & white) * 255 // white


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first and last byte of every chunk to the last one."""
    view, start, kind = memoryview(content), len(SIGNATURE), b""
    while kind != b"IEND":
        kind = content[start + 4 : start + 8]
        stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if len(kind) < 4 or stop > len(content):
            raise ValueError("it ends before its IEND chunk")
        if zlib.crc32(view[start + 4 : stop - 4]) != int.from_bytes(content[stop - 4 : stop], "big"):
            raise ValueError(f"the checksum of its chunk {kind!a} is wrong")
        yield kind, start, stop
        start = stop


def _may_orient(kind: bytes, data: bytes) -> bool:
    """Return whether a chunk is a text from which the orientation is read, of a size that may be inflated."""
    key = next((each for each in ORIENTING if data.startswith(each)), None)
    if kind not in TEXTS or key is None:
        return False
    text = data[len(key) :]
    if kind == b"tEXt" or (kind == b"iTXt" and not text.startswith(b"\1")):
        return True
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1], LARGEST_TEXT)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail

"""PNG and TIFF files written by hand, of every depth and layout, also of those that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: np.ndarray,
    before: bytes = b"",
    after: bytes = b"",
    *,
    bits: int | None = None,
    palette: bytes = b"",
) -> bytes:
    """Return (H, W, C) uint8 or uint16 as a PNG with chunks before and after the pixels.

    `bits` below 8 packs one channel; with a `palette` the channel counts its colours.
    """
    height, width, channels = pixels.shape
    bits = bits or 8 * pixels.itemsize
    colour = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    if bits < 8:
        ones = np.unpackbits(pixels[:, :, :1].astype(np.uint8), axis=2)[:, :, 8 - bits :]
        lines = [np.packbits(line.reshape(-1)).tobytes() for line in ones]
    else:
        lines = [line.astype(f">u{pixels.itemsize}").tobytes() for line in pixels]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + (chunk(b"PLTE", palette) if palette else b"") + before
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + body + data + after + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, order: str = "<", **tags: Any) -> bytes:
    """Return (H, W) or (H, W, C) as a TIFF; `t339=[2]` sets tag 339, None leaves it out."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    planar = tags.get("t284", [1])[0]
    stored = pixels if planar == 1 else np.moveaxis(pixels, 2, 0)
    data = stored.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if tags.get("t259") == [8] else data
    counts = [len(data)] if planar == 1 else [len(data) // channels] * channels
    values: dict[int, Any] = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [1]}
    values |= {262: [2 if channels >= 3 else 1], 273: [0] * len(counts), 277: [channels], 278: [height]}
    values |= {279: counts, 284: [planar]} | {int(tag[1:]): value for tag, value in tags.items()}
    present = {tag: value for tag, value in sorted(values.items()) if value is not None}
    start = 8 + 2 + 12 * len(present) + 4 + sum(4 * len(value) for value in present.values())
    present[273] = [start + sum(counts[:at]) for at in range(len(counts))]
    entries, behind, place = b"", b"", 8 + 2 + 12 * len(present) + 4
    for tag, value in present.items():
        long = tag in (273, 279)
        raw = struct.pack(f"{order}{len(value)}{'L' if long else 'H'}", *value)
        entries += struct.pack(f"{order}HHL", tag, 4 if long else 3, len(value))
        entries += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}L", place + len(behind))
        behind += raw if len(raw) > 4 else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HLH", 42, 8, len(present))
    directory = head + entries + struct.pack(f"{order}L", 0) + behind
    return directory.ljust(start, b"\0") + data

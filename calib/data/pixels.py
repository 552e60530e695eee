"""Pixels of every depth and layout as 8-bit RGB, or a refusal that says what they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

MAX_GREY16 = 65535
# Largest values of data of fewer bits that come in 16: kept as they are they would be nearly black.
DEPTHS = {255: "8-bit", 4095: "12-bit", 16383: "14-bit"}
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
# Raw modes of 16-bit colour, of which Pillow keeps the upper half: the mode and raw mode whose bytes are all.
DEEP = {
    "RGB;16": ("RGB", "RGB;16"),
    "RGBX;16": ("RGB", "RGBX;16"),
    "RGBA;16": ("RGBA", "RGBA;16"),
    "RGBa;16": ("RGBA", "RGBA;16"),  # multiplied with its alpha already
    "LA;16": ("RGBA", "RGBA"),  # four bytes: grey and alpha, the upper byte first
}


def to_rgb(
    image: Image.Image, name: str, *, grey16_max: int | None = None, signed: bool = False
) -> Image.Image:
    """Return a decoded image as RGB by the rules at the top of `calib.data.images`.

    Args:
        image: Any Pillow image.
        name: What error messages call it.
        grey16_max: The white of 16-bit images.
        signed: Whether 16-bit values are signed: then their white must be given.

    Raises:
        ValueError: The pixel type has no agreed meaning as 8-bit colour, nothing of the image is visible, or
            `grey16_max` does not fit.

    Example:
        >>> half = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
        >>> to_rgb(half, "half.png").getpixel((1, 0))
        (128, 128, 128)
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image, name, grey16_max, signed)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        layered = image.convert("RGBA")
        return _over_black(layered, layered.getchannel("A"), name)
    if image.mode in PLAIN:
        return image.convert("RGB")
    kind = "floating-point" if image.mode == "F" else image.mode
    raise ValueError(f"{name} has {kind} pixels, which have no agreed range. Save it as 8-bit grey or RGB.")


def is_deep(image: Image.Image) -> bool:
    """Return whether an image that is not decoded yet has 16-bit colour, or 16-bit grey with alpha."""
    return image.format in ("PNG", "TIFF") and bool(_raw_mode(image)) and _raw_mode(image)[:-1] in DEEP


def deep_to_rgb(
    opened: Callable[[], Image.Image], name: str, *, grey16_max: int | None = None
) -> Image.Image:
    """Return an image of which `is_deep` holds as RGB; all 16 bits count, as they do in grey images.

    Args:
        opened: Opens the image, which is decoded as often as needed.
        name: What error messages call it.
        grey16_max: The white of its colours; alpha has the full range.

    Raises:
        ValueError: As `to_rgb`.
        OSError: It cannot be decoded.
    """
    image = opened()
    layout, order = _raw_mode(image)[:-1], _raw_mode(image)[-1]
    mode, raw = DEEP[layout]
    alpha: np.ndarray | None
    if layout == "LA;16":
        bands = _decoded(image, mode, raw).split()
        deep = [_joined(bands[0], bands[1]), _joined(bands[2], bands[3])]
        values, alpha = [deep[0]] * 3, deep[1]
    else:
        # Read as little-endian, Pillow keeps the second byte of each pair, and as big-endian the first.
        first, second = _decoded(image, mode, raw + "B").split(), _decoded(opened(), mode, raw + "L").split()
        high, low = (first, second) if _is_big(order) else (second, first)
        deep = [_joined(*halves) for halves in zip(high, low, strict=True)]
        values, alpha = deep[:3], None if len(deep) == 3 else deep[3]
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        seen = np.any([value != part for value, part in zip(values, key, strict=True)], axis=0)
        alpha = np.where(seen, MAX_GREY16, 0).astype(np.uint16)
    scale = _scale(name, max(int(value.max()) for value in values), grey16_max)
    colour = Image.merge("RGB", [Image.fromarray(scale[value]) for value in values])
    if alpha is None:
        return colour
    opaque = Image.fromarray(_table(MAX_GREY16)[alpha])
    if layout == "RGBa;16":
        _check_visible(opaque, name)
        return colour
    return _over_black(colour, opaque, name)


def _raw_mode(image: Image.Image) -> str:
    """Return what a file says its bytes are; empty: nothing that Pillow calls so."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    raw = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    return raw if isinstance(raw, str) else ""


def _decoded(image: Image.Image, mode: str, raw: str) -> Image.Image:
    """Return an opened image decoded to another mode, from bytes that are understood in another way."""
    image._mode = mode
    image.tile = [  # type: ignore[attr-defined]
        type(tile)(*each) if hasattr(tile, "_fields") else each
        for tile in image.tile  # type: ignore[attr-defined]
        for each in [(*tile[:3], raw if isinstance(tile[3], str) else (raw, *tile[3][1:]))]
    ]
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        raise OSError(str(error)) from error


def _is_big(order: str) -> bool:
    return order == "B" or (order == "N" and sys.byteorder == "big")


def _joined(high: Image.Image, low: Image.Image) -> np.ndarray:
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)  # (H, W)


def _over_black(colour: Image.Image, alpha: Image.Image, name: str) -> Image.Image:
    _check_visible(alpha, name)
    black = Image.new("RGB", colour.size)
    black.paste(colour, mask=alpha)
    return black


def _check_visible(alpha: Image.Image, name: str) -> None:
    if alpha.getextrema()[1] == 0:
        raise ValueError(
            f"Every pixel of {name} is transparent, so that nothing would be seen of it but black. Save it "
            "without its transparency (alpha channel), or remove it."
        )


def _grey16_to_rgb(image: Image.Image, name: str, grey16_max: int | None, signed: bool) -> Image.Image:
    values = np.asarray(image)  # (H, W)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_GREY16:
        kind = "signed 16-bit" if signed else "32-bit"
        raise ValueError(
            f"{name} has {kind} values from {low} to {high}, which have no agreed range. Save it as 8-bit, "
            f"or shifted to 0..{MAX_GREY16}."
        )
    if signed and grey16_max is None and high > 0:
        raise ValueError(_say_white(f"{name} has signed 16-bit values up to {high}", high))
    grey = Image.fromarray(_scale(name, high, grey16_max, deeper=image.mode == "I")[values])
    key = image.info.get("transparency")
    if isinstance(key, int):
        return _over_black(
            grey.convert("RGB"), Image.fromarray(np.where(values == key, 0, 255).astype("u1")), name
        )
    return grey.convert("RGB")


def _scale(name: str, high: int, grey16_max: int | None, *, deeper: bool = False) -> np.ndarray:
    """Return the 8-bit value of every 16-bit one, for an image whose largest value is `high`."""
    if grey16_max is None and 0 < high <= max(DEPTHS):
        depth = next(depth for white, depth in DEPTHS.items() if high <= white)
        kind = "of 32-bit values" if deeper else "a 16-bit image"
        said = f"{name} is {kind} whose largest value is {high}: probably {depth} data, which would come out "
        raise ValueError(_say_white(said + ("dark" if high > 4095 else "nearly black"), high))
    white = MAX_GREY16 if grey16_max is None else grey16_max
    if not 1 <= white <= MAX_GREY16 or high > white:
        raise ValueError(
            f"{name} has values up to {high}; the white that was given, {white}, must lie between them and "
            f"{MAX_GREY16} (data.options.grey16_max in training, --grey16-max in predictions)."
        )
    return _table(white)


@lru_cache(maxsize=4)
def _table(white: int) -> np.ndarray:
    values = np.arange(MAX_GREY16 + 1)
    return ((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)  # rounded to the nearest


def _say_white(said: str, high: int) -> str:
    white = next((each for each in DEPTHS if high <= each), 32767)
    return (
        f"{said}. Say what its white is: data.options.grey16_max={white} in training, --grey16-max {white} "
        f"in predictions (or {MAX_GREY16} to keep it as it is)."
    )

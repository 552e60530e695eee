"""Reading one image safely: always RGB, always upright, or a clear error that names the file.

What is decided here, once for every data source:

* Only JPEG, PNG, TIFF, BMP and WebP are decoded. More than 178,956,970 pixels are refused before decoding,
  and PNG files whose checksums are wrong.
* Several frames (a multi-page TIFF, an animation) are refused: which one is the image is not ours to guess.
* EXIF orientation is applied, so that the model sees what a viewer shows.
  Differs: the official CalibPrompt code ignores it.
* Transparency is laid over black, the colour of padding and of the field outside a radiograph.
  Differs: the official code drops the alpha channel, which uncovers whatever colour lies under it.
* 16-bit grey is scaled from its full range, 0..65535 to 0..255. A 16-bit image that stays below 4096 is
  probably a 12-bit one and would come out nearly black, so it is refused until `grey16_max` says what its
  white is.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from calib.core.hashing import CHUNK

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 178_956_970  # 512 MiB of RGB; Pillow's own hard limit
MAX_BYTES = 2**31 - 1  # of a file: the largest image in 16-bit RGBA, uncompressed, has 1.4 billion
MAX_GREY16 = 65535
TWELVE_BIT = 4096
PHOTOMETRIC = 262  # TIFF tag: 0 means that white is stored as 0
READING = 2  # raised when the same bytes become other pixels: cached features of the old ones are not used
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")


def has_image_suffix(path: Path) -> bool:
    """Return whether a file name ends like an image that can be read here, in capitals or not.

    Example:
        >>> has_image_suffix(Path("scan.PNG")), has_image_suffix(Path("notes.txt"))
        (True, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES


def check_image_suffix(path: Path) -> None:
    """Refuse a file whose name does not end like an image.

    Raises:
        ValueError: It does not end so.
    """
    if not has_image_suffix(path):
        raise ValueError(f"{path} does not end like an image. Allowed: {', '.join(IMAGE_SUFFIXES)}.")


def file_id(path: Path) -> str:
    """Return the content id of a file: the SHA-256 hex digest of its bytes.

    Raises:
        FileNotFoundError: There is no such file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def open_image(path: str | Path, *, grey16_max: int | None = None, id: str | None = None) -> Image.Image:
    """Return the image in a file as RGB.

    Args:
        path: A file with one of `IMAGE_SUFFIXES`.
        grey16_max: The white of 16-bit grey images, e.g. 4095 for 12-bit data. None: 65535, and an image that
            stays below 4096 is refused.
        id: The `file_id` that the content must have. None: it may be any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, is damaged, too large, has several frames or an unsupported
            pixel type, or its content is another one than `id` says.
    """
    path = Path(path)
    check_image_suffix(path)
    return decode_image(read_image_file(path), str(path), grey16_max=grey16_max, id=id)


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is larger than any image that is decoded here.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(_too_large(str(path), f"more than {MAX_BYTES:,} bytes"))
    return content


def decode_image(
    content: bytes, name: str, *, grey16_max: int | None = None, id: str | None = None
) -> Image.Image:
    """Return an encoded image as RGB; see `open_image`.

    Args:
        content: The encoded image.
        name: What error messages call it.
        grey16_max: See `open_image`.
        id: See `open_image`. What is hashed are the very bytes that are decoded.

    Raises:
        ValueError: As in `open_image`.
    """
    if id is not None and hashlib.sha256(content).hexdigest() != id:
        raise ValueError(
            f"{name} has changed since this job first read it; nothing was kept of it. Start again when the "
            "images are no longer being written to."
        )
    stream = io.BytesIO(content)
    image = _identify(stream, name)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(name, f"{width} x {height} pixels"))
    if image.format == "PNG":  # alone of the formats it has checksums, which decoding does not compare
        _check_png(image, name)
        stream.seek(0)
        image = _identify(stream, name)
    if width < 1 or height < 1:
        raise ValueError(f"{name} has no pixels: its size is {width} x {height}.")
    # Pillow's decoders raise errors of many types on damaged files, so all of them are caught here.
    try:
        # The further pictures of an MPO file, which cameras write as .jpg, are previews of its first.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        if frames == 1:
            image.load()
            image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise ValueError(_damaged(name, error)) from error
    if frames > 1:
        raise ValueError(
            f"{name} holds {frames} frames; one image per file is expected. Save the frame you mean."
        )
    if white_is_zero and image.mode.startswith("I;16"):
        raise ValueError(
            f"{name} is a 16-bit TIFF that stores white as 0. Invert it (BlackIsZero) and save it again."
        )
    return to_rgb(image, name, grey16_max=grey16_max)


def to_rgb(image: Image.Image, name: str, *, grey16_max: int | None = None) -> Image.Image:
    """Return a decoded image as RGB by the rules at the top of this file.

    Args:
        image: Any Pillow image.
        name: What error messages call it.
        grey16_max: See `open_image`.

    Raises:
        ValueError: The pixel type has no agreed meaning as 8-bit colour, or `grey16_max` does not fit.

    Example:
        >>> half = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
        >>> to_rgb(half, "half.png").getpixel((1, 0))
        (128, 128, 128)
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image, name, grey16_max)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        layered = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(layered, mask=layered.getchannel("A"))
        return black
    if image.mode in PLAIN:
        return image.convert("RGB")
    kind = "floating-point" if image.mode == "F" else image.mode
    raise ValueError(f"{name} has {kind} pixels, which have no agreed range. Save it as 8-bit grey or RGB.")


def _identify(stream: io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            return Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+ pixels", str(error))
        raise ValueError(_too_large(name, size.group() if size else "see its header")) from error
    except Exception as error:
        formats = ", ".join(FORMATS)
        raise ValueError(
            f"{name} is not an image that can be read ({formats}); it may be another kind of file."
        ) from error


def _check_png(image: Image.Image, name: str) -> None:
    try:
        image.verify()
    except Exception as error:
        raise ValueError(_damaged(name, error)) from error


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is a damaged image ({error}). Was it cut off? Replace or remove it."


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large to decode safely ({size}; at most {MAX_PIXELS:,} pixels). Cut or shrink it."


def _grey16_to_rgb(image: Image.Image, name: str, grey16_max: int | None) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # (H, W)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_GREY16:
        raise ValueError(
            f"{name} has 32-bit values from {low} to {high}, which have no agreed range. Save it as 8-bit."
        )
    if grey16_max is None and 0 < high < TWELVE_BIT:
        raise ValueError(
            f"{name} is a 16-bit image whose largest value is {high}: probably 12-bit data, which would come "
            f"out nearly black. Say what its white is: data.options.grey16_max=4095 in training, "
            f"--grey16-max 4095 in predictions (or {MAX_GREY16} to keep it as it is)."
        )
    white = MAX_GREY16 if grey16_max is None else grey16_max
    if not 1 <= white <= MAX_GREY16 or high > white:
        raise ValueError(
            f"{name} has values up to {high}; the white that was given, {white}, must lie between them and "
            f"{MAX_GREY16} (data.options.grey16_max in training, --grey16-max in predictions)."
        )
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)  # rounded to the nearest
    return Image.fromarray(grey).convert("RGB")

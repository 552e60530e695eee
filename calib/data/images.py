"""Reading one image safely: always RGB, always upright, or a clear error that names the file.

What is decided here, once for every data source:

* Only JPEG, PNG, TIFF, BMP, WebP and, with pydicom, DICOM (`calib.data.dicom`) are decoded. More than
  178,956,970 pixels are refused before decoding, and PNG files whose checksums are wrong.
* Several frames (a multi-page TIFF, an animation) are refused: which one is the image is not ours to guess.
  Smaller copies and masks of the first page, marked as such, are passed over.
* Colour profiles, texts and other metadata decide about nothing but the orientation, and block nothing.
* EXIF orientation is applied, so that the model sees what a viewer shows.
  Differs: the official CalibPrompt code ignores it.
* Transparency is laid over black, the colour of padding and of the field outside a radiograph.
  Differs: the official code drops the alpha channel, which uncovers whatever colour lies under it.
  An image of which nothing is visible is refused.
* 16-bit grey and colour are scaled from their full range, 0..65535 to 0..255. A 16-bit image that stays below
  16384 is probably of 14, 12 or 8 bits and would come out dark, so it is refused until `grey16_max` says
  what its white is; so are signed values. What has no agreed range or meaning (floating-point, LAB, two
  channels, ...) is refused with the reason.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from pathlib import Path

from PIL import Image, ImageOps

from calib.core.hashing import CHUNK
from calib.core.quiet import quiet
from calib.data.dicom import AS_FILED, DICOM_SUFFIXES, DicomView, is_dicom, is_dicom_file, open_dicom
from calib.data.pixels import deep_to_rgb, is_deep, to_rgb
from calib.data.png import SIGNATURE, transparent_grey, without_metadata
from calib.data.tiff import frames_beside_copies, is_signed, why_misread
from calib.data.unreadable import FORMATS, UNKNOWN, why_undecodable, why_unreadable

IMAGE_SUFFIXES = (".bmp", *DICOM_SUFFIXES, ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 178_956_970  # 512 MiB of RGB; Pillow's own hard limit
MAX_BYTES = 2**31 - 1  # of a file: the largest image in 16-bit RGBA, uncompressed, has 1.4 billion
FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
ABSENT = ("a broken link", "missing")
READING = 2  # raised when the same bytes become other pixels: cached features of the old ones are not used


def has_image_suffix(path: Path) -> bool:
    """Return whether a file name ends like an image that can be read here, in capitals or not.

    Example:
        >>> has_image_suffix(Path("scan.PNG")), has_image_suffix(Path("notes.txt"))
        (True, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES


def looks_like_image(path: Path) -> bool:
    """Return whether a file is an image by its name or, as DICOM files often have none, by how it begins."""
    return has_image_suffix(path) or is_dicom_file(path)


def check_image_suffix(path: Path) -> None:
    """Refuse a file whose name does not end like an image, unless it is a DICOM file.

    Raises:
        ValueError: It does not end so.
    """
    if not looks_like_image(path):
        raise ValueError(f"{path} does not end like an image. Allowed: {', '.join(IMAGE_SUFFIXES)}.")


def why_no_file(path: Path) -> str | None:
    """Return what a path is that names no ordinary file, as the end of "it is ...". None: it is one.

    Example:
        >>> why_no_file(Path("/dev/null")), why_no_file(Path("no such file"))
        ('a device, not an image file', 'missing')
    """
    kind = odd_kind(path)
    return kind if kind in (None, *ABSENT) else f"{kind}, not an image file"


def odd_kind(path: Path) -> str | None:
    """Return what a path is that names no ordinary file, e.g. "a named pipe". None: it is one.

    Example:
        >>> odd_kind(Path("/dev/null")), odd_kind(Path("no such file"))
        ('a device', 'missing')
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return ABSENT[0] if path.is_symlink() else ABSENT[1]
    kind = next((kind for is_kind, kind in FILE_KINDS if is_kind(mode)), "no ordinary file")
    return None if stat.S_ISREG(mode) else kind


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


def open_image(
    path: str | Path,
    *,
    grey16_max: int | None = None,
    view: DicomView = AS_FILED,
    id: str | None = None,
) -> Image.Image:
    """Return the image in a file as RGB.

    Args:
        path: A file with one of `IMAGE_SUFFIXES`, or a DICOM file.
        grey16_max: The white of 16-bit images, grey or colour, e.g. 4095 for 12-bit data. None: 65535, and an
            image that stays below 16384 is refused.
        view: Which frame of a DICOM file, and through which window.
        id: The `file_id` that the content must have. None: it may be any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, is damaged, too large, has several frames or an unsupported
            pixel type, or its content is another one than `id` says.
    """
    path = Path(path)
    check_image_suffix(path)
    return decode_image(read_image_file(path), str(path), grey16_max=grey16_max, view=view, id=id)


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is larger than any image that is decoded here.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(_too_large(str(path), f"more than {MAX_BYTES:,} bytes"))
        return file.read()


def decode_image(
    content: bytes,
    name: str,
    *,
    grey16_max: int | None = None,
    view: DicomView = AS_FILED,
    id: str | None = None,
) -> Image.Image:
    """Return an encoded image as RGB; see `open_image`.

    Args:
        content: The encoded image.
        name: What error messages call it.
        grey16_max: See `open_image`.
        view: See `open_image`.
        id: See `open_image`. What is hashed are the very bytes that are decoded.

    Raises:
        ValueError: As in `open_image`.
    """
    if id is not None and hashlib.sha256(content).hexdigest() != id:
        raise ValueError(
            f"{name} has changed since this job first read it; nothing was kept of it. Start again when the "
            "images are no longer being written to."
        )
    if is_dicom(content):
        opened = open_dicom(content, name, view)
        _check_size(name, *opened.size)
        return opened.to_rgb()
    content, image = _opened(content, name)
    signed = image.format == "TIFF" and is_signed(image)
    if is_deep(image):
        try:
            return deep_to_rgb(lambda: _identify(content, name), name, grey16_max=grey16_max)
        except OSError as error:
            raise ValueError(f"{name} {why_undecodable(content, error)}") from error
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        raise ValueError(f"{name} {why_undecodable(content, error)}") from error
    return to_rgb(image, name, grey16_max=grey16_max, signed=signed)


def check_image(content: bytes, name: str, *, view: DicomView = AS_FILED) -> str:
    """Return the content id of an encoded image that may be one by its header (and a PNG's checksums).

    Args:
        content: The encoded image.
        name: What error messages call it.
        view: See `open_image`.

    Raises:
        ValueError: As in `open_image`.
    """
    if is_dicom(content):
        _check_size(name, *open_dicom(content, name, view).size)
    else:
        _opened(content, name)
    return hashlib.sha256(content).hexdigest()


def _opened(content: bytes, name: str) -> tuple[bytes, Image.Image]:
    """Return what decides about the pixels of an encoded image, and the image, opened and checked."""
    if content.startswith(SIGNATURE):  # PNG alone has checksums, which decoding does not compare
        if content[12:16] == b"IHDR":
            _check_size(name, *(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)))
        try:
            content = without_metadata(content)
        except ValueError as error:
            raise ValueError(f"{name} {why_undecodable(content, error)}") from error
    image = _identify(content, name)
    _check_size(name, *image.size)
    if min(image.size) < 1:
        raise ValueError(f"{name} has no pixels: its size is {image.size[0]} x {image.size[1]}.")
    try:
        if image.format == "TIFF":
            frames, wrong = frames_beside_copies(image), why_misread(image)
        else:
            # The further pictures of an MPO file, which cameras write as .jpg, are previews of its first.
            frames, wrong = 1 if image.format == "MPO" else getattr(image, "n_frames", 1), None
    except Exception as error:  # of many types, as the file may be anything
        raise ValueError(f"{name} {why_undecodable(content, error)}") from error
    if frames > 1:
        raise ValueError(
            f"{name} holds {frames} frames; one image per file is expected. Save the frame you mean."
        )
    if wrong is not None:
        raise ValueError(f"{name} {wrong}.")
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = transparent_grey(content, key)
    return content, image


def _identify(content: bytes, name: str) -> Image.Image:
    try:
        with quiet(Image.DecompressionBombWarning):  # our own limit follows
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+ pixels", str(error))
        raise ValueError(_too_large(name, size.group() if size else "see its header")) from error
    except Exception as error:  # of many types, as the file may be anything
        why = why_unreadable(content)
        if why == UNKNOWN and name.lower().endswith(DICOM_SUFFIXES):
            why = "no DICOM file with a preamble; if it is one without, write it anew: dcmconv IN OUT"
        raise ValueError(
            f"{name} is not an image that can be read ({', '.join((*FORMATS, 'DICOM'))}): it is {why}."
        ) from error


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(name, f"{width} x {height} pixels"))


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large to decode safely ({size}; at most {MAX_PIXELS:,} pixels). Cut or shrink it."

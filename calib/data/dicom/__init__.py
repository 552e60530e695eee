"""DICOM files: one frame through one window as 8-bit RGB; of the header nothing leaves this file.

What is decided here, once for every data source:

* Grey values go through the modality transform (rescale or table), then through the first VOI table, else the
  first window of the file, or the window that the settings give; MONOCHROME1 is inverted.
* Without a window the whole range of stored bits is shown. An image of more than 8 bits that fills less than
  a quarter of it would come out without contrast: it is refused until a window is given.
* What the file calls padding is black. Overlays, presentation states, colour profiles and the shape of
  pixels decide about nothing, and images are turned as they are stored.
* Several frames are refused until the settings say which one.
* Messages say of the header only how pixels are stored. Patient ids become groups: `calib.data.dicom.groups`.

Source: DICOM PS3.3 C.7.6.3 (pixels), C.7.6.16 (functional groups), C.11.1 and C.11.2 (modality, VOI).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calib.core.optional import OPTIONAL
from calib.core.quiet import quiet
from calib.data.dicom.pixels import colour, grey, use_functional_groups

MAGIC, MAGIC_AT = b"DICM", 128
DICOM_SUFFIXES = (".dcm", ".dicom")
INDEX = "DICOMDIR"  # lists the images of a CD, and holds none
DEFLATED = b"1.2.840.10008.1.2.1.99"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
GREYS = ("MONOCHROME1", "MONOCHROME2")
MIDDLE = "middle"
# Transfer syntaxes that need more than pydicom and Pillow, by the beginning of their UIDs.
PLUGINS = {
    "1.2.840.10008.1.2.4.51": "dicom-lossless-jpeg",
    "1.2.840.10008.1.2.4.57": "dicom-lossless-jpeg",
    "1.2.840.10008.1.2.4.70": "dicom-lossless-jpeg",
    "1.2.840.10008.1.2.4.80": "dicom-jpeg-ls",
    "1.2.840.10008.1.2.4.81": "dicom-jpeg-ls",
    "1.2.840.10008.1.2.4.90": "dicom-jpeg-2000",
    "1.2.840.10008.1.2.4.91": "dicom-jpeg-2000",
    "1.2.840.10008.1.2.4.201": "dicom-jpeg-2000",
    "1.2.840.10008.1.2.4.202": "dicom-jpeg-2000",
    "1.2.840.10008.1.2.4.203": "dicom-jpeg-2000",
}
# Those of decoders log whole tracebacks, and more than one of them for a file, before they raise.
LOGGERS = ("pydicom", "PIL", "pylibjpeg", "openjpeg", "libjpeg", "jpeg_ls", "rle")


class _RefusedError(ValueError):
    """What is said of a file here; anything else that is raised on it is damage."""


@dataclass(frozen=True)
class DicomView:
    """What is shown of DICOM files.

    Attributes:
        window: Centre and width of the grey values between black and white, in the units of the modality
            transform (Hounsfield units for CT). None: what each file says.
        frame: Which frame of several, from 1, or "middle". None: several frames are refused.

    Raises:
        ValueError: A window without width, or a frame below 1.

    Example:
        >>> DicomView((40, 400)).record()
        {'window': [40.0, 400.0], 'frame': None}
    """

    window: tuple[float, float] | None = None
    frame: int | str | None = None

    def __post_init__(self) -> None:
        window, frame = self.window, self.frame
        if window is not None:
            numbers = [each for each in window if type(each) in (int, float) and np.isfinite(each)]
            if len(numbers) != 2 or len(window) != 2 or window[1] <= 0:
                raise ValueError(
                    "data.options.window must be the centre and the width (above 0) of what lies between "
                    f"black and white, e.g. data.options.window=[40,400], not {_shown(window)}."
                )
            object.__setattr__(self, "window", (float(window[0]), float(window[1])))
        if frame is not None and frame != MIDDLE and (type(frame) is not int or frame < 1):
            raise ValueError(
                f"data.options.frame must be the number of a frame, from 1, or {MIDDLE}, not {frame!r}."
            )

    def record(self) -> dict[str, Any] | None:
        """Return it for JSON; None where the files decide."""
        if self == DicomView():
            return None
        return {"window": None if self.window is None else list(self.window), "frame": self.frame}


AS_FILED = DicomView()


def view_of(window: Sequence[float] | None, frame: int | str | None) -> DicomView:
    """Return the view that two settings ask for.

    Raises:
        ValueError: As `DicomView`.
    """
    number = int(frame) if isinstance(frame, str) and frame.isascii() and frame.isdigit() else frame
    return DicomView(None if window is None else tuple(window), number)  # type: ignore[arg-type]


def is_dicom(content: bytes) -> bool:
    """Return whether a file's content begins as DICOM files do.

    Example:
        >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"DICM")
        (True, False)
    """
    return content.startswith(MAGIC, MAGIC_AT)


def is_dicom_file(path: Path) -> bool:
    """Return whether a path leads to a file that begins as DICOM files do, whatever its name."""
    try:
        if path.name == INDEX or not path.is_file():
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(MAGIC_AT + len(MAGIC)))
    except (OSError, ValueError):  # a name too long for any file, or one that may not be read
        return False


@dataclass(frozen=True)
class DicomImage:
    """An image of a DICOM file, its header checked.

    Attributes:
        name: What messages call it.
        size: Width and height.
        frame: Index of the frame that is shown, from 0.
        frames: How many there are.
        bits: Bits of a stored value.
        kind: How its pixels are stored, e.g. "MONOCHROME2".
        burned_in: Whether it says that its pixels show text about the patient.
    """

    name: str
    size: tuple[int, int]
    frame: int
    frames: int
    bits: int
    kind: str
    burned_in: bool
    _data: Any
    _view: DicomView

    def to_rgb(self) -> Image.Image:
        """Return the image as 8-bit RGB.

        Raises:
            ValueError: Its pixels are damaged, need a decoder that is not there, or have no contrast without
                a window.
        """
        with guarded(self.name):
            pixels = _decoded(self._data, self.frame, self.name)
            if self.kind in COLOURS:
                return Image.fromarray(colour(pixels, self._data))
            use_functional_groups(self._data, self.frame)
            shown = grey(pixels, self._data, window=self._view.window)
            if isinstance(shown, tuple):
                raise _RefusedError(_no_window(self.name, *shown))
            return Image.fromarray(shown).convert("RGB")


def open_dicom(content: bytes, name: str, view: DicomView = AS_FILED) -> DicomImage:
    """Return the image of a DICOM file, its header checked and its pixels not yet decoded.

    Args:
        content: The file.
        name: What messages call it.
        view: Which frame and window.

    Raises:
        ValueError: pydicom is missing; the file is damaged, holds no image or several frames of which none
            was chosen; or what it is compressed with or how its pixels are stored is not read here.
    """
    if not OPTIONAL["dicom"].is_here():
        raise ValueError(f"{name} is a DICOM file. {OPTIONAL['dicom'].missing()}")
    if DEFLATED in content[: 1 << 12]:  # its size could not be known before it is unpacked
        raise ValueError(f"{name} is a deflated DICOM file, which is not read. Unpack it: dcmconv +te IN OUT")
    import pydicom

    with guarded(name):
        data = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in data:
            floating = "FloatPixelData" in data or "DoubleFloatPixelData" in data
            what = "has floating-point pixels, which have no agreed range" if floating else "holds no image"
            raise _RefusedError(f"{name} {what} (DICOM). Take it out of the data.")
        kind = str(data.get("PhotometricInterpretation", ""))
        size = (int(data.Columns), int(data.Rows))
        frames = int(data.get("NumberOfFrames") or 1)
        if kind not in (*GREYS, *COLOURS):
            raise _RefusedError(
                f"{name} has pixels of the kind {kind or 'unknown'} (DICOM); read are: "
                f"{', '.join((*GREYS, *COLOURS))}. Save it as one of these, or as PNG."
            )
        if min(size) < 1 or frames < 1:
            raise _RefusedError(f"{name} has no pixels: its size is {size[0]} x {size[1]} (DICOM).")
        return DicomImage(
            name=name,
            size=size,
            frame=_frame(name, frames, view.frame),
            frames=frames,
            bits=_bits(data, name),
            kind=kind,
            burned_in=str(data.get("BurnedInAnnotation", "")).upper() == "YES",
            _data=data,
            _view=view,
        )


def _frame(name: str, frames: int, asked: int | str | None) -> int:
    if frames == 1:
        return 0
    if asked is None:
        raise _RefusedError(
            f"{name} holds {frames} frames; one image per file is expected. Say which one: "
            f"data.options.frame=1 (to {frames}, or {MIDDLE}) in training, --frame in predictions."
        )
    if asked == MIDDLE:
        return (frames - 1) // 2
    if int(asked) > frames:
        raise _RefusedError(
            f"{name} holds {frames} frames, and no frame {asked} (data.options.frame in training, "
            "--frame in predictions)."
        )
    return int(asked) - 1


def _bits(data: Any, name: str) -> int:
    """Return how many bits a value has, once it is known that the pixels can be decoded."""
    from pydicom.pixels import get_decoder

    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise _RefusedError(f"{name} does not say how its pixels are stored (DICOM, no transfer syntax).")
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        usable = False
    if not usable:
        part = PLUGINS.get(str(syntax))
        if part and not OPTIONAL[part].is_here():
            how = OPTIONAL[part].missing()
        else:
            how = "That is not read. Save it uncompressed, or as PNG."
        raise _RefusedError(f"{name} is compressed as {syntax.name}. {how}")
    bits, allocated = int(data.BitsStored), int(data.BitsAllocated)
    if not 1 <= bits <= allocated <= 32:
        raise _RefusedError(f"{name} has {allocated}-bit pixels with {bits} bits in use (DICOM).")
    if not syntax.is_encapsulated:
        _check_length(data, name)
    return bits


def _check_length(data: Any, name: str) -> None:
    """Refuse pixels that were cut off before they are asked for."""
    from pydicom.pixels.utils import get_expected_length

    needed, there = get_expected_length(data), len(data.PixelData)
    if there < needed:
        raise _RefusedError(
            f"{name} is a damaged image ({there:,} of {needed:,} bytes of its pixels are there). Was it cut "
            "off? Replace or remove it."
        )


def _decoded(data: Any, frame: int, name: str) -> np.ndarray:
    from pydicom.pixels import pixel_array

    syntax = data.file_meta.TransferSyntaxUID
    try:
        return pixel_array(data, index=frame)
    except MemoryError:
        raise
    except Exception as error:  # of many types, as the file may be anything
        part = PLUGINS.get(str(syntax))
        if part and not OPTIONAL[part].is_here():
            why = f"it is damaged, or compressed as needs more: {OPTIONAL[part].install}"
        else:
            why = "it is damaged, or of a kind that the decoders installed here do not read"
        raise _RefusedError(
            f"{name} is a DICOM file whose pixels ({syntax.name}) cannot be decoded: {why}."
        ) from error


def _no_window(name: str, low: float, high: float) -> str:
    centre, width = (low + high) / 2, max(high - low, 1)
    return (
        f"{name} says no window, and its values, {low:g} to {high:g}, are a small part of what it could "
        "hold, so that it would have no contrast. Say what lies between black and white, as centre and "
        f"width: data.options.window=[{centre:g},{width:g}] in training, --window {centre:g},{width:g} in "
        "predictions (which is from the smallest to the largest value of this one). It then replaces the "
        "windows of all files of the call: predict those that say none by themselves."
    )


def _shown(window: Sequence[Any]) -> str:
    return f"[{','.join(str(each) for each in window)}]"


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """Say of a file that it is damaged where pydicom fails, whose own words may quote the header.

    Args:
        name: What messages call the file.
    """
    try:
        with quiet(), _silent():
            yield
    except (_RefusedError, MemoryError):
        raise
    except Exception:  # of many types, as the file may be anything
        raise ValueError(
            f"{name} is a damaged DICOM file: its header cannot be used. Was it cut off? Replace "
            "or remove it."
        ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let no decoder log anything; a level holds for all loggers below a name, `disabled` for one alone."""
    levels = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _ in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)

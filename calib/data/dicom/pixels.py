"""Pixels of DICOM files as 8-bit values: modality transform, VOI table or window, palettes, padding."""

from __future__ import annotations

from typing import Any

import numpy as np

FULLEST = 1e30  # beyond every grey value
QUARTER = 0.25  # of the range that could be stored: an image that fills less has no contrast without a window
OF_FRAMES = (
    ("PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept")),
    ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")),
)


def use_functional_groups(data: Any, frame: int) -> None:
    """Let what an enhanced file says of one frame stand where other files say it of all.

    Args:
        data: The file; it is changed.
        frame: Index of the frame.
    """
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])[:1]
    own = list(data.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in (*shared, *own):
        for sequence, keywords in OF_FRAMES:
            for item in list(group.get(sequence) or [])[:1]:
                for keyword in keywords:
                    if keyword in item:
                        setattr(data, keyword, item[keyword].value)


def grey(
    stored: np.ndarray, data: Any, *, window: tuple[float, float] | None = None
) -> np.ndarray | tuple[float, float]:
    """Return grey values as they are shown, 0 black to 255 white.

    value = modality(stored); shown = 255 voi(value), or 255 (1 - voi(value)) for MONOCHROME1.

    Args:
        stored: (H, W) integers.
        data: The header.
        window: Centre c and width w, voi(v) = (v - c) / w + 1/2 within [0, 1]. None: what the file says.

    Returns:
        (H, W) uint8; or, where the file says no window and cannot be shown without one, the smallest and the
        largest value (in the units of the modality transform).
    """
    from pydicom.pixels import apply_modality_lut

    padding = _padding(stored, data)
    values = apply_modality_lut(stored, data).astype(np.float64)
    if window is not None:
        data.WindowCenter, data.WindowWidth, data.VOILUTFunction = *window, "LINEAR_EXACT"
        data.pop("VOILUTSequence", None)
    if data.get("VOILUTSequence"):
        share = _through_table(values, data)
    elif data.get("WindowWidth") is not None and data.get("WindowCenter") is not None:
        share = _through_window(values, data)
    else:
        low, high = _ends(data)
        seen = values if padding is None or padding.all() else values[~padding]
        smallest, largest = float(seen.min()), float(seen.max())
        if int(data.BitsStored) > 8 and largest - smallest < QUARTER * (high - low):
            return smallest, largest
        share = (values - low) / (high - low)
    if data.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    shown = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    if padding is not None:
        shown[padding] = 0
    return shown


def colour(pixels: np.ndarray, data: Any) -> np.ndarray:
    """Return colours (H, W, 3) as 8-bit RGB.

    Args:
        pixels: (H, W, 3) RGB, whatever the file's colour space was, or (H, W) indices of a palette.
        data: The header.
    """
    from pydicom.pixels import apply_color_lut

    bits = int(data.BitsStored)
    if pixels.ndim == 2:
        pixels = apply_color_lut(pixels, data)[..., :3]
        bits = 8 if pixels.dtype == np.uint8 or int(pixels.max()) < 256 else 16
    if bits <= 8:
        return np.ascontiguousarray(pixels.astype(np.uint8))
    white = 2**bits - 1
    return np.rint(pixels.astype(np.float64).clip(0, white) * (255 / white)).astype(np.uint8)


def _padding(stored: np.ndarray, data: Any) -> np.ndarray | None:
    """Return where an image is padding (H, W); None: it says of none."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return None
    last = data.get("PixelPaddingRangeLimit", first)
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _through_table(values: np.ndarray, data: Any) -> np.ndarray:
    """Return values through the first VOI table, as shares of its white."""
    from pydicom.pixels import apply_voi

    item = data.VOILUTSequence[0]
    entries, first, bits = (int(each) for each in item.LUTDescriptor)
    last = first + (entries or 2**16) - 1
    # pydicom keeps places in the table in the type of its entries, where larger ones would begin at 0 again.
    item.LUTDescriptor = [entries, first, 16]
    return apply_voi(np.rint(values.clip(first, last)).astype(np.int64), data) / (2**bits - 1)


def _through_window(values: np.ndarray, data: Any) -> np.ndarray:
    """Return values through the first window, as shares of the range that pydicom puts them in."""
    from pydicom.pixels import apply_windowing

    with np.errstate(over="ignore"):  # exp of a sigmoid
        black, white = apply_windowing(np.array([-FULLEST, FULLEST]), data)
        return (apply_windowing(values, data) - black) / (white - black)


def _ends(data: Any) -> tuple[float, float]:
    """Return the smallest and the largest value that could be stored, after the modality transform."""
    from pydicom.pixels import apply_modality_lut

    bits = int(data.BitsStored)
    if data.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    signed = int(data.PixelRepresentation) == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = sorted(float(end) for end in apply_modality_lut(ends, data))
    return low, high

"""`calib segment predict`: masks and probabilities of images, with an exported network."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from calib.commands.segment.palette import SIZE, coloured
from calib.core.text import few, printable, safe_text
from calib.data.images import open_image
from calib.data.notices import ProgressLog
from calib.io.files import atomic_path, blocking_file, write_text
from calib.processes.devices import quickest_device
from calib.report.tables import csv_text
from calib.runs.exports import segment_path
from calib.segmentation.export import Segmenter
from calib.segmentation.tables import images_in

log = logging.getLogger(__name__)
LIST = "predictions.csv"
LARGEST = 65536  # values that a PNG can hold


def write_predictions(
    segmenter: Segmenter, images: Sequence[Path], out: Path, *, grey16_max: int | None = None
) -> int:
    """Write masks, probabilities and a list of images; return how many there are.

    Args:
        segmenter: The network.
        images: Image files of different names.
        out: A new or empty folder.
        grey16_max: The white of 16-bit images.

    Raises:
        ValueError: Two files would have one name, a value does not fit into a PNG, the folder holds
            something, or an image cannot be read.
    """
    _check_names(images, segmenter.class_names)
    names, values = segmenter.class_names, [each[0] for each in segmenter.classes.values]
    if not segmenter.classes.colours and max(values) >= LARGEST:
        raise ValueError(
            f"The value {max(values)} of a class does not fit into a PNG (at most {LARGEST - 1}): train with "
            "smaller values."
        )
    blocking = blocking_file(out)
    if blocking is not None:
        raise ValueError(f"--out {out}: '{blocking}' is a file.")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} holds files, which are not replaced. Give a new or an empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    rows = [["file", *(f"share({name})" for name in names), "confidence"]]
    progress = ProgressLog(log, "segmenting images", len(images))
    for done, path in enumerate(images, start=1):
        image = open_image(path, grey16_max=grey16_max)
        probs = segmenter.probs(image)
        mask = segmenter.mask(probs)
        _write_mask(out / _file_of(path.stem), mask, values, colours=segmenter.classes.colours)
        levels = (probs * 255).round().numpy().astype(np.uint8)
        for number, name in enumerate(names[1:], start=1):
            _write(out / _file_of(path.stem, name), Image.fromarray(levels[number]))
        chosen = probs.argmax(0)
        shares = [float((chosen == number).float().mean()) for number in range(len(names))]
        confidence = float(probs.max(0).values.mean())
        rows.append([safe_text(path.name), *(f"{share:.6f}" for share in shares), f"{confidence:.6f}"])
        progress.update(done)
    write_text(out / LIST, csv_text(rows))
    return len(images)


def main(given: argparse.Namespace) -> int:
    """Run `calib segment predict` with what `predict_arguments` returned. Returns the exit status."""
    path = segment_path(given.run)
    images = images_in(given.images)
    out = Path(given.out)
    segmenter = Segmenter.load(path)
    segmenter.network.to(quickest_device())
    n = write_predictions(segmenter, images, out, grey16_max=given.grey16_max)
    what = f"{n} mask{'s' * (n != 1)}, with the probabilities of each class"
    sys.stdout.write(printable(f"Written to {out}: {what}; shares and confidence: {out / LIST}\n"))
    return 0


def _write_mask(path: Path, mask: np.ndarray, values: Sequence[int], *, colours: bool) -> None:
    """Write a mask in the values of its classes, which a palette shows in colours where they fit into one."""
    if not colours and max(values) < SIZE:
        _write(path, coloured(mask, values))
    elif colours:
        bands = np.stack([mask >> 16, mask >> 8 & 255, mask & 255], axis=-1).astype(np.uint8)
        _write(path, Image.fromarray(bands))
    else:
        _write(path, Image.fromarray(mask.astype(np.uint16)))


def _write(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG")


def _check_names(images: Sequence[Path], class_names: Sequence[str]) -> None:
    """Refuse images and classes of which one's file would take the place of another's, on any file system."""
    stems = Counter(path.stem for path in images)
    if twice := [stem for stem, count in stems.items() if count > 1]:
        raise ValueError(f"{few(twice)}: more than one image has this name, and masks are called as images.")
    files = Counter(_file_of(stem, name).casefold() for stem in stems for name in (None, *class_names[1:]))
    if twice := [file for file, count in files.items() if count > 1]:
        raise ValueError(
            f"{few(twice)}: two files would be called so. NAME.png is the mask of an image NAME, and "
            "NAME.CLASS.png the probability of a class: give such images one by one, each another --out."
        )


def _file_of(stem: str, class_name: str | None = None) -> str:
    """Return what the mask of an image is called, or the probability of a class.

    Example:
        >>> _file_of("7"), _file_of("7", "tumour bed")
        ('7.png', '7.tumour_bed.png')
    """
    if class_name is None:
        return f"{stem}.png"
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in class_name)
    return f"{stem}.{plain}.png"

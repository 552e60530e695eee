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
        ValueError: Two images have one name, the folder holds something, or an image cannot be read.
    """
    counts = Counter(path.stem for path in images)
    twice = [stem for stem, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{few(twice)}: more than one image has this name, and masks are called as images.")
    blocking = blocking_file(out)
    if blocking is not None:
        raise ValueError(f"--out {out}: '{blocking}' is a file.")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} holds files, which are not replaced. Give a new or an empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    names, values = segmenter.class_names, [each[0] for each in segmenter.classes.values]
    rows = [["file", *(f"share({name})" for name in names), "confidence"]]
    progress = ProgressLog(log, "segmenting images", len(images))
    for done, path in enumerate(images, start=1):
        image = open_image(path, grey16_max=grey16_max)
        probs = segmenter.probs(image)
        mask = segmenter.mask(probs)
        _write_mask(out / f"{path.stem}.png", mask, values, colours=segmenter.classes.colours)
        levels = (probs * 255).round().numpy().astype(np.uint8)
        for number, name in enumerate(names[1:], start=1):
            _write(out / f"{path.stem}.{_in_name(name)}.png", Image.fromarray(levels[number]))
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
    sys.stdout.write(printable(f"{n} mask{'s' * (n != 1)} with probabilities in {out}, listed in {LIST}\n"))
    return 0


def _write_mask(path: Path, mask: np.ndarray, values: Sequence[int], *, colours: bool) -> None:
    """Write a mask in the values of its classes, which a palette shows in colours where they fit into one."""
    if not colours and mask.max() < SIZE:
        _write(path, coloured(mask, values))
    elif colours:
        bands = np.stack([mask >> 16, mask >> 8 & 255, mask & 255], axis=-1).astype(np.uint8)
        _write(path, Image.fromarray(bands))
    else:
        _write(path, Image.fromarray(mask.astype(np.uint16)))


def _write(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG")


def _in_name(name: str) -> str:
    """Return a class's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)

"""`calib predict`: classify images with an exported prompt and write a CSV."""

from __future__ import annotations

import argparse
import csv
import glob
import hashlib
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.commands.predict_arguments import check_numbers
from calib.commands.predict_decisions import Copies, DecisionColumns
from calib.core.errors import first_line, meant_path
from calib.core.text import printable, safe_path, safe_text
from calib.data.dicom import DicomView, view_of
from calib.data.dicom.groups import patients_of_headers
from calib.data.images import (
    IMAGE_SUFFIXES,
    check_image_suffix,
    decode_image,
    looks_like_image,
    read_image_file,
    why_no_file,
)
from calib.data.notices import ProgressLog
from calib.data.patients import COLUMN as PATIENT
from calib.data.patients import check_patients, patients_of
from calib.failure.export import FailureHead
from calib.io.files import blocking_file, write_text
from calib.prompts.export import Prompt
from calib.runs.exports import failure_path, prompt_path

UNLIKE = "Unlike the images of training, of which alone the doubt knows. "
log = logging.getLogger(__name__)


def predict(
    prompt: str | Path,
    images: Sequence[str],
    *,
    failure: str | Path | None = None,
    out: str | Path | None = None,
    weights: str | None = None,
    tokenizer: str | None = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    grey16_max: int | None = None,
    window: tuple[float, float] | None = None,
    frame: int | str | None = None,
    skip_unreadable: bool = False,
    patients: str | None = None,
    group: str | None = None,
) -> str:
    """Return the predictions for images as CSV text, one row per image, and write them to a file.

    The columns are file, patient where it is known (told apart by the ids in DICOM headers, called
    by a digest of their images, see `calib.data.dicom.groups.patients_of_headers`), prediction,
    confidence and one probability per class; with a failure head also uncertainty (its score in [0, 1] that
    the prediction is wrong: a probability as far as the head is calibrated) and why, in words. Where the
    exports hold them: set (the classes of the prediction set), decision (accept or review) and reason, unlike
    (yes: unlike the images the prompt was trained on; it is never accepted). Then note (whose copy a file
    is), and with `skip_unreadable` error. What is guaranteed is logged once. A file or class whose name a
    spreadsheet would run as a formula is written as ./name or 'name.

    Args:
        prompt: A prompt.safetensors file, or the run folder that holds one.
        images: Image files, folders (searched in depth) and glob patterns.
        failure: A failure.safetensors file trained for this prompt, or the run folder that holds one. None:
            no uncertainty.
        out: The CSV file. None: nothing is written.
        weights: The backbone's weights where they have moved since training. None: where the export says.
        tokenizer: Likewise for the tokenizer.
        batch_size: Images encoded at once.
        device: Where the image tower runs.
        grey16_max: The white of 16-bit grey images. None: what it was in training.
        window: Centre and width of what lies between black and white in DICOM files. None: as in training.
        frame: Which frame of DICOM files that have several. None: as in training.
        skip_unreadable: Give an image that cannot be read an empty row with the error, and go on.
        patients: Whose an image is, see `calib.data.patients.patients_of`. None: as DICOM headers say.
        group: The column of patients where `patients` is a table.

    Raises:
        FileNotFoundError: The prompt, the failure head or an image is not there.
        ValueError: The prompt or the head is damaged, the head was trained for another prompt or backbone,
            the backbone is another one, a file is not an image, `out` cannot be written, or an argument is
            not possible; nothing is written.
    """
    check_numbers(batch_size, grey16_max)
    check_patients(patients, group)
    where = usable_device(device)
    exports = [prompt_path(prompt)] if failure is None else [prompt_path(prompt), failure_path(failure)]
    files = find_images(images)
    if not skip_unreadable:
        for file in files:
            check_image_suffix(file)
    if out is not None:
        _check_out(Path(out), [*exports, *files])
    whose = None if patients is None else patients_of(files, patients, column=group)
    learned = Prompt.load(exports[0])
    head = None if failure is None else FailureHead.load(exports[1])
    if head is not None:
        head.check_prompt(learned)
    backbone = learned.restore_backbone(weights=weights, tokenizer=tokenizer).to(where)
    if head is not None:
        head.check_backbone(backbone)
    white = _white_of(learned, exports[0]) if grey16_max is None else grey16_max
    view = _view_of(learned, exports[0], window, frame)
    names = [safe_text(name) for name in learned.class_names]
    columns, copies = DecisionColumns(learned, head), Copies()
    more = [] if head is None else ["uncertainty", "why"]
    last = ["error"] if skip_unreadable else []
    header = ["file", "prediction", "confidence", *(safe_text(f"p({name})") for name in learned.class_names)]
    empty = [""] * (len(header) - 1 + len(more))
    found: list[tuple[Path, list[str] | None, str, str]] = []  # file, cells, note, error
    ids: list[str] = []
    progress = ProgressLog(log, "classifying images", len(files))
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        inputs = [_read(file, backbone, white, view, skip_unreadable) for file in batch]
        pixels = [each.pixels for each in inputs if each.pixels is not None]
        rows = iter(
            _rows(torch.stack(pixels).to(where), backbone, learned, head, names, columns) if pixels else []
        )
        for file, each in zip(batch, inputs, strict=True):
            cells = None if each.pixels is None else next(rows)
            note = copies.note(each.id, safe_path(file)) if each.id else ""
            found.append((file, cells, note, each.error))
            ids.append("" if each.pixels is None else each.id)
        progress.update(start + len(batch))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if patients is None and _option_of(learned, "patients") is not False:
        whose = patients_of_headers(files, ids)
    first = [header[0], *([PATIENT] if whose else [])]
    writer.writerow([*first, *header[1:], *more, *columns.header, "note", *last])
    decided = iter(columns.rows())
    for number, (file, cells, note, error) in enumerate(found):
        row = [*empty, *columns.unreadable()] if cells is None else [*cells, *next(decided)]
        named = [safe_path(file), *([safe_text(whose[number])] if whose else [])]
        writer.writerow([*named, *row, note, *([safe_text(error)] if last else [])])
    for said in columns.notes:
        log.info("%s", said)
    unreadable = sum(cells is None for _, cells, _, _ in found)
    if unreadable:
        log.warning("%d of %d images could not be read; their rows say why.", unreadable, len(files))
    if out is not None:
        write_text(out, text.getvalue())
    return text.getvalue()


@dataclass(frozen=True)
class _Input:
    """What was read of an image.

    Attributes:
        pixels: (3, H, W). None: it could not be read.
        id: Its content id; empty where there is no file to read.
        error: What is wrong with it.
    """

    pixels: Tensor | None
    id: str = ""
    error: str = ""


def _read(file: Path, backbone: Backbone, white: int | None, view: DicomView, skip: bool) -> _Input:
    """Return the input of an image, or what is wrong with it."""
    id = ""
    try:
        check_image_suffix(file)
        content = read_image_file(file)
        id = hashlib.sha256(content).hexdigest()
        image = decode_image(content, str(file), grey16_max=white, view=view)
        return _Input(backbone.preprocess(image), id)
    except (ValueError, OSError) as error:
        if skip:
            return _Input(None, id, str(error))
        raise


def _rows(
    pixels: Tensor,
    backbone: Backbone,
    prompt: Prompt,
    head: FailureHead | None,
    names: Sequence[str],
    columns: DecisionColumns,
) -> list[list[str]]:
    """Return what stands behind the file name in the rows of a batch (B, 3, H, W), before its decisions."""
    features = backbone.encode_image(pixels).cpu()
    logits = prompt.logits(features)  # (B, C)
    probs = logits.double().softmax(dim=1)
    best = probs.argmax(dim=1)
    uncertainty = None if head is None else head.uncertainty(features, best)
    unlike = columns.add(features, probs, uncertainty)
    doubts: list[list[str]] = [[] for _ in best]
    if head is not None and uncertainty is not None:
        why = head.explain(features, best, logits=logits).sentences(head.class_names)
        told = zip(uncertainty.tolist(), why, unlike, strict=True)
        doubts = [[f"{value:.6f}", safe_text(UNLIKE * far + reason)] for value, reason, far in told]
    return [
        [names[top], f"{row[top]:.6f}", *(f"{p:.6f}" for p in row), *doubt]
        for row, top, doubt in zip(probs.tolist(), best.tolist(), doubts, strict=True)
    ]


def _white_of(prompt: Prompt, path: Path) -> int | None:
    """Return the white of 16-bit grey images that the prompt was trained with. None: it had none."""
    found = _option_of(prompt, "grey16_max")
    if found is not None and (type(found) is not int or not 1 <= found < 2**16):
        raise ValueError(
            f"{path}: data.options.grey16_max must lie between 1 and {2**16 - 1}, not {found!r}. Say what it "
            "was with --grey16-max."
        )
    return found


def _view_of(
    prompt: Prompt, path: Path, window: tuple[float, float] | None, frame: int | str | None
) -> DicomView:
    """Return what is shown of DICOM files: what is asked for, else as the prompt was trained."""
    trained = {name: _option_of(prompt, name) for name in ("window", "frame")}
    try:
        seen = view_of(trained["window"], trained["frame"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error} Say what it was with --window and --frame.") from error
    asked = view_of(window, frame)
    return DicomView(
        seen.window if window is None else asked.window, seen.frame if frame is None else asked.frame
    )


def _option_of(prompt: Prompt, name: str) -> Any:
    """Return an option of the data that a prompt was trained with. None: it had none."""
    found: object = prompt.training
    for key in ("config", "data", "options", name):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _check_out(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse a file that could not be written after all the work, or would replace one of the inputs."""
    blocking = blocking_file(out.parent)
    if out.is_dir():
        problem = "it is a folder"
    elif blocking is not None:
        problem = f"'{blocking}' is a file"
    elif out.exists() and not out.is_file():
        problem = "it is no ordinary file (without --out the table goes to standard output)"
    elif out.exists() and out.resolve() in {path.resolve() for path in inputs}:
        problem = "it is one of the files to read"
    else:
        folder = next(folder for folder in out.parents if folder.is_dir())
        if os.access(folder, os.W_OK | os.X_OK):
            return
        problem = f"the folder '{folder}' may not be written to"
    raise ValueError(f"--out {out} cannot be written: {problem}. Name a file, e.g. --out predictions.csv.")


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device after a try at it.

    Raises:
        ValueError: There is no such device here.
    """
    try:
        usable = torch.device(device)
        torch.zeros(1, device=usable).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = first_line(error)
        if reason.startswith("Expected one of"):  # all kinds of devices that PyTorch could be built for
            reason = "devices are called cpu, cuda, cuda:1, mps"
        raise ValueError(
            f"--device {device} cannot be used here ({reason}). Use --device cpu, or leave it out."
        ) from error
    return usable


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return the image files that arguments name: files, folders in depth, patterns; sorted within each.

    Raises:
        FileNotFoundError: An argument names nothing, or a folder holds no image.
        ValueError: An argument is a pipe or a device.
    """
    found: list[Path] = []
    for argument in arguments:
        new = list(_expand(argument))
        if not new:
            endings = ", ".join(sorted(IMAGE_SUFFIXES))
            if Path(argument).is_dir():
                raise FileNotFoundError(f"The folder '{argument}' holds no image (known endings: {endings}).")
            if glob.has_magic(argument):
                raise FileNotFoundError(f"The pattern '{argument}' fits no image (known endings: {endings}).")
            if Path(argument).exists():
                raise ValueError(f"'{argument}' is {why_no_file(Path(argument))}.")
            raise FileNotFoundError(f"There is no file or folder '{argument}'.{meant_path(argument)}")
        found += new
    return list(dict.fromkeys(found))


def _expand(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _images_in(path)
    else:
        for match in sorted(glob.glob(argument, recursive=True)):
            yield from _images_in(Path(match))


def _images_in(path: Path) -> Iterator[Path]:
    """Yield what looks like an image: the path itself, or what lies in it at any depth."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    yield from (p for p in files if p.is_file() and not p.name.startswith(".") and looks_like_image(p))


def main(given: argparse.Namespace) -> int:
    """Run `calib predict` with what `predict_arguments` returned. Returns the exit status."""
    if given.device is None:
        given.device = "cuda" if torch.cuda.is_available() else "cpu"
    text = predict(**vars(given))
    if given.out is None:
        sys.stdout.write(printable(text))
    else:
        n = sum(not row.get("error") for row in csv.DictReader(io.StringIO(text)))
        sys.stdout.write(f"{n} predictions in {given.out}\n")
    return 0

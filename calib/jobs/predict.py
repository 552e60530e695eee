"""`calib predict`: classify images with an exported prompt and write a CSV."""

from __future__ import annotations

import argparse
import csv
import glob
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.checkpoints import PromptCheckpoint
from calib.config import BackboneConfig
from calib.data.images import IMAGE_SUFFIXES, open_image
from calib.failure_checkpoints import FailureCheckpoint
from calib.files import write_text
from calib.jobs.prepare import make_backbone


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
) -> str:
    """Return the predictions for images as CSV text, one row per image, and write them to a file.

    The columns are file, prediction, confidence and one probability per class; with a failure head also
    uncertainty (its score in [0, 1] that the prediction is wrong: a probability as far as the head is
    calibrated) and why, in words.

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

    Raises:
        FileNotFoundError: The prompt, the failure head or an image is not there.
        ValueError: The prompt or the head is damaged, the head was trained for another prompt or backbone,
            the backbone is another one, or a file is not an image; nothing is written.
    """
    checkpoint = PromptCheckpoint.load(prompt_path(prompt))
    head = None if failure is None else FailureCheckpoint.load(failure_path(failure))
    if head is not None:
        head.check_prompt(checkpoint)
    files = find_images(images)
    backbone = restore_backbone(checkpoint, weights=weights, tokenizer=tokenizer).to(device)
    if head is not None:
        head.check_backbone(backbone)
    names = checkpoint.class_names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [] if head is None else ["uncertainty", "why"]
    writer.writerow(["file", "prediction", "confidence", *(f"p({name})" for name in names), *more])
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        pixels = torch.stack([backbone.preprocess(open_image(file)) for file in batch]).to(device)
        features = backbone.encode_image(pixels).cpu()
        probs = checkpoint.logits(features).double().softmax(dim=1)  # (B, C)
        best = probs.argmax(dim=1)
        doubts = [[] for _ in batch] if head is None else _doubts(head, features, best)
        for file, row, top, doubt in zip(batch, probs.tolist(), best.tolist(), doubts, strict=True):
            writer.writerow([str(file), names[top], f"{row[top]:.6f}", *(f"{p:.6f}" for p in row), *doubt])
    if out is not None:
        write_text(out, text.getvalue())
    return text.getvalue()


def _doubts(head: FailureCheckpoint, features: Tensor, predictions: Tensor) -> list[list[str]]:
    """Return uncertainty and reasons of every image, as they stand in the CSV."""
    uncertainty = head.uncertainty(features, predictions).tolist()
    why = head.explain(features, predictions).sentences(head.class_names)
    return [[f"{value:.6f}", reason] for value, reason in zip(uncertainty, why, strict=True)]


def failure_path(path: str | Path) -> Path:
    """Return the failure head that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "failure.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no failure head at '{path}'. Train one with train.py task=failure, or name the file."
        )
    return path


def prompt_path(path: str | Path) -> Path:
    """Return the export that a file or run folder names.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "prompt.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no exported prompt at '{path}'. Train one with train.py, or name the file."
        )
    return path


def restore_backbone(
    checkpoint: PromptCheckpoint, *, weights: str | None = None, tokenizer: str | None = None
) -> Backbone:
    """Return the backbone a prompt was made for, with the same weights and preprocessing.

    Args:
        checkpoint: The export.
        weights: Where the weights are now. None: where they were at training.
        tokenizer: Likewise for the tokenizer.

    Raises:
        ValueError: The weights found are not those the prompt was trained with.
    """
    build = BackboneConfig(**checkpoint.backbone.get("build", {"name": checkpoint.backbone["name"]}))
    moved = replace(build, weights=weights or build.weights, tokenizer=tokenizer or build.tokenizer)
    backbone = make_backbone(moved, checkpoint.backbone.get("parity", {}))
    checkpoint.check_backbone(backbone)
    return backbone


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return the image files that arguments name: files, folders in depth, patterns; sorted within each.

    Raises:
        FileNotFoundError: An argument names nothing, or a folder holds no image.
    """
    found: list[Path] = []
    for argument in arguments:
        new = list(_expand(argument))
        if not new:
            raise FileNotFoundError(
                f"'{argument}' names no image (known endings: {', '.join(sorted(IMAGE_SUFFIXES))})."
            )
        found += new
    return list(dict.fromkeys(found))


def _expand(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (p for p in sorted(path.rglob("*")) if _is_image(p))
    else:
        yield from (Path(p) for p in sorted(glob.glob(argument, recursive=True)) if _is_image(Path(p)))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def main(argv: Sequence[str]) -> int:
    """Run `calib predict`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="calib predict", description="Classify images with an exported prompt."
    )
    parser.add_argument("prompt", help="prompt.safetensors, or the run folder that holds it")
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument(
        "--failure", help="failure.safetensors (or its run folder): adds how likely each prediction is wrong"
    )
    parser.add_argument("--out", help="CSV file; without it the table goes to standard output")
    parser.add_argument("--weights", help="the backbone's weights, where they have moved since training")
    parser.add_argument("--tokenizer", help="the tokenizer, where it has moved since training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(argv)
    text = predict(
        given.prompt,
        given.images,
        failure=given.failure,
        out=given.out,
        weights=given.weights,
        tokenizer=given.tokenizer,
        batch_size=given.batch_size,
        device=given.device,
    )
    if given.out is None:
        sys.stdout.write(text)
    else:
        sys.stdout.write(f"{len(text.splitlines()) - 1} predictions in {given.out}\n")
    return 0

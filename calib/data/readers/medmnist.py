"""MedMNIST `.npz` files: arrays train_images, train_labels, val_*, test_*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.core.errors import meant_path
from calib.core.text import few
from calib.data.labels import are_indices, label_text, number_labels
from calib.data.records import ArraySource, ImageTable
from calib.data.task import SPLITS, ClassNames, Splits, Table
from calib.io.npz import names_in_npz, read_npz

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

# Class names as published with MedMNIST 3.0.2 (medmnist/info.py), except retinamnist, published as the grades
# 0 to 4.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "breastmnist": ("malignant", "normal, benign"),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": (
        "no diabetic retinopathy",
        "mild diabetic retinopathy",
        "moderate diabetic retinopathy",
        "severe diabetic retinopathy",
        "proliferative diabetic retinopathy",
    ),
    "tissuemnist": (
        "Collecting Duct, Connecting Tubule",
        "Distal Convoluted Tubule",
        "Glomerular endothelial cells",
        "Interstitial endothelial cells",
        "Leukocytes",
        "Podocytes",
        "Proximal Tubule Segments",
        "Thick Ascending Limb",
    ),
}


@dataclass(frozen=True)
class _Arrays:
    images: np.ndarray
    labels: list[str]


def load_medmnist(
    root: str | Path, *, class_names: ClassNames | None = None, flag: str | None = None
) -> Splits:
    """Return the splits of a MedMNIST file.

    The images are held in memory. Ids are digests of the pixels, so equal images have equal ids.

    Args:
        root: The .npz file, or a folder that holds it.
        class_names: Names in label order. None: the published ones, known by the file's name.
        flag: The data set's name, e.g. "pneumoniamnist": which file of the folder. None: the only .npz file
            there.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The file is damaged, holds other arrays, is multi-label, or its class names are not known.
    """
    path = _find(Path(root), flag)
    splits = _read(path)
    numbers, names = _number(path, splits, class_names)
    tables: dict[str, Table] = {}
    for split, part in splits.items():
        row_names = [f"{split}/{index}" for index in range(len(part.images))]
        sources = [
            ArraySource(part.images, index, f"{path.name}:{name}") for index, name in enumerate(row_names)
        ]
        tables[split] = ImageTable(sources, [numbers[label] for label in part.labels], row_names)
    return Splits(names, tables, absent=lambda split: _absent(path, split))


def _number(
    path: Path, splits: Mapping[str, _Arrays], class_names: ClassNames | None
) -> tuple[dict[str, int], list[str]]:
    where = {label: f"{path}, {split}" for split, part in splits.items() for label in part.labels}
    if class_names is None and are_indices(list(where)):
        known = CLASS_NAMES.get(path.stem.split("_")[0])
        if known is None:
            raise ValueError(
                f"The class names of {path.name} are not known (known: {', '.join(CLASS_NAMES)}). "
                "Give them in label order: data.class_names=[...]."
            )
        class_names = list(known)
    return number_labels(where, class_names)


def _find(root: Path, flag: str | None) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise FileNotFoundError(f"There is no file or folder {root} (data.root).{meant_path(root)}")
    found = sorted(root.glob(f"{flag}*.npz" if flag else "*.npz"))
    if not found:
        raise FileNotFoundError(f"{root} has no {flag or 'MedMNIST'} .npz file.")
    if len(found) > 1:
        raise ValueError(
            f"{root} has several files: {few([path.name for path in found])}. Give one of them as data.root."
        )
    return found[0]


def _read(path: Path) -> dict[str, _Arrays]:
    try:
        arrays = read_npz(path, {key for split in SPLITS for key in _keys(split)}.__contains__)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a MedMNIST .npz file ({error}). Was it cut off? Fetch it again."
        ) from error
    if not arrays:
        raise ValueError(_absent(path, "train"))
    for split in SPLITS:
        images, labels = (key in arrays for key in _keys(split))
        if images != labels:
            has, lacks = sorted(_keys(split), key=arrays.__contains__, reverse=True)
            raise ValueError(f"{path} has {has} without {lacks}; it has: {few(names_in_npz(path), 10)}.")
    present = [split for split in SPLITS if all(key in arrays for key in _keys(split))]
    return {
        split: _checked(arrays[f"{split}_images"], arrays[f"{split}_labels"], f"{path}, {split}")
        for split in present
    }


def _absent(path: Path, split: str) -> str:
    return f"{path} has no array '{_keys(split)[0]}'; it has: {few(names_in_npz(path), 10)}."


def _keys(split: str) -> tuple[str, str]:
    return f"{split}_images", f"{split}_labels"


def _checked(images: np.ndarray, labels: np.ndarray, where: str) -> _Arrays:
    grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if not grey_or_rgb or images.dtype != np.uint8:
        raise ValueError(
            f"{where}: images must be uint8 (N, H, W) or (N, H, W, 3), not {images.dtype} {images.shape}."
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(
            f"{where}: {labels.shape[1]} labels per image; only one class per image is supported."
        )
    flat = labels.reshape(-1)
    if not len(images) or len(flat) != len(images):
        raise ValueError(f"{where}: {len(flat)} labels of type {flat.dtype} for {len(images)} images.")
    try:
        texts = [label_text(value) for value in flat.tolist()]
    except ValueError as error:
        raise ValueError(f"{where}: labels {error}.") from error
    if None in texts:
        raise ValueError(f"{where}: image {texts.index(None)} has no label.")
    return _Arrays(images, [text for text in texts if text is not None])

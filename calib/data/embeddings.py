"""A file of embeddings: what is needed to judge a model of which there is nothing else.

One `.npz` (numpy, no pickled objects) or `.safetensors` file with the arrays

| name | shape | |
|---|---|---|
| image_features | (N, D) floats | unit norm |
| text_features | (C, D) floats | unit norm, one row per class |
| labels | (N,) integers, or strings | in [0, C), or the class names |
| logit_scale | one number | the *log* of the scale, as a CLIP model holds it: 4.6 for 100 |
| scale | one number | instead of `logit_scale`: the scale itself |
| predictions | (N,) integers | left out: the most similar class |
| class_names | C strings | left out: "class 0", "class 1", ... |
| split | N strings | train, val or test; needed where one file holds more than one split |
| ids, names, groups | N strings or integers | left out: made from the features; "row 0", ...; not known |

A safetensors file holds no strings: there they are JSON lists in its metadata, under the same names. (Its
numpy writer takes contiguous arrays only: numpy.ascontiguousarray after a transpose.)

    numpy.savez("mine.npz", image_features=..., text_features=..., labels=..., logit_scale=4.6052)

**Image-caption pairs** (`embeddings.captions=true`): there are no classes. `text_features` is (N, D), row i
the caption of image i, and `labels`, `predictions` and `class_names` are left out. The candidates of an image
are the captions of its batch (`data.batch_size`), in training and at test, and its prediction is wrong where
another caption than its own is the most similar; a copy of its own caption is right. At test every image is
compared with the same number of captions, in batches that depend on the images' ids only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit_norm

from calib.core.checks import HALF_NORM, check_logit_scale, check_unit_norm
from calib.core.errors import meant_path, unknown_name
from calib.core.names import name_key
from calib.core.text import few
from calib.data.arrays import ARRAYS, read_arrays, strings_in
from calib.data.features import FeatureTable
from calib.data.output_tables import check_names
from calib.data.task import SPLITS

NEEDED = ("image_features", "text_features", "labels")
SCALES = ("logit_scale", "scale")
STRINGS = ("class_names", "split", "ids", "names", "groups")
KNOWN = (*NEEDED, *SCALES, "predictions", *STRINGS)
OF_CLASSES = ("labels", "predictions", "class_names")  # what pairs of images and captions have not


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Image features with labels, and the texts they are compared with.

    Attributes:
        table: Features (N, D), labels, ids, names and groups. With captions a label is the image's row.
        text_features: (C, D) unit norm float32; with captions (N, D).
        class_names: C names in label order; with captions none.
        logit_scale: Log of the scale.
        predictions: (N,) int64: what the model predicted. None with captions: it depends on the candidates.
        split: N of train, val, test. None: not said.
        path: The file.
    """

    table: FeatureTable
    text_features: Tensor
    class_names: list[str]
    logit_scale: float
    predictions: Tensor | None
    split: list[str] | None
    path: str

    @property
    def captions(self) -> bool:
        """Whether these are pairs of images and captions."""
        return not self.class_names

    def rows(self, name: str) -> Tensor:
        """Return the rows (n,) int64 of a split; an empty tensor if there are none.

        Args:
            name: train, val or test.
        """
        where = [] if self.split is None else [i for i, split in enumerate(self.split) if split == name]
        return torch.tensor(where, dtype=torch.int64)

    def check_same_model(self, other: Embeddings) -> None:
        """Refuse a second file whose texts, classes or scale are not those of this one.

        Of captions, which differ, the width is compared.

        Raises:
            ValueError: They differ; the message says in what.
        """
        first = 1 if self.captions else 0  # the number of captions may differ
        ours, theirs = tuple(self.text_features.shape), tuple(other.text_features.shape)
        if ours[first:] != theirs[first:]:
            raise ValueError(f"text_features are {ours} in {self.path} and {theirs} in {other.path}.")
        differing = [
            what
            for what, same in (
                ("text_features", self.captions or _close(self.text_features, other.text_features)),
                ("class_names", self.class_names == other.class_names),
                ("logit_scale", math.isclose(self.logit_scale, other.logit_scale, abs_tol=1e-4)),
            )
            if not same
        ]
        if differing:
            raise ValueError(
                f"{self.path} and {other.path} are not of one model: {few(differing)} differ. Both files "
                "must hold the same ones."
            )


def load_embeddings(path: str | Path, *, normalize: bool = False, captions: bool = False) -> Embeddings:
    """Return the embeddings in a file, checked; see the head of this module for the format.

    Args:
        path: The `.npz` or `.safetensors` file.
        normalize: Bring features to unit norm; False refuses those that are not.
        captions: Read pairs of images and captions.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, something is missing or unknown, shapes do not fit, values are not
            finite or not of unit norm, or a label is not a class. File, name and row are said.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of embeddings '{path}'.{meant_path(path)}")
    if path.suffix.lower() not in ARRAYS:
        raise ValueError(f"{path}: embeddings are .npz or .safetensors files, not '{path.suffix}'.")
    arrays = read_arrays(path, STRINGS)
    for name in arrays:
        if name not in KNOWN:
            raise ValueError(f"{path}: {unknown_name('array', name, KNOWN)}")
    _check_names(arrays, path, captions)
    texts = _features(arrays, "text_features", path, normalize)
    images = _features(arrays, "image_features", path, normalize)
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"{path}: image_features have width {images.shape[1]} and text_features {texts.shape[1]}; they "
            "must be the two sides of one model."
        )
    if captions and len(images) != len(texts):
        raise ValueError(
            f"{path}: there are {len(images)} image_features and {len(texts)} text_features; with "
            "embeddings.captions=true row i of the texts is the caption of image i."
        )
    if len(texts) < 2:
        kind = "caption" if captions else "class"
        raise ValueError(f"{path}: text_features hold one {kind}; with one {kind} no prediction is wrong.")
    scale = _logit_scale(arrays, path)
    if captions:
        labels, picked = torch.arange(len(images)), None
    else:
        labels = _classes(arrays, "labels", (len(images), len(texts)), path)
        picked = _picked(arrays, images, texts, path)
    table = FeatureTable(
        image_features=images,
        labels=labels,
        ids=strings_in(arrays, "ids", len(images), path) or _content_ids(images),
        names=strings_in(arrays, "names", len(images), path) or [f"row {i}" for i in range(len(images))],
        groups=strings_in(arrays, "groups", len(images), path),
    )
    split = _split(arrays, len(images), path)
    names = [] if captions else strings_in(arrays, "class_names", len(texts), path)
    if names is None:
        names = [f"class {c}" for c in range(len(texts))]
    if names:
        check_names(names, path)
    return Embeddings(table, texts, names, scale, picked, split, str(path))


def _check_names(arrays: Mapping[str, Any], path: Path, captions: bool) -> None:
    needed = [name for name in NEEDED if not (captions and name in OF_CLASSES)]
    missing = [name for name in needed if name not in arrays]
    if missing:
        pairs = missing == ["labels"] and arrays["text_features"].shape == arrays["image_features"].shape
        hint = " For pairs of images and captions set embeddings.captions=true." if pairs else ""
        raise ValueError(f"{path} lacks {few(missing)}; it has {few(sorted(arrays), 10) or 'nothing'}.{hint}")
    given = [name for name in OF_CLASSES if name in arrays]
    if captions and given:
        raise ValueError(
            f"{path} has {few(given)}, which pairs of images and captions have not: the caption of image i "
            "is row i of text_features. Leave it out, or set embeddings.captions=false for classes."
        )


def _picked(arrays: Mapping[str, Any], images: Tensor, texts: Tensor, path: Path) -> Tensor:
    """Return what was predicted (N,): as the file says, else the most similar class."""
    if "predictions" in arrays:
        return _classes(arrays, "predictions", (len(images), len(texts)), path)
    return (images @ texts.T).argmax(dim=1)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5)


def _features(arrays: Mapping[str, Any], name: str, path: Path, normalize: bool) -> Tensor:
    values = arrays[name]
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f":
        raise ValueError(
            f"{path}: {name} must be (rows, width) floats, not {tuple(values.shape)} {values.dtype}."
        )
    values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
    if normalize:
        norms = values.norm(dim=1)
        for problem, wrong in (("NaN or infinite", ~norms.isfinite()), ("zero", norms == 0)):
            if wrong.any():
                rows = wrong.nonzero().flatten().tolist()
                raise ValueError(f"{path}: {name} holds {problem} values in rows {few(rows)}.")
    else:
        advice = "Divide by the norm, or set embeddings.normalize=true."
        check_unit_norm(values, f"{path}: {name}", tolerance=HALF_NORM, advice=advice)
    return to_unit_norm(values, dim=1).float()


def _classes(arrays: Mapping[str, Any], name: str, shape: tuple[int, int], path: Path) -> Tensor:
    """Return checked class indices (N,)."""
    values, (n, size) = arrays[name], shape
    if values.shape == (n, 1):
        values = values[:, 0]
    if values.shape == (n,) and values.dtype.kind == "U" and "class_names" in arrays:
        values = _by_name(values, strings_in(arrays, "class_names", size, path) or [], f"{path}: {name}")
    elif values.dtype.kind == "b" or (
        values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.floor(values)).all()
    ):
        values = values.astype(np.int64)
    if values.shape != (n,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {name} must be ({n},) integers, one per image, not {tuple(values.shape)} "
            f"{values.dtype}."
        )
    wrong = np.flatnonzero((values < 0) | (values >= size))
    if len(wrong):
        raise ValueError(
            f"{path}: {name} must lie in 0..{size - 1}, one per row of text_features; row {wrong[0]} has "
            f"{values[wrong[0]]} ({len(wrong)} such rows)."
        )
    return torch.from_numpy(values.astype(np.int64))


def _by_name(values: np.ndarray, class_names: list[str], what: str) -> np.ndarray:
    """Return the class indices (N,) of labels that are class names."""
    index = {name_key(name): label for label, name in enumerate(class_names)}
    strangers = [str(value) for value in values if name_key(str(value)) not in index]
    if strangers:
        raise ValueError(f"{what}: {unknown_name('class', strangers[0], class_names)}")
    return np.array([index[name_key(str(value))] for value in values], dtype=np.int64)


def _logit_scale(arrays: Mapping[str, Any], path: Path) -> float:
    given = [name for name in SCALES if name in arrays]
    if len(given) != 1:
        raise ValueError(
            f"{path} must hold either logit_scale (its log, 4.6 for 100) or scale (the scale itself), "
            f"{'not both' if given else 'and has neither'}."
        )
    value = arrays[given[0]]
    if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise ValueError(
            f"{path}: {given[0]} must be one finite number, not {tuple(value.shape)} {value.dtype}."
        )
    number = float(value.reshape(()))
    if given[0] == "scale":
        if not number > 0:
            raise ValueError(f"{path}: scale must be above 0, got {number:g}.")
        return math.log(number)
    try:
        check_logit_scale(number)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Name it `scale` if it is the scale itself.") from error
    return number


def _split(arrays: Mapping[str, Any], count: int, path: Path) -> list[str] | None:
    split = strings_in(arrays, "split", count, path)
    for row, name in enumerate(split or ()):
        if name not in SPLITS:
            raise ValueError(f"{path}: split of row {row}: {unknown_name('split', name, SPLITS)}")
    return split


def _content_ids(features: Tensor) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in features.numpy()]

"""Image features of one split, computed once, and the file they are kept in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.backbones.same import OF_IMAGES, check_same_backbone
from calib.core.checks import FLOAT32_NORM, HALF_NORM, check_unit_norm, row_numbers
from calib.core.text import few
from calib.io.files import is_strings
from calib.io.tensors import load_tensors, require_tensor, require_version, save_tensors

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

KIND = "features"
SCHEMA = 1  # raised when files of older versions can no longer be read
ID_BYTES = 32


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """The image features of N images, with labels and where they come from.

    Attributes:
        image_features: (N, D) unit norm, float32: features of the plain, centre-cropped images.
        labels: (N,) int64 class indices.
        ids: N content ids (SHA-256 in hex).
        names: N readable names.
        groups: N group names such as patients; None when not known.
        augmented_features: (N, V, D) unit norm: V augmented views of each image; None without.
        meta: JSON-able facts: backbone, preprocessing, class names, versions, source, licence, attribution.

    Raises:
        ValueError: Shapes or lengths do not fit, or a feature is not finite or not of unit norm.
    """

    image_features: Tensor
    labels: Tensor
    ids: list[str]
    names: list[str]
    groups: list[str] | None = None
    augmented_features: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image_features.dim() != 2 or not len(self.image_features):
            raise ValueError(
                f"image_features must be (N, D) with N > 0, not {tuple(self.image_features.shape)}."
            )
        n, dim = self.image_features.shape
        if self.labels.dtype != torch.int64 or self.labels.shape != (n,):
            raise ValueError(
                f"labels must be int64 of shape ({n},), not {self.labels.dtype} {tuple(self.labels.shape)}."
            )
        if int(self.labels.min()) < 0:
            raise ValueError(f"labels are class indices from 0; the smallest is {int(self.labels.min())}.")
        sizes = {"ids": len(self.ids), "names": len(self.names)}
        if self.groups is not None:
            sizes["groups"] = len(self.groups)
        wrong = [f"{size} {column}" for column, size in sizes.items() if size != n]
        if wrong:
            raise ValueError(f"There are {n} images, but {few(wrong)}.")
        _check_features(self.image_features, "image_features")
        views = self.augmented_features
        if views is not None:
            if views.dim() != 3 or views.shape[0] != n or views.shape[1] < 1 or views.shape[2] != dim:
                raise ValueError(f"augmented_features must be ({n}, V, {dim}), not {tuple(views.shape)}.")
            _check_features(views, "augmented_features")

    def __repr__(self) -> str:
        """Return the sizes in a line: names of images and patients stay out of logs."""
        n, dim = self.image_features.shape
        return f"<FeatureTable: {n} images, {dim} wide, {self.views} views>"

    def __len__(self) -> int:
        return len(self.image_features)

    @property
    def views(self) -> int:
        """The number of augmented views V; 0 without."""
        return 0 if self.augmented_features is None else self.augmented_features.shape[1]

    def subset(self, indices: Iterable[int] | Tensor) -> FeatureTable:
        """Return a table of some of the images, in the order of the indices.

        Args:
            indices: (n,) row numbers.

        Raises:
            ValueError: They are a mask of true and false.
        """
        rows = row_numbers(indices)
        index = torch.as_tensor(rows, dtype=torch.int64)
        return FeatureTable(
            self.image_features[index],
            self.labels[index],
            [self.ids[i] for i in rows],
            [self.names[i] for i in rows],
            None if self.groups is None else [self.groups[i] for i in rows],
            None if self.augmented_features is None else self.augmented_features[index],
            dict(self.meta),
        )

    def with_views(self, views: int) -> FeatureTable:
        """Return the table with the first augmented views only.

        Args:
            views: How many to keep; 0 drops them all.

        Raises:
            ValueError: The table has fewer.
        """
        if not 0 <= views <= self.views:
            raise ValueError(
                f"{views} augmented views were asked for, but these features hold {self.views}. "
                f"Set data.views={self.views} or fewer."
            )
        kept = self.augmented_features[:, :views] if self.augmented_features is not None and views else None
        return replace(self, augmented_features=kept)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse features that are not from the image tower of this backbone.

        Args:
            backbone: The backbone whose text features they are to be compared with.

        Raises:
            ValueError: Its weights, architecture or preprocessing are others; the message says which.
        """
        check_same_backbone(
            self.meta.get("backbone", {}),
            backbone.describe(),
            what="These image features were made by",
            advice="Encode the images anew (give data.root), or take the backbone's settings as they were.",
            keys=OF_IMAGES,
        )

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write everything to one safetensors file, atomically.

        Args:
            path: The file.
            dtype: float32 keeps every bit; float16 halves the file, and `load` brings the rounded features
                back to unit norm (about 1e-3 away from the originals).

        Raises:
            ValueError: Another dtype, or an id that is not a SHA-256 digest.
        """
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"Features are kept as float32 or float16, not {dtype}.")
        tensors = {
            "image_features": self.image_features.to(dtype),
            "labels": self.labels,
            "ids": _ids_to_bytes(self.ids),
        }
        if self.augmented_features is not None:
            tensors["augmented_features"] = self.augmented_features.to(dtype)
        record = {
            "kind": KIND,
            "schema": SCHEMA,
            "names": self.names,
            "groups": self.groups,
            "meta": self.meta,
        }
        save_tensors(path, tensors, record)

    @classmethod
    def load(cls, path: str | Path) -> FeatureTable:
        """Return the features in a file written by `save`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of another kind or schema, or its parts do not fit together.
        """
        tensors, record = load_tensors(path, kind=KIND)
        require_version(record, SCHEMA, path=path, key="schema")
        names, groups, meta = record.get("names"), record.get("groups"), record.get("meta")
        well_typed = is_strings(names) and (groups is None or is_strings(groups))
        if not well_typed or not isinstance(meta, dict) or not isinstance(meta.get("backbone", {}), dict):
            raise ValueError(f"The names, groups or meta of {path} are missing or of the wrong type.")
        views = "augmented_features" in tensors
        try:
            return cls(
                image_features=_read_features(tensors, "image_features", 2, path),
                labels=require_tensor(tensors, "labels", (None,), path=path, floating=False),
                ids=_read_ids(tensors, path),
                names=list(names or ()),
                groups=groups,
                augmented_features=_read_features(tensors, "augmented_features", 3, path) if views else None,
                meta=meta,
            )
        except ValueError as error:
            message = str(error)
            raise ValueError(message if str(path) in message else f"{path}: {message}") from error


def _ids_to_bytes(ids: list[str]) -> Tensor:
    try:
        rows = [bytes.fromhex(id_) for id_ in ids]
    except ValueError as error:
        raise ValueError(f"Ids must be SHA-256 digests in hex ({error}).") from error
    if any(len(row) != ID_BYTES for row in rows):
        raise ValueError(f"Ids must be SHA-256 digests: {2 * ID_BYTES} hex digits each.")
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, ID_BYTES)  # (N, 32)


def _read_ids(tensors: Mapping[str, Tensor], path: str | Path) -> list[str]:
    rows = require_tensor(tensors, "ids", (None, ID_BYTES), path=path, floating=False)
    if rows.dtype != torch.uint8:
        raise ValueError(f"ids must be uint8, not {rows.dtype}.")
    digits = rows.numpy().tobytes().hex()
    return [digits[start : start + 2 * ID_BYTES] for start in range(0, len(digits), 2 * ID_BYTES)]


def _read_features(tensors: Mapping[str, Tensor], name: str, dims: int, path: str | Path) -> Tensor:
    features = require_tensor(tensors, name, (None,) * dims, path=path)
    if features.dtype == torch.float32:
        return features
    if features.dtype != torch.float16:
        raise ValueError(f"{name} must be float32 or float16, not {features.dtype}.")
    check_unit_norm(features, name, tolerance=HALF_NORM)
    return normalize(features.float(), dim=-1)


def _check_features(features: Tensor, name: str) -> None:
    if features.dtype != torch.float32:
        raise ValueError(f"{name} must be float32, not {features.dtype}.")
    check_unit_norm(features, name, tolerance=FLOAT32_NORM)

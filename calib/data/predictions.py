"""What a model said about each image, in one file that every metric, plot and table is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.core.text import few
from calib.io.tensors import (
    load_tensors,
    require_keys,
    require_strings,
    require_tensor,
    require_version,
    save_tensors,
)
from calib.metrics.registry import summarize

KIND = "predictions"
VERSION = 1
_LISTS = ("ids", "names", "class_names", "groups")


@dataclass(eq=False)
class Predictions:
    """Logits, labels and image features of N images under one prompt.

    Attributes:
        logits: (N, C), scale and temperature already applied.
        labels: (N,) int64.
        image_features: (N, D) unit norm.
        ids: N content ids.
        names: N readable names, such as paths within the data set.
        class_names: C names in label order.
        groups: N group names (patients, slides) for intervals that resample groups. None: not known.
        about: Where they come from: method, seed, data set, backbone.
    """

    logits: Tensor
    labels: Tensor
    image_features: Tensor
    ids: list[str]
    names: list[str]
    class_names: list[str]
    groups: list[str] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.logits.dim() != 2:
            raise ValueError(f"logits must be (N, C), not {tuple(self.logits.shape)}.")
        n, c = self.logits.shape
        parts = ("labels", "image_features", "ids", "names", *(["groups"] if self.groups is not None else []))
        wrong = {part: len(getattr(self, part)) for part in parts if len(getattr(self, part)) != n}
        if wrong:
            raise ValueError(
                f"There are {n} rows of logits, but {', '.join(f'{s} {k}' for k, s in wrong.items())}."
            )
        if c != len(self.class_names):
            raise ValueError(f"There are {c} columns of logits and {len(self.class_names)} class names.")
        if len(set(self.class_names)) < c:
            raise ValueError(f"Class names must differ; they are {self.class_names}.")
        if self.labels.dtype != torch.int64 or (
            n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < c
        ):
            raise ValueError(f"Labels must be int64 class indices from 0 to {c - 1}.")
        if n == 0:
            raise ValueError("There are no predictions: the data set is empty.")

    def __repr__(self) -> str:
        """Return what they are of in a line: names of images and patients stay out of logs."""
        return f"<Predictions: {len(self.logits)} images of {few(self.class_names)}; {self.about}>"

    @property
    def predictions(self) -> Tensor:
        """The class of the largest logit, (N,) int64; the first of equal ones."""
        return self.logits.argmax(dim=1)

    @property
    def failure(self) -> Tensor:
        """Which predictions are wrong, (N,) bool."""
        return self.predictions != self.labels

    @property
    def confidence(self) -> Tensor:
        """The largest probability of each image, (N,), in double precision."""
        return self.probs.max(dim=1).values

    def metrics(self, *, n_bins: int = 10) -> dict[str, Any]:
        """Return every metric by name as a float (fractions, never percent), and calibration in detail.

        What is in it: `calib.metrics.summarize`.

        Args:
            n_bins: Bins of ECE and its kin.
        """
        return summarize(self.logits, self.labels, class_names=self.class_names, n_bins=n_bins)

    @property
    def probs(self) -> Tensor:
        """Softmax of the logits (N, C), in double precision."""
        return self.logits.double().softmax(dim=1)

    def save(self, path: str | Path, *, run: str | None = None) -> None:
        """Write everything to one safetensors file, atomically.

        Args:
            path: The file.
            run: The mark of the run in whose folder it lies. None: it is nobody's.
        """
        tensors = {"logits": self.logits, "labels": self.labels, "image_features": self.image_features}
        lists = {name: getattr(self, name) for name in _LISTS}
        record = {"kind": KIND, "version": VERSION, **lists, "about": self.about}
        save_tensors(path, tensors, record, run=run)

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Return the predictions in a file written by `save`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of another kind, or its parts do not fit together.
        """
        tensors, record = load_tensors(path, kind=KIND)
        require_version(record, VERSION, path=path)
        require_keys(record, {*_LISTS, "about"}, path=path)
        lists = {name: require_strings(record, name, path=path) for name in _LISTS if name != "groups"}
        if not isinstance(record["about"], dict):
            raise ValueError(f"{path}: about must be a mapping, not {record['about']!r}.")
        groups = None if record["groups"] is None else require_strings(record, "groups", path=path)
        try:
            return cls(
                logits=require_tensor(tensors, "logits", (None, None), path=path),
                labels=require_tensor(tensors, "labels", (None,), path=path, floating=False),
                image_features=require_tensor(tensors, "image_features", (None, None), path=path),
                **lists,
                groups=groups,
                about=record["about"],
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error

    def same_images(self, other: Predictions) -> bool:
        """Return whether both hold the same images in the same order with the same labels."""
        return self.ids == other.ids and torch.equal(self.labels, other.labels)

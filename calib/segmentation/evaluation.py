"""What a segmentation network is worth on images with masks: sums per image, intervals, differences."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from calib.core import ranks
from calib.core.binning import BinStatistics
from calib.core.text import few, safe_text
from calib.data.notices import ProgressLog
from calib.io.tensors import load_tensors, require_keys, require_strings, save_tensors
from calib.metrics.segmentation import (
    ImageSums,
    SegmentationMetric,
    SegmentationSums,
    per_image,
    summarize_segmentation,
)
from calib.segmentation.batches import scaled_mask, to_input
from calib.segmentation.export import Segmenter
from calib.segmentation.masks import MEAN
from calib.segmentation.tables import PixelTable
from calib.stats import Interval, MeanStatistic, bootstrap_interval, paired_bootstrap

KIND = "image sums"
METRICS: tuple[SegmentationMetric, ...] = get_args(SegmentationMetric)
FALL = 0.2  # of the Dice of an image, to be named
log = logging.getLogger(__name__)
ALIKE = "Give the same images: calib segment evaluate RUN RUN --data ROOT."


@dataclass(frozen=True)
class Evaluated:
    """What a network left on images with masks; every table and figure follows from it.

    Attributes:
        sums: Per image, class and bin.
        names: N readable names.
        groups: N groups. None: not known.
        class_names: C names, the background first.
    """

    sums: ImageSums
    names: list[str]
    groups: list[str] | None
    class_names: list[str]

    def metrics(self, *, n_resamples: int = 2000, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Return `summarize_segmentation` and under "intervals" what it may be off by; see `interval`.

        Each class has under "given" its mean probability and its share: of all pixels, and of those that get
        more than one half ("above").
        """
        found = summarize_segmentation(self.sums, self.class_names)
        for number, name in enumerate(self.class_names):
            found["classes"][name]["given"] = self._given(number)
        intervals: dict[str, dict[str, Any]] = {}
        for row in (*self.class_names, MEAN):
            intervals[row] = {}
            for metric in METRICS:
                at = self.interval(row, metric, n_resamples=n_resamples, level=level, seed=seed)
                intervals[row][metric] = None if at is None else [at.low, at.high]
        return {**found, "groups": None if self.groups is None else len(set(self.groups)),
                "intervals": intervals}  # fmt: skip

    def _given(self, number: int) -> dict[str, list[float] | None]:
        """Return [mean probability, share of pixels] of a class: of all pixels, and above one half."""
        bins = [each[:, number].sum(dim=0) for each in self.sums.bins]  # (M,) each: all images together
        half = len(bins[0]) // 2
        parts = {"all": slice(None), "above": slice(len(bins[0]) - half, None)}
        found: dict[str, list[float] | None] = {}
        for name, part in parts.items():
            count, given, true = (float(each[part].sum()) for each in bins)
            found[name] = [given / count, true / count] if count else None
        return found

    def interval(
        self,
        row: str,
        metric: SegmentationMetric,
        *,
        n_resamples: int = 2000,
        level: float = 0.95,
        seed: int = 0,
    ) -> Interval | None:
        """Return the mean over images of a metric with its interval, over the choice of images or groups.

        Args:
            row: A class, or "mean": over all but the background.
            metric: "dice", "ace", "ece" or "mce".
            n_resamples: Bootstrap resamples of images, or of whole groups where these are known.
            level: Coverage.
            seed: Of the resamples.

        Returns:
            None where there is a single image or group, or no image defines the metric.
        """
        values = self.values(row, metric)
        if self._alone() or not np.isfinite(values).any():
            return None
        return bootstrap_interval(
            MACRO,
            values,
            groups=self.groups,
            n_resamples=n_resamples,
            level=level,
            seed=seed,
            undefined="drop",
        )

    def difference(
        self, other: Evaluated, row: str, metric: SegmentationMetric, **settings: Any
    ) -> Interval | None:
        """Return this minus another network on the same images, with a paired interval; see `interval`.

        Raises:
            ValueError: They are of other images, masks, classes or bins.
        """
        self._check_same(other)
        a, b = self.values(row, metric), other.values(row, metric)
        if self._alone() or not np.isfinite(a).any() or not np.isfinite(b).any():
            return None
        return paired_bootstrap(MACRO, a, b, groups=self.groups, undefined="drop", **settings)

    def bins(self) -> dict[str, BinStatistics]:
        """Return sums per image and bin of each class but the background, for a dataset histogram."""
        bins = self.sums.bins
        return {
            name: BinStatistics(*(each[:, number] for each in bins))
            for number, name in enumerate(self.class_names)
            if number
        }

    def rows_of_images(self) -> tuple[list[str], list[list[str]]]:
        """Return a table with a line per image: its metrics, means over classes but the background."""
        columns = [self.of_images(metric) for metric in METRICS]
        rows = []
        for place, name in enumerate(self.names):
            cells = [f"{column[place]:.6f}" if np.isfinite(column[place]) else "" for column in columns]
            group = [] if self.groups is None else [safe_text(self.groups[place])]
            rows.append([safe_text(name), *group, *cells])
        return ["file", *([] if self.groups is None else ["group"]), *METRICS], rows

    def of_images(self, metric: SegmentationMetric) -> np.ndarray:
        """Return (N,) the metric of each image, the mean over classes but the background; NaN: not defined.

        Args:
            metric: "dice", "ace", "ece" or "mce".
        """
        values = self.values(MEAN, metric)
        known = np.isfinite(values)
        sums = np.where(known, values, 0.0).sum(axis=1)
        return np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)

    def fallen(self, other: Evaluated, *, least: float = FALL) -> list[tuple[str, float, float]]:
        """Return the images whose Dice is below another network's by that much, the worst first.

        A mean over images hides what a network has unlearned of a rare kind of them.

        Args:
            other: What the other network left on the same images.
            least: A difference of Dice.

        Returns:
            Name, the other's Dice, this one's.

        Raises:
            ValueError: They are of other images or classes.
        """
        self._check_same(other)
        before, after = other.of_images("dice"), self.of_images("dice")
        fell = np.where(np.isfinite(before - after), before - after, -np.inf)
        order = [row for row in np.argsort(-fell, kind="stable").tolist() if fell[row] > least]
        return [(self.names[row], float(before[row]), float(after[row])) for row in order]

    def _check_same(self, other: Evaluated) -> None:
        """Refuse what is of other images, masks, classes or bins: a difference would mean nothing."""
        bins = [each.sums.counts.shape[-1] for each in (self, other)]
        same = {
            f"classes ({few(self.class_names)}; {few(other.class_names)})": self.class_names
            == other.class_names,
            "images": self.names == other.names,
            f"numbers of bins ({bins[0]}; {bins[1]})": bins[0] == bins[1],
        }
        for what, alike in same.items():
            if not alike:
                raise ValueError(f"These are of other {what}, and are not compared. {ALIKE}")
        if not torch.equal(self.sums.true, other.sums.true):
            raise ValueError(
                "The images are called alike, but their masks have other pixels of each class: they are "
                f"others, or data.classes gave the values of masks to other classes. {ALIKE}"
            )

    def save(self, path: str | Path, *, run: str | None = None) -> None:
        """Write everything to one safetensors file, atomically; `run` is the mark of the run it is of."""
        record = {"kind": KIND, "names": self.names, "groups": self.groups, "class_names": self.class_names}
        save_tensors(path, self.sums.tensors, record, run=run)

    @classmethod
    def load(cls, path: str | Path) -> Evaluated:
        """Return what `save` has written.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or of another kind.
        """
        tensors, record = load_tensors(path, kind=KIND)
        require_keys(record, ("names", "groups", "class_names"), path=path)
        names, classes = (require_strings(record, key, path=path) for key in ("names", "class_names"))
        groups = None if record["groups"] is None else require_strings(record, "groups", path=path)
        try:
            sums = ImageSums(**tensors)
        except TypeError as error:
            raise ValueError(f"{path} does not hold the sums of images ({error}).") from error
        n, c, m = (*sums.counts.shape, 0, 0, 0)[:3]
        shapes = [(n, c, m)] * 3 + [(n, c)] * 3
        fits = [tuple(each.shape) for each in sums.tensors.values()] == shapes and n > 0
        if not fits or (n, c) != (len(names), len(classes)) or (groups is not None and len(groups) != n):
            raise ValueError(
                f"{path} does not hold sums of its {len(names)} images and {len(classes)} classes."
            )
        return cls(sums, names, groups, classes)

    def values(self, row: str, metric: SegmentationMetric) -> np.ndarray:
        """Return (N, K) values of images, NaN where not defined: of a class (K = 1), or of all but one.

        Args:
            row: A class, or "mean": all classes but the background.
            metric: "dice", "ace", "ece" or "mce".
        """
        each = per_image(self.sums, metric).numpy()
        if row == MEAN:
            return each[:, 1:]
        return each[:, [self.class_names.index(row)]]

    def _alone(self) -> bool:
        return len(set(self.names if self.groups is None else self.groups)) < 2


def _with_defined(values: np.ndarray) -> np.ndarray:
    """Return (N, 2 K): values where they are defined, else 0, and whether they are."""
    known = np.isfinite(values)
    return np.concatenate([np.where(known, values, 0.0), known.astype(float)], axis=1)


def _mean_of_classes(means: np.ndarray) -> np.ndarray:
    """Return for (R, 2 K) means the mean over classes that some image defines, NaN where none does."""
    total, share = np.split(means, 2, axis=1)
    known = share > 0
    ratios = np.where(known, total / np.where(known, share, 1.0), 0.0)
    count = known.sum(axis=1)
    return np.where(count > 0, ratios.sum(axis=1) / np.maximum(count, 1), np.nan)


MACRO = MeanStatistic(_with_defined, _mean_of_classes)


def evaluate(
    segmenter: Segmenter,
    table: PixelTable,
    *,
    n_bins: int = 20,
) -> Evaluated:
    """Return what a network leaves on images with masks, at their own size; one image is in memory at a time.

    Several processes share the images; all get the result.

    Args:
        segmenter: The network.
        table: Images whose masks have the classes of the network.
        n_bins: Bins of the probabilities on [0, 1].

    Raises:
        ValueError: The classes differ, or an image or mask cannot be read.
    """
    if [*table.classes.names] != segmenter.class_names:
        raise ValueError(
            f"The masks have the classes {', '.join(table.classes.names)}, the network "
            f"{', '.join(segmenter.class_names)}."
        )
    own = range(len(table))[ranks.share(len(table))]
    sums = SegmentationSums(n_bins=n_bins)
    progress = ProgressLog(log, "measuring images", len(own))
    for done, row in enumerate(own, start=1):
        image, mask = table.read(row)
        labels = torch.from_numpy(mask.astype(np.int64))[None]
        sums.update(segmenter.probs(image)[None], labels)
        progress.update(done)
    found = sums.sums if len(own) else _none_of(len(segmenter.class_names), n_bins)
    if ranks.world_size() > 1:
        found = ImageSums(**{name: ranks.gathered(tensor) for name, tensor in found.tensors.items()})
    groups = None if table.groups is None else [*table.groups]
    return Evaluated(found, [*table.names], groups, segmenter.class_names)


def _none_of(n_classes: int, n_bins: int) -> ImageSums:
    bins = [torch.zeros(0, n_classes, n_bins, dtype=torch.float64) for _ in range(3)]
    return ImageSums(*bins, *(torch.zeros(0, n_classes, dtype=torch.int64) for _ in range(3)))


def pixels_for_calibration(
    segmenter: Segmenter, table: PixelTable, *, most: int = 200_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return logits (M, C) and labels (M,) of pixels drawn at random, as many of each image.

    Args:
        segmenter: The network.
        table: Images with masks; not those it was trained on.
        most: Pixels in all.
        seed: Of the draw.
    """
    each = max(1, most // len(table))
    logits, labels = [], []
    for row in range(len(table)):
        image, mask = table.read(row)
        found = segmenter.logits(to_input(image, segmenter.size)[None])[0].flatten(1).T.cpu()
        truth = torch.from_numpy(scaled_mask(mask, segmenter.size).astype(np.int64)).flatten()
        generator = torch.Generator().manual_seed(seed + row)
        chosen = torch.randperm(len(truth), generator=generator)[:each]
        logits.append(found[chosen])
        labels.append(truth[chosen])
    return torch.cat(logits), torch.cat(labels)

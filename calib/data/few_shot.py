"""Drawing a few images per class: the same ones on every machine, for the same seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from calib.core.hashing import json_digest
from calib.core.text import few
from calib.data.few_shot_draw import draw_at_most, draw_rows_of, pools_of
from calib.io.files import is_strings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FewShotSplit:
    """Which images of the training split are trained on and which are validated on.

    Attributes:
        train: (n,) int64 row indices, class by class.
        val: (m,) int64 row indices, class by class; disjoint from `train` by image and by group.
        train_ids: n content ids, in the order of `train`.
        val_ids: m content ids.
        shots: Training images per class that were asked for; None: all.
        val_shots: Validation images per class.
        seed: The seed.
        grouped: Whether groups were known and kept apart.
        train_names: n readable names, in the order of `train`; None: not known.
        val_names: m readable names, in the order of `val`; None: not known.
        chosen: By which strategies the training images were chosen, and how many by each. None: they were
            drawn from every class.
    """

    train: Tensor
    val: Tensor
    train_ids: list[str]
    val_ids: list[str]
    shots: int | None
    val_shots: int
    seed: int
    grouped: bool
    train_names: list[str] | None = None
    val_names: list[str] | None = None
    chosen: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the split by content ids, for `split.json`: valid wherever the same images are.

        Known names stand beside the ids for human readers.
        """
        names = {"train_names": self.train_names, "val_names": self.val_names}
        known = {key: list(given) for key, given in names.items() if given is not None}
        return {**self._facts(), **known, "digest": self.digest()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], ids: Sequence[str]) -> FewShotSplit:
        """Return the split that `to_dict` wrote, as rows of a table.

        Args:
            record: What `to_dict` returned.
            ids: Content ids of the training split.

        Raises:
            ValueError: The record lacks something, or some of its images are not among `ids`.
        """
        missing = {"seed", "shots", "val_shots", "grouped", "train", "val"} - record.keys()
        if missing:
            raise ValueError(f"A few-shot split needs {', '.join(sorted(missing))}.")
        wrong = [key for key in ("train", "val") if not is_strings(record[key])]
        if wrong:
            raise ValueError(f"A few-shot split must say {wrong[0]} as a list of content ids.")
        rows = {id_: row for row, id_ in reversed(list(enumerate(ids)))}  # of copies, the first
        train_ids, val_ids = list(record["train"]), list(record["val"])
        absent = [id_ for id_ in train_ids + val_ids if id_ not in rows]
        if absent:
            total = len(train_ids) + len(val_ids)
            raise ValueError(
                f"{len(absent)} of the split's {total} images are not in this data set: {few(absent, 2)}."
            )
        return cls(
            _tensor([rows[id_] for id_ in train_ids]),
            _tensor([rows[id_] for id_ in val_ids]),
            train_ids,
            val_ids,
            record["shots"],
            record["val_shots"],
            record["seed"],
            record["grouped"],
            record.get("train_names"),
            record.get("val_names"),
            record.get("chosen"),
        )

    def outside(self, ids: Sequence[str], groups: Sequence[str] | None = None) -> list[int]:
        """Return the rows that share no image and no group with the shots, training and validation alike.

        Args:
            ids: (N,) content ids of the training split.
            groups: (N,) its groups. None: not known.

        Example:
            >>> split = few_shot_split(torch.tensor([0, 0, 1, 1]), ["a", "b", "c", "d"], 1, seed=1)
            >>> sorted([*split.train.tolist(), *split.outside(["a", "b", "c", "d"])])
            [0, 1, 2, 3]
        """
        owner = list(ids) if groups is None else [str(group) for group in groups]
        taken = [*self.train.tolist(), *self.val.tolist()]
        taken_ids, taken_groups = {ids[row] for row in taken}, {owner[row] for row in taken}
        return [row for row, id_ in enumerate(ids) if id_ not in taken_ids and owner[row] not in taken_groups]

    def digest(self) -> str:
        """Return the SHA-256 hex digest that names the split in exported files.

        It is of all that `to_dict` says but the names: files may be called otherwise elsewhere.
        """
        return json_digest(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "shots": self.shots,
            "val_shots": self.val_shots,
            "grouped": self.grouped,
            "train": list(self.train_ids),
            "val": list(self.val_ids),
            **({} if self.chosen is None else {"chosen": dict(self.chosen)}),
        }


def few_shot_split(
    labels: Tensor,
    ids: Sequence[str],
    shots: int | None,
    *,
    val_shots: int = 0,
    at_most: bool = False,
    seed: int,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> FewShotSplit:
    """Return training and validation shots of every class.

    The images of a class are ordered by SHA-256 of "seed:id", so the draw depends on the seed and on the
    contents of the images, not on file names, folder order or library versions. Copies of an image are drawn
    once; an image that stands under two labels is not drawn at all.

    With `groups`, training and validation share none, and each takes one image per group before it takes a
    second. A class with a group for every shot gives the same training shots whatever `val_shots` is, and 16
    shots contain the 8 of the same seed. Where groups are fewer, some are kept back for validation, in
    proportion to the shots.
    Differs: the official CalibPrompt draw depends on the order in which the file system lists the files,
        ignores seed 0, takes fewer images without a word where a class is small, and validates on the test
        split.

    Args:
        labels: (N,) class indices; every class from 0 to the largest must occur.
        ids: N content ids.
        shots: Training images per class, at least 1. None: all that validation leaves.
        val_shots: Validation images per class, at least 0.
        at_most: Whether both are upper limits. A class with fewer images gives what it has, training first,
            and the log says how many; the others give the same images as without it. False: it is refused.
        seed: Any integer.
        groups: N group names. None: every image is a group of its own.
        class_names: C names, for messages.
        names: N readable names of the images, kept beside the ids; they do not influence the draw.

    Raises:
        ValueError: A class has too few different images (or groups); the message names it, and numbers of
            shots that all classes have enough for.
    """
    _check_arguments(labels, ids, shots, val_shots, {"groups": groups, "names": names})
    owner = list(ids) if groups is None else [str(group) for group in groups]
    pools = pools_of(labels, ids, seed, max(len(class_names or ()), int(labels.max()) + 1))
    train, val = draw_rows_of(pools, owner, shots, [val_shots] * len(pools))
    if at_most:
        train, val = draw_at_most(pools, owner, shots, val_shots)
        _say_fewer(train, val, shots, val_shots, class_names)
    for label, pool in sorted(enumerate(pools), key=lambda each: bool(each[1])):  # an empty one is named
        few_val = len(val[label]) < val_shots and not at_most
        if len(train[label]) < (1 if at_most else shots or 1) or few_val:
            name = f" ('{class_names[label]}')" if class_names and label < len(class_names) else ""
            asked = f"{'all' if shots is None else shots} training and {val_shots} validation shots"
            count = f"{len(pool)} different images"
            if groups is not None:
                count += f" in {len({owner[row] for row in pool})} groups"
                asked += " without a shared group"
            raise ValueError(
                f"Class {label}{name} has {count} in the training split; {asked} were asked for. "
                + _advice(pools, owner, shots, val_shots)
            )
    train_rows, val_rows = list(chain(*train)), list(chain(*val))
    return FewShotSplit(
        _tensor(train_rows),
        _tensor(val_rows),
        [ids[row] for row in train_rows],
        [ids[row] for row in val_rows],
        shots,
        val_shots,
        seed,
        groups is not None,
        None if names is None else [names[row] for row in train_rows],
        None if names is None else [names[row] for row in val_rows],
    )


def _advice(pools: Sequence[Sequence[int]], owner: Sequence[str], shots: int | None, val_shots: int) -> str:
    """Return which settings would do instead of numbers of shots that some class has too few images for."""

    def enough(shots: int | None, val_shots: int) -> bool:
        train, val = draw_rows_of(pools, owner, shots, [val_shots] * len(pools))
        return all(len(rows) >= (shots or 1) for rows in train) and all(
            len(rows) >= val_shots for rows in val
        )

    fewer = _largest(lambda number: enough(number, val_shots), 1, (shots or 1) - 1)
    fewer_val = _largest(lambda number: enough(shots, number), 0, val_shots - 1)
    choices = [] if fewer is None else [f"data.shots={fewer}"]
    choices += [] if fewer_val is None else [f"data.val_shots={fewer_val}"]
    if fewer_val is None and shots is not None:
        share = _largest(lambda number: enough(number, _share(number, shots, val_shots)), 1, shots - 1)
        if share is not None and fewer is not None and share > fewer:
            choices = [f"data.shots={share} data.val_shots={_share(share, shots, val_shots)}"]
        alone = _largest(lambda number: enough(number, 0), 1, shots - 1)
        if alone is not None and val_shots and alone > (share or 0):
            choices.append(f"data.shots={alone} data.val_shots=0")
    if not choices:
        return "Add images of this class, or leave it out of the data set."
    return (
        f"Enough for every class: {', or '.join(choices)}. Or keep the numbers for the others: "
        "data.at_most=true takes what a class has."
    )


def _share(number: int, shots: int, val_shots: int) -> int:
    """Return as many validation shots for a number of shots as were asked for, in proportion."""
    return min(val_shots, max(1, number * val_shots // shots)) if val_shots else 0


def _say_fewer(
    train: Sequence[Sequence[int]],
    val: Sequence[Sequence[int]],
    shots: int | None,
    val_shots: int,
    class_names: Sequence[str] | None,
) -> None:
    """Say in a line which classes give fewer images than were asked for."""
    names = class_names or [str(label) for label in range(len(train))]
    fewer = [
        f"'{name}' {len(ours)} and {len(theirs)}"
        for name, ours, theirs in zip(names, train, val, strict=False)
        if len(theirs) < val_shots or len(ours) < (shots or 0)
    ]
    if fewer:
        asked = "all" if shots is None else shots
        logger.warning(
            "Classes with fewer than %s training and %d validation shots: %s (data.at_most=true).",
            asked,
            val_shots,
            few(fewer, 20),
        )


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the largest number in [low, high] that fits, where smaller ones do too; None: none does."""
    best = None
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def _check_arguments(
    labels: Tensor,
    ids: Sequence[str],
    shots: int | None,
    val_shots: int,
    optional: Mapping[str, Sequence[str] | None],
) -> None:
    lengths = {"ids": len(ids), **{what: len(given) for what, given in optional.items() if given is not None}}
    if labels.dim() != 1 or not len(labels) or any(size != len(labels) for size in lengths.values()):
        sizes = "".join(f", {size} {what}" for what, size in lengths.items())
        raise ValueError(
            f"labels, ids, groups and names must be N > 0 each; got {tuple(labels.shape)} labels{sizes}."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels are class indices from 0; the smallest is {int(labels.min())}.")
    if shots is not None and shots < 1:
        raise ValueError(f"data.shots must be at least 1, or null for all images; got {shots}.")
    if val_shots < 0:
        raise ValueError(f"data.val_shots must be at least 0; got {val_shots}.")


def _tensor(rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)

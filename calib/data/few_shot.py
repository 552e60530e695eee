"""Drawing a few images per class: the same ones on every machine, for the same seed."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from calib.core.hashing import json_digest, stable_hash
from calib.core.text import few

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
        }


def few_shot_split(
    labels: Tensor,
    ids: Sequence[str],
    shots: int | None,
    *,
    val_shots: int = 0,
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
        ignores
    seed 0, takes fewer images without a word where a class is small, and validates on the test split.

    Args:
        labels: (N,) class indices; every class from 0 to the largest must occur.
        ids: N content ids.
        shots: Training images per class, at least 1. None: all that validation leaves.
        val_shots: Validation images per class, at least 0.
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
    pools = _pools(labels, ids, seed, max(len(class_names or ()), int(labels.max()) + 1))
    train, val = _draw(pools, owner, shots, val_shots)
    for label, pool in enumerate(pools):
        if len(train[label]) < (shots or 1) or len(val[label]) < val_shots:
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
        train, val = _draw(pools, owner, shots, val_shots)
        return all(len(rows) >= (shots or 1) for rows in train) and all(
            len(rows) >= val_shots for rows in val
        )

    fewer = _largest(lambda number: enough(number, val_shots), 1, (shots or 1) - 1)
    fewer_val = _largest(lambda number: enough(shots, number), 0, val_shots - 1)
    choices = [] if fewer is None else [f"data.shots={fewer}"]
    choices += [] if fewer_val is None else [f"data.val_shots={fewer_val}"]
    if not choices:
        alone = _largest(lambda number: enough(number, 0), 1, (shots or 1) - 1)
        choices = [] if alone is None else [f"data.shots={alone} data.val_shots=0"]
    if not choices:
        return "Add images of this class, or leave it out of the data set."
    return f"Enough for every class: {', or '.join(choices)}."


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


def _pools(labels: Tensor, ids: Sequence[str], seed: int, n_classes: int) -> list[list[int]]:
    """Return the different images of every class in the order of the draw."""
    label_of = labels.tolist()
    labels_of: dict[str, set[int]] = defaultdict(set)
    for id_, label in zip(ids, label_of, strict=True):
        labels_of[id_].add(label)
    ambiguous = sum(len(found) > 1 for found in labels_of.values())
    if ambiguous:
        logger.warning(
            "%d images stand under more than one label; none of them is drawn as a shot.", ambiguous
        )
    pools: list[list[int]] = [[] for _ in range(n_classes)]
    seen: set[str] = set()
    for row in sorted(range(len(ids)), key=lambda row: (stable_hash(seed, ids[row]), row)):
        if ids[row] not in seen and len(labels_of[ids[row]]) == 1:
            pools[label_of[row]].append(row)
        seen.add(ids[row])
    return pools


def _draw(
    pools: Sequence[Sequence[int]], owner: Sequence[str], shots: int | None, val_shots: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the training and the validation rows of every class, as many as there are."""
    if shots is None:  # validation first: training takes all the rest
        val = [_take(pool, owner, set(), val_shots) for pool in pools]
        return [_take(pool, owner, _owners(val, owner), None) for pool in pools], val
    reserved: set[str] = set().union(*(_reserved(pool, owner, shots, val_shots) for pool in pools))
    train = [_take(pool, owner, reserved, shots) for pool in pools]
    return train, [_take(pool, owner, _owners(train, owner), val_shots) for pool in pools]


def _owners(rows: Sequence[Sequence[int]], owner: Sequence[str]) -> set[str]:
    return {owner[row] for row in chain(*rows)}


def _take(pool: Sequence[int], owner: Sequence[str], avoid: set[str], count: int | None) -> list[int]:
    """Return the first rows outside some groups; every group gives one image before any gives a second."""
    turn: Counter[str] = Counter()
    order = []
    for position, row in enumerate(pool):
        if owner[row] not in avoid:
            order.append((turn[owner[row]], position, row))
            turn[owner[row]] += 1
    return [row for _, _, row in sorted(order)][:count]


def _reserved(pool: Sequence[int], owner: Sequence[str], shots: int, val_shots: int) -> set[str]:
    """Return a class's groups to keep back for validation: none while there is a group for every shot."""
    sizes = Counter(owner[row] for row in pool)  # in the order of the draw
    groups = list(sizes)
    if not val_shots or len(groups) >= shots + val_shots:
        return set()
    total = sum(sizes.values())
    reserved: list[str] = []
    for order in (groups, sorted(groups, key=sizes.__getitem__, reverse=True)):  # by draw, else the smallest
        count = max(1, len(order) * val_shots // (shots + val_shots))
        while count < len(order) and sum(sizes[group] for group in order[-count:]) < val_shots:
            count += 1
        reserved = order[-count:]
        if total - sum(sizes[group] for group in reserved) >= shots:
            break
    return set(reserved)


def _tensor(rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)

"""Are there images or patients in more than one split?"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from calib.core.text import few
from calib.data.task import Table, TaskData

logger = logging.getLogger(__name__)

LISTED = 1000  # names per finding in split.json


@dataclass(frozen=True)
class OverlapReport:
    """Images and groups that the splits of a task share.

    Attributes:
        repeated_images: Split to the names of images whose content occurs in it before.
        shared_images: "train/test" to the names of the second split's images that the first has too.
        shared_groups: "train/test" to the groups (patients, slides) in both.
        conflicting_images: Names of images whose content occurs elsewhere with another label.
    """

    repeated_images: dict[str, list[str]]
    shared_images: dict[str, list[str]]
    shared_groups: dict[str, list[str]]
    conflicting_images: list[str]

    @property
    def clean(self) -> bool:
        """Whether no two splits share an image or a group."""
        return not self.shared_images and not self.shared_groups

    def to_dict(self) -> dict[str, Any]:
        """Return counts and the first thousand names of each finding, for JSON."""

        def brief(names: list[str]) -> dict[str, Any]:
            return {"count": len(names), "first": names[:LISTED]}

        return {
            "repeated_images": {split: brief(names) for split, names in self.repeated_images.items()},
            "shared_images": {pair: brief(names) for pair, names in self.shared_images.items()},
            "shared_groups": {pair: brief(names) for pair, names in self.shared_groups.items()},
            "conflicting_images": brief(self.conflicting_images),
        }


def check_overlap(task: TaskData) -> OverlapReport:
    """Return which images and groups the splits of a task share; every finding is also a warning in the log.

    Two images are the same when their content ids are: bit-identical files (or pixels, for arrays). A copy
    saved again or resized is not found. Groups are compared where both splits know them.

    Args:
        task: The task; image files are hashed if they have not been yet.
    """
    splits = task.splits()
    repeated = {split: names for split, table in splits.items() if (names := _repeated(table))}
    shared_images, shared_groups = {}, {}
    for first, second in combinations(splits, 2):
        ids = set(splits[first].ids)
        names = [
            name for id_, name in zip(splits[second].ids, splits[second].names, strict=True) if id_ in ids
        ]
        if names:
            shared_images[f"{first}/{second}"] = names
        groups = set(splits[first].groups or ()) & set(splits[second].groups or ())
        if groups:
            shared_groups[f"{first}/{second}"] = sorted(groups)
    report = OverlapReport(repeated, shared_images, shared_groups, _conflicting(list(splits.values())))
    _warn(task.name, report)
    return report


def _repeated(table: Table) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for id_, name in zip(table.ids, table.names, strict=True):
        if seen[id_]:
            names.append(name)
        seen[id_] += 1
    return names


def _conflicting(tables: list[Table]) -> list[str]:
    labels: dict[str, set[int]] = {}
    for table in tables:
        for id_, label in zip(table.ids, table.labels.tolist(), strict=True):
            labels.setdefault(id_, set()).add(label)
    return [
        name
        for table in tables
        for id_, name in zip(table.ids, table.names, strict=True)
        if len(labels[id_]) > 1
    ]


def _warn(task: str, report: OverlapReport) -> None:
    for split, names in report.repeated_images.items():
        effect = "Each counts in the results." if split == "test" else "Shots are drawn without copies."
        logger.warning(
            "%s: %d images occur more than once in %s: %s. %s", task, len(names), split, few(names), effect
        )
    for what, shared, remedy in (
        ("images", report.shared_images, "Take them out of one of the two."),
        ("groups", report.shared_groups, "Split the images by group (patient, slide) instead."),
    ):
        for pair, names in shared.items():
            logger.warning(
                "%s: %d %s are in both of %s: %s. They stay there and flatter the results; split.json "
                "lists them. %s",
                task,
                len(names),
                what,
                pair,
                few(names),
                remedy,
            )
    if report.conflicting_images:
        names = report.conflicting_images
        logger.warning(
            "%s: %d images occur under different labels: %s. Those with two labels in train are not drawn as "
            "shots; in test each counts under its own. Correct the labels; split.json lists them.",
            task,
            len(names),
            few(names),
        )

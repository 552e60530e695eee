"""The shots of a list: exactly the images that were chosen and labelled, and validation shots beside them."""

from __future__ import annotations

import logging

import torch

from calib.core.text import few
from calib.data.few_shot import FewShotSplit
from calib.data.few_shot_draw import draw_rows_of, pools_of
from calib.data.folds import owners
from calib.data.shot_list import ShotList
from calib.data.task import TaskData
from calib.posthoc.not_drawn import not_drawn

logger = logging.getLogger(__name__)


def chosen_split(
    task: TaskData, chosen: ShotList, *, val_shots: int = 0, at_most: bool = False, seed: int
) -> FewShotSplit:
    """Return the images of a list as training shots, and validation shots of every class from the rest.

    Classes have as many shots as were found, some perhaps none. Validation shots are drawn as
    `calib.data.few_shot.few_shot_split` does, and share no image and no group with the list.

    Args:
        task: The data set; the list is of its training split.
        chosen: The list. Where its label column is empty the data set's own label is taken.
        val_shots: Validation images per class, at least 0.
        at_most: Whether that is an upper limit.
        seed: Of the draw of validation images.

    Raises:
        ValueError: An image of the list is not in the training split or has another label there, all are of
            one class, or a class has too few images for validation.
    """
    table, names = task.train, task.class_names
    if not len(table):
        raise ValueError(f"Data set '{task.name}' has no training images, of which {chosen.path} is a list.")
    ids, true = table.ids, table.labels.tolist()
    rows = chosen.rows_in(ids, table.names, what=f"the training images of '{task.name}'")
    _check_labels(chosen, [true[row] for row in rows], names)
    ordered = sorted(range(len(rows)), key=lambda at: (true[rows[at]], at))  # class by class
    train = [rows[at] for at in ordered]
    if len({true[row] for row in train}) < 2:
        raise ValueError(
            f"All {len(train)} images in {chosen.path} are of one class: there is nothing to tell apart. "
            "Label more images: calib select ... labels=FILE goes on from these."
        )
    val = _validation(task, set(train), val_shots, at_most, seed)
    return FewShotSplit(
        torch.tensor(train, dtype=torch.int64),
        torch.tensor(val, dtype=torch.int64),
        [ids[row] for row in train],
        [ids[row] for row in val],
        None,
        val_shots,
        seed,
        table.groups is not None,
        [table.names[row] for row in train],
        [table.names[row] for row in val],
        chosen.strategies,
    )


def warn_of_chosen(split: FewShotSplit, task: TaskData) -> None:
    """Say in the log what follows from shots that were chosen: no guarantee, classes without any.

    Args:
        split: The shots; where they were not chosen nothing is said.
        task: The data set.
    """
    if split.chosen is None:
        return
    if said := not_drawn(split.chosen):
        logger.warning("%s", said)
    found = set(task.train.labels[split.train].tolist())
    absent = [f"'{name}'" for label, name in enumerate(task.class_names) if label not in found]
    if absent:
        logger.warning(
            "No chosen image is of %s: the prompt knows such a class by its name alone, will hardly ever "
            "predict it, and is calibrated by one factor. Label more images: calib select ... labels=FILE.",
            few(absent, 10),
        )


def _check_labels(chosen: ShotList, true: list[int], names: list[str]) -> None:
    """Refuse labels in a list that are not those of the data set."""
    if len(chosen.unfilled) == len(chosen.images):
        return
    found, _ = chosen.numbered(names)
    for image, label, known in zip(chosen.images, found, true, strict=True):
        if label is not None and label != known:
            raise ValueError(
                f"{image.where}: {image.file} is labelled '{names[label]}', and '{names[known]}' in the data "
                "set. Correct one of them, or leave the column label empty to take the data set's own."
            )


def _validation(task: TaskData, taken: set[int], val_shots: int, at_most: bool, seed: int) -> list[int]:
    """Return rows of validation shots, class by class."""
    if not val_shots:
        return []
    table, owner = task.train, owners(task.train)
    gone, gone_ids = {owner[row] for row in taken}, {table.ids[row] for row in taken}
    pools = [
        [row for row in pool if owner[row] not in gone and table.ids[row] not in gone_ids]
        for pool in pools_of(table.labels, table.ids, seed, len(task.class_names))
    ]
    _, val = draw_rows_of(pools, owner, None, [val_shots] * len(pools))
    for name, rows in zip(task.class_names, val, strict=True):
        if len(rows) < val_shots and not at_most:
            raise ValueError(
                f"Class '{name}' has {len(rows)} images outside the list for validation; data.val_shots="
                f"{val_shots} were asked for. Take fewer, or what there is (data.at_most=true)."
            )
    return [row for rows in val for row in rows]


def strategies_of(record: object) -> dict[str, int]:
    """Return by which strategies the shots of a split.json or export were chosen; none: they were drawn.

    Args:
        record: What stands under "chosen" there.

    Example:
        >>> strategies_of({"typicality": 24}), strategies_of(None)
        ({'typicality': 24}, {})
    """
    if not isinstance(record, dict):
        return {}
    return {str(name): count for name, count in record.items() if isinstance(count, int)}

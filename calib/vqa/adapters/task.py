"""Any image classification task as multiple-choice questions: its classes are the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calib.core.checks import check_kind
from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.data.dicom import is_dicom_file
from calib.data.features import FeatureTable
from calib.data.records import FileSource
from calib.data.task import TaskData
from calib.io.files import atomic_path
from calib.vqa.images import PACKAGED
from calib.vqa.tables import Items

QUESTION = "Which of these does the image show?"


def from_task(
    task: TaskData,
    *,
    options: int | None = 4,
    seed: int = 0,
    split: str = "test",
    question: str = QUESTION,
    limit: int | None = None,
    folder: str | Path | None = None,
) -> Items:
    """Return one question for every image of a task: the right class among drawn others, in a drawn order.

    Option ids are c0, c1, ...: the classes' places in the task. What is drawn depends on the seed and the
    image's content. The column template holds the task's own, for image-text models.

    Args:
        task: From `calib.load_data`.
        options: Options of a question; tasks with fewer classes ask for all of them. None: all classes.
        seed: Of draws.
        split: "train", "val" or "test".
        question: The question.
        limit: At most so many images, drawn by content. None: all.
        folder: Where images are written as PNG that have no file of their own (arrays, the hub).

    Raises:
        ValueError: The task has no such split, the number of options is none, or images have no files and
            `folder` is not given.

    Example:
        >>> from calib.data.specs import load_data
        >>> items = from_task(load_data("cxr3"), options=3, limit=5)
        >>> len(items), items.n_options.tolist(), sorted(items.cell("option_ids", 0))
        (5, [3, 3, 3, 3, 3], ['c0', 'c1', 'c2'])
    """
    check_kind(task, TaskData, "task", "calib.load_data returns one.")
    tables = task.splits()
    if split not in tables:
        raise unknown_name("split", split, tables)
    if options is not None and options < 2:
        raise ValueError(f"A question has at least 2 options, not {options}.")
    table, names = tables[split], task.class_names
    ids = list(table.ids)
    chosen = list(range(len(ids)))
    if limit is not None:
        chosen = sorted(sorted(chosen, key=lambda row: stable_hash("limit", seed, ids[row]))[:limit])
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for row in chosen:
        label = int(table.labels[row])
        others = sorted(
            (c for c in range(len(names)) if c != label),
            key=lambda c: stable_hash("distractor", seed, ids[row], c),
        )
        among = [label, *others[: len(names) if options is None else options - 1]]
        order = sorted(among, key=lambda c: stable_hash("order", seed, ids[row], c))
        copy = seen[ids[row]] = seen.get(ids[row], -1) + 1  # the same image may be there twice
        base = f"{task.name}/{split}/{ids[row][:16]}{f'-{copy}' if copy else ''}"
        rows.append(
            {
                "item_id": f"{base}#original",
                "base_id": base,
                "condition": "original",
                "dataset": task.name,
                "split": split,
                "group_id": None if table.groups is None else f"{task.name}/{table.groups[row]}",
                "image_id": ids[row],
                "question": question,
                "question_type": "classification",
                "options": [names[c] for c in order],
                "option_ids": [f"c{c}" for c in order],
                "correct_index": order.index(label),
                "image": _image(task, split, row, folder),
                "template": task.template,
            }
        )
    return Items.of_rows(rows, source=f"{task.name} ({split})")


def _image(task: TaskData, split: str, row: int, folder: str | Path | None) -> str:
    table = task.splits()[split]
    if isinstance(table, FeatureTable):
        return f"{PACKAGED}{task.name}/{split}/{table.ids[row]}"
    record = table[row]
    source = record.source
    # The header of a DICOM file must not travel with a question: its pixels are written, as others are.
    if isinstance(source, FileSource) and table.grey16_max is None and not is_dicom_file(source.path):
        return str(source.path)
    if folder is None:
        raise ValueError(
            f"The images of '{task.name}' are no files that can be named as they are; say where they may be "
            "written as PNG (folder)."
        )
    path = Path(folder) / f"{record.id}.png"
    if not path.is_file():
        picture = table.open(row)  # what cannot be read is said of it, not of what is written
        with atomic_path(path) as part:
            picture.save(part, format="PNG")
    return str(path)

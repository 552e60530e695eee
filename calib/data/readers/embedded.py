"""The tasks that come with this package: features of the embedded backbone, or images where you have them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from calib.data.encode import encode_table
from calib.data.features import FeatureTable
from calib.data.images import file_id
from calib.data.readers.table import load_table
from calib.data.records import ImageTable
from calib.data.task import SPLITS, ClassNames, Splits, Table, TaskData, number_classes
from calib.io.files import write_text

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

SUMS = "SHA256SUMS"  # of the packaged features, as `sha256sum */*.safetensors` writes it
PRETRAIN = "pretrain"  # images the embedded backbone was trained on: never part of a task


def embedded_reader(task: str, labels: Mapping[str, str], *, group: str) -> Callable[..., Splits]:
    """Return the reader of an embedded task.

    Args:
        task: The task's name, which is the folder of its packaged features.
        labels: Label to class name, in label order; what the packaged features were made with.
        group: The column of labels.csv that says which images must stay together.
    """

    def load(root: str | Path | None = None, *, class_names: ClassNames | None = None) -> Splits:
        names = class_names if class_names is not None else labels
        if root is None:
            return _load_packaged(task, labels, names)
        columns = {"file": "file", "label": "label", "split": "split", "group": group, "id": None}
        return load_table(
            root, class_names=names, table="labels.csv", columns=columns, skip_splits=(PRETRAIN,)
        )

    return load


def save_task_features(task: TaskData, backbone: Backbone, folder: str | Path, *, views: int = 8) -> None:
    """Write the features of a task to `<folder>/{train,val,test}.safetensors`, to be packaged.

    Their SHA-256 sums are noted in the file beside the folder with which they are compared when read.

    Args:
        task: A task with image tables.
        backbone: The embedded backbone.
        folder: `calib/assets/tasks/<task>`.
        views: Augmented views per training image; validation and test images have none.

    Raises:
        ValueError: The task holds features already.
    """
    facts = {
        "class_names": task.class_names,
        "source": task.source,
        "licence": task.licence,
        "task": task.name,
    }
    for split, table in task.splits().items():
        if not isinstance(table, ImageTable):
            raise ValueError(
                f"The {split} split of '{task.name}' holds features already; give the images (data.root)."
            )
        encoded = encode_table(backbone, table, views=views if split == "train" else 0, meta=facts)
        encoded.save(Path(folder) / f"{split}.safetensors")
    _note_sums(Path(folder))


def _load_packaged(task: str, labels: Mapping[str, str], class_names: ClassNames) -> Splits:
    numbers, names = number_classes(list(labels), class_names, what="label")
    renumbered = torch.tensor([numbers[label] for label in labels])
    tables: dict[str, Table] = {}
    for split in SPLITS:
        table = _packaged_table(task, split)
        if table.meta.get("class_names") != list(labels.values()):
            raise ValueError(
                f"The packaged {split} features of '{task}' are of classes {table.meta.get('class_names')}."
            )
        tables[split] = replace(table, labels=renumbered[table.labels])
    return Splits(names, tables)


def _packaged_table(task: str, split: str) -> FeatureTable:
    resource = importlib.resources.files("calib") / "assets" / "tasks" / task / f"{split}.safetensors"
    if not resource.is_file():
        raise FileNotFoundError(
            f"This installation lacks the packaged features of '{task}'; give the images (data.root)."
        )
    with importlib.resources.as_file(resource) as path:
        _check_packaged(path, f"{task}/{split}.safetensors")
        return FeatureTable.load(path)


def _check_packaged(path: Path, name: str) -> None:
    """Refuse packaged features other than those that were packaged; they have no checksum inside."""
    sums = (importlib.resources.files("calib") / "assets" / "tasks" / SUMS).read_text(encoding="utf-8")
    if f"{file_id(path)}  {name}" not in sums.splitlines():
        raise ValueError(f"{path} is not the packaged file: it was damaged or changed. Install calib again.")


def _note_sums(folder: Path) -> None:
    """Write the sums of a task's files into the list of all tasks, in place of what it said of them."""
    path, task = folder.parent / SUMS, folder.name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    others = [line for line in lines if not line.split("  ")[1].startswith(f"{task}/")]
    own = [f"{file_id(file)}  {task}/{file.name}" for file in sorted(folder.glob("*.safetensors"))]
    ordered = sorted(others + own, key=lambda line: line.split("  ")[1])
    write_text(path, "".join(f"{line}\n" for line in ordered))

"""Images of the Hugging Face `datasets` library: a folder written by `save_to_disk`, or one on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from calib.core.errors import first_line, unknown_name
from calib.core.text import few
from calib.data.dicom import AS_FILED, DicomView
from calib.data.images import check_image, decode_image, read_image_file
from calib.data.labels import are_indices, label_text, number_labels
from calib.data.notices import warn_of_unused_groups
from calib.data.output_tables import is_missing
from calib.data.readers.hf_loading import folders_of, load_dataset
from calib.data.readers.table import by_key
from calib.data.readers.table_rows import COLUMNS
from calib.data.records import ImageTable
from calib.data.task import SPLITS, UNSPLIT, ClassNames, Splits, Table, number_classes

USUAL_KEYS = {"image": COLUMNS["file"], "label": COLUMNS["label"], "group": COLUMNS["group"]}
KEY_OF = {name: key for key, usual in USUAL_KEYS.items() for name in usual}
USUAL_SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


@dataclass(frozen=True, eq=False)
class RowSource:
    """The encoded image in one row of a `datasets` table.

    Attributes:
        rows: The table, with images not decoded.
        column: The image column.
        index: The row.
        name: What error messages call it.
        within: Folders that an image which lies outside the table may be read from.
    """

    rows: Any
    column: str
    index: int
    name: str
    within: tuple[Path, ...] = ()

    def content_id(self) -> str:
        """Return the digest of the encoded image's bytes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def look(self, *, view: DicomView = AS_FILED) -> str:
        """Return the digest of the encoded image if its header is an image's."""
        return check_image(self._bytes(), self.name, view=view)

    def open(
        self, *, grey16_max: int | None = None, view: DicomView = AS_FILED, id: str | None = None
    ) -> Image.Image:
        """Return the image as RGB; it must still be the one with this id."""
        return decode_image(self._bytes(), self.name, grey16_max=grey16_max, view=view, id=id)

    def _bytes(self) -> bytes:
        cell = self.rows[self.index][self.column]
        if cell is None:
            raise ValueError(f"{self.name} has no image.")
        if cell["bytes"] is not None:
            return cell["bytes"]
        path = Path(str(cell["path"])).resolve()
        if not any(path.is_relative_to(folder.resolve()) for folder in self.within):
            raise ValueError(
                f"{self.name} holds no image but the path {cell['path']!r}, which lies outside the data set "
                "and is not read. Save the data set with its images in it."
            )
        return read_image_file(path)


def load_hf(
    root: str | Path | None = None,
    *,
    class_names: ClassNames | None = None,
    dataset: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    splits: Mapping[str, str] | None = None,
) -> Splits:
    """Return the splits of a `datasets.DatasetDict`.

    Args:
        root: A folder written by `save_to_disk`, or one with Parquet files as a clone of a data set on the
            hub; where there is no such folder, owner/name of a data set on the hub; or None with `dataset`.
        class_names: Names in label order, or ClassLabel name to name. None: the ClassLabel's own.
        dataset: A data set on the hub, also one whose name is a folder here or has no owner.
        config: Its configuration, where it has several.
        revision: Its commit or tag; without one the newest is taken, which may change.
        columns: What the columns image, label and group are called; the keys may be named as in
            `calib.data.readers.table_rows.COLUMNS`, e.g. patient for group. Left out: the only Image column,
            the only ClassLabel column, else image and label by their usual names, no group; a group of None
            says that there is none. Labels may be text, whole numbers, or true and false.
        splits: Our split to theirs, e.g. {"test": "validation"}. None: train, test and val or validation.

    Raises:
        FileNotFoundError: There is no such folder, or no such data set on the hub.
        ValueError: Both or neither of `root` and `dataset`, or a split, column or label is not as described.
    """
    loaded = load_dataset(root, dataset, config, revision)
    where = root if root is not None else dataset
    try:
        return _read(loaded, class_names, columns or {}, splits or {}, folders_of(root))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:  # the library raises errors of many types on damaged files
        raise ValueError(
            f"{where} cannot be read as a data set; it may be damaged ({first_line(error)}). Save it again."
        ) from error


def _read(
    loaded: Any,
    class_names: ClassNames | None,
    columns: Mapping[str, str | None],
    splits: Mapping[str, str],
    within: tuple[Path, ...],
) -> Splits:
    unsplit = not isinstance(loaded, Mapping)
    loaded = {UNSPLIT: loaded} if unsplit else loaded
    chosen = _choose_splits(loaded, splits)
    first = loaded[next(iter(chosen.values()))]
    said = by_key(columns, KEY_OF)
    names = _column_names(first, said)
    if "group" not in said:
        warn_of_unused_groups(name for name in first.features if name not in names.values())
    found = {split: _labels(loaded[theirs], names["label"], split) for split, theirs in chosen.items()}
    keys = _class_keys([loaded[theirs].features[names["label"]] for theirs in chosen.values()])
    if keys is None or (class_names is None and are_indices(keys)):
        where = {key: f"row {split}/{row}" for split, each in found.items() for row, key in enumerate(each)}
        labels, ordered = number_labels(where, class_names)
    else:
        labels, ordered = number_classes(keys, class_names, what="label")
    tables: dict[str, Table] = {}
    for split, theirs in chosen.items():
        tables[split] = _table(loaded[theirs], names, [labels[key] for key in found[split]], split, within)

    def absent(split: str) -> str:
        listed = "saved without splits" if unsplit else f"only {few(list(loaded))}"
        remedy = "Save a DatasetDict" if unsplit else f"Say which: data.options.splits.{split}=NAME"
        return f"There is no split '{split}', {listed}. {remedy}."

    notes = ("It was saved without splits: all images are for testing.",) if unsplit else ()
    return Splits(ordered, {split: table for split, table in tables.items() if len(table)}, notes, absent)


def _class_keys(features: Sequence[Any]) -> list[str] | None:
    """Return the names of a ClassLabel in its order, those of all splits; None where labels are values."""
    import datasets

    if not all(isinstance(feature, datasets.ClassLabel) for feature in features):
        return None
    return list(dict.fromkeys(name for feature in features for name in feature.names))


def _labels(rows: Any, column: str, split: str) -> list[str]:
    """Return the label of every row as text."""
    import datasets

    feature, labels = rows.features[column], []
    for index, value in enumerate(rows[column]):
        if isinstance(feature, datasets.ClassLabel):
            text = feature.names[value] if value is not None and 0 <= value < len(feature.names) else None
        else:
            try:
                text = label_text(value)
            except ValueError as error:
                raise ValueError(f"Row {index} of the split '{split}': column '{column}' {error}.") from error
        if text is None:
            raise ValueError(f"Row {index} of the split '{split}' has no label.")
        labels.append(text)
    return labels


def _choose_splits(loaded: Any, splits: Mapping[str, str]) -> dict[str, str]:
    for ours, theirs in splits.items():
        if ours not in SPLITS:
            raise unknown_name("key of data.options.splits", ours, SPLITS)
        if theirs not in loaded:
            raise unknown_name(f"split (data.options.splits.{ours})", theirs, loaded)
    chosen = {}
    for ours, usual in USUAL_SPLITS.items():
        found = splits.get(ours) or next(
            (name for name in usual if name in loaded and name not in splits.values()), None
        )
        if found is not None:
            chosen[ours] = found
    if not chosen:
        raise ValueError(
            f"There is no split 'train' and no split 'test', only {few(list(loaded))}. Say which: "
            "data.options.splits.train=NAME, data.options.splits.test=NAME."
        )
    return chosen


def _column_names(rows: Any, columns: Mapping[str, str | None]) -> dict[str, str]:
    names = {key: name for key, name in columns.items() if name is not None}
    for key, name in names.items():
        if name not in rows.features:
            raise unknown_name(f"column (data.options.columns.{key})", name, rows.features)
    listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in rows.features.items())
    for key, kind, fits in (("image", "Image", _may_be_image), ("label", "ClassLabel", _may_be_label)):
        if key not in names:
            exact = [name for name, feature in rows.features.items() if type(feature).__name__ == kind]
            usual = [name for name in USUAL_KEYS[key] if name in rows.features and fits(rows.features[name])]
            found = exact or [name for name in usual if name not in names.values()]
            if len(found) != 1:
                raise ValueError(
                    f"Expected one {kind} column, found {len(found)}: {listed}. "
                    f"Say which: data.options.columns.{key}=NAME."
                )
            names[key] = found[0]
        if not fits(rows.features[names[key]]):
            raise ValueError(
                f"The column '{names[key]}' is of type {type(rows.features[names[key]]).__name__}, which "
                f"holds no {key}s: {listed}. Give another one: data.options.columns.{key}=NAME."
            )
    return names


def _may_be_image(feature: Any) -> bool:
    """Return whether a column holds images, or their encoded bytes as libraries without images keep them."""
    import datasets

    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _may_be_label(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.ClassLabel | datasets.Value) and "binary" not in feature.dtype


def _table(
    rows: Any, names: Mapping[str, str], labels: list[int], split: str, within: tuple[Path, ...]
) -> ImageTable:
    import datasets

    undecoded = rows.select_columns(names["image"]).cast_column(names["image"], datasets.Image(decode=False))
    row_names = [f"{split}/{index}" for index in range(len(rows))]
    sources = [
        RowSource(undecoded, names["image"], index, f"row {name}", within)
        for index, name in enumerate(row_names)
    ]
    groups = None
    if "group" in names:
        given = list(rows[names["group"]])
        empty = next((index for index, group in enumerate(given) if is_missing(group)), None)
        if empty is not None:
            raise ValueError(f"Row {empty} of the split '{split}' has no '{names['group']}'.")
        groups = [str(group) for group in given]
    return ImageTable(sources, labels, row_names, groups=groups)

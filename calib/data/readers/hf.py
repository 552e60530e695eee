"""Images of the Hugging Face `datasets` library: a folder written by `save_to_disk`, or one on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from calib.core.errors import first_line, unknown_name
from calib.core.text import few
from calib.data.images import check_image, decode_image, read_image_file
from calib.data.notices import warn_of_unused_groups
from calib.data.readers.table import by_key
from calib.data.readers.table_rows import COLUMNS
from calib.data.records import ImageTable
from calib.data.task import SPLITS, ClassNames, Splits, Table, number_classes

USUAL_KEYS = {"image": COLUMNS["file"], "label": COLUMNS["label"], "group": COLUMNS["group"]}
KEY_OF = {name: key for key, usual in USUAL_KEYS.items() for name in usual}
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name
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

    def look(self) -> str:
        """Return the digest of the encoded image if its header is an image's."""
        return check_image(self._bytes(), self.name)

    def open(self, *, grey16_max: int | None = None, id: str | None = None) -> Image.Image:
        """Return the image as RGB; it must still be the one with this id."""
        return decode_image(self._bytes(), self.name, grey16_max=grey16_max, id=id)

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
        root: A folder written by `DatasetDict.save_to_disk`; where there is no such folder, owner/name of a
            data set on the Hugging Face hub; or None with `dataset`.
        class_names: Names in label order, or ClassLabel name to name. None: the ClassLabel's own.
        dataset: A data set on the hub, also one whose name is a folder here or has no owner.
        config: Its configuration, where it has several.
        revision: Its commit or tag; without one the newest is taken, which may change.
        columns: What the columns image, label and group are called; the keys may be named as in
            `calib.data.readers.table_rows.COLUMNS`, e.g. patient for group. Left out: the only Image column,
            the only ClassLabel column, no group; a group of None says that there is none.
        splits: Our split to theirs, e.g. {"test": "validation"}. None: train, test and val or validation.

    Raises:
        FileNotFoundError: There is no such folder, or no such data set on the hub.
        ValueError: Both or neither of `root` and `dataset`, or a split, column or label is not as described.
    """
    loaded = _load(root, dataset, config, revision)
    where = root if root is not None else dataset
    try:
        return _read(loaded, class_names, columns or {}, splits or {}, _folders(root))
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
    chosen = _choose_splits(loaded, splits)
    said = by_key(columns, KEY_OF)
    names = _column_names(loaded[chosen["train"]], said)
    keys = loaded[chosen["train"]].features[names["label"]].names
    if "group" not in said:
        warn_of_unused_groups(name for name in loaded[chosen["train"]].features if name not in names.values())
    labels, ordered = number_classes(keys, class_names, what="label")
    tables: dict[str, Table] = {}
    for split, theirs in chosen.items():
        if loaded[theirs].features[names["label"]].names != keys:
            raise ValueError(
                f"The splits '{chosen['train']}' and '{theirs}' number their classes differently."
            )
        tables[split] = _table(loaded[theirs], names, [labels[key] for key in keys], split, within)
    return Splits(ordered, tables)


def _load(root: str | Path | None, dataset: str | None, config: str | None, revision: str | None) -> Any:
    import datasets  # takes seconds to import

    if (root is None) == (dataset is None):
        raise ValueError(
            "Give either data.root (a folder written by save_to_disk, or owner/name on the hub) or "
            "data.options.dataset (a name on the hub), not both."
        )
    if dataset is not None:
        loaded = _load_hub(dataset, config, revision)
    elif Path(str(root)).is_dir():
        if config is not None or revision is not None:
            raise ValueError(
                "data.options.config and data.options.revision are for data sets on the hub, not the folder "
                f"{root}."
            )
        loaded = _load_folder(str(root))
    elif HUB_ID.fullmatch(str(root)) and not Path(str(root)).exists():
        loaded = _load_hub(str(root), config, revision)
    else:
        raise FileNotFoundError(
            f"There is no folder {root}, and it is not owner/name of a data set on the Hugging Face hub."
        )
    if not isinstance(loaded, datasets.DatasetDict):
        raise ValueError(f"{root or dataset} has no splits: save a DatasetDict with 'train' and 'test'.")
    return loaded


def _folders(root: str | Path | None) -> tuple[Path, ...]:
    """Return where images of a data set may lie: in its folder, or where the hub's clients put them."""
    import datasets
    import huggingface_hub

    if root is not None and Path(root).is_dir():
        return (Path(root),)
    return (Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE))


def _load_folder(root: str) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(root)
        for rows in loaded.values() if isinstance(loaded, datasets.DatasetDict) else ():
            rows.data.table.validate(full=True)  # a damaged one would end the process when it is read
            for file in rows.cache_files:
                if not Path(file["filename"]).resolve().is_relative_to(Path(root).resolve()):
                    raise ValueError(f"it names the file {file['filename']}, which lies outside of it")
        return loaded
    except FileNotFoundError as error:
        raise ValueError(f"{root} was not written by DatasetDict.save_to_disk ({error}).") from error
    except Exception as error:  # the library raises errors of many types on damaged files
        raise ValueError(
            f"{root} cannot be read as a data set; it may be damaged ({first_line(error)}). Save it again."
        ) from error


def _load_hub(name: str, config: str | None, revision: str | None) -> Any:
    """Return a data set on the hub; the name may be a misspelt folder, so errors say both."""
    import datasets

    try:
        return datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # what "no network" raises depends on the versions of the hub's clients
        raise FileNotFoundError(
            f"There is no folder {name}, and no data set of this name can be read from the Hugging Face hub "
            f"({first_line(error)}). Without a network, write it elsewhere with save_to_disk and give the "
            "folder: data.root=FOLDER."
        ) from error


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
        elif ours != "val":
            listed = few(list(loaded))
            raise ValueError(
                f"There is no split '{ours}', only {listed}. Say which: data.options.splits.{ours}=NAME."
            )
    return chosen


def _column_names(rows: Any, columns: Mapping[str, str | None]) -> dict[str, str]:
    import datasets

    names = {key: name for key, name in columns.items() if name is not None}
    for key, name in names.items():
        if name not in rows.features:
            raise unknown_name(f"column (data.options.columns.{key})", name, rows.features)
    for key, kind in (("image", datasets.Image), ("label", datasets.ClassLabel)):
        found = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
        if key not in names and len(found) != 1:
            listed = ", ".join(
                f"{name} ({type(feature).__name__})" for name, feature in rows.features.items()
            )
            raise ValueError(
                f"Expected one {kind.__name__} column, found {len(found)}: {listed}. "
                f"Say which: data.options.columns.{key}=NAME."
            )
        names.setdefault(key, next(iter(found), ""))
        if names[key] not in found:
            actual = type(rows.features[names[key]]).__name__
            raise ValueError(
                f"The column '{names[key]}' is of type {actual}, not {kind.__name__}. Give another one: "
                f"data.options.columns.{key}=NAME."
            )
    return names


def _table(
    rows: Any, names: Mapping[str, str], labels: list[int], split: str, within: tuple[Path, ...]
) -> ImageTable:
    import datasets

    raw = [int(label) if label is not None else -1 for label in rows[names["label"]]]
    if any(not 0 <= label < len(labels) for label in raw):
        bad = next(index for index, label in enumerate(raw) if not 0 <= label < len(labels))
        raise ValueError(f"Row {bad} of the split '{split}' has no label.")
    undecoded = rows.select_columns(names["image"]).cast_column(names["image"], datasets.Image(decode=False))
    row_names = [f"{split}/{index}" for index in range(len(rows))]
    sources = [
        RowSource(undecoded, names["image"], index, f"row {name}", within)
        for index, name in enumerate(row_names)
    ]
    groups = [str(group) for group in rows[names["group"]]] if "group" in names else None
    return ImageTable(sources, [labels[label] for label in raw], row_names, groups=groups)

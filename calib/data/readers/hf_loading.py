"""Data sets of the Hugging Face library: found in a folder or on the hub, and checked before use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib.core.errors import first_line, meant_path
from calib.data.readers.table_rows import read_parquet

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name


def load_dataset(
    root: str | Path | None, dataset: str | None, config: str | None, revision: str | None
) -> Any:
    """Return a `Dataset`, or a mapping of split to one.

    Raises:
        FileNotFoundError: There is no such folder, or no such data set on the hub.
        ValueError: Both or neither of `root` and `dataset`, or what is there cannot be read.
    """
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
            f"{meant_path(str(root))}"
        )
    if isinstance(loaded, datasets.Dataset) and str(loaded.split) not in ("None", "all"):
        return {str(loaded.split): loaded}  # it was one of several
    return loaded


def folders_of(root: str | Path | None) -> tuple[Path, ...]:
    """Return where images of a data set may lie: in its folder, or where the hub's clients put them."""
    import datasets
    import huggingface_hub

    if root is not None and Path(root).is_dir():
        return (Path(root),)
    return (Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE))


def _load_folder(root: str) -> Any:
    import datasets

    parts = parquet_parts(Path(root))
    try:
        if parts:
            return {split: _read_parquet(paths) for split, paths in parts.items()}
        loaded = datasets.load_from_disk(root)
        for rows in loaded.values() if isinstance(loaded, datasets.DatasetDict) else [loaded]:
            rows.data.table.validate(full=True)  # a damaged one would end the process when it is read
            for file in rows.cache_files:
                if not Path(file["filename"]).resolve().is_relative_to(Path(root).resolve()):
                    raise ValueError(f"it names the file {file['filename']}, which lies outside of it")
        return loaded
    except FileNotFoundError as error:
        raise ValueError(
            f"{root} was not written by DatasetDict.save_to_disk ({error}), and holds no Parquet files named "
            "by split (train-*.parquet, data/test-*.parquet)."
        ) from error
    except Exception as error:  # the library raises errors of many types on damaged files
        raise ValueError(
            f"{root} cannot be read as a data set; it may be damaged ({first_line(error)}). Save it again."
        ) from error


def parquet_parts(root: Path) -> dict[str, list[Path]]:
    """Return the Parquet files of every split, as a clone of a repository of the hub holds them.

    They are called `train.parquet`, `train-00000-of-00002.parquet` or `train/0000.parquet`, in the folder
    itself or in `data`.

    Raises:
        ValueError: They lie in other folders too.
    """
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return {}  # written by save_to_disk
    parts: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.parquet")):
        folders = [name for name in path.relative_to(root).parts[:-1] if name != "data"]
        inside = folders[0] if len(folders) == 1 and path.stem.isdecimal() else None
        if folders and inside is None:
            raise ValueError(
                f"{root} holds Parquet files in folders of their own; give one of these: "
                f"data.root={root / folders[0]}."
            )
        parts.setdefault(inside or path.stem.split("-")[0], []).append(path)
    return parts


def _read_parquet(paths: Sequence[Path]) -> Any:
    import datasets
    import pyarrow

    table = pyarrow.concat_tables([read_parquet(path) for path in paths])
    table.validate(full=True)
    return datasets.Dataset(datasets.table.InMemoryTable(table))


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

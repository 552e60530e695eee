"""The arguments of `calib data check`, read without the imports that take seconds."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.commands.shared_arguments import settings_of
from calib.config import FailureRun, PromptRun, SegmentRun, load_config, split_arguments, task_of
from calib.core.errors import UsageError, meant_path, unknown_name
from calib.core.tables import names_in
from calib.io.files import blocking_file

HELP = ("-h", "--help")
USAGE = """\
calib data check FOLDER_OR_TABLE [CONFIG.yaml ...] [key=value ...] [out=SHOTS.png] [--headers] [--json]

Looks at data before anything is encoded: what will be read, classes and splits with counts, kinds, depths and
sizes of images, files that cannot be read, copies within and across splits, patients and whether any are on
both sides, which images the shots would be, and what training would refuse. Settings are those of calib train
(data.shots=16, seed=2, data.options.columns.label=NAME, ...). Exit status 1: training would refuse the data.

  calib data check images/
  calib data check cases.csv data.options.columns.label=diagnosis data.shots=16 out=shots.png
  calib data check mine.yaml --json
  calib data check NUCLEI                          (images and masks: what calib segment would read)
  calib data check task=failure prompt=runs/mine   (which images a failure head would learn from)
  calib data check own.csv                         (own questions: columns question, option_a, ..., answer)
  calib data check items.parquet root=IMAGES       (questions: what calib vqa would ask)

FOLDER_OR_TABLE   class folders (train/CLASS/...), a table (.csv, .tsv, .parquet), a folder with a table, a
                  MedMNIST .npz, or a data set that was saved by the datasets library; or data.name=...
out=FILE.png      a picture of the shots, by class; of images and masks, one over the other
--headers         read headers alone: quicker; what is cut off behind its header is then not found
--json            all of it as JSON on standard output
"""
TABLES = (".csv", ".tsv", ".parquet")
SHEETS = (".xlsx", ".xls", ".ods")
OF_DATASETS = ("dataset_dict.json", "dataset_info.json", "state.json")
MASKS = "masks"  # the folder of them, beside that of the images
LONGEST = 100_000  # characters of a header
PARTS = ("train", "test", "val", "images")


@dataclass(frozen=True)
class DataCheck:
    """What `calib data check` is asked for.

    Attributes:
        config: The settings as training would have them. None: items are checked, or help was asked for and
            shown.
        picture: The file for a picture. None: none is drawn.
        headers: Whether headers alone are read.
        json: Whether the answer is JSON.
        items: Tables of items, instead of data to train on.
        root: The folder of their images.
    """

    config: PromptRun | FailureRun | SegmentRun | None
    picture: Path | None = None
    headers: bool = False
    json: bool = False
    items: tuple[str, ...] = ()
    root: str | None = None


def data_arguments(argv: Sequence[str]) -> DataCheck:
    """Return what the arguments of `calib data` ask for; shows help where it is asked for.

    Raises:
        FileNotFoundError: The folder, the table or a YAML file does not exist.
        ValueError: Another subcommand, an unknown setting or option, or a place that is no data.
    """
    words = [word for word in argv if word not in HELP]
    if not words or len(words) < len(argv):
        sys.stdout.write(USAGE)
        return DataCheck(None)
    if words[0] != "check":
        raise UsageError(str(unknown_name("subcommand of calib data", words[0], ["check"])))
    flags = {"--json", "--headers"}
    given = [word for word in words[1:] if word not in flags]
    outs = [word.partition("=")[2] for word in given if word.startswith("out=")]
    settings, places = split_arguments([word for word in given if not word.startswith("out=")])
    if len(outs) > 1:
        raise ValueError("out=FILE.png is given once.")
    how: dict[str, Any] = {
        "picture": _picture(outs[0]) if outs else None,
        "headers": "--headers" in words,
        "json": "--json" in words,
    }
    mapped = any(word.startswith("data.options.columns.") for word in settings)  # then of images, said so
    if places and not mapped and all(holds_items(Path(place)) for place in places):
        return _of_items(places, settings, how)
    if len(places) > 1:
        raise ValueError("One folder or table is checked at a time.")
    place = Path(places[0]).expanduser() if places else None
    said = [word for word in settings if "=" not in word or word.startswith("task=")]
    task = task_of(said)
    if place is not None and task == "prompt" and not said and holds_masks(place):
        task = "segment"
    known = [] if place is None else [f"data.root={place}"]
    if place is not None and task != "segment":
        known.insert(0, f"data.name={kind_of_place(place)}")
    if task == "segment" and how["headers"]:
        raise ValueError("--headers is for images with a class each: masks are read whole, or not known.")
    files = [word for word in settings if "=" not in word]
    changes = [word for word in settings if "=" in word]
    return DataCheck(load_config([*files, *known, *changes], task=task), **how)


def _of_items(places: Sequence[str], settings: Sequence[str], how: Mapping[str, Any]) -> DataCheck:
    """Return the check of tables of questions, which take no settings of a training."""
    given = settings_of(
        settings,
        {"root": lambda key, text: text},
        command="calib data check of items",
        example="root=IMAGES",
    )
    if how["picture"] is not None or how["headers"]:
        raise ValueError("out=FILE.png and --headers are for images to train on, not for items.")
    return DataCheck(None, json=how["json"], items=tuple(places), root=given.get("root"))


def holds_items(place: Path) -> bool:
    """Return whether a file is a table of questions, for `calib vqa`.

    Args:
        place: A file, by its ending and columns: JSON lines, Parquet of items, or a table of own questions.
    """
    if place.suffix.lower() == ".jsonl":
        return place.is_file()
    return holds_own(place) or (
        place.suffix.lower() == ".parquet" and {"item_id", "question"} <= set(_columns(place))
    )


def holds_own(place: Path) -> bool:
    """Return whether a file is a table of own questions, which `calib vqa items source=table` makes items of.

    Args:
        place: A file, by its ending and columns; of JSON lines the fields of the first.
    """
    from calib.vqa.adapters.own_columns import is_own

    return place.suffix.lower() in (*TABLES, ".jsonl") and place.is_file() and is_own(_columns(place))


def holds_masks(place: Path) -> bool:
    """Return whether a folder or table is of images with masks, for `calib segment`.

    Args:
        place: A folder with folders of masks, or a table with a column of them.
    """
    if place.is_dir():
        if any((place / part / MASKS).is_dir() for part in ("", "train", "val", "test")):
            return True
        tables = [entry for entry in place.iterdir() if entry.suffix.lower() in TABLES]
        return len(tables) == 1 and holds_masks(tables[0])
    return place.suffix.lower() in TABLES and "mask" in _columns(place) and "label" not in _columns(place)


def _columns(table: Path) -> list[str]:
    """Return the columns of a table; none where it cannot be read, which its reader will say."""
    if table.suffix.lower() == ".parquet":
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_schema(table).names)
        except Exception:  # pyarrow raises errors of many types on damaged files
            return []
    try:
        with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            first = file.readline(LONGEST)
        if table.suffix.lower() == ".jsonl":
            return list(json.loads(first))
        return next(csv.reader([first], delimiter="\t" if table.suffix.lower() == ".tsv" else ","), [])
    except (OSError, TypeError, ValueError, csv.Error):  # zeros are an error before Python 3.11
        return []


def kind_of_place(place: Path) -> str:
    """Return which reader a folder or file of data is for: folder, table, medmnist or hf.

    Args:
        place: The folder or file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A file of another kind.
    """
    place = place.expanduser()
    if place.is_dir():
        names = {entry.name for entry in place.iterdir()}
        if names & set(OF_DATASETS):
            return "hf"
        tables = [name for name in names if name.lower().endswith(TABLES)]
        return "table" if tables and not names & set(PARTS) else "folder"
    if not place.exists():
        by_name = str(place) in names_in("calib.data.specs", "DATASETS")
        hint = f" A data set by that name: data.name={place}." if by_name else meant_path(place)
        raise FileNotFoundError(f"There is no folder or table '{place}'.{hint}")
    suffix = place.suffix.lower()
    if suffix in TABLES:
        return "table"
    if suffix == ".npz":
        return "medmnist"
    if suffix in SHEETS:
        raise ValueError(f"'{place}' is a spreadsheet: save it as CSV, and check that.")
    raise ValueError(
        f"'{place}' is no data: give a folder of class folders, a table ({', '.join(TABLES)}) or a MedMNIST "
        ".npz, or say data.name=..."
    )


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise ValueError(f"out={text} must end in .png: it is a picture of the shots.")
    if path.is_dir() or blocking_file(path.parent) is not None:
        raise ValueError(f"out={text} cannot be written: name a file in a folder.")
    return path

"""The arguments of `calib data check`, read without the imports that take seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.config import PromptRun, load_config, split_arguments
from calib.core.errors import unknown_name
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

FOLDER_OR_TABLE   class folders (train/CLASS/...), a table (.csv, .tsv, .parquet), a folder with a table, a
                  MedMNIST .npz, or a data set that was saved by the datasets library; or data.name=...
out=FILE.png      a picture of the shots, by class
--headers         read headers alone: quicker; what is cut off behind its header is then not found
--json            all of it as JSON on standard output
"""
TABLES = (".csv", ".tsv", ".parquet")
OF_DATASETS = ("dataset_dict.json", "dataset_info.json", "state.json")
PARTS = ("train", "test", "val", "images")


@dataclass(frozen=True)
class DataCheck:
    """What `calib data check` is asked for.

    Attributes:
        config: The settings as training would have them. None: help was asked for and shown.
        picture: The file for a picture of the shots. None: none is drawn.
        headers: Whether headers alone are read.
        json: Whether the answer is JSON.
    """

    config: PromptRun | None
    picture: Path | None = None
    headers: bool = False
    json: bool = False


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
        raise unknown_name("subcommand of calib data", words[0], ["check"])
    flags = {"--json", "--headers"}
    given = [word for word in words[1:] if word not in flags]
    outs = [word.partition("=")[2] for word in given if word.startswith("out=")]
    settings, places = split_arguments([word for word in given if not word.startswith("out=")])
    if len(places) > 1 or len(outs) > 1:
        raise ValueError("One folder or table is checked at a time, and out=FILE.png is given once.")
    known = [f"data.name={kind_of_place(Path(place))}" for place in places]
    files = [word for word in settings if "=" not in word]
    changes = [word for word in settings if "=" in word]
    config = load_config(
        [*files, *known, *(f"data.root={place}" for place in places), *changes], task="prompt"
    )
    picture = _picture(outs[0]) if outs else None
    return DataCheck(config, picture, headers="--headers" in words, json="--json" in words)


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
        raise FileNotFoundError(f"There is no folder or table '{place}'.")
    suffix = place.suffix.lower()
    if suffix in TABLES:
        return "table"
    if suffix == ".npz":
        return "medmnist"
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

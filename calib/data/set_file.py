"""The file of fitted prediction sets: class names, the column of strata; and outputs with their sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.core.text import few, safe_text
from calib.data.fitted_file import checked_record, names_and_facts, write_arrays
from calib.data.mapping import check_format
from calib.data.output_tables import GROUPS, check_names, is_missing, write_with
from calib.data.outputs import Outputs
from calib.io.files import is_strings, read_json, write_json
from calib.posthoc.conformal import PredictionSets

KIND = "prediction sets"
VERSION = 1
WRITTEN = "prediction sets, as `calib sets` writes it"
KEYS = ("kind", "version", "class_names", "by", "sets", "about")
COLUMN = "set"
EMPTY = "(none)"  # a set without a class


@dataclass(frozen=True, eq=False)
class SetFile:
    """Prediction sets for outputs of certain classes.

    Attributes:
        class_names: C names in the order of the thresholds.
        sets: Fitted on C classes.
        by: The column that says the stratum of a case. None: none are told apart.
        about: What they were fitted on: for readers, nothing depends on it.
    """

    class_names: list[str]
    sets: PredictionSets
    by: str | None = None
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Write them to a JSON file with a checksum, atomically.

        Args:
            path: The file.
        """
        record = {
            "kind": KIND,
            "version": VERSION,
            "class_names": self.class_names,
            "by": self.by,
            "sets": self.sets.to_record(),
            "about": self.about,
        }
        write_json(path, record)

    @classmethod
    def load(cls, path: str | Path) -> SetFile:
        """Return the sets in a file written by `save`, checked.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, of another kind or version, or its parts do not fit together.
        """
        record = checked_record(read_json(path), path, kind=KIND, version=VERSION, keys=KEYS, written=WRITTEN)
        names, by, about = record["class_names"], record["by"], record["about"]
        if not is_strings(names) or not isinstance(about, dict) or not (by is None or isinstance(by, str)):
            raise ValueError(
                f"{path}: class_names must be a list of strings, by a string or null, about a mapping."
            )
        check_names(names, Path(path))
        try:
            sets = PredictionSets.from_record(record["sets"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        cells = sets.cells
        if sets.classes != len(names) or cells is None or (cells.strata is None) != (by is None):
            raise ValueError(
                f"{path}: the sets are of {sets.classes} classes, and there are {len(names)} names; or only "
                "one of by and strata is there."
            )
        return cls(names, sets, by, about)

    def apply(self, outputs: Outputs, out: str | Path) -> Tensor:
        """Return the sets (N, C) bool of outputs, and write them as the outputs were.

        A table stays a table, with a column `set` at its end: names separated by "; ", "(none)" where no
        class is in it. Arrays become an npz file with sets, class_names, and of labels, groups and ids what
        there was.

        Args:
            outputs: With the class names of these sets, in their order.
            out: The file, .npz for arrays and of the table's own format for tables.

        Raises:
            ValueError: The classes are others, a stratum is missing or unknown, or the file would be of
                another format.
            WriteError: It cannot be written.
        """
        if outputs.class_names != self.class_names:
            raise ValueError(f"{outputs.path} must be read with the class names of the sets.")
        out = Path(out)
        check_format(outputs.path, out)
        strata = None if self.by is None else strata_of(outputs, self.by)
        sets = self.sets(outputs.logits.softmax(dim=1), strata)
        if outputs.table is not None:
            write_with(outputs.table, {COLUMN: listed(sets, self.class_names)}, out)
            return sets
        write_arrays(out, {"sets": sets.numpy(), **names_and_facts(outputs)})
        return sets


def listed(sets: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return each set as a cell of a table.

    Args:
        sets: (N, C) bool.
        class_names: C names.

    Example:
        >>> import torch
        >>> listed(torch.tensor([[True, True], [False, False]]), ["benign", "=1+1"])
        ["benign; '=1+1", '(none)']
    """
    names = [safe_text(name) for name in class_names]
    return [
        "; ".join(name for name, inside in zip(names, row, strict=True) if inside) or EMPTY
        for row in sets.tolist()
    ]


def strata_of(outputs: Outputs, column: str) -> list[str]:
    """Return what a column of the outputs says of each case, N texts.

    Args:
        outputs: From a table with that column; of arrays there are groups alone.
        column: Its name.

    Raises:
        ValueError: There is no such column, or a cell is empty.
    """
    if outputs.table is not None:
        if column not in outputs.table.header:
            raise ValueError(
                f"{outputs.path} has no column '{column}', which says the strata; it has "
                f"{few(outputs.table.header, 20)}."
            )
        cells, where = outputs.table.column(column), outputs.table.where
    elif column in (*GROUPS, "groups") and outputs.groups is not None:
        cells, where = outputs.groups, [f"{outputs.path}, row {i}" for i in range(len(outputs.groups))]
    else:
        raise ValueError(
            f"{outputs.path}: strata by '{column}' need a table with that column; arrays have groups alone."
        )
    texts = ["" if is_missing(cell) else str(cell).strip() for cell in cells]
    empty = [place for place, text in zip(where, texts, strict=True) if not text]
    if empty:
        raise ValueError(f"{empty[0]}: the column '{column}' is empty ({len(empty)} such rows).")
    return texts

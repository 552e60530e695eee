"""The file of a fitted calibrator: the mapping, its class names in order, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.core.names import name_key
from calib.core.text import few
from calib.data.arrays import ARRAYS
from calib.data.fitted_file import checked_record, names_and_facts, write_arrays
from calib.data.output_tables import check_names, write_calibrated
from calib.data.outputs import Outputs
from calib.io.files import is_strings, read_json, write_json
from calib.posthoc import Calibrator, calibrator_from_record

KIND = "calibrator"
VERSION = 1
WRITTEN = "a calibrator, as `calib calibrate` writes it"
KEYS = ("kind", "version", "class_names", "calibrator", "about")


@dataclass(frozen=True, eq=False)
class OutputMapping:
    """A calibrator for outputs of certain classes.

    Attributes:
        class_names: C names in the order of its parameters.
        calibrator: Fitted on C classes.
        about: What it was fitted on, and what cross-validation said: for readers, nothing depends on it.
    """

    class_names: list[str]
    calibrator: Calibrator
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file with a checksum, atomically.

        Args:
            path: The file.
        """
        write_json(path, self.to_record())

    def to_record(self) -> dict[str, Any]:
        """Return it as plain values for JSON; `from_record` reads them."""
        return {
            "kind": KIND,
            "version": VERSION,
            "class_names": self.class_names,
            "calibrator": self.calibrator.to_record(),
            "about": self.about,
        }

    @classmethod
    def load(cls, path: str | Path) -> OutputMapping:
        """Return the mapping in a file written by `save`, checked.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, of another kind or version, or its parts do not fit together.
        """
        return cls.from_record(read_json(path), path=path)

    @classmethod
    def from_record(cls, record: Any, *, path: str | Path) -> OutputMapping:
        """Return the mapping that `to_record` has written, checked.

        Args:
            record: What was read from a file.
            path: The file, for messages.

        Raises:
            ValueError: It is of another kind or version, or its parts do not fit together.
        """
        record = checked_record(record, path, kind=KIND, version=VERSION, keys=KEYS, written=WRITTEN)
        names, about = record["class_names"], record["about"]
        if not is_strings(names) or not isinstance(about, dict):
            raise ValueError(f"{path}: class_names must be a list of strings, and about a mapping.")
        check_names(names, Path(path))
        try:
            calibrator = calibrator_from_record(record["calibrator"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if calibrator.classes != len(names):
            raise ValueError(
                f"{path}: the calibrator is of {calibrator.classes} classes, and there are {len(names)} "
                "names."
            )
        return cls(names, calibrator, about)

    def linear_map(self, class_names: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return A (C, C) and b (C,), float64, with calibrated probabilities softmax(A z + b) of logits z.

        Args:
            class_names: The same classes in the order wanted.

        Returns:
            None where the calibrator is no linear map of logits.

        Raises:
            ValueError: They are not the same classes.
        """
        place = {name_key(name): number for number, name in enumerate(self.class_names)}
        if sorted(map(name_key, class_names)) != sorted(place):
            raise ValueError(
                f"The calibrator is of the classes {few(self.class_names)}, and not of {few(class_names)}."
            )
        found = self.calibrator.linear_map()
        if found is None:
            return None
        order = [place[name_key(name)] for name in class_names]
        return found[0][order][:, order], found[1][order]

    def apply(self, outputs: Outputs, out: str | Path) -> Tensor:
        """Return calibrated probabilities (N, C) of outputs, and write them as the outputs were.

        A table stays a table: its rows, columns and their order, see `write_calibrated`. Arrays become an npz
        file with probs, class_names, and of labels, groups and ids what there was.

        Args:
            outputs: With the class names of this mapping, in its order.
            out: The file, .npz for arrays and of the table's own format for tables.

        Raises:
            ValueError: The classes are others, or the file would be of another format.
            WriteError: It cannot be written.
        """
        if outputs.class_names != self.class_names:
            raise ValueError(f"{outputs.path} must be read with the class names of the mapping.")
        out = Path(out)
        check_format(outputs.path, out)
        probs = self.calibrator(outputs.logits)
        if outputs.table is not None:
            best = (outputs.logits if self.calibrator.keeps_argmax else probs).argmax(dim=1)
            write_calibrated(outputs.table, outputs.columns, probs, best, out)
            return probs
        write_arrays(out, {"probs": probs.numpy(), **names_and_facts(outputs)})
        return probs


def check_format(path: Path, out: Path) -> None:
    """Refuse to write calibrated outputs in another format than `OutputMapping.apply` does.

    Raises:
        ValueError: The ending of `out` is another.

    Example:
        >>> check_format(Path("a.csv"), Path("b.txt"))
        Traceback (most recent call last):
        ValueError: --out b.txt must end in .csv, as a.csv is written again in its own format.
    """
    arrays = path.suffix.lower() in ARRAYS
    wanted = ".npz" if arrays else path.suffix.lower()
    if out.suffix.lower() != wanted:
        why = "arrays are written so" if arrays else f"{path} is written again in its own format"
        raise ValueError(f"--out {out} must end in {wanted}, as {why}.")


def is_mapping(path: str | Path) -> bool:
    """Return whether a file is called as mappings are: a JSON file.

    Example:
        >>> is_mapping("runs/mine/calibrator.json"), is_mapping("outputs.csv")
        (True, False)
    """
    return Path(path).suffix.lower() == ".json"

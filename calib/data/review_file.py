"""The file of a fitted review threshold: the threshold, the doubt it is for, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.core.names import name_key
from calib.core.text import few
from calib.data.fitted_file import checked_record, write_arrays
from calib.data.judged import CLASSES, SOURCES, Judged
from calib.data.mapping import check_format
from calib.data.output_tables import write_with
from calib.io.files import is_strings, read_json, write_json
from calib.posthoc.decisions import ACCEPT, REVIEW, Decisions
from calib.posthoc.review import ReviewThreshold

KIND = "review"
VERSION = 1
WRITTEN = "a review threshold, as `calib review` writes it"
KEYS = ("kind", "version", "doubt", "class_names", "review", "about")


@dataclass(frozen=True, eq=False)
class ReviewFile:
    """A review threshold for doubts of a certain kind.

    Attributes:
        review: The threshold.
        doubt: Where the doubt comes from, as `Judged.source` says it.
        class_names: Of the outputs it comes from. None: they are not known.
        about: What it was fitted on: for readers, nothing depends on it.
    """

    review: ReviewThreshold
    doubt: str
    class_names: list[str] | None = None
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file with a checksum, atomically.

        Args:
            path: The file.
        """
        record = {
            "kind": KIND,
            "version": VERSION,
            "doubt": self.doubt,
            "class_names": self.class_names,
            "review": self.review.to_record(),
            "about": self.about,
        }
        write_json(path, record)

    @classmethod
    def load(cls, path: str | Path) -> ReviewFile:
        """Return the threshold in a file written by `save`, checked.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, of another kind or version, or its parts do not fit together.
        """
        record = checked_record(read_json(path), path, kind=KIND, version=VERSION, keys=KEYS, written=WRITTEN)
        names, doubt, about = record["class_names"], record["doubt"], record["about"]
        if doubt not in SOURCES or not isinstance(about, dict):
            raise ValueError(f"{path}: doubt must be one of {', '.join(SOURCES)}.")
        if (names is not None and not is_strings(names)) or (names is None and doubt == CLASSES):
            raise ValueError(f"{path}: class_names must be a list of strings.")
        try:
            return cls(ReviewThreshold.from_record(record["review"]), doubt, names, about)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def write_decided(judged: Judged, decisions: Decisions, out: Path) -> Tensor:
    """Return which cases are accepted (N,), and write them with decision and reason.

    A table stays a table, with these columns at its end. Arrays become an npz file with doubt, accepted, and
    of groups what there was.

    Args:
        judged: The doubts.
        decisions: With a review threshold.
        out: The file, .npz for arrays and of the table's own format for tables.

    Raises:
        ValueError: The file would be of another format.
        WriteError: It cannot be written.
    """
    check_format(judged.path, out)
    accepted, reasons = decisions.decide(judged.doubt)
    if judged.table is not None:
        said = [ACCEPT if each else REVIEW for each in accepted.tolist()]
        write_with(judged.table, {"decision": said, "reason": reasons}, out)
        return accepted
    write_arrays(out, {"doubt": judged.doubt.numpy(), "accepted": accepted.numpy(), "groups": judged.groups})
    return accepted


def check_fits(judged: Judged, class_names: list[str] | None) -> None:
    """Refuse doubts about other classes than a threshold was fitted for, where both are known.

    Raises:
        ValueError: They are.
    """
    if class_names is None or judged.class_names is None:
        return
    theirs, ours = (sorted(map(name_key, names)) for names in (judged.class_names, class_names))
    if theirs != ours:
        raise ValueError(
            f"{judged.path} is about the classes {few(judged.class_names)}, and the threshold about "
            f"{few(class_names)}: its guarantee says nothing of others."
        )

"""The list of images chosen for labelling: written, filled in by a person, read back and checked."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calib.core.errors import meant_path, unknown_name
from calib.core.names import name_key
from calib.core.text import few, safe_path, safe_text
from calib.data.images import odd_kind
from calib.data.labels import WHOLE_NUMBER, are_indices, label_text, number_labels
from calib.data.task import ClassNames
from calib.io.files import write_text

# In this order; group only where groups are known. It is a table of images as `data.name=table` reads them.
COLUMNS = ("file", "label", "content_id", "round", "rank", "strategy", "cluster", "score", "why", "split")
NEEDED = ("file", "label", "content_id", "strategy")
GROUP = "group"
ID_LETTERS = 64
SEPARATORS = ",;\t"  # spreadsheets save with any of them
LARGEST = 64 << 20  # bytes of a list


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """One image of the list.

    Attributes:
        file: Its name within the folder of the images, or what the data set calls it.
        content_id: SHA-256 hex digest of its content when it was chosen.
        strategy: By which it was chosen.
        label: As it was filled in. None: not yet.
        round: In which round it was chosen, from 1.
        rank: Its place in that round, from 1.
        cluster: That it stands for; empty where the strategy has none.
        score: Of the strategy; empty where it has none.
        why: Why it was chosen, in words.
        group: Patient, slide, ... None: not known.
        where: The list and line it was read from, for messages.
    """

    file: str
    content_id: str
    strategy: str
    label: str | None = None
    round: int = 1
    rank: int = 1
    cluster: str = ""
    score: str = ""
    why: str = ""
    group: str | None = None
    where: str = ""


@dataclass(frozen=True)
class ShotList:
    """A list of chosen images.

    Attributes:
        images: In the order of the list.
        path: Where it was read from. Empty: nowhere.
    """

    images: tuple[ListedImage, ...]
    path: str = ""

    @property
    def strategies(self) -> dict[str, int]:
        """By which strategies its images were chosen, and how many by each, in the order of the rounds."""
        ordered = sorted(self.images, key=lambda each: (each.round, each.rank))
        return dict(Counter(each.strategy for each in ordered))

    @property
    def unfilled(self) -> list[ListedImage]:
        """The images without a label."""
        return [each for each in self.images if each.label is None]

    def check_filled(self) -> None:
        """Refuse a list in which labels are missing.

        Raises:
            ValueError: Some are; the message names the first.
        """
        if self.unfilled:
            missing = [f"{each.file} ({each.where.rpartition(', ')[2]})" for each in self.unfilled]
            raise ValueError(
                f"{len(missing)} of the {len(self.images)} images in {self.path} have no label: "
                f"{few(missing)}. Fill in the column label, or take out the rows of images that nobody can "
                "label."
            )

    def numbered(self, class_names: ClassNames | None) -> tuple[list[int | None], list[str]]:
        """Return the class index of each image (None: no label yet) and the class names in label order.

        Args:
            class_names: The names that labels may be, in label order. None: the labels themselves.

        Raises:
            ValueError: A label is none of them; the message says where.
        """
        where = {each.label: each.where for each in reversed(self.images) if each.label is not None}
        if not where:
            raise ValueError(f"No image in {self.path} has a label yet: fill in its column label.")
        if class_names is not None and not isinstance(class_names, Mapping) and not are_indices([*where]):
            known = {name_key(str(name)) for name in class_names}  # what a person wrote is never renamed
            for label, place in where.items():
                if name_key(label) not in known:
                    raise ValueError(f"{place}: {unknown_name('label', label, list(map(str, class_names)))}")
        try:
            labels, names = number_labels(where, class_names)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        return [None if each.label is None else labels[each.label] for each in self.images], names

    def rows_in(self, ids: Sequence[str], names: Sequence[str], *, what: str) -> list[int]:
        """Return the row of each image in a table, found by its content.

        Args:
            ids: (N,) content ids of the table.
            names: (N,) what its images are called.
            what: What the table is, for messages.

        Raises:
            ValueError: An image is not there, or was changed since it was chosen.
        """
        rows = {id_: row for row, id_ in reversed(list(enumerate(ids)))}  # of copies, the first
        known = set(names)
        absent = [each for each in self.images if each.content_id not in rows]
        changed = [each.file for each in absent if each.file in known]
        if changed:
            raise ValueError(
                f"{len(changed)} images are no longer those that were chosen: their content differs from "
                f"{self.path}: {few(changed)}. Put the images back, or choose anew (calib select)."
            )
        if absent:
            unknown = [f"{each.file} ({each.where.rpartition(', ')[2]})" for each in absent]
            raise ValueError(
                f"{len(absent)} of the {len(self.images)} images in {self.path} are not among {what}: "
                f"{few(unknown)}. Is it the list of other images?"
            )
        return [rows[each.content_id] for each in self.images]

    def text(self) -> str:
        """Return the list as CSV; no spreadsheet runs a cell of it as a formula."""
        grouped = any(each.group is not None for each in self.images)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*COLUMNS, *([GROUP] if grouped else [])])
        for each in self.images:
            cells = [
                safe_path(each.file),
                safe_text(each.label or ""),
                each.content_id,
                each.round,
                each.rank,
                each.strategy,
                each.cluster,
                each.score,
                safe_text(each.why),
                "train",
            ]
            writer.writerow([*cells, *([safe_text(each.group or "")] if grouped else [])])
        return stream.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the list, whole or not at all."""
        write_text(path, self.text())

    def __add__(self, other: ShotList) -> ShotList:
        """Return both lists as one: an earlier round and the one that follows."""
        return replace(self, images=(*self.images, *other.images))


def read_shot_list(path: str | Path) -> ShotList:
    """Return the list in a CSV that `ShotList.save` wrote and a person, or their spreadsheet, saved again.

    Args:
        path: The file. Its separator may be a comma, a semicolon or a tab.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, an image stands in it twice, or a cell is not as it was written.
    """
    path = Path(path)
    header, records = _records(path)
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise ValueError(
            f"{path} is no list of chosen images: it lacks the column {missing[0]} (it has: "
            f"{few(header, 12)}). calib select writes one."
        )
    images = [_image(record, where) for where, record in records]
    if not images:
        raise ValueError(f"{path} lists no images.")
    seen: dict[str, str] = {}
    for each in images:
        if each.content_id in seen:
            raise ValueError(
                f"{each.where}: {each.file} stands in the list before, in {seen[each.content_id]}."
            )
        seen[each.content_id] = each.where
    return ShotList(tuple(images), str(path))


def _records(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the columns, and of each row where it stands and its cells."""
    if path.exists() and (odd := odd_kind(path)) is not None:
        raise ValueError(f"{path} is {odd}, not a list of chosen images (CSV).")
    if not path.is_file():
        raise FileNotFoundError(f"There is no list of chosen images at {path}.{meant_path(path)}")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is too large for a list of chosen images.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = max(SEPARATORS, key=first.count)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [name.strip() for name in next(rows, [])]
        found = [(f"{path}, line {rows.line_num}", row) for row in rows if any(cell.strip() for cell in row)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a UTF-8 table ({error}).") from error
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has a column twice: {few(header, 12)}.")
    for where, row in found:
        if len(row) != len(header):
            raise ValueError(f"{where}: expected {len(header)} values with {separator!r} between.")
    return header, [(where, dict(zip(header, row, strict=True))) for where, row in found]


def _image(record: Mapping[str, str], where: str) -> ListedImage:
    content_id = record["content_id"].strip().lower()
    if len(content_id) != ID_LETTERS or not set(content_id) <= set("0123456789abcdef"):
        raise ValueError(
            f"{where}: the content_id {record['content_id']!r} is not the one that calib select wrote "
            f"({ID_LETTERS} hex digits). Was the column changed? Only label is to be filled in."
        )
    file, strategy = _unprotected(record["file"].strip()), record["strategy"].strip()
    if not file or not strategy or "\0" in file:
        raise ValueError(f"{where}: the columns file and strategy must not be empty.")
    group = record.get(GROUP, "").strip()
    return ListedImage(
        file=file,
        content_id=content_id,
        strategy=strategy,
        label=label_text(_unquoted(record["label"])),
        round=_whole(record.get("round", "1"), "round", where),
        rank=_whole(record.get("rank", "1"), "rank", where),
        cluster=record.get("cluster", "").strip(),
        score=record.get("score", "").strip(),
        why=_unquoted(record.get("why", "")),
        group=_unquoted(group) or None,
        where=where,
    )


def _whole(text: str, column: str, where: str) -> int:
    if not WHOLE_NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{where}: {column} must be a whole number, not {text!r}.")
    number = int(text.strip().partition(".")[0])
    if number < 1:
        raise ValueError(f"{where}: {column} must be at least 1, not {text!r}.")
    return number


def _unprotected(file: str) -> str:
    """Return a file name as it was before `safe_path`."""
    return file[2:] if file.startswith("./") else file


def _unquoted(text: str) -> str:
    """Return a text as it was before `safe_text`."""
    return text[1:] if text.startswith("'") and safe_text(text[1:]) == text else text

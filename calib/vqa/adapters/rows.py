"""Rows of others' files, and how they become items; what cannot be one is left out, and counted."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calib.core.errors import meant_path
from calib.core.text import few
from calib.data.output_tables import read_output_table
from calib.io.files import read_json
from calib.io.strictjson import parse_json
from calib.vqa.tables import Items

log = logging.getLogger(__name__)


def rows_of(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a .csv, .tsv, .parquet, .jsonl or .json file, each with where it stands.

    Args:
        path: The file; JSON must be a list of objects. NaN in JSON lines is read as null.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = read_output_table(path)
        return [
            (where, dict(zip(table.header, record, strict=True)))
            for where, record in zip(table.where, table.records, strict=True)
        ]
    if suffix == ".json":
        value = read_json(path)
        if not isinstance(value, list):
            raise ValueError(f"{path} holds no list of questions.")
        found = [(f"{path}, entry {n}", row) for n, row in enumerate(value, start=1)]
    elif suffix == ".jsonl":
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text ({error}).") from error
        found = [
            (f"{path}, line {n}", _line(line, f"{path}, line {n}"))
            for n, line in enumerate(lines, start=1)
            if line.strip()
        ]
    elif suffix in (".csv", ".tsv"):
        found = list(_separated(path, "\t" if suffix == ".tsv" else ","))
    else:
        raise ValueError(f"{path}: questions are read from .csv, .tsv, .parquet, .json and .jsonl files.")
    wrong = next((where for where, row in found if not isinstance(row, Mapping)), None)
    if wrong or not found:
        raise ValueError(f"{wrong}: expected an object." if wrong else f"{path} has no rows.")
    return [(where, dict(row)) for where, row in found]


def column(row: Mapping[str, Any], where: str, *names: str, needed: bool = True) -> Any:
    """Return what stands under the first of several names; spaces at their ends do not matter.

    Args:
        row: A row.
        where: Where it stands.
        names: Names that files of one set use for the same.
        needed: Whether it must be there.

    Raises:
        ValueError: None is there.
    """
    plain = {str(key).strip().lower(): value for key, value in row.items()}
    for name in names:
        if name.lower() in plain:
            return plain[name.lower()]
    if needed:
        raise ValueError(f"{where} has no {' or '.join(names)}; it has {few(list(row), 20)}.")
    return None


class Collector:
    """Items of one source, as they are found.

    Args:
        dataset: The name of the set.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.rows: list[dict[str, Any]] = []
        self.left_out: Counter[str] = Counter()

    def add(
        self,
        number: object,
        *,
        question: Any,
        options: list[Any],
        correct: int | None,
        image: Any = None,
        **also: Any,
    ) -> None:
        """Take a question, or count why it cannot be one.

        Args:
            number: Its own id in the set.
            question: The question.
            options: Texts, in order.
            correct: The place of the right one. None: it cannot be told.
            image: Its path.
            also: Further columns.
        """
        texts = [" ".join(str(option).split()) for option in options]
        base = f"{self.dataset}/{number}"
        if correct is None or not 0 <= correct < len(texts):
            self.left_out["no right option"] += 1
        elif len(texts) < 2 or not all(texts):
            self.left_out["fewer than 2 options, or an empty one"] += 1
        elif texts.count(texts[correct]) > 1:
            self.left_out["the right option stands twice"] += 1
        else:
            self.rows.append(
                {
                    "item_id": f"{base}#original",
                    "base_id": base,
                    "condition": "original",
                    "dataset": self.dataset,
                    "question": str(question).strip(),
                    "options": texts,
                    "option_ids": [f"o{k}" for k in range(len(texts))],
                    "correct_index": correct,
                    "image": None if image is None else str(image),
                    **also,
                }
            )

    def items(self, source: object) -> Items:
        """Return the items.

        Raises:
            ValueError: There are none, or an id stands twice.
        """
        said = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        if not self.rows:
            raise ValueError(f"{source} has no multiple-choice questions ({said or 'it is empty'}).")
        if self.left_out:
            total = len(self.rows) + sum(self.left_out.values())
            log.warning(
                "%s: %d of %d questions are left out: %s.", source, total - len(self.rows), total, said
            )
        return Items.of_rows(self.rows, source=str(source))


def listed(value: Any, where: str) -> Any:
    """Return a list or mapping that a table holds as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"{where}: {value[:60]!r} is no JSON list of options.") from error
    return value


def _line(line: str, where: str) -> Any:
    """Return the value of a line; NaN, which many programs write where nothing is known, is None."""
    if "NaN" in line:
        with contextlib.suppress(ValueError):
            line = json.dumps(json.loads(line, parse_constant=lambda name: None if name == "NaN" else name))
    return parse_json(line, source=where)


def _separated(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(min(sys.maxsize, 1 << 30))  # images in base64 stand in cells
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"{path}, line {reader.line_num}: another number of cells than columns.")
                yield f"{path}, line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a UTF-8 table ({error}).") from error
    finally:
        csv.field_size_limit(before)

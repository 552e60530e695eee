"""Own questions as items: a table with a question, its options and the right answer in every row.

A row that cannot be one is refused, by file and line: of one's own questions none is left out silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.core.text import few
from calib.data.output_tables import is_missing
from calib.vqa.adapters.own_columns import OPTIONAL, READ, SUFFIXES, option_columns
from calib.vqa.adapters.rows import listed, rows_of
from calib.vqa.parsing import LETTERS
from calib.vqa.schema import ITEMS, ORIGINAL
from calib.vqa.tables import Items

PLAIN = ("dataset", "split", "image_id")  # columns of items that a table may bring as they are
EXAMPLE = """\
  image,question,option_a,option_b,option_c,answer,patient
  img/1.png,What does this radiograph show?,pneumonia,no finding,COVID-19,A,p01
  img/2.png,What does this radiograph show?,pneumonia,no finding,COVID-19,no finding,p02"""
NAMED = 10


def read_own(path: str | Path, root: str | Path | None = None) -> Items:
    """Return the items of a table of one's own questions.

    Columns (capitals and spaces at the ends do not matter): `question`; the options, 2 to 26, either one in
    each of `option_a`, `option_b`, ... (or `a`, `b`, ...; the last ones may be empty) or all in `options`, a
    list, in text as JSON; `answer`: a letter, the name of a column, or the option's text. If they are there:
    `image`, `patient` (what is drawn together in a bootstrap; else the image), `modality`, `type`, and `id`
    (else made of image, question and options). Other columns are kept, as text.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file.
        root: The folder that its image paths are relative to. None: that of the table.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Columns are missing, all of them named; or rows cannot be items, the first ten named.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: own questions are read from {', '.join(SUFFIXES)} files.")
    found = [(where, _plain(row)) for where, row in rows_of(path)]
    names = list(dict.fromkeys(name for _, row in found for name in row))
    columns = option_columns(names)
    _check_columns(path, names, columns)
    folder = path.parent if root is None else Path(root)
    made: list[dict[str, Any]] = []
    problems, seen = [], dict[str, str]()
    for where, row in found:
        item = _item_or_problem(row, where, columns, folder, names)
        if isinstance(item, str):
            problems.append(item)
            continue
        base = item["base_id"] = f"{path.stem}/{item['base_id']}"
        if base in seen:
            same = "has the id of" if _cell(row, "id") else "asks the same as"
            problems.append(f"{where} {same} {seen[base]}: leave one out, or give each its own id.")
        seen.setdefault(base, where)
        made.append({"item_id": f"{base}#{ORIGINAL}", "condition": ORIGINAL, "dataset": path.stem, **item})
    if problems:
        more = [f"and {len(problems) - NAMED} more."] if len(problems) > NAMED else []
        head = [] if len(problems) == 1 else [f"{len(problems)} of {len(found)} rows cannot be questions:"]
        raise ValueError("\n  ".join([*head, *problems[:NAMED], *more]))
    return Items.of_rows(made, source=str(path))


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a table that lacks columns, naming all of them, and how one looks that has them."""
    reserved = [name for name in names if name in ITEMS and name not in (*PLAIN, *READ)]
    if reserved:
        raise ValueError(
            f"{path} has {few(reserved, 10)} among its columns, which calib writes itself. A table of items "
            "is read as it is (calib vqa answer ITEMS ...); in one of own questions they need other names."
        )
    if "options" in names and columns:
        raise ValueError(f"{path} has options in the column 'options' and in '{columns[0]}': leave one out.")
    missing = [name for name in ("question", "answer") if name not in names]
    if columns:
        first, last = columns[0][:-1], max(columns[-1][-1], "b")
        upto = LETTERS.lower()[: LETTERS.lower().index(last) + 1]
        missing += [f"{first}{letter}" for letter in upto if f"{first}{letter}" not in columns]
    elif "options" not in names:
        missing.append("option_a, option_b, ... (or one column options)")
    if missing:
        alone = len(names) == 1 and ";" in names[0]
        hint = " Its cells are separated by semicolons: save it with commas." if alone else ""
        raise ValueError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{few(names, 20)}.{hint} A table of questions looks like this:\n{EXAMPLE}\n"
            "The columns image and patient may be left out; modality, type and id may be there, too."
        )


def _item_or_problem(
    row: Mapping[str, Any], where: str, columns: Sequence[str], folder: Path, names: Sequence[str]
) -> dict[str, Any] | str:
    """Return the item of a row, whose base_id is still without the table's name; or why it is none."""
    try:
        return _item(row, where, columns, folder, names)
    except ValueError as error:
        return str(error)


def _item(
    row: Mapping[str, Any], where: str, columns: Sequence[str], folder: Path, names: Sequence[str]
) -> dict[str, Any]:
    """Return the item of a row, whose base_id is still without the table's name.

    Raises:
        ValueError: It is no question; its place and value are said.
    """
    question, image = _cell(row, "question"), _cell(row, "image")
    if question is None:
        raise ValueError(f"{where}: question is empty.")
    options = _options(row, where, columns)
    correct = _right(_cell(row, "answer"), options, where, columns)
    patient = _cell(row, "patient")
    if "patient" in names and patient is None:
        raise ValueError(f"{where}: patient is empty. Fill it in, or leave such rows or the column out.")
    content = json.dumps([image, question, options], ensure_ascii=False)
    also = {name: _cell(row, name) for name in names if name not in (*READ, *columns)}
    return {
        "image_id": image,
        **{name: text for name, text in also.items() if text is not None},
        "base_id": _cell(row, "id") or hashlib.sha256(content.encode()).hexdigest()[:12],
        "question": question,
        "options": options,
        "option_ids": [f"o{k}" for k in range(len(options))],
        "correct_index": correct,
        "image": None if image is None else str(folder / image),
        "group_id": patient or image,
        "modality": _cell(row, "modality"),
        "question_type": _cell(row, "type"),
    }


def _options(row: Mapping[str, Any], where: str, columns: Sequence[str]) -> list[str]:
    """Return the texts of the options."""
    if not columns:
        cells = listed(row.get("options"), where)
        if not isinstance(cells, list) or any(isinstance(cell, list | dict) for cell in cells):
            raise ValueError(f'{where}: options is {str(cells)[:60]!r}; a list is needed: ["CT", "MRI"].')
    else:
        cells = [row.get(name) for name in columns]
        while cells and is_missing(cells[-1]):
            cells.pop()
    empty = [k for k, cell in enumerate(cells) if is_missing(cell)]
    if empty:
        name = columns[empty[0]] if columns else f"text {empty[0] + 1} of options"
        raise ValueError(f"{where}: {name} is empty; only the last option columns may be.")
    if not 2 <= len(cells) <= len(LETTERS):
        raise ValueError(f"{where}: 2 to {len(LETTERS)} options are needed, here {len(cells)} are filled.")
    return [" ".join(str(cell).split()) for cell in cells]


def _right(answer: str | None, options: Sequence[str], where: str, columns: Sequence[str]) -> int:
    """Return the place of the right option: what the answer says as a letter, a column and a text agree."""
    allowed = f"a letter A to {LETTERS[len(options) - 1]}, or the text of an option ({few(options, 6)})"
    if answer is None:
        raise ValueError(f"{where}: answer is empty; it is {allowed}.")
    letters = {letter: place for place, letter in enumerate(LETTERS[: len(options)].lower())}
    letters |= {name: letters[name[-1]] for name in columns if name[-1] in letters}
    text = " ".join(answer.split())
    said = text.casefold()
    places = {place for place, option in enumerate(options) if option == text}
    places = places or {place for place, option in enumerate(options) if option.casefold() == said}
    places |= {letters[said]} if said in letters else set()
    if len(places) > 1:
        which = ", ".join(LETTERS[place] for place in sorted(places))
        raise ValueError(f"{where}: answer '{answer}' may be option {which}: say it so that it is one alone.")
    if not places:
        raise ValueError(f"{where}: answer '{answer}' is none of the options; it is {allowed}.")
    (place,) = places
    if options.count(options[place]) > 1:
        raise ValueError(f"{where}: answer '{answer}': the option '{options[place]}' stands there twice.")
    return place


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).strip().lower(): value for key, value in row.items()}


def _cell(row: Mapping[str, Any], name: str) -> str | None:
    """Return a cell as text, None where it is empty."""
    found = [row.get(each) for each in OPTIONAL.get(name, (name,))]
    return next((str(value).strip() for value in found if not is_missing(value)), None)

"""Parquet and JSON-lines files as Arrow tables with the columns of a schema, and back; refused by row."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from calib.core.errors import meant_path, unknown_name
from calib.core.text import few
from calib.data.readers.table_rows import read_parquet
from calib.io.files import atomic_path
from calib.io.strictjson import parse_json
from calib.vqa.columns import one_chunk
from calib.vqa.origin import Origin
from calib.vqa.schema import VERSION

SUFFIXES = (".parquet", ".jsonl")
LARGEST_LINES = 4 << 30  # bytes of a JSON-lines file; as for the columns of a Parquet table
MAY_BE_NUMBERS = ("run_id", "perturbation")  # texts that people write as numbers or as JSON objects


def read_table(
    path: str | Path, schema: Mapping[str, Any], need: Sequence[str], also: Mapping[str, Any]
) -> tuple[Any, Origin]:
    """Return a table with all columns of a schema, those it lacks being null, and with its own beside them.

    Args:
        path: A .parquet or .jsonl file.
        schema: Column to type.
        need: Columns it must have.
        also: Columns of a known type that are no part of the schema and only kept where they are there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, empty, of a newer version, lacks a column, or a value has another type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: tables of questions and answers are read from {', '.join(SUFFIXES)} files."
            f"{_made_by(path, need)}"
        )
    if path.suffix.lower() == ".parquet":
        table, unit = _parquet(path), "row"
    else:
        table, unit = _lines(path, {**schema, **also}), "line"
    return conform(table, Origin.of(str(path), unit, len(table)), schema, need, also)


def conform(
    table: Any, origin: Origin, schema: Mapping[str, Any], need: Sequence[str], also: Mapping[str, Any]
) -> tuple[Any, Origin]:
    """Return a table in the types of a schema, with its columns first and others behind; see `read_table`."""
    name = origin.names[0]
    if not len(table):
        raise ValueError(f"{name} has no rows.")
    twice = sorted({column for column in table.column_names if table.column_names.count(column) > 1})
    if twice:
        raise ValueError(f"{name} has two columns '{twice[0]}'.")
    missing = [f"'{column}'" for column in need if column not in table.column_names]
    if missing:
        raise ValueError(
            f"{name} has no column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{few(table.column_names, 30)}.{_made_by(name, need)}"
        )
    made = {}
    for column, kind in {**schema, **{n: k for n, k in also.items() if n in table.column_names}}.items():
        if column in table.column_names:
            made[column] = _as_type(table.column(column), kind, column, origin)
        else:
            made[column] = pa.nulls(len(table), kind)
    version = pc.max(made["schema_version"]).as_py()
    if version is not None and not 1 <= version <= VERSION:
        raise ValueError(
            f"{name} is of version {version} (column schema_version); this calib reads versions to {VERSION}."
        )
    made["schema_version"] = pa.array([VERSION] * len(table), pa.int32())
    for column in need:
        missing = pc.is_null(made[column])
        if pc.any(missing).as_py():
            row = pc.index(missing, True).as_py()
            raise ValueError(f"{origin.where(row)}: column '{column}' is empty.")
    for column in table.column_names:
        if column not in made:
            made[column] = one_chunk(table.column(column))
    return pa.table(made), origin


def of_rows(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    schema: Mapping[str, Any],
    need: Sequence[str],
    also: Mapping[str, Any],
) -> tuple[Any, Origin]:
    """Return the table of rows from Python; see `read_table`.

    Raises:
        ValueError: There are none, or a value has another type; row and column are named.
    """
    rows = list(rows)
    if not rows:
        raise ValueError(f"{name} has no rows.")
    origin = Origin.of(name, "row", len(rows))
    return conform(_table_of(rows, {**schema, **also}, origin), origin, schema, need, also)


def write_table(table: Any, path: str | Path) -> None:
    """Write a table whole or not at all: Parquet with checksums of its pages, or JSON lines without nulls.

    Args:
        table: An Arrow table.
        path: A .parquet or .jsonl file.

    Raises:
        ValueError: The file would be of another kind.
        WriteError: It cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: tables of questions and answers are {' or '.join(SUFFIXES)} files.")
    with atomic_path(path) as part:
        if path.suffix.lower() == ".parquet":
            pyarrow.parquet.write_table(table, part, compression="zstd", write_page_checksum=True)
            return
        with part.open("w", encoding="utf-8") as file:
            for batch in table.to_batches(max_chunksize=1000):
                for row in batch.to_pylist():
                    kept = {name: value for name, value in row.items() if value is not None}
                    file.write(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n")


def _made_by(name: str | Path, need: Sequence[str]) -> str:
    """Return the command that makes items of own questions; nothing where a table is to be of outputs."""
    if "option_ids" not in need:
        return ""
    return (
        " Questions of your own become items by calib vqa items source=table "
        f"path={shlex.quote(str(name))} out=items.jsonl; its --help says their columns."
    )


def _parquet(path: Path) -> Any:
    try:
        read = read_parquet(path)
        read.validate(full=True)
    except Exception as error:  # pyarrow raises errors of many types on damaged files
        raise ValueError(f"{path} cannot be read as Parquet ({error}). Was it cut off?") from error
    return read


def _lines(path: Path, types: Mapping[str, Any]) -> Any:
    """Return JSON lines as a table: by Arrow where nothing is odd, else line by line, which names it."""
    if path.stat().st_size > LARGEST_LINES:
        raise ValueError(f"{path} is larger than {LARGEST_LINES:,} bytes: write it as .parquet.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}).") from error
    lines = content.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    given = {name: kind for name, kind in types.items() if name not in MAY_BE_NUMBERS}
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader("\n".join(lines).encode()),
            read_options=pyarrow.json.ReadOptions(block_size=64 << 20),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema(list(given.items()))),
        )
        guessed = [field.type for field in table.schema if field.name not in given]
        if len(table) == len(lines) and not _odd(content) and not any(map(_is_guessed, guessed)):
            absent = [name for name in given if table.column(name).null_count == len(table)]
            return table.drop_columns(absent)
    except pa.ArrowException:
        pass  # read again below, where the line is known
    rows = []
    if not lines:
        raise ValueError(f"{path} has no rows.")
    for number, line in enumerate(lines, start=1):
        row = parse_json(line, source=f"{path}, line {number}") if line.strip() else None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line.strip()[:40]!r}.")
        rows.append(row)
    return _table_of(rows, types, Origin.of(str(path), "line", len(rows)))


def _is_guessed(kind: Any) -> bool:
    """Return whether Arrow made a time of texts that look like one, or one object of several."""
    return bool(pa.types.is_temporal(kind) or pa.types.is_nested(kind))


def _odd(content: str) -> bool:
    """Return whether there is something that Arrow reads otherwise than `parse_json`: bits of characters."""
    return "\\ud" in content or "\\uD" in content


def _table_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, Any], origin: Origin) -> Any:
    """Return rows as a table, values of a known column in its type."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    made = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        if name in MAY_BE_NUMBERS:
            cells = [_as_text(cell) for cell in cells]
        made[name] = _array(cells, types.get(name), name, origin)
    if not made:
        raise ValueError(f"{origin.where(0)}: the row is empty.")
    return pa.table(made)


def _array(cells: Sequence[Any], kind: Any, name: str, origin: Origin) -> Any:
    try:
        if kind is not None and not all(map(_is_like(kind), cells)):
            raise ValueError
        array = pa.array(cells, type=kind)
        if not any(isinstance(cell, dict) for cell in cells):
            return array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    else:
        return pa.array([_as_text(cell) for cell in cells], pa.string())
    if kind is None:  # a column of several types that is only kept
        return pa.array([_as_text(cell) for cell in cells], pa.string())
    row = next(row for row, cell in enumerate(cells) if not _fits(cell, kind))
    raise ValueError(
        f"{origin.where(row)}, column '{name}': expected {_spelt(kind)}, got {str(cells[row])[:80]!r}."
    )


def _fits(cell: Any, kind: Any) -> bool:
    if not _is_like(kind)(cell):
        return False
    try:
        pa.array([cell], type=kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _is_like(kind: Any) -> Callable[[Any], bool]:
    """Return what says whether a value is of a type where Arrow would cut it: fractions, fields, truth."""
    if pa.types.is_list(kind):
        inner = _is_like(kind.value_type)
        return lambda cell: (
            cell is None or (isinstance(cell, list | tuple | np.ndarray) and all(map(inner, cell)))
        )
    if pa.types.is_struct(kind):
        parts = {part.name: _is_like(part.type) for part in kind}
        return lambda cell: (
            cell is None
            or (
                isinstance(cell, Mapping)
                and all(name in parts and parts[name](value) for name, value in cell.items())
            )
        )
    if pa.types.is_integer(kind):
        return lambda cell: (
            cell is None
            or (not isinstance(cell, bool) and (not isinstance(cell, float) or cell.is_integer()))
        )
    return lambda cell: not isinstance(cell, bool | np.bool_)


def _as_text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return json.dumps(cell, ensure_ascii=False, sort_keys=True)


def _as_type(column: Any, kind: Any, name: str, origin: Origin) -> Any:
    array = one_chunk(column)
    if array.type == kind:
        return array
    if name in MAY_BE_NUMBERS and not (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    ):
        return pa.array([_as_text(cell) for cell in array.to_pylist()], pa.string())
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        return _array(_only_fields(array, kind, name, origin), kind, name, origin)
    numbers = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if pa.types.is_string(kind) and numbers:
        raise ValueError(f"{origin.names[0]}, column '{name}': expected text, got {array.type}.")
    try:
        return array.cast(kind)
    except pa.ArrowException as error:
        raise ValueError(
            f"{origin.names[0]}, column '{name}': expected {_spelt(kind)}, got {array.type} ({error})."
        ) from error


def _only_fields(array: Any, kind: Any, name: str, origin: Origin) -> list[Any]:
    """Return lists of structs whose fields are among the known ones."""
    value = (
        array.type.value_type if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) else None
    )
    if value is None or not pa.types.is_struct(value):
        raise ValueError(f"{origin.names[0]}, column '{name}': expected {_spelt(kind)}, got {array.type}.")
    known = [field.name for field in kind.value_type]
    for field in value:
        if field.name not in known:
            raise ValueError(
                f"{origin.names[0]}, column '{name}': {unknown_name('field', field.name, known)}"
            )
    found: list[Any] = array.to_pylist()
    return found


def _spelt(kind: Any, many: bool = False) -> str:
    if pa.types.is_list(kind):
        return f"a list of {_spelt(kind.value_type, many=True)}"
    if pa.types.is_struct(kind):
        return f"object{'s' * many} with {', '.join(field.name for field in kind)}"
    if pa.types.is_string(kind):
        return "texts" if many else "a text"
    what = "whole number" if pa.types.is_integer(kind) else "number"
    return f"{what}s" if many else f"a {what}"

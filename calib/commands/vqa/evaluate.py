"""`calib vqa evaluate`: what answers and their uncertainties are worth, as tables, a page and sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.core.errors import meant_path, unknown_name
from calib.core.text import few, printable, safe_path
from calib.io.files import blocking_file

if TYPE_CHECKING:
    from calib.commands.vqa.arguments import Given

DEMO = "demo"
NEXT = """\
Recorded: MobileVLM-1.7B, Yi-VL-34B, llava-v1.5-7b. Answered now: embedded, on images that come with calib.
The latter step by step; with data=folder root=IMAGES and another model it is yours:

  calib vqa items source=task data=cxr3 out=items.parquet
  calib vqa perturb items.parquet kind=replace_correct out=nota.parquet
  calib vqa items source=task data=cxr3 split=val out=val.parquet
  calib vqa perturb val.parquet kind=replace_distractor out=val_control.parquet
  calib vqa answer items.parquet nota.parquet model=embedded nota=threshold controls=val_control.parquet \\
    out=runs/vqa
  calib vqa evaluate items.parquet nota.parquet runs/vqa out=runs/evaluation"""
OUTPUTS, RECORD = "outputs.parquet", "answers.json"  # of `calib vqa answer`: when it is done, from the start


def main(given: Given) -> int:
    """Run `calib vqa evaluate`. Returns the exit status."""
    from calib.vqa import Protocol, evaluate
    from calib.vqa.evaluation.words import in_short

    asked = given.settings
    protocol = Protocol(**protocol_of(asked))
    for name in asked["show"]:
        if name not in TABLES:
            raise unknown_name("table", name, TABLES)
    if asked["out"] is not None and blocking_file(asked["out"]) is not None:
        raise ValueError(f"out={asked['out']}: there is a file {blocking_file(asked['out'])}; name a folder.")
    items, outputs = _tables(given.files)
    result = evaluate(items, outputs, protocol)
    if short := in_short(result, protocol):
        print("\n".join(short), end="\n\n")
    print(result.text())
    for name in asked["show"]:
        print(f"\n{result.table(name)}", end="")
    if asked["out"] is not None:
        written = result.save(asked["out"])
        print(f"\n{safe_path(Path(asked['out']) / 'report.html')} and {len(written) - 1} other files")
    if list(given.files) == [DEMO]:
        print(f"\n{NEXT}")
    return 0


# Names of the tables, known before anything is computed.
TABLES = (
    "overview",
    "errors",
    "calibration",
    "transfer",
    "shift",
    "shift_uncertainty",
    "collapse",
    "tracking",
    "cells",
    "robustness",
    "orders",
    "letters",
    "methods",
)


def protocol_of(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Protocol` that settings of the command stand for.

    Raises:
        ValueError: `shift` is not COLUMN:VALUE.

    Example:
        >>> protocol_of({"methods": ["option_msp"], "shift": "situation:iid", "out": None, "show": []})
        {'methods': ('option_msp',), 'shift': ('situation', 'iid')}
    """
    made = {}
    for name, value in asked.items():
        if name in ("out", "show") or value is None:
            continue
        if name == "shift":
            column, colon, usual = value.partition(":")
            if not (column and colon and usual):
                raise ValueError(f"shift={value}: expected COLUMN:VALUE, VALUE being what is usual.")
            made[name] = (column, usual)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return made


def _tables(files: Sequence[str]) -> tuple[Any, Any]:
    """Return the items and outputs of files: outputs are known by their column model_id."""
    from calib.vqa.tables import read_items, read_outputs

    if list(files) == [DEMO]:
        return _demonstration()
    if not files:
        raise ValueError(
            "Which answers? calib vqa evaluate ITEMS... OUTPUTS... out=FOLDER, or calib vqa evaluate demo."
        )
    items: list[Path] = []
    outputs: list[Path] = []
    for name in files:
        path = _outputs_of(Path(name)) if Path(name).is_dir() else Path(name)
        (outputs if "model_id" in _columns(path) else items).append(path)
    for kind, found, column in (("items", items, "option_ids"), ("outputs", outputs, "model_id")):
        if not found:
            raise ValueError(
                f"None of {few(list(files))} is a table of {kind}: it would have a column {column}. "
                "Questions (items) and answers (outputs) are needed, both."
            )
    read = read_items(*items)
    return read, read_outputs(*outputs, items=read)


def _outputs_of(folder: Path) -> Path:
    """Return the outputs in a folder of `calib vqa answer`, which has them once all items are answered."""
    if not (folder / OUTPUTS).is_file():
        begun = (folder / RECORD).is_file()
        raise FileNotFoundError(
            f"The answers in {folder} are not finished: the same calib vqa answer goes on."
            if begun
            else f"The folder {folder} holds no answers ({OUTPUTS}): calib vqa answer makes such folders."
        )
    return folder / OUTPUTS


def _demonstration() -> tuple[Any, Any]:
    """Return the items and outputs of the demonstration: recorded ones, and None of the above asked now."""
    from calib.vqa.demo import demonstration, nota_demonstration
    from calib.vqa.tables import join_items, join_outputs

    both = (demonstration(), nota_demonstration())
    items = join_items([items for items, _ in both])
    return items, join_outputs([outputs for _, outputs in both], items)


def _columns(path: Path) -> list[str]:
    """Return the columns of a table by its beginning; whether it is sound is checked when it is read."""
    import pyarrow as pa
    import pyarrow.parquet

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    if path.suffix.lower() == ".parquet":
        try:
            return list(pyarrow.parquet.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}). Was it cut off?") from error
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = next((line for line in file if line.strip()), "")
    if not line:
        raise ValueError(f"{path} has no rows.")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}, first line: no JSON ({printable(str(error))}). Tables are .parquet or JSON lines."
        ) from error
    return list(row) if isinstance(row, dict) else []

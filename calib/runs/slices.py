"""Subgroups of images from a CSV file: site, scanner, sex, by the names or ids of the images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from calib.core.errors import meant_path
from calib.core.text import few

KEYS = ("name", "id")
MOST = 20  # values of a column


def read_slices(path: str | Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of a CSV file, each with one value for every image.

    Args:
        path: The file: a column `name` (as predictions name the images) or `id` (their content ids), and
            further columns with at most 20 different values. Rows of other images are passed over.
        names: N names.
        ids: N content ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no such column, an image is missing or stands there twice, or a column has too many
            values to be subgroups.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}' (slices=FILE.csv).{meant_path(path)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or [])
            numbered = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from error
    key = next((each for each in KEYS if each in header), None)
    columns = [each for each in header if each != key]
    if key is None or not columns:
        raise ValueError(
            f"{path} needs a column 'name' or 'id' of the images and at least one more, and it has: "
            f"{few(header) or 'none'}."
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: columns must have different names, and they are {few(header)}.")
    odd = [number for number, row in numbered if None in row or None in row.values()]
    if odd:
        raise ValueError(f"{path}: line {odd[0]} has more or fewer cells than the header.")
    found = {str(row[key]): row for _, row in numbered}
    if len(found) < len(numbered):
        raise ValueError(f"{path}: an image stands there more than once.")
    wanted = names if key == "name" else ids
    missing = [each for each in wanted if each not in found]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(wanted)} images: {few(missing)}.")
    slices = {column: [str(found[each][column] or "") for each in wanted] for column in columns}
    for column, values in slices.items():
        if len(set(values)) > MOST:
            raise ValueError(
                f"{path}: the column '{column}' has {len(set(values))} different values, and at most {MOST} "
                "are shown as subgroups. Put numbers such as ages into classes, or leave the column out."
            )
    return slices

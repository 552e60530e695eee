"""Columns of Arrow tables as arrays: lists beside each other, places of names, without a loop over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ABSENT = -2  # in places: there is no name here; -1: there is one, and it is not among those


def one_chunk(column: Any) -> Any:
    """Return a column as a single array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def lengths(column: Any) -> np.ndarray:
    """Return how long the list of every row is, (N,) int64; -1 where there is none.

    Example:
        >>> lengths(pa.array([["a"], None, []])).tolist()
        [1, -1, 0]
    """
    found: np.ndarray = pc.fill_null(pc.list_value_length(one_chunk(column)), -1).to_numpy(
        zero_copy_only=False
    )
    return found.astype(np.int64)


def flat(column: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return what stands in the lists of a column, one after the other, with its row and its place there.

    Args:
        column: N lists, some of them perhaps null.

    Returns:
        M values, their rows (M,) and their places in these (M,).

    Example:
        >>> values, rows, places = flat(pa.array([[5, 6], None, [7]]))
        >>> values.to_pylist(), rows.tolist(), places.tolist()
        ([5, 6, 7], [0, 0, 2], [0, 1, 0])
    """
    array = one_chunk(column)
    values = pc.list_flatten(array)
    counts = np.maximum(lengths(array), 0)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return values, rows, places


def padded(column: Any) -> np.ndarray:
    """Return lists of numbers as one array, (N, longest) float64, NaN where a list has ended.

    Args:
        column: N lists of numbers; null ones and null numbers become NaN.

    Example:
        >>> padded(pa.array([[1.0, 2.0], None, [3.0]])).tolist()
        [[1.0, 2.0], [nan, nan], [3.0, nan]]
    """
    values, rows, places = flat(column)
    wide = int(places.max()) + 1 if len(places) else 0
    found = np.full((len(column), wide), np.nan, dtype=np.float64)
    numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    known = pc.is_valid(values).to_numpy(zero_copy_only=False)
    found[rows[known], places[known]] = numbers[known]
    return found


def codes(values: Any, vocabulary: Any) -> np.ndarray:
    """Return the place of every text in a vocabulary, (M,) int64; -1: not in it, `ABSENT`: null.

    Example:
        >>> codes(pa.array(["b", None, "x"]), pa.array(["a", "b"])).tolist()
        [1, -2, -1]
    """
    values = one_chunk(values)
    found = pc.fill_null(pc.index_in(values, value_set=vocabulary, skip_nulls=True), -1)
    places: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
    places[pc.is_null(values).to_numpy(zero_copy_only=False)] = ABSENT
    return places


def code_rows(column: Any, vocabulary: Any) -> np.ndarray:
    """Return lists of texts as codes beside each other, (N, longest) int64, `ABSENT` behind the end."""
    values, rows, places = flat(column)
    wide = int(places.max()) + 1 if len(places) else 0
    found = np.full((len(column), wide), ABSENT, dtype=np.int64)
    found[rows, places] = codes(values, vocabulary)
    return found


def places_in(wanted: np.ndarray, rows: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Return where each code stands in its row's list, (M,) int64; -1: nowhere, `ABSENT`: there is no code.

    Args:
        wanted: (M,) codes.
        rows: (M,) the row of each.
        listed: (N, K) codes.

    Example:
        >>> places_in(np.array([7, 9, -2]), np.array([0, 0, 1]), np.array([[5, 7], [5, 9]])).tolist()
        [1, -1, -2]
    """
    found = np.full(len(wanted), -1, dtype=np.int64)
    for place in range(listed.shape[1]):  # few options, many rows
        found[(listed[rows, place] == wanted) & (found == -1)] = place
    found[wanted == ABSENT] = ABSENT
    found[wanted == -1] = -1
    return found


def repeated(listed: np.ndarray) -> np.ndarray:
    """Return whether two codes of a row are the same, (N,) bool; `ABSENT` is none.

    Example:
        >>> repeated(np.array([[1, 2, 1], [1, 2, -2]])).tolist()
        [True, False]
    """
    ordered = np.sort(listed, axis=1)
    same: np.ndarray = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != ABSENT)).any(axis=1)
    return same

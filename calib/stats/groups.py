"""Samples that come in groups, such as the images of one patient: the number of each one's group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Groups = Sequence[object] | np.ndarray


def is_missing(group: object) -> bool:
    """Return whether a sample has no group: None, or NaN as in a table. All such would be one patient.

    Args:
        group: Of one sample.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing("nan")
        (True, True, False)
    """
    return group is None or (isinstance(group, float | np.floating) and bool(np.isnan(group)))


def group_numbers(groups: Groups | None, n: int) -> np.ndarray:
    """Return the number of every sample's group, (n,) int64 from 0, in the order of the groups' names.

    Args:
        groups: (n,) what each sample belongs to: a patient, a slide. None: every sample is by itself.
        n: How many samples there are.

    Raises:
        ValueError: There is not one group for each sample, or a sample has none (None, NaN).

    Example:
        >>> group_numbers(["b", "a", "b"], 3).tolist(), group_numbers(None, 3).tolist()
        ([1, 0, 1], [0, 1, 2])
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"Expected one group per sample: {n} samples but {len(groups)} groups.")
    if any(map(is_missing, groups)):
        raise ValueError("Every sample needs a group, some have None or NaN; groups=None: each is by itself.")
    names = np.asarray(groups)
    if names.ndim != 1:
        raise ValueError(f"groups must be (n,) names or numbers, one for each sample, not {names.shape}.")
    index: np.ndarray = np.unique(names, return_inverse=True)[1]
    return index

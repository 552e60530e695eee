"""Real shifts: images by what a column says of them (site, scanner, stain), usual values against others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from calib.core.errors import unknown_name
from calib.core.text import few
from calib.robustness.result import USUAL

MOST = 20  # values of a column
LEAST = 20  # images of a value, to be judged by itself
FAR = 0.3  # total variation of the classes' shares, from which on a change may be the mix alone


@dataclass(frozen=True, eq=False)
class Shift:
    """Which images are as usual, and which are of another value.

    Attributes:
        column: What the values are of.
        usual: (N,) bool.
        others: Value to (N,) bool, for those with enough images; where there are several, all together as
            well, by the name "all others".
        usual_values: The values that are usual.
        notes: What a reader has to know: groups on both sides, values that were left out.
    """

    column: str
    usual: np.ndarray
    others: Mapping[str, np.ndarray]
    usual_values: tuple[str, ...]
    notes: tuple[str, ...] = ()


TOGETHER = "all others"
TAKEN = (TOGETHER, USUAL)  # what conditions are called beside those of single values


def split_by_column(
    values: Sequence[str],
    column: str,
    usual: Sequence[str] | None = None,
    *,
    trained: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    least: int = LEAST,
) -> Shift:
    """Return which images are usual and which are not, by what a column says of them.

    Groups (patients) are kept whole: a group of which all images are on one side is resampled there; one that
    has images on both sides pairs them, and a note says so.

    Args:
        values: (N,) what the column says of each image that is judged.
        column: Its name.
        usual: The usual values. None: those of the training images.
        trained: What the column says of the training images. None: not known.
        groups: (N,) the group of each image. None: each is its own.
        least: Images of a value, and usual images, below which nothing is said of them.

    Raises:
        ValueError: There is one value only, or more than 20; a usual value is none of them; nothing is
            unusual or usual; there are too few images of either; or a value is called as several are.

    Example:
        >>> shift = split_by_column(["A"] * 3 + ["B"] * 2, "site", ["A"], least=2)
        >>> shift.usual.tolist(), shift.others["B"].tolist()
        ([True, True, True, False, False], [False, False, False, True, True])

    Source: SURE-VQA (arXiv 2411.19688), R1: real shifts by metadata, training values against others.
    """
    counts = Counter(values)
    if len(counts) > MOST:
        raise ValueError(
            f"The column '{column}' has {len(counts)} different values among {len(values)} images "
            f"({few(sorted(counts))}), and at most {MOST} are told apart. Put numbers such as ages into "
            "classes, or name another column."
        )
    if len(counts) == 1:
        raise ValueError(
            f"All {len(values)} images have the same value of '{column}', {next(iter(counts))!r}: there is "
            "no shift to look at. Name another column, or other images (data.root)."
        )
    named = _usual_values(counts, column, usual, trained)
    texts = np.asarray(values, dtype=object)
    is_usual = np.isin(texts, named)
    others = sorted(set(counts) - set(named), key=lambda each: (-counts[each], each))
    small = [each for each in others if counts[each] < least]
    kept = [each for each in others if counts[each] >= least]
    if is_usual.sum() < least or not kept:
        sizes = {"usual images": int(is_usual.sum()), **{f"of {each!r}": counts[each] for each in others}}
        raise ValueError(
            f"Too few images to say anything of a shift in '{column}': "
            f"{few([f'{n} {what}' for what, n in sizes.items()], 10)}, and at least {least} of either are "
            "asked for (least=N)."
        )
    notes = []
    if small:
        listed = few([f"{each} ({counts[each]})" for each in small], 10)
        notes.append(f"{column}: left out, with fewer than {least} images: {listed}.")
    for value in TAKEN:
        if value in kept:
            raise ValueError(
                f"The column '{column}' has a value '{value}', which is what several values are called in "
                "tables: write another word for it."
            )
    masks = {each: texts == each for each in kept}
    if len(kept) > 1:
        masks[TOGETHER] = np.isin(texts, kept)
    if trained is not None and (seen := sorted(set(trained) & set(kept))):
        notes.append(
            f"{column}: the training images have {few(seen)} as well: these are subgroups, not unseen ones."
        )
    if groups is not None:
        names = np.asarray(groups, dtype=object)
        both = set(names[is_usual]) & set(names[np.isin(texts, kept)])
        if both:
            notes.append(
                f"{column}: {len(both)} of {len(set(groups))} groups (patients) have images on both sides; "
                "they are drawn together, as the sides are not independent."
            )
    return Shift(column, is_usual, masks, tuple(named), tuple(notes))


def class_mix(shift: Shift, labels: Tensor, class_names: Sequence[str] | None = None) -> list[str]:
    """Return the classes' shares of usual images and of each other value, and whether they differ.

    With other shares of the classes accuracy and ECE change by the mix alone. They differ strongly if a class
    of one side is not on the other, or by the total variation

        TV = 1/2 sum_c |share_c(usual) - share_c(value)|  above 0.3.

    Args:
        shift: Which images are usual, and which of another value.
        labels: (N,) true classes.
        class_names: C names in the order of the labels. None: they are called by number.

    Example:
        >>> import torch
        >>> shift = split_by_column(["A"] * 4 + ["B"] * 4, "site", ["A"], least=2)
        >>> *shares, far = class_mix(shift, torch.tensor([0, 1, 1, 1, 0, 0, 0, 0]), ["normal", "ill"])
        >>> shares
        ['site A (usual), 4 images: normal 25 %, ill 75 %.', 'site B, 4 images: normal 100 %, ill 0 %.']
        >>> far[:67]
        'The classes differ strongly between site A (usual) and B (no image '
    """
    truth = labels.numpy()
    n_classes = len(class_names) if class_names is not None else int(truth.max()) + 1
    names = [f"class {label}" for label in range(n_classes)] if class_names is None else list(class_names)
    usual = f"{shift.column} {few(shift.usual_values)} (usual)"
    parts = {usual: shift.usual}
    parts |= {f"{shift.column} {value}": mask for value, mask in shift.others.items() if value != TOGETHER}
    shares = {
        part: np.bincount(truth[mask], minlength=n_classes) / mask.sum() for part, mask in parts.items()
    }
    told = []
    for part, share in shares.items():
        listed = few([f"{name} {100 * each:.0f} %" for name, each in zip(names, share, strict=True)], 10)
        told.append(f"{part}, {int(parts[part].sum())} images: {listed}.")
    before = shares.pop(usual)
    far = []
    for part, share in shares.items():
        apart = float(np.abs(share - before).sum()) / 2
        lost, new = (
            [names[at] for at in np.flatnonzero((a > 0) & (b == 0))]
            for a, b in ((before, share), (share, before))
        )
        if lost or new or apart > FAR:
            why = [f"no image of {few(lost)} there"] if lost else []
            why += [f"{few(new)} only there"] if new else []
            why.append(f"{100 * apart:.0f} % of its images would have to be of another class")
            far.append(f"{part.removeprefix(f'{shift.column} ')} ({'; '.join(why)})")
    if far:
        told.append(
            f"The classes differ strongly between {usual} and {few(far)}: what changes may be the mix of "
            f"classes and not the {shift.column}. Compare images with alike shares of each class."
        )
    return told


def _usual_values(
    counts: Mapping[str, int], column: str, usual: Sequence[str] | None, trained: Sequence[str] | None
) -> list[str]:
    listed = few([f"{value} ({count})" for value, count in sorted(counts.items())], 10)
    if usual:
        for value in usual:
            if value not in counts:
                raise unknown_name(f"value of the column '{column}' (usual)", value, sorted(counts))
        if set(usual) == set(counts):
            raise ValueError(f"Every value of '{column}' is usual: {listed}. Leave some out of usual=[...].")
        return list(usual)
    if trained is None:
        raise ValueError(
            f"Which values of '{column}' are usual is not known, as the training images are not at hand: say "
            f"usual=[VALUE]. There are: {listed}."
        )
    seen = sorted(set(trained) & set(counts))
    if not seen:
        raise ValueError(
            f"No image that is judged has a value of '{column}' that the training images have "
            f"({few(sorted(set(trained)))}); they have: {listed}. Say which are usual: usual=[VALUE]."
        )
    if len(seen) == len(counts):
        raise ValueError(
            f"The training images have every value of '{column}' ({listed}): none is new to the model. To "
            f"compare subgroups, say which value is usual: usual=[{max(seen, key=counts.__getitem__)}]."
        )
    return seen

"""Everything in one call: models, images, corruptions and real shifts, without a run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from calib.core.hashing import stable_hash
from calib.core.text import few
from calib.data.encode import encode
from calib.data.features import FeatureTable
from calib.data.notices import pace
from calib.data.records import ImageTable
from calib.prompts.export import Prompt
from calib.robustness.baselines import blank_features, sanity_baselines
from calib.robustness.corrupted import encode_corrupted, of_grey_images
from calib.robustness.corruptions import CORRUPTIONS, SEVERITIES, checked_corruption, checked_severity
from calib.robustness.protocol import Protocol
from calib.robustness.result import Condition, Robustness
from calib.robustness.said import PromptSystem, System
from calib.robustness.shift import LEAST, class_mix, split_by_column

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

Systems = Prompt | System | Mapping[str, Prompt | System | Mapping[int, System]]
FEATURES_ONLY = (
    "These are features without their images, which cannot be corrupted: give the images (data.root=IMAGES), "
    "or look at shifts alone (corruptions=[] shift_by=COLUMN)."
)
logger = logging.getLogger(__name__)


def assess(
    systems: Systems,
    images: FeatureTable | ImageTable,
    backbone: Backbone,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    shifts: Mapping[str, Sequence[str]] | None = None,
    usual: Sequence[str] | None = None,
    trained: Mapping[str, Sequence[str]] | None = None,
    least: int = LEAST,
    labelled: FeatureTable | None = None,
    counts: Tensor | None = None,
    validation: FeatureTable | None = None,
    cache: str | Path | None = ".calib_cache",
    batch_size: int = 16,
    on_batch: Callable[[], object] = lambda: None,
    **settings: Any,
) -> Robustness:
    """Return what models do on images as they are, corrupted, and shifted by a column.

    Args:
        systems: A prompt, or models by name: a prompt, a function from features to `Said`, or such by seed.
            The first is the one whose sanity baselines are shown.
        images: N labelled test images; features of them where nothing is corrupted.
        backbone: The frozen model that all of them share.
        corruptions: Names of CORRUPTIONS. None: all, without those of colour where images are grey. Empty:
            none.
        severities: Some of 1 to 5.
        shifts: Column to what it says of each image, (N,): sites, scanners, stains.
        usual: The usual values of these columns. None: those of the training images.
        trained: Column to what it says of the training images.
        least: Images of a value, below which it is not judged by itself.
        labelled: Features of images that the models learned from, for sanity baselines.
        counts: (C,) training images of each class, see `sanity_baselines`.
        validation: Features of images to calibrate the sanity baselines on.
        cache: Folder of the feature cache. None: encoded for this call only.
        batch_size: Images encoded at once.
        on_batch: Called before every batch that is encoded.
        **settings: n_bins, n_resamples, level, seed: see `Protocol`.

    Raises:
        ValueError: A name, severity or column is not as above; there is nothing to look at; or images are
            needed and there are features only.
    """
    named = _named(systems)
    names = list(CORRUPTIONS) if corruptions is None else list(dict.fromkeys(corruptions))
    levels = sorted({checked_severity(each) for each in severities} - {0})
    for name in names:
        checked_corruption(name)
    shifts = shifts or {}
    if names and not levels:
        raise ValueError(
            "No severity above 0 is asked for: there is nothing to corrupt. Give some of 1 to 5."
        )
    if not names and not shifts:
        raise ValueError(
            "Neither corruptions nor a column of shifts is asked for: there is nothing to look at."
        )
    if names and not isinstance(images, ImageTable):
        raise ValueError(FEATURES_ONLY)
    how: dict[str, Any] = {"cache": cache, "batch_size": batch_size, "on_batch": on_batch}
    notes: list[str] = []
    found = {
        column: split_by_column(
            values,
            column,
            _usual_of(values, usual, shifts),
            trained=None if trained is None else trained.get(column),
            groups=images.groups,
            least=least,
        )
        for column, values in shifts.items()
    }  # before anything is encoded
    if corruptions is None and isinstance(images, ImageTable) and of_grey_images(images):
        left = [name for name in names if CORRUPTIONS[name].of_colour]
        names = [name for name in names if name not in left]
        notes.append(f"The images are grey: {' and '.join(left)} would change nothing and are left out.")
    features = encode(backbone, images, **how)
    logger.info("Measuring %d models, with intervals over resamples: many images take minutes.", len(named))
    protocol = Protocol(named, features, **settings)
    main = next(iter(next(iter(named.values())).values()))
    for column, shift in found.items():
        logger.info("%s: measuring usual images and others (%s).", column, few(list(shift.others)))
        protocol.shifted(column, shift.usual, shift.others)
        notes += [*class_mix(shift, images.labels, _class_names(main)), *shift.notes]
    began = time.monotonic()
    conditions = [Condition.of_corruption(name, severity) for name in names for severity in levels]
    for number, condition in enumerate(conditions, start=1):
        assert isinstance(images, ImageTable)
        assert condition.severity is not None
        corrupted = encode_corrupted(backbone, images, condition.corruption, condition.severity, **how)
        protocol.corrupted(condition, corrupted)
        of = f"{len(conditions)} corruptions and severities"
        told = pace(number, len(conditions), time.monotonic() - began)
        logger.info("%s: %d of %s%s", condition.name, number, of, told)
    sanity = None
    if isinstance(main, PromptSystem):
        logger.info("Fitting and judging what sees nothing.")
        sanity = sanity_baselines(
            main.prompt.logits,
            main.renumbered(features),
            n_classes=len(main.prompt.class_names),
            labelled=None if labelled is None else main.renumbered(labelled),
            counts=None if counts is None else main.reordered(counts),
            validation=None if validation is None else main.renumbered(validation),
            blank=blank_features(backbone),
            seed=settings.get("seed", 0),
        )
    about = {"shifts": {column: {"usual": list(shift.usual_values)} for column, shift in found.items()}}
    return protocol.finished(sanity=sanity, notes=notes, about=about)


def _class_names(system: System) -> list[str] | None:
    """Return the classes in the order of the data's labels. None: the model does not say."""
    if not isinstance(system, PromptSystem):
        return None
    return list(system.prompt.class_names if system.class_names is None else system.class_names)


def _usual_of(
    values: Sequence[str], usual: Sequence[str] | None, shifts: Mapping[str, Sequence[str]]
) -> list[str] | None:
    """Return the usual values of one column, where several columns were asked for at once."""
    if usual is None:
        return None
    known = {value for column in shifts.values() for value in column}
    return [value for value in usual if value in values or value not in known]


def some_of(table: FeatureTable | ImageTable, most: int | None) -> list[int]:
    """Return rows of at most that many images, drawn by group and content: the same on every machine.

    Whole groups are taken in the order of a digest of their names (of images without groups, of their ids)
    until there are as many images.

    Args:
        table: N images.
        most: How many. None: all.

    Raises:
        ValueError: No group has as few images.

    Example:
        >>> import torch
        >>> ids = [f"{row:064d}" for row in range(4)]
        >>> table = FeatureTable(torch.eye(4), torch.zeros(4).long(), ids, list("abcd"), list("ppqr"))
        >>> some_of(table, 2), some_of(table, None)
        ([0, 1], [0, 1, 2, 3])
    """
    if most is None or most >= len(table):
        return list(range(len(table)))
    groups = list(table.ids) if table.groups is None else table.groups
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    taken: list[int] = []
    for group in sorted(members, key=lambda name: stable_hash("robustness", name)):
        if len(taken) + len(members[group]) <= most:
            taken += members[group]
    if not taken:
        smallest = min(map(len, members.values()))
        raise ValueError(
            f"images={most} is less than any group (patient) has, and groups are kept whole: give at least "
            f"images={smallest}."
        )
    return sorted(taken)


def _named(systems: Systems) -> dict[str, dict[int, System]]:
    """Return models by name and seed."""
    if isinstance(systems, Mapping):
        return {
            name: {int(seed): _system(each) for seed, each in given.items()}
            if isinstance(given, Mapping)
            else {0: _system(given)}
            for name, given in systems.items()
        }
    name = str(systems.training.get("method") or "prompt") if isinstance(systems, Prompt) else "model"
    return {name: {0: _system(systems)}}


def _system(given: Any) -> System:
    if isinstance(given, Prompt):
        return PromptSystem(given)
    if not callable(given):
        raise ValueError(
            f"A model is a calib.Prompt, or a function from features to what it says of them, not "
            f"{type(given).__name__}."
        )
    found: System = given
    return found

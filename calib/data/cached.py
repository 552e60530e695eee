"""Cached features: the key that is a file's name, and a reader that believes no file of another key."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.backbones.same import DEFINING, FP32, OF_IMAGES
from calib.core.hashing import json_digest
from calib.data.features import SCHEMA, FeatureTable
from calib.data.images import READING

logger = logging.getLogger(__name__)


def features_key(facts: Mapping[str, Any], ids: Sequence[str]) -> str:
    """Return the digest of everything that decides about features: what their file in a cache is called.

    Args:
        facts: What the features' `meta` says: backbone, views, view_seed, grey16_max, reading and dicom.
        ids: The content ids of the images, in the order of the features.
    """
    described = facts.get("backbone", {})
    tower = {key: DEFINING[key](described) for key in OF_IMAGES}
    if tower["encode_precision"] == FP32:  # as of versions that knew no other
        del tower["encode_precision"]
    parts = [SCHEMA, list(ids), tower, facts.get("views"), facts.get("view_seed"), facts.get("grey16_max")]
    reading = facts.get("reading", 1)  # versions that say nothing of it read images by the first rules
    shown = facts.get("dicom")  # absent, as None, where the files decide
    return json_digest([*parts, *([] if reading == 1 else [reading]), *([] if shown is None else [shown])])


def is_of_its_key(features: FeatureTable, path: Path) -> bool:
    """Return whether features are those that their file's name says."""
    return features.views == features.meta.get("views") and path.stem == features_key(
        features.meta, features.ids
    )


def is_read_again(features: FeatureTable) -> bool:
    """Return whether images are still decoded as these were, so that someone may ask for the features."""
    return bool(features.meta.get("reading", 1) == READING)


def read_cached(path: Path) -> FeatureTable | None:
    """Return the features in a cache file.

    None: There are none, or (the log says so) they are damaged or of another key than the file's name.
    """
    if not path.is_file():
        return None
    try:
        cached = FeatureTable.load(path)
    except ValueError as error:
        logger.warning("The cached features are damaged and are made anew: %s", error)
        return None
    if not is_of_its_key(cached, path):
        logger.warning(
            "The cached features in %s are of other images, views or another backbone than its name says; "
            "they are made anew.",
            path,
        )
        return None
    return cached

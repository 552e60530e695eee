"""What a new prompt knows of the images it was trained on: which others are unlike them."""

from __future__ import annotations

from collections.abc import Mapping

from calib.data.features import FeatureTable
from calib.data.folds import owners
from calib.posthoc.decisions import Decisions
from calib.posthoc.familiarity import LEAST, Familiarity


def familiar_with(shots: FeatureTable, chosen: Mapping[str, int] | None = None) -> Decisions | None:
    """Return the decisions of a prompt that knows its shots and nothing else. None: they say too little.

    That is so where there are fewer than 4 images, or all are of one group: none can be judged by others.

    Args:
        shots: Plain features of its training images.
        chosen: By which strategies these were chosen. None: they were drawn.
    """
    names = owners(shots)
    if len(shots) < LEAST or len(set(names)) < 2:
        return None
    features = shots.image_features.cpu()
    return Decisions(
        familiarity=Familiarity().fit(features, shots.labels.cpu(), owners=names, chosen=chosen or {})
    )

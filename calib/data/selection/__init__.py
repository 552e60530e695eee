"""Which images to label: strategies by name, and the one function that chooses by any of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from calib.core.byname import check_settings, settings
from calib.core.checks import HALF_NORM, check_tensor, check_unit_norm, check_whole
from calib.core.errors import unknown_name
from calib.core.text import few
from calib.data.selection.doubt import aligned, dual, entropy, margin
from calib.data.selection.gain import epig
from calib.data.selection.pool import Picks, Pool
from calib.data.selection.spread import k_centre, random, typicality

NEAR = 0.95  # cosine around the pool's mean: copies saved again or resized have more, other images less

# A strategy takes the pool and the picks; what stands behind them are its settings.
STRATEGIES: dict[str, Callable[..., None]] = {
    "random": random,
    "k_centre": k_centre,
    "typicality": typicality,
    "entropy": entropy,
    "margin": margin,
    "dual": dual,
    "aligned": aligned,
    "epig": epig,
}
NEED_MODEL = ("entropy", "margin", "dual", "aligned", "epig")


@dataclass(frozen=True)
class Selection:
    """The images that are to be labelled, in the order in which they were chosen.

    Attributes:
        rows: Which of the images given.
        scores: Of each, higher = chosen for it; NaN where the strategy has none.
        clusters: Of each; None where the strategy has none.
        why: Why each, in words.
        strategy: Its name.
        settings: All of its settings.
        pool: Different images it was chosen from, those with a label left out.
    """

    rows: list[int]
    scores: list[float]
    clusters: list[int | None]
    why: list[str]
    strategy: str
    settings: dict[str, Any]
    pool: int


def select(
    features: Tensor,
    ids: Sequence[str],
    budget: int,
    *,
    strategy: str = "random",
    seed: int = 1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    groups: Sequence[str] | None = None,
    per_group: int | None = 1,
    near: float = NEAR,
    labelled: Mapping[str, int] | None = None,
    learned: bool = False,
    source: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    **asked: Any,
) -> Selection:
    """Return which images to label next; no label of theirs is looked at.

    It depends on the seed and the images, not on their order or names.

    Args:
        features: (N, D) unit norm, of all images.
        ids: N content ids; of images with the same one the first counts.
        budget: How many to choose.
        strategy: A key of STRATEGIES.
        seed: Any integer from 0.
        weight: (C, D) of the model at hand: `logits = features @ weight.T + bias`. For zero-shot the scale
            times the text features. None: there is none, and strategies that doubt are refused.
        bias: (C,). None: 0.
        groups: N names of what belongs together, such as patients. None: not known.
        per_group: Images a group may give, those with a label included. None: any number.
        near: Cosine around the mean of the pool from which two images count as copies, of which one is
            chosen, above 0. 1: only copies with the same features do.
        labelled: Content id to class index of images that have a label already: they are not chosen, and
            what is chosen goes on from them. None: none have.
        learned: Whether the model was trained on these. False: its doubts are corrected by a head that is.
        source: (M, D) unit norm, images of the domain the model is at home in, for "aligned".
        class_names: C names, for the words.
        **asked: Settings of the strategy.

    Raises:
        ValueError: An input is not as above, or the pool has too few images for the budget.

    Example:
        >>> points = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0]]), dim=1)
        >>> chosen = select(points, ["a", "b", "c", "d"], 2, strategy="k_centre", seed=3)
        >>> chosen.rows, chosen.why
        ([0, 3], ['the first, drawn at random', 'farthest from the others: 2.000'])
    """
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    known = settings(STRATEGIES[strategy])
    check_settings(asked, known, name=f"strategy {strategy!r}")
    check_whole(1, budget=budget, **({} if per_group is None else {"per_group": per_group}))
    check_whole(0, seed=seed)
    if not 0 < near <= 1:
        raise ValueError(f"near must be above 0 and at most 1, got {near}.")
    values = _rows_of(features, "features")
    if len(ids) != len(values) or (groups is not None and len(groups) != len(values)):
        raise ValueError(f"There are {len(values)} images, but {len(ids)} ids or another number of groups.")
    kept: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: (ids[row], row)):
        if not kept or ids[row] != ids[kept[-1]]:
            kept.append(row)
    place = {ids[row]: at for at, row in enumerate(kept)}
    marks = dict(labelled or {})
    strangers = [id_ for id_ in marks if id_ not in place]
    if strangers:
        raise ValueError(f"{len(strangers)} labelled images are not in the pool: {few(strangers, 2)}.")
    pool = Pool(
        features=values[kept],
        ids=[ids[row] for row in kept],
        weight=None if weight is None else _weight(weight, values.shape[1], marks),
        bias=_bias(weight, bias),
        groups=None if groups is None else [str(groups[row]) for row in kept],
        labelled=np.array(sorted(place[id_] for id_ in marks), dtype=np.int64),
        labels=np.array([marks[id_] for _, id_ in sorted((place[i], i) for i in marks)], dtype=np.int64),
        learned=learned,
        source=None if source is None else _rows_of(source, "source"),
        class_names=class_names,
    )
    left = check_budget(budget, pool.ids, marks)
    picks = Picks(pool, budget, per_group=per_group, near=near, seed=seed)
    with threadpool_limits(1):  # sums of several threads round otherwise, and clusters may follow
        STRATEGIES[strategy](pool, picks, **asked)
    if not picks.full:
        raise ValueError(_too_few(pool, picks, per_group, near))
    return Selection(
        rows=[kept[row] for row in picks.rows],
        scores=picks.scores,
        clusters=picks.clusters,
        why=picks.why,
        strategy=strategy,
        settings={**known, **asked},
        pool=left,
    )


def check_budget(budget: int, ids: Sequence[str], labelled: Collection[str] = ()) -> int:
    """Return how many different images there are without a label; they have to be enough.

    Args:
        budget: How many are to be chosen.
        ids: Content ids of the images.
        labelled: Content ids of those with a label.

    Raises:
        ValueError: There are fewer.

    Example:
        >>> check_budget(1, ["a", "b", "b"], ["a"])
        1
    """
    left = len({*ids} - {*labelled})
    if budget > left:
        more = f"Give budget={left} or less, or more images." if left else "Give more images."
        raise ValueError(
            f"budget={budget} is more than the pool has: {left} different images without a label. {more}"
        )
    return left


def _too_few(pool: Pool, picks: Picks, per_group: int | None, near: float) -> str:
    """Return what is said where copies and groups leave too few images."""
    grouped = pool.groups is not None and per_group is not None
    allowed = f"{per_group} of each group (per_group) and " if grouped else ""
    more = f"per_group={(per_group or 1) + 1}, " if grouped else ""
    return (
        f"Only {len(picks.rows)} of {picks.budget} images can be chosen: with {allowed}one of all that are "
        f"alike (near={near:g}) the {len(pool)} different images are used up. Give a "
        f"smaller budget, {more}or near=1."
    )


def _weight(weight: Tensor, width: int, labels: Mapping[str, int]) -> np.ndarray:
    if weight.dim() != 2 or weight.shape[1] != width:
        raise ValueError(f"weight must be (C, {width}), as wide as features, not {tuple(weight.shape)}.")
    strange = [label for label in labels.values() if not 0 <= label < len(weight)]
    if strange:
        raise ValueError(f"labelled must say classes from 0 to {len(weight) - 1}, got {strange[0]}.")
    return np.asarray(weight.detach().cpu().double().numpy())


def _bias(weight: Tensor | None, bias: Tensor | None) -> np.ndarray | None:
    if weight is None:
        return None
    given = torch.zeros(len(weight)) if bias is None else bias
    return np.asarray(given.detach().cpu().double().numpy())


def _rows_of(features: Tensor, name: str) -> np.ndarray:
    check_tensor(features, name)
    if features.dim() != 2 or not len(features):
        raise ValueError(f"{name} must be (N, D) with N > 0, not {tuple(features.shape)}.")
    check_unit_norm(features, name, tolerance=HALF_NORM)
    values = features.detach().cpu().double()
    return np.asarray(torch.nn.functional.normalize(values, dim=1).numpy())

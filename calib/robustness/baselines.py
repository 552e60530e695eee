"""Sanity baselines: what a table would say of models that see nothing, each as it is and calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.posthoc.discriminant import LinearDiscriminant
from calib.posthoc.scaling import bounded_temperature
from calib.robustness.said import Said

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

GREY = (128, 128, 128)


@dataclass(frozen=True, eq=False)
class Baseline:
    """What one baseline says of the images that are judged.

    Attributes:
        plain: As it is.
        calibrated: With a temperature that was fitted on the validation images; its logarithm lies within
            -16 and 16, so that there is one whatever they are. None: there are no validation images.
    """

    plain: Said
    calibrated: Said | None


def blank_features(backbone: Backbone) -> Tensor:
    """Return the features (1, D) of an image that is grey all over."""
    size = backbone.preprocess.image_size
    image = backbone.preprocess(Image.new("RGB", (size, size), GREY))[None]
    with torch.inference_mode():
        return backbone.encode_image(image.to(backbone.device)).float().cpu().clone()


def sanity_baselines(
    logits_of: Callable[[Tensor], Tensor],
    test: FeatureTable,
    *,
    n_classes: int,
    labelled: FeatureTable | None = None,
    counts: Tensor | None = None,
    validation: FeatureTable | None = None,
    blank: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Baseline]:
    """Return what models that see nothing would say of the images that are judged.

    "class prior": shares of the classes among the training images, (n_c + 1) / (n + C), whatever the image.
    "mean image": the model on the mean of their embeddings. "shuffled images": the model on another image of
    the same split, its label kept. "shuffled labels": a linear discriminant of the labelled images, whose
    labels were shuffled. "text only": the model on an image that is grey all over. The first two and the
    fourth are there with labelled images, the last with `blank`.

    A number of the model's that a calibrated one of these has as well means nothing by itself.

    Args:
        logits_of: The model: features (N, D) -> logits (N, C).
        test: N images, labels numbered as the logits.
        n_classes: C.
        labelled: Images that the model learned from. None: none are known.
        counts: (C,) training images of each class, where the labelled ones are drawn from them in other
            shares. None: those of the labelled ones.
        validation: Images to fit temperatures on. None: nothing is calibrated.
        blank: (1, D) from `blank_features`. None: the backbone is not at hand.
        seed: Of the shuffles.

    Example:
        >>> features = torch.eye(4)[[0, 1, 2, 3]]
        >>> ids = [f"{row:064d}" for row in range(4)]
        >>> table = FeatureTable(features, torch.tensor([0, 0, 0, 1]), ids, list("abcd"))
        >>> found = sanity_baselines(lambda x: x[:, :2], table, n_classes=2, labelled=table)
        >>> list(found)
        ['class prior', 'mean image', 'shuffled images', 'shuffled labels']
        >>> found["class prior"].plain.probs[0].round(decimals=3).tolist()
        [0.667, 0.333]
    """
    ways: dict[str, Callable[[FeatureTable], Tensor]] = {}
    if labelled is not None:
        many = labelled.labels.bincount(minlength=n_classes) if counts is None else counts
        prior = ((many.double() + 1) / (float(many.sum()) + n_classes)).log()[None]
        mean = normalize(labelled.image_features.mean(dim=0, keepdim=True), dim=1)
        ways["class prior"] = lambda table: prior.expand(len(table), -1)
        ways["mean image"] = lambda table: logits_of(mean).double().expand(len(table), -1)
    ways["shuffled images"] = lambda table: logits_of(
        table.image_features[_others(len(table), seed)]
    ).double()
    if labelled is not None and bool((labelled.labels.bincount(minlength=n_classes) > 0).all()):
        shuffled = np.random.default_rng(seed).permutation(labelled.labels.numpy())
        learned = LinearDiscriminant.fit(
            labelled.image_features.double(), torch.from_numpy(shuffled), n_classes
        )
        ways["shuffled labels"] = lambda table: learned.logits(table.image_features)
    if blank is not None:
        ways["text only"] = lambda table: logits_of(blank).double().expand(len(table), -1)
    return {name: _baseline(way, test, validation) for name, way in ways.items()}


def _baseline(
    way: Callable[[FeatureTable], Tensor], test: FeatureTable, validation: FeatureTable | None
) -> Baseline:
    plain = Said(way(test).contiguous(), test.labels)
    if validation is None:
        return Baseline(plain, None)
    known = way(validation).contiguous()
    ones = torch.ones(len(known), dtype=torch.float64)
    temperature = bounded_temperature(known, validation.labels, ones)
    return Baseline(plain, replace(plain, logits=plain.logits / temperature))


def _others(n: int, seed: int) -> Tensor:
    """Return for each of n rows another one, each row once; of a single row itself."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    found = torch.empty(n, dtype=torch.int64)
    found[order] = order.roll(1)
    return found

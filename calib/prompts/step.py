"""What training one prompt is made of, whether it is trained alone or beside others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from calib.backbones.base import Backbone
from calib.core import ranks
from calib.losses import Objective
from calib.metrics import metric_collection
from calib.training.loss_means import LossMeans
from calib.training.precision import full_precision

CLASSES_TO_SHARE = 2  # per process, at least


def shares_classes(n_classes: int) -> bool:
    """Return whether the processes of a job divide the classes among them: each has two at least."""
    return ranks.world_size() > 1 and n_classes >= CLASSES_TO_SHARE * ranks.world_size()


def features_and_labels(backbone: Backbone, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return image features (B, D) and labels (B,) of the batch of all processes.

    Args:
        backbone: The frozen model.
        batch: `labels`, and either `image_features`, the same in every process, or this process's share of
            the `images` (B, 3, H, W).
    """
    if "image_features" in batch:
        return batch["image_features"], batch["labels"]
    images = batch["images"]
    features = images.new_empty(0, backbone.embed_dim)
    if len(images):
        features = backbone.encode_image(images)
    return ranks.gathered(features), ranks.gathered(batch["labels"])


class PromptStep(nn.Module):
    """Objective, means of its terms over an epoch, and validation metrics of one prompt.

    Losses and metrics are computed in float32 and float64, whatever the precision of the towers.

    Args:
        objective: What the prompt is trained on.
        n_classes: C.
        n_bins: Bins of the validation ECE.
        sync: Whether processes have seen different validation images.
    """

    def __init__(self, objective: Objective, n_classes: int, *, n_bins: int = 10, sync: bool = True) -> None:
        super().__init__()
        self.objective = objective
        self.losses = LossMeans()
        self.metrics = metric_collection(n_classes, n_bins, "val/", sync_on_compute=sync)

    def loss(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the objective () of one batch, with its graph, and add its terms to the means.

        Args:
            tensors: From `loss_tensors`.
        """
        with full_precision(tensors["logits"]):
            return self.losses.add(self.objective(**tensors))

    def validate(self, tensors: Mapping[str, Tensor]) -> None:
        """Add one batch to the validation metrics.

        Args:
            tensors: From `loss_tensors`.
        """
        self.metrics.update(logits=tensors["logits"], labels=tensors["labels"])

    def validation(self) -> dict[str, Tensor]:
        """Return the metrics () of what was added that are defined, by name ("val/ece"), and forget it."""
        values = {name: value for name, value in self.metrics.compute().items() if value.isfinite()}
        self.metrics.reset()
        return values

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint in the middle of an epoch holds of it."""
        return self.losses.state_dict()

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.losses.load_state_dict(state)


def loss_tensors(
    image_features: Tensor,
    labels: Tensor,
    text_features: Tensor,
    zero_shot_text_features: Tensor,
    logit_scale: Tensor,
) -> dict[str, Tensor]:
    """Return everything a loss may ask for by name, in float32 at least.

    Args:
        image_features: (B, D) unit norm.
        labels: (B,).
        text_features: (C, D) unit norm, of the learned prompt.
        zero_shot_text_features: (C, D) unit norm, of the fixed sentences.
        logit_scale: () log scale.
    """
    with full_precision(image_features):
        scaled = logit_scale.exp() * image_features  # (B, D)
        return {
            "logits": scaled @ text_features.T,  # (B, C)
            "labels": labels,
            "text_features": text_features,
            "zero_shot_logits": scaled @ zero_shot_text_features.T,  # (B, C)
            "zero_shot_text_features": zero_shot_text_features,
        }

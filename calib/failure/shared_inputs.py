"""What several heads of one form see of a batch, made once where it depends on none of their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.core import ranks
from calib.failure.vilu import ViLU
from calib.failure.vilu_mlp import FOLD_FROM, join_parts
from calib.scores.logits import log_odds


@dataclass(frozen=True)
class SharedInputs:
    """What heads see of a batch.

    Attributes:
        joined: (B, W), the input of their MLPs.
        odds: (B,), the log-odds that residual heads start at. None: they are of another form.
        calls: How often each head would have been called: once for every model that the images are of.
    """

    joined: Tensor
    odds: Tensor | None
    calls: int

    def of(self, rows: Tensor) -> SharedInputs:
        """Return that of some rows, (n,) int64."""
        return SharedInputs(self.joined[rows], None if self.odds is None else self.odds[rows], self.calls)


def can_share(head: ViLU, batch: Mapping[str, Tensor]) -> bool:
    """Return whether what a head sees of a batch is the same for all of its form, and is best made once.

    Args:
        head: A head.
        batch: As those of `FailureCases` or of `CaptionPairs`.
    """
    fixed = not head.options["use_attention"] or (head.keep_frozen and not head.options["official_decay"])
    # Of large batches a folded first layer saves more; processes, whose shares differ, decide alike.
    small = ranks.world_size() > 1 or len(batch["image_features"]) < FOLD_FROM
    return fixed and small and "text_features" not in batch


@torch.no_grad()
def shared_inputs(
    head: ViLU, batch: Mapping[str, Tensor], text_features: Tensor, models: Mapping[int, Tensor]
) -> SharedInputs:
    """Return what heads of this form see of a batch, each image judged by the texts of its model.

    Args:
        head: One of them.
        batch: As those of `FailureCases`.
        text_features: (K, C, D) of all models.
        models: Those that images may be of, and the rows (n,) int64 of each.
    """
    images, picked, told = batch["image_features"], batch["predictions"], batch.get("model_logits")
    parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for model, rows in models.items():
        texts, own = text_features[model], None if told is None else told[rows]
        inputs = head.inputs(images[rows], texts, picked[rows], model_logits=own)
        odds = None
        if head.options["residual"]:
            odds = log_odds(head.logits(images[rows], texts) if own is None else own, picked[rows])
        parts.append((rows, join_parts(inputs.parts(), head.slots), odds))
    order = torch.cat([rows for rows, _, _ in parts]).argsort()
    odds_of = [odds for _, _, odds in parts if odds is not None]
    return SharedInputs(
        torch.cat([joined for _, joined, _ in parts])[order],
        torch.cat(odds_of)[order] if odds_of else None,
        len(models),
    )


def score_shared(head: ViLU, shared: SharedInputs) -> Tensor:
    """Return the failure logit (B,) of every image, as a head's `forward` does, and count its calls."""
    head.count_calls(shared.calls)
    right = head.mlp(shared.joined).squeeze(1)
    return -(right if shared.odds is None else head.mcp_scale * shared.odds + head.mcp_offset + right)

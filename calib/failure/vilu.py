"""The ViLU head and its variants: attention over the classes, LVU, and a residual form that starts at MCP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from calib.core.checks import at_least_float32, check_logit_scale
from calib.failure.explain import Explanation, explain_failure
from calib.failure.vilu_inputs import Counted, Inputs, check_batch, check_sizes
from calib.failure.vilu_mlp import folding_pays, join_parts, make_mlp, run_folded, slots_of
from calib.scores.logits import log_odds


class ViLU(nn.Module):
    """Predicts from features alone whether a vision-language model's prediction is wrong.

    With image v, candidate texts t and s = exp(logit_scale), in the official notation:

    `z = softmax(s (v W_v^T) (t W_t^T)^T) t W_t^T`, `t^ = t[argmax(s v t^T)]`, `MLP([v; z; t^])`

    where the MLP's output is the logit of being *right*. `forward` returns its negative, as everywhere here
    higher means more likely wrong.

    | use_attention | concat | use_predicted_caption | input of the MLP |
    |---|---|---|---|
    | yes | yes | yes | [v; z; t^], ViLU |
    | yes | yes | no | [v; z] |
    | yes | no | yes | [v + z; t^] |
    | yes | no | no | v + z |
    | no | any | yes | [v; t^] |
    | no | any | no | v, LVU (and ConfidNet's head, by the loss `tcp`) |

    The candidates are the class texts, or in caption mode the captions of the batch: (C, D) is then (B, D).

    While the projections are frozen they are not computed: the result is the same, their gradient is None and
    an optimiser leaves them at the identity.

    Args:
        dim: D, at least 1, of images and texts alike.
        logit_scale: Log of the scale, as `Backbone.logit_scale`: 4.6 for a scale of 100.
        use_attention: Attend over the candidates.
        concat: Put z beside v instead of adding it.
        use_predicted_caption: Give the predicted candidate's text as well.
        hidden: Widths of the MLP's hidden layers, at least one.
        activation: "relu" or "leaky_relu".
        negative_slope: Of leaky_relu.
        n_iter_freeze_proj: Training-mode forwards during which W_v and W_t count as the identity.
        keep_frozen: Never let go of the identity.
        official_decay: Compute frozen projections as the release does, `proj(v) * 0 + v`. Their gradient is
            then an exact 0 and weight decay shrinks them.
        residual: Return `-(a * logit(MCP) + b + MLP(...))`. The last layer starts at zero and a at 1: before
            any training this *is* MCP.
        learn_mcp: Train a and b; False keeps 1 and 0.

    Attributes:
        options: The arguments but for `logit_scale`; `ViLU(**options, logit_scale=...)` makes the same head.
        logit_scale: As given.

    Raises:
        ValueError: A size or a name is out of range, or the scale is given without its logarithm.

    Example:
        >>> head = ViLU(512, logit_scale=math.log(100), keep_frozen=False)
        >>> sum(parameter.numel() for parameter in head.parameters())
        1475585

    Source: ViLU (arXiv 2507.07620, ICCV 2025), vilu/models/vilu_attn.py and abstract_vilu.py, commit e4bf572.
        Names of parameters and buffers are the official ones. The residual form is ours.
    Differs: `concat` and `keep_frozen` default to True as in the release's configuration, not its class;
        frozen projections do not decay; the prediction is the argmax of the logits (the release: of their
        softmax, which rounds near ties away); no sigmoid at the end, that is the loss's business.
    """

    iteration_count: Tensor

    def __init__(
        self,
        dim: int,
        *,
        logit_scale: float | Tensor,
        use_attention: bool = True,
        concat: bool = True,
        use_predicted_caption: bool = True,
        hidden: Sequence[int] = (512, 256, 128),
        activation: str = "relu",
        negative_slope: float = 0.01,
        n_iter_freeze_proj: int = 200,
        keep_frozen: bool = True,
        official_decay: bool = False,
        residual: bool = False,
        learn_mcp: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(dim, hidden, n_iter_freeze_proj)
        self.options: dict[str, Any] = {
            "dim": dim,
            "use_attention": use_attention,
            "concat": concat,
            "use_predicted_caption": use_predicted_caption,
            "hidden": list(hidden),
            "activation": activation,
            "negative_slope": negative_slope,
            "n_iter_freeze_proj": n_iter_freeze_proj,
            "keep_frozen": keep_frozen,
            "official_decay": official_decay,
            "residual": residual,
            "learn_mcp": learn_mcp,
        }
        self.logit_scale = check_logit_scale(float(logit_scale))
        self.dim = dim
        self.keep_frozen = keep_frozen
        self.register_buffer("iteration_count", torch.tensor(0))
        self._counted = Counted()
        self.slots = slots_of(
            dim,
            use_attention=use_attention,
            concat=concat,
            use_predicted_caption=use_predicted_caption,
        )
        widths = [max(slot.stop for slot in self.slots.values()), *hidden, 1]
        self.mlp = make_mlp(widths, activation=activation, negative_slope=negative_slope)
        if use_attention:
            self.in_proj_v = nn.Linear(dim, dim, bias=False)
            self.in_proj_t = nn.Linear(dim, dim, bias=False)
            for projection in (self.in_proj_v, self.in_proj_t):
                nn.init.eye_(projection.weight)
        if residual:
            for parameter in self.mlp[-1].parameters():
                nn.init.zeros_(parameter)
            self.mcp_scale = nn.Parameter(torch.ones(()), requires_grad=learn_mcp)
            self.mcp_offset = nn.Parameter(torch.zeros(()), requires_grad=learn_mcp)
        self.freeze(keep_frozen)

    def freeze(self, keep_frozen: bool) -> None:
        """Say whether the projections count as the identity for ever.

        Args:
            keep_frozen: True leaves them out of training too (`requires_grad`), so that DDP does not wait for
                gradients that never come.
        """
        self.keep_frozen = self.options["keep_frozen"] = keep_frozen
        if self.options["use_attention"]:
            for projection in (self.in_proj_v, self.in_proj_t):
                projection.weight.requires_grad_(not keep_frozen or self.options["official_decay"])

    @property
    def projects(self) -> bool:
        """Whether the next evaluation uses W_v and W_t; False while they count as the identity."""
        thawed = self.options["use_attention"] and not self.keep_frozen
        return thawed and self._counted.read(self.iteration_count) > self.options["n_iter_freeze_proj"]

    def count_calls(self, number: int) -> None:
        """Add to `iteration_count`, in training mode, where there is attention."""
        if self.training and self.options["use_attention"]:
            self._counted.add(self.iteration_count, number)

    @property
    def needs_text(self) -> bool:
        """Whether `forward` needs text features: not for LVU."""
        return any(self.options[name] for name in ("use_attention", "use_predicted_caption", "residual"))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the vectors that reach the MLP: image, alternatives, predicted, as far as used."""
        return tuple(self.slots)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor | None = None,
        predictions: Tensor | None = None,
        *,
        model_logits: Tensor | None = None,
    ) -> Tensor:
        """Return the failure logit of every image: above 0 means the prediction is likely wrong.

        In training mode, a head with attention counts the call in `iteration_count`.

        Args:
            image_features: (B, D) unit norm.
            text_features: (C, D) unit norm: the classes, or the captions of the batch. LVU needs none.
            predictions: (B,) int64 in [0, C), what the model predicted. None: the most similar candidate.
            model_logits: (B, C) of a model that is more than its texts, whose confidence a residual head
                starts at. None: the scaled cosines.

        Returns:
            (B,).

        Raises:
            ValueError: A shape or type does not fit, text features are missing, or a residual head is given
                one candidate only.
        """
        self.count_calls(1)
        inputs = self.inputs(image_features, text_features, predictions, model_logits=model_logits)
        return self._score(inputs)

    def inputs(
        self,
        image_features: Tensor,
        text_features: Tensor | None,
        predictions: Tensor | None = None,
        *,
        model_logits: Tensor | None = None,
    ) -> Inputs:
        """Return what the head sees of a batch: attention, prediction and confidence, before the MLP.

        Args:
            image_features: As in `forward`.
            text_features: As in `forward`.
            predictions: As in `forward`.
            model_logits: As in `forward`.

        Raises:
            ValueError: As in `forward`.
        """
        check_batch(self.dim, image_features, text_features, predictions, needs_text=self.needs_text)
        if text_features is None or not self.needs_text:
            return Inputs(image_features, None, None, None, None, None)
        logits = self.logits(image_features, text_features)  # (B, C)
        judged = logits if model_logits is None else model_logits
        if judged.shape != logits.shape:
            raise ValueError(f"model_logits must be {tuple(logits.shape)}, not {tuple(judged.shape)}.")
        if predictions is None:
            predictions = judged.argmax(1)
        attention = keys = confidence = None
        if self.options["use_attention"]:
            queries, keys = self._queries_and_keys(image_features, text_features)
            frozen = queries is image_features  # then attention and prediction share one product
            attention = (logits if frozen else self.logits(queries, keys)).softmax(1)
        if self.options["residual"]:
            confidence = self.mcp_scale * log_odds(judged, predictions) + self.mcp_offset
        picked = predictions if self.options["use_predicted_caption"] else None
        return Inputs(image_features, text_features, attention, keys, picked, confidence)

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return `exp(logit_scale) * image_features @ text_features.T`, (B, C), in full precision always."""
        with torch.autocast(image_features.device.type, enabled=False):
            scaled = math.exp(self.logit_scale) * at_least_float32(image_features)
            return scaled @ at_least_float32(text_features).T

    def explain(
        self,
        image_features: Tensor,
        text_features: Tensor,
        predictions: Tensor | None = None,
        *,
        means: Mapping[str, Tensor],
        logits: Tensor | None = None,
        model_logits: Tensor | None = None,
        top: int = 3,
    ) -> Explanation:
        """Return why the head trusts or doubts each prediction: see `Explanation`.

        Args:
            image_features: As in `forward`.
            text_features: As in `forward`; needed by LVU too, to name the alternatives.
            predictions: As in `forward`.
            means: What `part_means` returned for the training images: the average case every image is
                compared with.
            logits: (B, C) of the model that is judged: the confidence it has elsewhere is the one that is
                quoted. None: the head's own.
            model_logits: As in `forward`.
            top: How many alternative classes to name, at least 1; fewer where there are fewer.

        Raises:
            ValueError: As in `forward`; `means` does not fit the head, or logits are of another shape.
        """
        check_batch(self.dim, image_features, text_features, predictions, needs_text=self.needs_text)
        with torch.no_grad():
            inputs = self.inputs(image_features, text_features, predictions, model_logits=model_logits)
            own = self.logits(image_features, text_features)
            if model_logits is not None and logits is None:
                logits = model_logits
            if logits is not None and logits.shape != own.shape:
                raise ValueError(f"logits must be {tuple(own.shape)}, not {tuple(logits.shape)}.")
            return explain_failure(
                self._run_mlp,
                inputs.parts(),
                inputs.confidence,
                means=means,
                weights=own.softmax(1) if inputs.attention is None else inputs.attention,
                logits=own if logits is None else logits.to(own.device),
                predictions=(own if logits is None else logits).argmax(1)
                if predictions is None
                else predictions,
                top=top,
                attends=inputs.attention is not None,
            )

    @torch.no_grad()
    def part_means(
        self,
        image_features: Tensor,
        text_features: Tensor | None = None,
        predictions: Tensor | None = None,
        *,
        model_logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean of every part of the head's input over images, for `explain`.

        Args:
            image_features: As in `forward`; usually all training images.
            text_features: As in `forward`.
            predictions: As in `forward`.
            model_logits: As in `forward`.

        Returns:
            Each (D,): image, and as far as the head uses them alternatives and predicted; () confidence.
        """
        inputs = self.inputs(image_features, text_features, predictions, model_logits=model_logits)
        means = {name: part.mean(0) for name, part in inputs.parts().items()}
        return means if inputs.confidence is None else {**means, "confidence": inputs.confidence.mean()}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimiser groups in which a and b of the residual form do not decay: a = 0 would forget MCP.

        Args:
            weight_decay: Of all other trainable parameters, at least 0.
        """
        mcp = [p for name, p in self.named_parameters() if name.startswith("mcp_") and p.requires_grad]
        rest = [p for name, p in self.named_parameters() if not name.startswith("mcp_") and p.requires_grad]
        groups = [{"params": rest, "weight_decay": weight_decay}]
        return [*groups, {"params": mcp, "weight_decay": 0.0}] if mcp else groups

    def _queries_and_keys(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        if self.projects:
            return self.in_proj_v(images), self.in_proj_t(texts)
        if self.options["official_decay"]:
            return self.in_proj_v(images) * 0 + images, self.in_proj_t(texts) * 0 + texts
        return images, texts

    def _score(self, inputs: Inputs) -> Tensor:
        """Return the failure logit (B,)."""
        folded = folding_pays(inputs)
        right = run_folded(self.mlp, inputs, self.slots) if folded else self._run_mlp(inputs.parts())
        return -(right if inputs.confidence is None else inputs.confidence + right)

    def _run_mlp(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the MLP's output (B,) on the joined parts."""
        return self.mlp(join_parts(parts, self.slots)).squeeze(1)

"""Uncertainty after scaling each sample's logits by a factor that a small network predicts for it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from calib.core.checks import as_float64, check_labels, check_logits
from calib.scores.images import check_queries, unit_features
from calib.scores.logits import mcp
from calib.scores.state import Shapes, require_fitted


class LogitScaling:
    """Uncertainty after scaling the logits of every sample by its own factor, which a small network predicts.

    uncertainty = mcp(f z),  f = softplus(network([z, v, t]))

    z are the logits (for the network centred, and divided by their standard deviation in the shots), v the
    image features and t the text features of the predicted class; the network has one hidden layer. With
    p = softmax(f z) and s = max p it minimises the mean of

        -log p_y         + beta (1 - psi(s))    where the prediction is right
        -mean_c log p_c  + beta psi(s)          where it is wrong
        psi(s) = sigmoid((s - 1/2) / width), moved and stretched so that psi(0) = 0 and psi(1) = 1

    Training starts at f = 1, so at MCP. The factor is positive: predictions do not change.

    Args:
        hidden: Units of the hidden layer.
        beta: Weight of psi, at least 0.
        width: Of psi, above 0.
        steps: Full-batch Adam steps.
        learning_rate: Of Adam.
        weight_decay: Of Adam (decoupled).
        seed: Seed of the initial weights.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images = torch.nn.functional.normalize(torch.randn(60, 4, generator=generator), dim=1)
        >>> labels = (images[:, 0] > 0).long()
        >>> logits = torch.stack([torch.zeros(60), images[:, 0] + images[:, 1]], dim=1)
        >>> score = LogitScaling().fit(images, labels, logits=logits, text_features=torch.eye(4)[:2])
        >>> uncertainty, wrong = score(images, logits), logits.argmax(1) != labels
        >>> bool(uncertainty[wrong].mean() > uncertainty[~wrong].mean())
        True

    Source: after "Revisiting Confidence Calibration for Misclassification Detection in VLMs" (ICLR 2026,
        openreview d8WMoi571f), LMN.
    Differs: written from a summary of the paper; its code was not at hand. How the terms are summed (beta),
        the network's inputs and width, and the optimiser are our reading, so numbers are not those of LMN.
    """

    same_classes: ClassVar[bool] = True  # the network's inputs are their logits
    STATE: ClassVar[Shapes] = {
        "_text_features": ("C", "D"),
        "_spread": (),
        "_matrix": ("C + 2 D", "H"),
        "_bias": ("H",),
        "_output": ("H",),
        "_offset": (),
    }
    POSITIVE: ClassVar[tuple[str, ...]] = ("_spread",)

    def __init__(
        self,
        *,
        hidden: int = 16,
        beta: float = 0.6,
        width: float = 0.05,
        steps: int = 300,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        if hidden < 1 or steps < 1 or not width > 0 or not beta >= 0 or not learning_rate > 0:
            raise ValueError(
                "hidden and steps must be at least 1, width and learning_rate above 0, beta at least 0; got "
                f"{hidden}, {steps}, {width}, {learning_rate}, {beta}."
            )
        self.hidden, self.beta, self.width, self.steps = hidden, beta, width, steps
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self._text_features: Tensor | None = None

    @torch.inference_mode(False)
    def fit(
        self, image_features: Tensor, labels: Tensor, logits: Tensor, text_features: Tensor
    ) -> LogitScaling:
        """Return self, with a trained network. The global random state is not touched.

        Args:
            image_features: (N, D) unit norm. Not the shots a prompt was tuned on: it is right on them.
            labels: (N,) class indices.
            logits: (N, C) of these images, finite.
            text_features: (C, D) unit norm, of the classes.

        Raises:
            ValueError: An input is not as above, or all predictions are right or all are wrong.
        """
        texts = unit_features(text_features, image_features.shape[-1], "text_features")
        features = check_queries(image_features, logits, texts.shape[1], len(texts))
        check_labels(labels, logits)
        labels = labels.to(logits.device, torch.int64)
        right = logits.argmax(dim=1) == labels
        if bool(right.all()) or not bool(right.any()):
            which = "right" if bool(right.all()) else "wrong"
            raise ValueError(f"All {len(right)} predictions are {which}: there is nothing to tell apart.")
        self._text_features, self._spread = texts, float(as_float64(logits).std())
        inputs, values = self._inputs(features, logits), as_float64(logits).detach().clone()
        generator = torch.Generator().manual_seed(self.seed)
        width = inputs.shape[1]
        matrix = (2 / width) ** 0.5 * torch.randn(width, self.hidden, generator=generator).double()
        bias, output = torch.zeros(2, self.hidden)
        offset = torch.tensor(math.log(math.e - 1), dtype=torch.float64)  # softplus of it is 1
        weights = [weight.to(inputs).requires_grad_() for weight in (matrix, bias, output, offset)]
        self._matrix, self._bias, self._output, self._offset = weights
        matrix, bias, output, offset = weights
        groups = [
            {"params": [matrix, output], "weight_decay": self.weight_decay},
            {"params": [bias, offset], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                self._loss(self._factor(inputs)[:, None] * values, labels, right).backward()
                optimizer.step()
        self._matrix, self._bias, self._output, self._offset = (weight.detach() for weight in weights)
        return self

    def __call__(self, image_features: Tensor, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64.

        Args:
            image_features: (N, D) unit norm.
            logits: (N, C), finite.

        Raises:
            ValueError: Not fitted, or an input is not as above.
        """
        texts = require_fitted(self, self._text_features)
        features = check_queries(image_features, logits, texts.shape[1], len(texts))
        check_logits(logits)
        return mcp(self._factor(self._inputs(features, logits))[:, None] * as_float64(logits))

    def _inputs(self, features: Tensor, logits: Tensor) -> Tensor:
        predicted = require_fitted(self, self._text_features)[logits.argmax(dim=1)]
        values = as_float64(logits)
        centred = (values - values.mean(dim=1, keepdim=True)) / self._spread
        return torch.cat([centred, features, predicted], dim=1)  # (N, C + 2 D)

    def _factor(self, inputs: Tensor) -> Tensor:
        return softplus((inputs @ self._matrix + self._bias).relu() @ self._output + self._offset)

    def _loss(self, scaled: Tensor, labels: Tensor, right: Tensor) -> Tensor:
        log_probs = scaled.log_softmax(dim=1)
        top = log_probs.max(dim=1).values.exp()
        low, high = (torch.sigmoid(top.new_tensor(x / self.width)) for x in (-0.5, 0.5))
        psi = (torch.sigmoid((top - 0.5) / self.width) - low) / (high - low)
        of_label = -log_probs.gather(1, labels[:, None])[:, 0]
        target = torch.where(right, of_label, -log_probs.mean(dim=1))
        return (target + self.beta * torch.where(right, 1 - psi, psi)).mean()

"""Uncertainty after scaling each sample's logits by a factor that a small network predicts for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from calib.core.checks import as_float64, check_labels, check_logits
from calib.posthoc.affine import Floats
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
        self._text_features = texts
        self._spread = float(as_float64(logits).std()) or 1.0  # where all logits are the same
        batch = _Batch.of(features, as_float64(logits), self._spread, texts, labels, right)
        generator = torch.Generator().manual_seed(self.seed)
        width = batch.width
        matrix = (2 / width) ** 0.5 * torch.randn(width, self.hidden, generator=generator).double()
        zeros = np.zeros(self.hidden)
        weights = [matrix.numpy(), zeros, zeros.copy(), np.array(math.log(math.e - 1))]  # softplus of it is 1
        decay = [self.weight_decay, 0.0, self.weight_decay, 0.0]
        moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
        for step in range(1, self.steps + 1):
            for k, slope in enumerate(batch.gradient(weights, beta=self.beta, width=self.width)):
                first, second = moments[k]
                first += 0.1 * (slope - first)
                second += 0.001 * (slope * slope - second)
                scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
                weights[k] = weights[k] * (1 - self.learning_rate * decay[k])
                weights[k] = weights[k] - self.learning_rate / (1 - 0.9**step) * first / scale
        self._matrix, self._bias, self._output, self._offset = (
            torch.as_tensor(weight).to(features) for weight in weights
        )
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


@dataclass(frozen=True, eq=False)
class _Batch:
    """The shots of a fit, float64, and the gradient of the loss at given weights.

    The network's input [z, v, t] is never written down: t is one of C texts.
    """

    logits: Floats  # (N, C)
    centred: Floats  # (N, C), as the network sees them
    images: Floats  # (N, D)
    texts: Floats  # (C, D)
    predicted: Floats  # (N, C), one-hot
    targets: Floats  # (N, C): of -sum_c targets_c log p_c
    sign: Floats  # (N,): -1 where the prediction is right, 1 where it is wrong

    @classmethod
    def of(
        cls, images: Tensor, logits: Tensor, spread: float, texts: Tensor, labels: Tensor, right: Tensor
    ) -> _Batch:
        size = logits.shape[1]
        own = one_hot(labels, size).to(logits)
        given = {
            "logits": logits,
            "centred": (logits - logits.mean(dim=1, keepdim=True)) / spread,
            "images": images,
            "texts": texts,
            "predicted": one_hot(logits.argmax(dim=1), size).to(logits),
            "targets": torch.where(right[:, None], own, torch.full_like(own, 1 / size)),
            "sign": 1 - 2 * right.to(logits),
        }
        return cls(**{name: value.detach().cpu().numpy() for name, value in given.items()})

    @property
    def width(self) -> int:
        """The number of the network's inputs."""
        return self.logits.shape[1] + 2 * self.texts.shape[1]

    def gradient(self, weights: Sequence[Floats], *, beta: float, width: float) -> list[Floats]:
        """Return the gradient of the mean loss, as the weights: matrix, bias, output, offset."""
        matrix, bias, output, offset = weights
        size, dim = self.logits.shape[1], self.texts.shape[1]
        of_logits, of_image, of_text = matrix[:size], matrix[size : size + dim], matrix[size + dim :]
        before = self.centred @ of_logits + self.images @ of_image + self.predicted @ (self.texts @ of_text)
        before += bias
        hidden = np.maximum(before, 0)
        raw = hidden @ output + offset
        scaled = np.logaddexp(0, raw)[:, None] * self.logits
        scaled -= scaled.max(axis=1, keepdims=True)
        probs = np.exp(scaled)
        probs /= probs.sum(axis=1, keepdims=True)
        mean = (probs * self.logits).sum(axis=1)
        slope = mean - (self.targets * self.logits).sum(axis=1)  # of -sum_c targets_c log p_c, by the factor
        top = (probs * self.predicted).sum(axis=1)
        low, high = (1 / (1 + math.exp(-x / width)) for x in (-0.5, 0.5))
        gate = 1 / (1 + np.exp(-(top - 0.5) / width))
        rise = gate * (1 - gate) / (width * (high - low))  # of psi, by the largest probability
        slope += self.sign * beta * rise * top * ((self.predicted * self.logits).sum(axis=1) - mean)
        slope *= 1 / (1 + np.exp(-raw)) / len(slope)
        back = slope[:, None] * output * (before > 0)
        of_inputs = [self.centred.T @ back, self.images.T @ back, self.texts.T @ (self.predicted.T @ back)]
        return [np.concatenate(of_inputs), back.sum(axis=0), hidden.T @ slope, slope.sum()]

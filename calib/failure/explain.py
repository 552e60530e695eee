"""Why a failure head doubts a prediction: the classes weighed against it, and what each part contributed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from calib.core.checks import as_float64

NEGLIGIBLE = 0.005  # of log-odds: a contribution that would be printed as 0.00


@dataclass(frozen=True)
class Explanation:
    """The reasons behind B failure logits.

    The contributions are Shapley values: the effect of putting a part of this image in the place of the
    average training image's, averaged over all orders of doing so. They are exact (at most 8 runs of the
    small MLP), and complete: `failure_logit = baseline + sum of the contributions`.

    Attributes:
        failure_logit: (B,).
        predictions: (B,) int64, the classes judged.
        weights: (B, C) attention over the classes, rows sum to 1. Of a head without attention: the softmax of
            the logits, which is what untrained attention is.
        alternatives: (B, K) int64, the classes besides the predicted one with the largest weights, in order.
        alternative_weights: (B, K), their weights.
        rivals: (B,) int64, the class besides the predicted one that the model itself finds most likely.
        probs: (B, 2) float64, the model's probability of the predicted class and of the rival.
        contributions: (B,) each, above 0 where the part raises the doubt: image (v), alternatives (the
            attention's average text), predicted (the predicted text), confidence (MCP of a residual head), as
            far as the head uses them.
        baseline: The failure logit of the average training case.
        of_stack: Whether the contributions are those of the scores of a stack (`calib.failure.doubt`), by
            their names, `head` being the failure head as a whole; the failure logit is then the log-odds of
            P(wrong).
        attends: Whether the head has attention; without it, the weights are probabilities.
        counts: Whether the head has a part in the failure logit. In a stack that gives it no weight it has
            none, and where it looks is no reason.
        likeness: By the names of scores that compare an image with those of each class, (B, C), higher = more
            alike: see `Doubt.likeness`.
    """

    failure_logit: Tensor
    predictions: Tensor
    weights: Tensor
    alternatives: Tensor
    alternative_weights: Tensor
    rivals: Tensor
    probs: Tensor
    contributions: dict[str, Tensor]
    baseline: float
    of_stack: bool = False
    attends: bool = True
    counts: bool = True
    likeness: Mapping[str, Tensor] = field(default_factory=dict)

    def sentences(self, class_names: Sequence[str]) -> list[str]:
        """Return plain sentences per image: how doubtful it is, what raised and what lowered that.

        Of a head by itself they say which classes it weighed; of a stack that counts its head, where that
        looks comes last. Percentages say what they are: attention (of the head, among the classes), the
        model's probability, or the likeness to the images of a class.
        Numbers behind the parts are their contributions, in log-odds; those that round to 0 are left out.

        Args:
            class_names: C names in label order.

        Raises:
            ValueError: There are more or fewer names than classes.
        """
        if len(class_names) != self.weights.shape[1]:
            raise ValueError(f"There are {len(class_names)} names for {self.weights.shape[1]} classes.")
        return [self._sentence(i, class_names) for i in range(len(self.failure_logit))]

    def _sentence(self, i: int, names: Sequence[str]) -> str:
        risk = float(self.failure_logit[i].double().sigmoid())
        weights = zip(self.alternatives[i].tolist(), self.alternative_weights[i].tolist(), strict=True)
        kind = "attention" if self.attends else "probability"
        weighed = ", ".join(f"{names[c]} ({kind} {weight:.0%})" for c, weight in weights)
        what = "probability of being wrong" if self.of_stack else "score for being wrong"
        text = f"Predicted {names[int(self.predictions[i])]}, {what} {risk:.0%}"
        text += f"; weighed against {weighed}." if weighed and not self.of_stack else "."
        looks = f" The head looks most at {weighed}." if weighed and self.of_stack and self.counts else ""
        words = self._words(i, names)
        moved = sorted(
            (
                (float(values[i]), words.get(part, f"the score {part}"))
                for part, values in self.contributions.items()
            ),
            key=lambda part: -abs(part[0]),
        )
        changes = [
            f"{change} by " + ", by ".join(f"{what} ({value:+.2f})" for value, what in parts)
            for change, parts in (
                ("raised", [part for part in moved if part[0] >= NEGLIGIBLE]),
                ("lowered", [part for part in moved if part[0] <= -NEGLIGIBLE]),
            )
            if parts
        ]
        change = "; ".join(changes) or "unchanged"
        return f"{text} Against the average training image, doubt is {change}.{looks}"

    def _words(self, i: int, names: Sequence[str]) -> dict[str, str]:
        """Return what the parts of an image are called; each name of the rival is of this image."""
        predicted, rival = names[int(self.predictions[i])], names[int(self.rivals[i])]
        resembled = names[int(self.alternatives[i, 0])] if self.alternatives.shape[1] else predicted
        ours, theirs = self.probs[i].tolist()
        return {
            "image": "the image itself",
            "alternatives": f"the classes it resembles, {resembled} first",
            "predicted": f"the prediction {predicted} as such",
            "confidence": f"the model's probability of {ours:.0%} against {theirs:.0%} for {rival}",
            "mcp": f"the model's probability of {ours:.0%} against {theirs:.0%} for {rival}",
            "class_gaussians": self._among_gaussians(i, names),
            "image_prototypes": self._from_average(i, names),
            "logit_scaling": "how far the confidence holds for such images",
            "head": "the failure head",
        }

    def _among_gaussians(self, i: int, names: Sequence[str]) -> str:
        """Return what `class_gaussians` saw: it averages the likeness to the predicted class and max p.

        The nearest class alone is named where it explains the direction; elsewhere both numbers are.
        """
        if "class_gaussians" not in self.likeness:
            return "how the image lies among those of each class"
        alike, picked = self.likeness["class_gaussians"][i], int(self.predictions[i])
        nearest, raised = int(alike.argmax()), float(self.contributions["class_gaussians"][i]) > 0
        if nearest != picked and raised:
            return f"the image lying nearer to {names[nearest]} than to the predicted {names[picked]}"
        if nearest == picked and not raised:
            return f"the image lying nearest to the predicted {names[picked]}"
        return (
            f"the image's likeness to {names[picked]} ({float(alike[picked]):.0%}) and the model's "
            f"probability ({float(self.probs[i, 0]):.0%}) together"
        )

    def _from_average(self, i: int, names: Sequence[str]) -> str:
        """Return what `image_prototypes` saw: the distance from the average image of the predicted class."""
        picked = int(self.predictions[i])
        text = f"its distance from the average image of {names[picked]}"
        if "image_prototypes" not in self.likeness:
            return text
        nearest = int(self.likeness["image_prototypes"][i].argmax())
        raised = float(self.contributions["image_prototypes"][i]) > 0
        return f"{text} (that of {names[nearest]} is nearer)" if nearest != picked and raised else text


def explain_failure(
    mlp: Callable[[Mapping[str, Tensor]], Tensor],
    parts: Mapping[str, Tensor],
    confidence: Tensor | None,
    *,
    means: Mapping[str, Tensor],
    weights: Tensor,
    logits: Tensor,
    predictions: Tensor,
    top: int,
    attends: bool = True,
) -> Explanation:
    """Return the explanation of a head; `ViLU.explain` calls it.

    Args:
        mlp: Parts (B, D) -> logit of being right (B,).
        parts: (B, D) each.
        confidence: (B,), added to the MLP's output. None: nothing is.
        means: (D,) per part, () for the confidence.
        weights: (B, C), how much each class is weighed; rows sum to 1.
        logits: (B, C) of the model that is judged, as its confidence is quoted elsewhere.
        predictions: (B,) int64.
        top: Alternatives per image, at least 1.
        attends: Whether the weights are those of attention.

    Raises:
        ValueError: `means` has other parts, or `top` is below 1.
    """
    expected = {*parts, *(["confidence"] if confidence is not None else [])}
    if means.keys() != expected:
        raise ValueError(
            f"means must hold {sorted(expected)} as part_means returns them, not {sorted(means)}."
        )
    wrong = [name for name, part in parts.items() if means[name].shape != part.shape[1:]]
    if wrong:
        raise ValueError(f"means of {', '.join(wrong)} must be (D,) like the features.")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    values, average, right = shapley_values(mlp, parts, means)
    contributions = {name: -value for name, value in values.items()}
    failure_logit = -right
    baseline = -average
    if confidence is not None:  # only ever added, so its Shapley value is its own change
        mean = means["confidence"].to(confidence)
        contributions["confidence"] = mean - confidence
        failure_logit, baseline = failure_logit - confidence, baseline - float(mean)
    picked = predictions[:, None]  # (B, 1)
    rivals = logits.scatter(1, picked, -math.inf).argmax(1, keepdim=True)
    probs = as_float64(logits).softmax(1)
    others = weights.scatter(1, picked, -math.inf)
    ranked = others.topk(min(top, weights.shape[1] - 1), dim=1)
    return Explanation(
        failure_logit=failure_logit,
        predictions=predictions,
        weights=weights,
        alternatives=ranked.indices,
        alternative_weights=ranked.values,
        rivals=rivals[:, 0],
        probs=probs.gather(1, torch.cat([picked, rivals], dim=1).to(probs.device)),
        contributions=contributions,
        baseline=baseline,
        attends=attends,
    )


def shapley_values(
    function: Callable[[Mapping[str, Tensor]], Tensor],
    parts: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], float, Tensor]:
    """Return every part's exact Shapley value, the function's value on the means, and on the parts.

    `phi_i = sum_{S without i} |S|! (n - |S| - 1)! / n! (f(S with i) - f(S))` where f(S) takes the parts in S
    from the image and the others from the means.

    Args:
        function: Parts (B, D) each -> (B,).
        parts: n of them; 2^n runs.
        means: (D,) per part.

    Returns:
        Values (B,) per part, which sum to the difference of the other two; a number; (B,).

    Example:
        >>> parts = {"x": torch.tensor([[2.0]]), "y": torch.tensor([[3.0]])}
        >>> means = {"x": torch.zeros(1), "y": torch.zeros(1)}
        >>> values, _, _ = shapley_values(lambda p: (p["x"] * p["y"])[:, 0], parts, means)
        >>> {name: value.item() for name, value in values.items()}  # 2 * 3, shared equally
        {'x': 3.0, 'y': 3.0}

    Source: Shapley (1953); as attribution Lundberg and Lee, NeurIPS 2017, eq. 4.
    """
    names = list(parts)
    n, rows = len(names), len(parts[names[0]])
    subsets = [frozenset(s) for size in range(1, n + 1) for s in itertools.combinations(names, size)]
    average = {name: means[name].to(part)[None] for name, part in parts.items()}  # (1, D) each
    base = function(average)  # (1,)
    value = {frozenset[str](): base.expand(rows)}
    for s in subsets:
        mixed = {name: part if name in s else average[name].expand_as(part) for name, part in parts.items()}
        value[s] = function(mixed)
    share = [math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n) for size in range(n)]
    values = {
        name: torch.stack(
            [share[len(s)] * (value[s | {name}] - value[s]) for s in value if name not in s]
        ).sum(0)
        for name in names
    }
    return values, float(base), value[frozenset(names)]

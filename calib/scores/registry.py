"""Every score by name, and one way to use them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calib.core.byname import Bound, bind
from calib.core.errors import unknown_name
from calib.scores.fitted import LogisticScore, RelativeUncertainty, TemperatureMCP
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling
from calib.scores.logits import doctor, energy, entropy, logit_margin, margin, mcp
from calib.scores.state import state_of, with_state

# A row is a function of tensors (N, ...) that returns (N,), or a class with `fit(tensors) -> self` and
# `__call__(tensors) -> (N,)`. Positional parameters are tensors by name, keyword-only ones settings (of a
# class: those of its constructor). The order is that of tables.
SCORES: dict[str, Callable[..., Any]] = {
    "mcp": mcp,
    "entropy": entropy,
    "margin": margin,
    "logit_margin": logit_margin,
    "energy": energy,
    "doctor": doctor,
    "temperature_mcp": TemperatureMCP,
    "rel_u": RelativeUncertainty,
    "logistic": LogisticScore,
    "image_prototypes": ImagePrototypes,
    "class_gaussians": ClassGaussians,
    "logit_scaling": LogitScaling,
}


@dataclass(frozen=True)
class ReadyScore:
    """A score that is ready to judge predictions. Made by `fit`.

    Attributes:
        call: The function or the fitted object, which picks the tensors it needs.
    """

    call: Bound

    def __call__(self, cases: Any = None, /, **tensors: Tensor | None) -> Tensor:
        """Return the uncertainty of predictions, (N,) float64, higher = more likely wrong.

        Args:
            cases: Predictions, as in `fit`. None: the tensors are given by name.
            **tensors: By name; one that `cases` has as well is taken from here.

        Raises:
            ValueError: A tensor that the score needs is missing, or is not as the score wants it.
        """
        return self.call(**_named(self.call, cases, tensors))


def fit(
    name: str, cases: Any = None, /, *, settings: Mapping[str, Any] | None = None, **tensors: Tensor | None
) -> ReadyScore:
    """Return the score of that name, fitted where there is something to fit.

    Args:
        name: A key of SCORES.
        cases: Labelled predictions the score learns from: anything with the attributes it asks for among
            logits (N, C), labels (N,), image_features (N, D) and predictions (N,), such as `Predictions`. Of
            `FailureCases` the plain images count. None: the tensors are given by name.
        settings: Settings of the score, e.g. {"weight": 0.5}; None for its defaults.
        **tensors: By name, e.g. text_features (C, D), which predictions do not hold; one that `cases` has as
            well is taken from here. Those the score does not ask for are ignored.

    Raises:
        ValueError: The score or a setting is unknown, a tensor is missing, or the data do not allow a fit.

    Example:
        >>> import torch
        >>> fit("energy", settings={"temperature": 2.0})(logits=torch.tensor([[0.0, 0.0]])).tolist()
        [-1.3862943611198906]
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> score = fit("temperature_mcp", logits=logits, labels=labels)
        >>> round(score(logits=torch.tensor([[8.0, 0.0]])).item(), 4)
        -2.1972
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    what, row = f"score '{name}'", SCORES[name]
    ready = bind(row, settings or {}, name=what)
    if isinstance(row, type):
        score = ready()
        learn = bind(score.fit, {}, name=f"fit of {what}")
        learn(**_named(learn, cases, tensors))
        ready = bind(score, {}, name=what)
    return ReadyScore(ready)


def state(score: ReadyScore) -> dict[str, Tensor]:
    """Return what a score needs to judge, as tensors for a file; of one without anything to fit nothing.

    Args:
        score: From `fit`, with its default settings.

    Raises:
        ValueError: Not fitted.
    """
    return state_of(score.call.function)


def restored(name: str, tensors: Mapping[str, Tensor], *, classes: int, dim: int) -> ReadyScore:
    """Return the score of that name from what `state` has returned, without a fit.

    Args:
        name: A key of SCORES.
        tensors: What `state` has returned.
        classes: C.
        dim: D of the features.

    Raises:
        ValueError: The name is unknown, or the tensors are not those of such a score.

    Example:
        >>> import torch
        >>> score = restored("temperature_mcp", {"temperature": torch.tensor(2.0).double()}, classes=2, dim=8)
        >>> score(logits=torch.tensor([[8.0, 0.0]])).tolist()
        [-4.0]
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    what, row = f"score '{name}'", SCORES[name]
    score = row() if isinstance(row, type) else row
    sizes = {"C": classes, "D": dim, "C + 2 D": classes + 2 * dim}
    return ReadyScore(bind(with_state(score, tensors, sizes), {}, name=what))


def needs_same_classes(name: str) -> bool:
    """Return whether a score compares an image with the classes it was fitted on.

    It then means nothing where every image has candidates of its own, as captions are.

    Args:
        name: A key of SCORES. Its class says so by an attribute `same_classes`.

    Example:
        >>> needs_same_classes("rel_u"), needs_same_classes("entropy")
        (True, False)
    """
    return getattr(SCORES[name], "same_classes", False)


def _named(bound: Bound, cases: Any, tensors: Mapping[str, Tensor | None]) -> dict[str, Any]:
    source = getattr(cases, "plain", cases)  # of several views of an image the plain one
    return {name: getattr(source, name, None) for name in bound.takes} | dict(tensors)

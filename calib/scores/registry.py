"""The scores by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from calib.core.byname import REQUIRED, bind
from calib.core.byname import settings as settings_of
from calib.core.errors import unknown_name
from calib.posthoc.scaling import fit_temperature
from calib.scores.fitted import fit_logistic, fit_rel_u, logistic, rel_u, temperature_mcp
from calib.scores.logits import doctor, energy, entropy, logit_margin, margin, mcp

SCORES: dict[str, Callable[..., Tensor]] = {
    "mcp": mcp,
    "entropy": entropy,
    "margin": margin,
    "logit_margin": logit_margin,
    "energy": energy,
    "doctor": doctor,
    "temperature_mcp": temperature_mcp,
    "rel_u": rel_u,
    "logistic": logistic,
}


FITS: dict[str, Callable[..., dict[str, Any]]] = {
    "temperature_mcp": fit_temperature,
    "rel_u": fit_rel_u,
    "logistic": fit_logistic,
}


def score(name: str, settings: Mapping[str, Any] | None = None, /, **tensors: Tensor | None) -> Tensor:
    """Return the uncertainty of that name, (N,) float64, higher = more likely wrong.

    Args:
        name: A key of SCORES.
        settings: Settings of the score; None for its defaults. For keys of FITS what `fit_score` returned.
        **tensors: By name, at least those the score needs; the others are ignored.

    Raises:
        ValueError: The score, a setting or a tensor is unknown or missing, or the score is not fitted.

    Example:
        >>> import torch
        >>> score("energy", {"temperature": 2.0}, logits=torch.tensor([[0.0, 0.0]])).tolist()
        [-1.3862943611198906]
        >>> score("rel_u", logits=torch.tensor([[0.0, 0.0]]))
        Traceback (most recent call last):
        ValueError: Score 'rel_u' is not fitted: it needs matrix. Pass fit_score('rel_u', ...) as settings.
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    given = settings or {}
    required = [key for key, default in settings_of(SCORES[name]).items() if default is REQUIRED]
    missing = [key for key in required if key not in given]
    if missing:
        raise ValueError(
            f"Score {name!r} is not fitted: it needs {', '.join(missing)}. "
            f"Pass fit_score({name!r}, ...) as settings."
        )
    return bind(SCORES[name], given, name=f"score {name!r}")(**tensors)


def fit_score(
    name: str, settings: Mapping[str, Any] | None = None, /, **tensors: Tensor | None
) -> dict[str, Any]:
    """Return the settings of a score fitted on validation data, to be passed to `score`.

    Args:
        name: A key of SCORES; one without anything to fit gives {}.
        settings: Settings of the fit, e.g. {"weight": 0.5} of `fit_rel_u`; None for the defaults.
        **tensors: By name: logits and labels of the validation data.

    Raises:
        ValueError: The score, a setting or a tensor is unknown or missing, or the data do not allow a fit.

    Example:
        >>> import torch
        >>> fit_score("mcp", logits=torch.zeros(2, 2), labels=torch.tensor([0, 1]))
        {}
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    if name not in FITS:
        return {}
    return bind(FITS[name], settings or {}, name=f"fit of score {name!r}")(**tensors)

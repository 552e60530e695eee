"""Uncertainty of a prediction from its logits alone: functions of tensors, dispatched by name.

`score("doctor", logits=logits)` returns the uncertainty (N,), float64, higher = more likely wrong. Positional
parameters of a score are tensors, keyword-only ones settings. Some scores have settings that come from
labelled validation data; `fit_score` finds them, and without them the score refuses to work:

    settings = fit_score("rel_u", logits=validation_logits, labels=validation_labels)
    uncertainty = score("rel_u", settings, logits=logits)

Logits of vision-language models are large (100 times a cosine), and in float32 1 - max p is exactly 0 for a
good part of the samples, which are then ties that no metric can order. So the scores here work with what is
left for the other classes in float64, S = sum_{c not top} exp(z_c - z_top): p_top = 1 / (1 + S), and nothing
rounds 1 - p_top to 0 unless S itself underflows, some 745 logits below the top.

All scores but `energy` depend on the probabilities only. Where there are only probabilities, their logarithms
are logits for them: see `logits_from_probs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.byname import REQUIRED, bind
from calib.core.byname import settings as settings_of
from calib.core.checks import as_float64, check_labels, check_logits, check_probs
from calib.core.errors import unknown_name


def mcp(logits: Tensor) -> Tensor:
    """Return the log-odds of being wrong by the largest probability, log((1 - max p) / max p), (N,).

    Orders the samples as 1 - max p (maximum class probability, also called MSP or MCM) does, without its
    ties: sigmoid(mcp) is 1 - max p.

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> mcp(torch.tensor([[0.0, 0.0], [100.0, 0.0], [110.0, 0.0]])).tolist()
        [0.0, -100.0, -110.0]

    Source: Hendrycks and Gimpel 2017 (arXiv 1610.02136).
    Differs: log-odds instead of 1 - max p.
    """
    return _others(logits).logsumexp(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the class probabilities in nats, -sum_c p_c log p_c, (N,) in [0, log C].

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()
        [0.6931471805599453, 3.757276735781045e-42]

    Source: Shannon 1948.
    Differs: ViLU (e4bf572) divides by log C and adds 1e-6 inside the logarithm, which moves values by up to
        1e-6 C / log C and makes a one-hot row slightly negative.
    """
    others = _others(logits)
    odds = others.exp()
    total = odds.sum(dim=1)
    return total.log1p() - (odds * others).sum(dim=1) / (1 + total)  # two terms of the same sign


def margin(logits: Tensor) -> Tensor:
    """Return log(1 - (p_1 - p_2)), p_1 and p_2 the two largest probabilities, (N,), at most 0.

    Orders the samples as the negative probability margin p_2 - p_1 does, without its ties.

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> margin(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()  # 2 classes: log(2 p_2)
        [0.0, -99.30685281944005]

    Source: Scheffer, Decomain, Wrobel 2001 (margin sampling).
    """
    others = _others(logits)
    rest = others.logsumexp(dim=1)  # 1 - p_1 and p_2, both times 1 + S, are S and exp of the largest
    return torch.logaddexp(rest, others.max(dim=1).values) - _log1p_exp(rest)


def logit_margin(logits: Tensor) -> Tensor:
    """Return the second largest logit minus the largest, log(p_2 / p_1), (N,), at most 0.

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> logit_margin(torch.tensor([[3.0, 1.0, 0.0]])).tolist()
        [-2.0]
    """
    return _others(logits).max(dim=1).values


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the free energy -T log sum_c exp(z_c / T), (N,).

    The score of Liu et al. was made for logits of a few units. On 100 times a cosine, T = 1 all but returns
    minus the largest logit; a temperature near the logit scale lets the other classes speak. It needs the
    logits themselves: on log-probabilities it is 0 at T = 1, whatever the sample.

    Args:
        logits: (N, C), C at least 2, finite.
        temperature: T > 0, in units of the logits.

    Raises:
        ValueError: The temperature is not positive, or the logits are not as above.

    Example:
        >>> energy(torch.tensor([[0.0, 0.0], [4.0, 0.0]])).tolist()
        [-0.6931471805599453, -4.0181499279178094]

    Source: Liu et al. 2020 (arXiv 2010.03759), equation 4.
    """
    return -temperature * _scaled(logits, temperature).logsumexp(dim=1)


def doctor(logits: Tensor) -> Tensor:
    """Return (1 - g) / g with g = sum_c p_c^2, (N,) in [0, C - 1].

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> doctor(torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, -50.0]])).tolist()
        [2.0, 3.8574996959278356e-22]

    Source: Granese et al. 2021 (arXiv 2106.02395), D_alpha; vilu/lib of github.com/ykrmm/ViLU e4bf572.
    """
    odds = _others(logits).exp()
    total, squares = odds.sum(dim=1), odds.square().sum(dim=1)
    # g = (1 + squares) / (1 + total)^2, so 1 - g has no difference of nearly equal numbers.
    return (2 * total + total.square() - squares) / (1 + squares)


def temperature_mcp(logits: Tensor, *, temperature: float) -> Tensor:
    """Return `mcp` of the logits divided by a temperature, (N,).

    With two classes the order is that of `mcp`; with more, dividing can change it.

    Args:
        logits: (N, C), C at least 2, finite.
        temperature: T > 0, from `fit_temperature` on validation data.

    Example:
        >>> temperature_mcp(torch.tensor([[4.0, 0.0]]), temperature=2.0).tolist()
        [-2.0]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    return mcp(_scaled(logits, temperature))


def rel_u(logits: Tensor, *, matrix: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the relative uncertainty sum_ij p_i D_ij p_j, p = softmax(z / T), (N,).

    Args:
        logits: (N, C), C at least 2, finite.
        matrix: D (C, C), which pairs of classes are mixed up, from `fit_rel_u` on validation data.
        temperature: T > 0; the one D was fitted with.

    Raises:
        ValueError: The matrix is not (C, C), or another input is not as above.

    Example:
        >>> rel_u(torch.tensor([[0.0, 0.0]]), matrix=torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [0.5]

    Source: Dadalto et al. 2024 (arXiv 2306.01710); github.com/edadaltocg/relative-uncertainty 507a224.
    """
    scaled = _scaled(logits, temperature)
    size = logits.shape[1]
    if tuple(matrix.shape) != (size, size):
        raise ValueError(f"matrix must be ({size}, {size}), one row per class, got {tuple(matrix.shape)}.")
    probs = scaled.softmax(dim=1)
    return ((probs @ as_float64(matrix).to(probs.device)) * probs).sum(dim=1)


def logistic(
    logits: Tensor, *, coefficients: tuple[float, ...], centre: tuple[float, ...], intercept: float
) -> Tensor:
    """Return the log-odds of being wrong by a logistic regression on [mcp, margin, entropy], (N,).

    intercept + sum_k coefficients_k (feature_k - centre_k)

    Args:
        logits: (N, C), C at least 2, finite.
        coefficients: 3 slopes per unit of `mcp`, `margin`, `entropy`, from `fit_logistic`.
        centre: Their 3 means in the validation data.
        intercept: Log-odds at the centre.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> logistic(logits, coefficients=(1.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0), intercept=0.5).tolist()
        [-1.5]
    """
    features = _features(logits)
    slopes, means = (features.new_tensor(values) for values in (coefficients, centre))
    if slopes.shape != (3,) or means.shape != (3,):
        raise ValueError(
            "coefficients and centre must be 3 numbers each, for mcp, margin and entropy; "
            f"got {coefficients} and {centre}."
        )
    return intercept + (features - means) @ slopes


def fit_temperature(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return {"temperature": T}, the T that minimises the NLL of logits / T.

    The NLL is convex in 1 / T; T is found by bisection of its derivative, to 12 digits.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.

    Raises:
        ValueError: An input is not as above, or there is no finite positive minimum: every prediction is
            right (T to 0), or the logits of the true classes are no higher than the others (T to infinity).

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # three of four right: sigmoid(4 / T) = 3 / 4
        >>> fit_temperature(logits, torch.tensor([0, 0, 0, 1]))["temperature"]  # 4 / log 3
        3.640956906507805

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    values, right = _validation(logits, labels)

    def slope(log_beta: float) -> float:  # of the NLL in beta = 1 / T
        probs = (values * math.exp(log_beta)).softmax(dim=1)
        return float(((probs * values).sum(dim=1) - right).mean())

    if slope(-math.inf) >= 0:
        raise ValueError(
            "The logits of the true classes are on average no higher than those of all classes: the best "
            "temperature is infinite. Are the labels those of these logits?"
        )
    if bool((right >= 0).all()):
        raise ValueError(
            "Every validation prediction is right: the likelihood grows without end as the temperature goes "
            "to 0. Fit on more samples, or use 'mcp'."
        )
    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return {"temperature": math.exp(-(low + high) / 2)}


def fit_rel_u(
    logits: Tensor, labels: Tensor, *, weight: float = 0.5, temperature: float = 1.0
) -> dict[str, Any]:
    """Return {"matrix": D, "temperature": T}, D (C, C): which classes are mixed up where it is wrong.

    D_ij = max(0, w E_wrong[p_i p_j] - (1 - w) E_right[p_i p_j]) for i != j, D_ii = 0. Where nothing is
    positive, D is 1 off the diagonal instead, the Gini index. Then D is divided by its Frobenius norm.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.
        weight: w in [0, 1], of the wrong predictions.
        temperature: T > 0 of the softmax.

    Raises:
        ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -2.0], [1.0, 0.0, -2.0], [-2.0, 0.0, 4.0]])
        >>> fit_rel_u(logits, torch.tensor([0, 1, 2]))["matrix"].round(decimals=3)
        tensor([[0.0000, 0.7020, 0.0890],
                [0.7020, 0.0000, 0.0000],
                [0.0890, 0.0000, 0.0000]], dtype=torch.float64)

    Source: Dadalto et al. 2024 (arXiv 2306.01710); src/RelU/methods.py of
        github.com/edadaltocg/relative-uncertainty 507a224.
    Differs: the release drops the last class when their number is odd; here every class counts.
    """
    _validation(logits, labels)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight!r}.")
    probs = _scaled(logits, temperature).softmax(dim=1)
    wrong = logits.argmax(dim=1) != labels.to(logits.device)
    _check_both(wrong)
    mixed = [group.T @ group / len(group) for group in (probs[wrong], probs[~wrong])]
    matrix = (weight * mixed[0] - (1 - weight) * mixed[1]).clamp_min(0).fill_diagonal_(0)
    matrix = (matrix + matrix.T) / 2  # a matrix product may round both halves differently
    if not bool((matrix > 0).any()):
        matrix = torch.ones_like(matrix).fill_diagonal_(0)
    return {"matrix": matrix / matrix.norm(), "temperature": float(temperature)}


def fit_logistic(logits: Tensor, labels: Tensor, *, strength: float = 1.0) -> dict[str, Any]:
    """Return the settings of `logistic`: coefficients, centre, intercept.

    Ridge-penalised logistic regression on the standardised features, the wrong predictions being the positive
    class.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.
        strength: Weight of the penalty |slopes|^2 / 2, above 0; 1 as in scikit-learn. The data weigh N.

    Raises:
        ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(200, 3, generator=generator)
        >>> labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> fitted = fit_logistic(logits, labels)
        >>> uncertainty = logistic(logits, **fitted)
        >>> wrong = logits.argmax(1) != labels
        >>> bool(uncertainty[wrong].mean() > uncertainty[~wrong].mean())
        True
    """
    from sklearn.linear_model import LogisticRegression  # slow to import and needed here only

    _validation(logits, labels)
    if not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength!r}.")
    wrong = logits.argmax(dim=1) != labels.to(logits.device)
    _check_both(wrong)
    features = _features(logits).cpu().numpy()
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)  # a feature that never changes says nothing: slope 0
    model = LogisticRegression(C=1 / strength, max_iter=1000, tol=1e-8)
    model.fit((features - centre) / spread, wrong.cpu().numpy())
    return {
        "coefficients": tuple((model.coef_[0] / spread).tolist()),
        "centre": tuple(centre.tolist()),
        "intercept": float(model.intercept_[0]),
    }


def logits_from_probs(probs: Tensor) -> Tensor:
    """Return log p, float64, which are logits of these probabilities, (N, C).

    A probability of 0 becomes the smallest float64 above 0, so it keeps its place behind all others. What the
    probabilities have lost by rounding to 1 does not come back.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.

    Example:
        >>> logits_from_probs(torch.tensor([[0.5, 0.5]])).softmax(dim=1).tolist()
        [[0.5, 0.5]]
    """
    check_probs(probs)
    return as_float64(probs).clamp_min(torch.finfo(torch.float64).tiny).log()


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
        >>> fit_score("mcp", logits=torch.zeros(2, 2), labels=torch.tensor([0, 1]))
        {}
    """
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    if name not in FITS:
        return {}
    return bind(FITS[name], settings or {}, name=f"fit of score {name!r}")(**tensors)


def _others(logits: Tensor) -> Tensor:
    """Return the logits relative to the largest one, without that one, (N, C - 1) float64, at most 0."""
    _check_logits(logits)
    values = as_float64(logits)
    top, where = values.max(dim=1, keepdim=True)
    kept = torch.ones_like(values, dtype=torch.bool).scatter_(1, where, False)
    return (values - top)[kept].view(len(values), -1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    _check_logits(logits)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}.")
    return as_float64(logits) / temperature


def _check_logits(logits: Tensor) -> None:
    check_logits(logits)
    if logits.shape[1] < 2:
        raise ValueError(f"Logits of at least 2 classes are needed, got shape {tuple(logits.shape)}.")


def _log1p_exp(values: Tensor) -> Tensor:
    return torch.logaddexp(values, torch.zeros_like(values))


def _features(logits: Tensor) -> Tensor:
    return torch.stack([mcp(logits), margin(logits), entropy(logits)], dim=1)


def _validation(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return checked logits relative to their largest one, (N, C), and those of the true classes, (N,)."""
    _check_logits(logits)
    check_labels(labels, logits)
    values = as_float64(logits)
    values = values - values.max(dim=1, keepdim=True).values
    return values, values.gather(1, labels.to(values.device, torch.int64)[:, None])[:, 0]


def _check_both(wrong: Tensor) -> None:
    if bool(wrong.all()) or not bool(wrong.any()):
        which = "wrong" if bool(wrong.all()) else "right"
        raise ValueError(
            f"All {len(wrong)} validation predictions are {which}: nothing tells what makes one wrong. Fit "
            "on samples outside the training shots, some of them predicted wrongly and some rightly."
        )

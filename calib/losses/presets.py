"""Published objectives by name, and how a configuration changes them.

Weights and settings are those the released CalibPrompt runs with (its YAML files, commit c6ec13e, which
overrule the defaults in its train.py), the methods those compared in the paper (arXiv 2509.15226). The
smoothing alpha and the weight of angular separation differ per backbone and data set there: 0.05 and 0.01 are
the PLIP on Kather values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib.core.errors import unknown_name
from calib.losses.objective import Terms, check_terms

_USED: dict[str, dict[str, Any]] = {
    "ce": {"weight": 1.0},
    "ls": {"weight": 1.0, "alpha": 0.05},
    "fl": {"weight": 1.0, "gamma": 3.0},
    "smac": {"weight": 1.0, "alpha": 0.05},
    "as": {"weight": 0.01},
    "mdca": {"weight": 1.0},
    "dca": {"weight": 1.0},  # 15 in train.py
    "mmce": {"weight": 2.0},
    "zs_norm": {"weight": 1.0},
    "penalty": {"weight": 1.0},  # 10 in train.py and in Murugesan et al., ECCV 2024
    "mbls": {"weight": 1.0, "margin": 10.0, "alpha": 0.1},
    "logitnorm": {"weight": 1.0, "temperature": 1.0},  # temperature 0.04 in Wei et al., ICML 2022
    "margin_mean_var": {"weight": 1.0},
    "text_moment_matching": {"weight": 5.0},
    "dice": {"weight": 1.0},
    "ml1_ace": {"weight": 1.0},
}


def _terms(losses: str) -> dict[str, dict[str, Any]]:
    return {name: dict(_USED[name]) for name in losses.split()}


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    # The paper's method on each of its three task losses; its published tables are calibprompt-ls.
    "calibprompt": _terms("ce smac as"),
    "calibprompt-ls": _terms("ls smac as"),
    "calibprompt-fl": _terms("fl smac as"),
    # Its baselines: a task loss alone (coop is plain cross-entropy) or with one calibration term.
    "coop": _terms("ce"),
    "ls": _terms("ls"),
    "fl": _terms("fl"),
    "ce+mdca": _terms("ce mdca"),
    "ce+dca": _terms("ce dca"),
    "ce+mmce": _terms("ce mmce"),
    "ce+smac": _terms("ce smac"),
    "ls+mdca": _terms("ls mdca"),
    "ls+dca": _terms("ls dca"),
    "ls+mmce": _terms("ls mmce"),
    "ls+smac": _terms("ls smac"),
    "fl+mdca": _terms("fl mdca"),
    "fl+dca": _terms("fl dca"),
    "fl+mmce": _terms("fl mmce"),
    "fl+smac": _terms("fl smac"),
    # Baselines on logits; zs_norm, mbls and logitnorm contain the cross-entropy.
    "zs-norm": _terms("zs_norm"),
    "penalty": _terms("ce penalty"),
    "mbls": _terms("mbls"),
    "logitnorm": _terms("logitnorm"),
    # TCPT (arXiv 2602.19024), its two regularisers alone and together.
    "margin-mean-var": _terms("ce margin_mean_var"),
    "text-moment-matching": _terms("ce text_moment_matching"),
    "tcpt": _terms("ce margin_mean_var text_moment_matching"),
}

# Of `calib segment`: without mL1-ACE, with hard and with soft bins; equal weights, as the authors' README.
SEGMENTATION_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    "ce": _terms("ce"),
    "dice": _terms("dice"),
    "dice-ce": _terms("dice ce"),
    "ce-ace": _terms("ce ml1_ace"),
    "dice-ace": _terms("dice ml1_ace"),
    "dice-ce-ace": _terms("dice ce ml1_ace"),
    "dice-ce-ace-soft": {**_terms("dice ce"), "ml1_ace": {"weight": 1.0, "soft": True}},
}


def resolve_terms(
    preset: str,
    overrides: Terms | None = None,
    presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = PRESETS,
) -> dict[str, dict[str, Any]]:
    """Return a preset's terms with changes merged in: a new dict to give to `Objective`.

    Args:
        preset: A key of the presets; "none" starts from nothing.
        overrides: Per loss name what to change: one setting, the weight (0 drops the loss, which stays
            listed), or a loss the preset does not have (weight 1 unless given). None changes nothing.
        presets: `PRESETS`, or `SEGMENTATION_PRESETS`.

    Raises:
        ValueError: The preset or a loss is unknown, or a loss's changes are not a mapping. `Objective` checks
            the rest.

    Example:
        >>> resolve_terms("ce+smac", {"smac": {"alpha": 0.2}, "as": {"weight": 0.1}})
        {'ce': {'weight': 1.0}, 'smac': {'weight': 1.0, 'alpha': 0.2}, 'as': {'weight': 0.1}}
    """
    if preset not in presets:
        raise unknown_name("loss preset", preset, presets)
    terms = {name: dict(options) for name, options in presets[preset].items()}
    changes: Mapping[str, Mapping[str, Any]] = check_terms(overrides or {})
    for name, options in changes.items():
        terms[name] = {**terms.get(name, {"weight": 1.0}), **options}
    return terms

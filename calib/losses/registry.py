"""The losses by the name a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from calib.losses.confidence import dca, mdca, mmce, smac
from calib.losses.logits import logitnorm, margin_mean_var, mbls
from calib.losses.segmentation import dice, ml1_ace
from calib.losses.task import cross_entropy, focal, label_smoothing
from calib.losses.text import angular_separation, text_moment_matching
from calib.losses.zero_shot import penalty, zs_norm

LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": cross_entropy,
    "ls": label_smoothing,
    "fl": focal,
    "smac": smac,
    "as": angular_separation,
    "mdca": mdca,
    "dca": dca,
    "mmce": mmce,
    "zs_norm": zs_norm,
    "penalty": penalty,
    "mbls": mbls,
    "logitnorm": logitnorm,
    "margin_mean_var": margin_mean_var,
    "text_moment_matching": text_moment_matching,
    "dice": dice,
    "ml1_ace": ml1_ace,
}
# Those that also take images with a class per pixel: logits (B, C, *S), labels (B, *S).
OF_PIXELS = ("ce", "fl", "dice", "ml1_ace")
# How their authors write those that are no abbreviation in capitals.
_WRITTEN = {
    "zs_norm": "ZS-Norm",
    "penalty": "penalty",
    "mbls": "MbLS",
    "logitnorm": "LogitNorm",
    "margin_mean_var": "margin mean-variance",
    "text_moment_matching": "text moment matching",
    "dice": "Dice",
    "ml1_ace": "mL1-ACE",
}


def losses_in_words(names: Iterable[str]) -> str:
    """Return losses as a table names their sum, each as its authors write it.

    Args:
        names: By the name a configuration gives them.

    Example:
        >>> losses_in_words(["dice", "ce", "ml1_ace"])
        'Dice + CE + mL1-ACE'
    """
    return " + ".join(_WRITTEN.get(name, name.upper().replace("_", "-")) for name in names)

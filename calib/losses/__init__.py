"""Training losses: plain functions on tensors, weighted and summed by an `Objective`.

A new loss is a function (positional parameters: the tensors it needs; keyword-only ones: its settings) and
one line, `LOSSES["mine"] = mine`.
"""

from calib.core.rooms import offered
from calib.losses.confidence import dca, mdca, mmce, smac
from calib.losses.logits import logitnorm, margin_mean_var, mbls
from calib.losses.objective import Objective, check_finite
from calib.losses.presets import PRESETS, SEGMENTATION_PRESETS, resolve_terms
from calib.losses.registry import LOSSES, OF_PIXELS
from calib.losses.segmentation import dice, ml1_ace, ml1_ace_per_class
from calib.losses.task import cross_entropy, focal, label_smoothing
from calib.losses.text import angular_separation, text_moment_matching
from calib.losses.zero_shot import penalty, zs_norm


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())

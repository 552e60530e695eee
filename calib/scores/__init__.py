"""Uncertainty scores of single predictions, higher = more likely wrong, in one table by name.

Some judge logits as they are, others are fitted on labelled predictions outside the training shots:

    score = fit("class_gaussians", prompt.predict(seen))
    uncertainty = score(prompt.predict(test))  # (N,) float64
"""

from calib.core.rooms import offered
from calib.posthoc.scaling import fit_temperature
from calib.scores.fitted import LogisticScore, RelativeUncertainty, TemperatureMCP
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling
from calib.scores.logits import (
    doctor,
    energy,
    entropy,
    log_odds,
    logit_margin,
    logits_from_probs,
    margin,
    mcp,
)
from calib.scores.registry import SCORES, ReadyScore, fit, needs_same_classes, restored, state
from calib.scores.stack import DoubtStack


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())

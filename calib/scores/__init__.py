"""Uncertainty scores of single predictions, higher = more likely wrong, dispatched by name.

`score("doctor", logits=logits)` returns the uncertainty (N,), float64. Positional parameters of a score are
tensors, keyword-only ones settings. Some scores have settings that come from labelled validation data;
`fit_score` finds them, and without them the score refuses to work:

    settings = fit_score("rel_u", logits=validation_logits, labels=validation_labels)
    uncertainty = score("rel_u", settings, logits=logits)
"""

from calib.posthoc.scaling import fit_temperature
from calib.scores.fitted import fit_logistic, fit_rel_u, logistic, rel_u, temperature_mcp
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling
from calib.scores.logits import doctor, energy, entropy, logit_margin, logits_from_probs, margin, mcp
from calib.scores.registry import FITS, SCORES, fit_score, score

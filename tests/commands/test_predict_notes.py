"""What `calib predict` says of its columns in a line keeps what makes a guarantee void."""

from __future__ import annotations

import pytest
import torch

from calib.commands.predict_notes import on_decision, on_sets, on_unlike
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.familiarity import Familiarity
from calib.posthoc.review import ReviewThreshold

LABELS = torch.arange(30) % 3
PROBS = torch.eye(3).double()[LABELS] * 0.7 + 0.1
CHOSEN = {"entropy": 30}


def sets(coverage: float = 0.8, *, chosen: object = (), **settings: object) -> str:
    fit = {name: settings.pop(name) for name in ("left_out", "shares") if name in settings}
    return on_sets(PredictionSets(coverage=coverage, **settings).fit(PROBS, LABELS, chosen=chosen, **fit))


def test_sets_in_a_line() -> None:
    assert "classes as frequent as there" in sets()
    assert "of each class" in sets(per_class=True)
    assert "frequent" not in sets(per_class=True)
    assert "about 80 %" in sets(left_out=True)
    assert "as stated" in sets(shares=[0.2, 0.3, 0.5])
    assert "with a probability of 90 %" in sets(confidence=0.9)
    assert sets(chosen=CHOSEN).startswith("set: no guarantee: the shots were chosen (entropy)")
    assert "every class is in every set" in sets(0.99)
    assert "every class is in every set" in sets(0.99, chosen=CHOSEN)


@pytest.mark.parametrize("rule", ["threshold", "workload", "batch"])
def test_decisions_in_a_line(rule: str) -> None:
    doubt, wrong = torch.arange(100).double() / 100, torch.arange(100) >= 80
    settings = {"rule": rule, "workload": 0.3 if rule == "workload" else None}
    said = on_decision(ReviewThreshold(0.1, **settings).fit(doubt, wrong))
    assert said.startswith("decision: accept ")
    assert "over cases like the labelled ones" in said
    none = ReviewThreshold(0.01, **settings).fit(doubt[:20], wrong[:20])
    if rule != "workload":
        assert not none.achievable
        assert "accept nothing: at most 1 % wrong" in on_decision(none)
        assert "like the labelled" not in on_decision(none)
    chosen = on_decision(ReviewThreshold(0.1, **settings).fit(doubt, wrong, chosen=CHOSEN))
    assert chosen.startswith("decision: no guarantee: the shots were chosen (entropy)")


def test_unlike_in_a_line() -> None:
    shots = torch.nn.functional.normalize(torch.eye(3)[LABELS] + 0.1 * torch.eye(30)[:, :3], dim=1)
    assert "The shots were chosen" not in on_unlike(Familiarity().fit(shots, LABELS))
    assert "The shots were chosen (entropy)" in on_unlike(Familiarity().fit(shots, LABELS, chosen=CHOSEN))

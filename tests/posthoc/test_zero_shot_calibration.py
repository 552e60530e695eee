"""SaLS and DAC against the released implementations; the two-signal Platt model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from calib.posthoc import DistanceAwareCalibration, TwoSignalPlatt, calibrator_from_record
from calib.posthoc.zero_shot import sample_adaptive_scaling

PEERS = json.loads((Path(__file__).parents[1] / "golden" / "posthoc_peers.json").read_text())
TENSORS = {name: torch.tensor(value, dtype=torch.float64) for name, value in PEERS["tensors"].items()}


def test_sals_is_that_of_its_authors() -> None:
    found = sample_adaptive_scaling(TENSORS["logits"], TENSORS["logits_zs"])
    assert torch.allclose(found, TENSORS["sals_logits"], rtol=1e-6, atol=2e-6)  # theirs are float32
    assert torch.equal(found.argmax(dim=1), TENSORS["logits"].argmax(dim=1))
    shifted = sample_adaptive_scaling(9 * TENSORS["logits"] + 5, TENSORS["logits_zs"])
    assert torch.allclose(shifted, found)


def test_sals_of_equal_logits_and_of_what_does_not_fit() -> None:
    flat = sample_adaptive_scaling(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 6.0]]))
    assert flat.tolist() == [[3.0, 3.0, 3.0]]
    with pytest.raises(ValueError, match="same samples and classes"):
        sample_adaptive_scaling(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="finite"):
        sample_adaptive_scaling(torch.zeros(1, 2), torch.tensor([[math.nan, 0.0]]))


def dac(k: int = 3) -> DistanceAwareCalibration:
    texts = [TENSORS[f"dac_{name}"] for name in ("cur_tuned", "cur_zs", "base_tuned", "base_zs")]
    return DistanceAwareCalibration.from_texts(*texts, k=k)


def test_dac_is_that_of_its_authors() -> None:
    found = dac()
    factors = found.parameters["factors"]
    assert factors.tolist() == pytest.approx(PEERS["dac_class_confidence"], abs=1e-6)
    assert factors[0] == 1  # its tuned text is that of a base class
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    expected = (logits * factors[[1, 3], None]).softmax(dim=1)
    assert torch.equal(found(logits), expected)
    assert found.keeps_argmax
    assert found.linear_map() is None
    again = calibrator_from_record(json.loads(json.dumps(found.to_record())))
    assert torch.equal(again(logits), expected)


def test_dac_refuses_what_it_cannot_use() -> None:
    texts = {name: TENSORS[f"dac_{name}"] for name in ("cur_tuned", "cur_zs", "base_tuned", "base_zs")}
    with pytest.raises(ValueError, match="at most the number of base classes, 6"):
        dac(k=7)
    with pytest.raises(ValueError, match="unit norm"):
        DistanceAwareCalibration.from_texts(2 * texts["cur_tuned"], *[*texts.values()][1:], k=1)
    with pytest.raises(ValueError, match="of the same classes"):
        DistanceAwareCalibration.from_texts(texts["cur_tuned"][:2], *[*texts.values()][1:], k=1)
    with pytest.raises(ValueError, match="learns from texts"):
        DistanceAwareCalibration().fit(torch.zeros(2, 3), torch.tensor([0, 1]))
    record = dac().to_record()
    record["parameters"]["factors"][1] = 0.0
    with pytest.raises(ValueError, match="above 0"):
        calibrator_from_record(record)


def signals(
    n: int = 4000, seed: int = 0, slope: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    log_odds, doubt = 2 + 3 * generator.normal(size=n), 0.1 * generator.normal(size=n)
    right = generator.random(n) < expit(0.5 * log_odds - slope * 10 * doubt + 0.3)
    return torch.from_numpy(log_odds), torch.from_numpy(doubt), torch.from_numpy(right)


def test_two_signals_are_weighed_as_logistic_regression_does_and_never_the_wrong_way() -> None:
    log_odds, doubt, right = signals()
    model = TwoSignalPlatt().fit(log_odds, doubt, right)
    assert model.coefficients.tolist() == pytest.approx([0.5, 15.0, 0.3], rel=0.2)
    columns = torch.stack([log_odds, doubt], dim=1).numpy()
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(columns, right.numpy())
    assert np.allclose(model(log_odds, doubt), theirs.predict_proba(columns)[:, 1], atol=2e-3)
    turned = TwoSignalPlatt().fit(log_odds, -doubt, right)  # a doubt that is a trust
    assert turned.coefficients[1] == 0
    alone = LogisticRegression(C=np.inf, tol=1e-10).fit(columns[:, :1], right.numpy())
    assert turned.coefficients[0].item() == pytest.approx(alone.coef_[0, 0], rel=1e-2)


def test_two_signals_of_few_or_separable_rows_end() -> None:
    log_odds, doubt, right = signals(8, seed=3)
    model = TwoSignalPlatt().fit(log_odds, torch.zeros(8), torch.arange(8) < 5)
    assert model.coefficients[1] == 0  # a doubt that never changes says nothing
    separable = TwoSignalPlatt().fit(torch.arange(8.0), torch.zeros(8), torch.arange(8) > 3)
    probs = separable(torch.arange(8.0), torch.zeros(8))
    assert bool(((probs > 0.5) == (torch.arange(8) > 3)).all())
    assert float(probs.max()) < 1
    with pytest.raises(ValueError, match="All 8 predictions are right"):
        model.fit(log_odds, doubt, torch.ones(8, dtype=torch.bool))
    with pytest.raises(ValueError, match="log_odds must be finite"):
        model.fit(torch.full((8,), math.inf), doubt, right)
    with pytest.raises(ValueError, match=r"correct must be \(8,\) bool"):
        model.fit(log_odds, doubt, right.long())
    with pytest.raises(ValueError, match="8 log_odds and 7 doubts"):
        model(log_odds, doubt[:7])
    with pytest.raises(ValueError, match="not fitted"):
        TwoSignalPlatt()(log_odds, doubt)


def test_a_two_signal_record_comes_back_and_damaged_ones_do_not() -> None:
    log_odds, doubt, right = signals(200)
    model = TwoSignalPlatt().fit(log_odds, doubt, right)
    record = json.loads(json.dumps(model.to_record()))
    assert torch.equal(TwoSignalPlatt.from_record(record)(log_odds, doubt), model(log_odds, doubt))
    for change in ({"name": "platt"}, {"version": 2}, {"coefficients": [1.0, 2.0]}, {"more": 1}):
        with pytest.raises(ValueError, match="two_signal"):
            TwoSignalPlatt.from_record({**record, **change})
    with pytest.raises(ValueError, match="at least 0"):
        TwoSignalPlatt.from_record({**record, "coefficients": [1.0, -2.0, 0.0]})


def test_rows_that_say_nothing_leave_the_log_odds_as_they_are() -> None:
    """The prior is around a = 1 in the unit of the log-odds, however wide they are spread."""
    log_odds = torch.tensor([100.0, -100.0, 100.0, -100.0])
    found = TwoSignalPlatt().fit(log_odds, torch.zeros(4), log_odds > 0)
    assert found.coefficients is not None
    assert found.coefficients.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)

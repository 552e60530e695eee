from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from calib.metrics import net_benefit

GOLDEN = Path(__file__).parents[1] / "golden" / "net_benefit.json"


def test_it_is_counted_by_hand() -> None:
    """Of ten, four have the event; acting at 30 % reaches three of them and two others."""
    probs = torch.tensor([0.9, 0.8, 0.3, 0.1, 0.7, 0.4, 0.2, 0.2, 0.1, 0.05], dtype=torch.float64)
    event = torch.tensor([True] * 4 + [False] * 6)
    found = net_benefit(probs, event, torch.tensor([0.3], dtype=torch.float64))
    assert float(found) == pytest.approx(3 / 10 - 2 / 10 * 3 / 7)
    everyone = net_benefit(torch.ones(10), event, torch.tensor([0.3], dtype=torch.float64))
    assert float(everyone) == pytest.approx(0.4 - 0.6 * 3 / 7)
    nobody = net_benefit(torch.zeros(10), event, torch.tensor([0.3]))
    assert float(nobody) == 0


def test_ties_and_the_threshold_itself_count_as_acted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randint(0, 11, (300,), generator=generator).double() / 10
    event = torch.rand(300, generator=generator) < probs
    thresholds = torch.arange(1, 20, dtype=torch.float64) / 20
    found = net_benefit(probs, event, thresholds)
    for at, value in zip(thresholds.tolist(), found.tolist(), strict=True):
        acted = probs >= at
        hits, needless = (acted & event).sum() / 300, (acted & ~event).sum() / 300
        assert value == pytest.approx(float(hits - needless * at / (1 - at)), abs=1e-7)


def test_the_package_dcurves_finds_the_same() -> None:
    golden = json.loads(GOLDEN.read_text())
    probs = torch.tensor(golden["probs"], dtype=torch.float64)
    event = torch.tensor(golden["outcomes"])
    thresholds = torch.tensor(golden["thresholds"], dtype=torch.float64)
    for name, values in (("model", probs), ("all", torch.ones_like(probs))):
        assert net_benefit(values, event, thresholds).tolist() == pytest.approx(golden[name], abs=1e-12)


def test_calibrated_probabilities_never_lose_to_both_defaults() -> None:
    """Where p is right, acting on it at its own price is at least as good as treating all or none."""
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(200_000, generator=generator, dtype=torch.float64)
    event = torch.rand(200_000, generator=generator, dtype=torch.float64) < probs
    thresholds = torch.arange(1, 10, dtype=torch.float64) / 10
    default = net_benefit(torch.ones_like(probs), event, thresholds).clamp_min(0)
    assert bool((net_benefit(probs, event, thresholds) > default - 1e-3).all())


def test_what_is_no_probability_or_threshold_is_refused() -> None:
    probs, event = torch.tensor([0.5, 0.6]), torch.tensor([True, False])
    for bad in (torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([float("nan")]), torch.tensor(0.5)):
        with pytest.raises(ValueError, match="thresholds must be a list of numbers between 0 and 1"):
            net_benefit(probs, event, bad)
    with pytest.raises(ValueError, match=r"event must be \(2,\) bool"):
        net_benefit(probs, torch.tensor([1, 0]), torch.tensor([0.5]))
    for given in ((probs.tolist(), event), (probs, event.numpy())):
        with pytest.raises(ValueError, match="must be a torch tensor"):
            net_benefit(*given, torch.tensor([0.5]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thresholds must be a torch tensor"):
        net_benefit(probs, event, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        net_benefit(torch.tensor([0.5, 1.5]), event, torch.tensor([0.5]))

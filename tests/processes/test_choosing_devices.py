"""Which devices trainer settings mean where there are graphics cards; here they are pretended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests_shared import SHORT

from calib.config import load_config
from calib.processes import join
from calib.processes.devices import devices_of, trains_on_cuda
from calib.processes.workers import usable_devices
from calib.runs import trainer as trainers
from calib.runs.folder import RunFolder


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that lets this machine have so many cards."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return pretend


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ["cuda:0"]),
        ({"accelerator": "gpu"}, ["cuda:0"]),
        ({"accelerator": "gpu", "devices": 2}, ["cuda:0", "cuda:1"]),
        ({"devices": [1]}, ["cuda:1"]),
        ({"devices": "1,2"}, ["cuda:1", "cuda:2"]),
        ({"devices": -1}, ["cuda:0", "cuda:1", "cuda:2"]),
        ({"devices": "auto"}, ["cuda:0", "cuda:1", "cuda:2"]),
        ({"accelerator": "cpu", "devices": 2}, ["cpu", "cpu"]),
    ],
    ids=str,
)
def test_settings_mean_these_cards(settings: dict[str, Any], found: list[str], cards: Any) -> None:
    cards(3)
    assert [str(each) for each in devices_of(settings)] == found
    assert str(join.pick_device(settings)) == found[0]
    assert join.asked_devices(settings) == len(found)
    assert trains_on_cuda(settings) == (found[0] != "cpu")


@pytest.mark.parametrize("accelerator", [{}, {"accelerator": "gpu"}, {"accelerator": "cuda"}], ids=str)
def test_two_processes_on_one_card_are_refused(accelerator: dict[str, Any], cards: Any) -> None:
    cards(1)
    refused = r"devices=2 cannot be used here: You requested gpu: \[0, 1\]"
    with pytest.raises(ValueError, match=refused) as why:
        join.asked_devices({**accelerator, "devices": 2})
    said = str(why.value)
    assert "But your machine only has: [0]" in said
    assert said.endswith("Lower trainer.devices, or set trainer.accelerator=cpu.")
    assert "(here 1: under srun, ask for GPUs per node, not per task)" in said
    assert "\n" not in said


def test_all_processes_meet_that_and_one_says_it(cards: Any, tmp_path: Any, monkeypatch: Any) -> None:
    """Those that torchrun started on a machine with one card each said it."""
    cards(1)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    monkeypatch.setattr(join.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    environment = type("Started", (), {"main_address": "localhost", "main_port": 1})()
    places = [join.Place(environment, rank, rank, world_size=2, nodes=1) for rank in range(2)]
    with pytest.raises(ValueError, match=r"trainer\.devices=2 cannot be used here"):
        join._as_one_of(places[1], {}, lambda: pytest.fail("it ran"))
    assert join._as_one_of(places[0], {}, lambda: pytest.fail("it ran")) == 1


@pytest.mark.parametrize(
    ("visible", "count", "found"),
    [
        (None, 2, ["0", "1"]),
        ("3, 5", 2, ["3", "5"]),
        ("GPU-1f2e,MIG-77", 2, ["GPU-1f2e", "MIG-77"]),
        ("2,-1,3", 1, ["2"]),  # what is no card hides those behind it
        ("", 0, []),
    ],
)
def test_workers_get_the_cards_that_are_seen(
    visible: str | None, count: int, found: list[str], cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(count)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert usable_devices({}) == usable_devices({"accelerator": "gpu"}) == found
    assert usable_devices({"accelerator": "cpu"}) == usable_devices({"accelerator": "mps"}) == []


@pytest.mark.parametrize(
    ("changes", "deterministic"),
    [([], "warn"), (["trainer.deterministic=false"], False), (["trainer.accelerator=cpu"], None)],
)
def test_a_run_on_a_card_chooses_what_is_the_same_each_time(
    changes: list[str], deterministic: Any, cards: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of gradients in any order would let a run that was interrupted end elsewhere."""
    cards(1)
    made: dict[str, Any] = {}
    monkeypatch.setattr(trainers, "Trainer", lambda **given: made.update(given))
    settings = [each for each in SHORT if "accelerator" not in each]
    config = load_config([*settings, *changes, f"out={tmp_path}"], task="prompt")
    trainers.make_trainer(config, RunFolder(tmp_path), [], validate=False)
    assert made.get("deterministic") == deterministic

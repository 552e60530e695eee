"""The number of threads follows what other processes leave free, and no result depends on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests_shared import SHORT

from calib.commands.failure.run import train_failure
from calib.commands.train import train
from calib.config import load_config
from calib.processes import threads
from calib.processes.threads import PERIOD, ThreadShare, busy_seconds, prepare_threads


class Machine:
    """Two cores: the clock, all work on them, and that of this process."""

    def __init__(self) -> None:
        self.time = self.work = self.own = 0.0

    def share(self) -> ThreadShare:
        return ThreadShare(lambda: (self.work, 2), clock=lambda: self.time, own=lambda: self.own)

    def run(self, seconds: float, *, own: float, others: float) -> None:
        """Let time pass with so many cores at work for this process and for others."""
        self.time += seconds
        self.own += seconds * own
        self.work += seconds * (own + others)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_up_and_taken_back() -> None:
    machine = Machine()
    share = machine.share()
    found = []
    for own, others in [(2, 0), (1.2, 0.8), (1, 1), (0.1, 1.9), (1, 0.3), (1, 0)]:
        machine.run(PERIOD, own=own, others=others)
        share.settle()
        found.append(torch.get_num_threads())
    assert found == [2, 1, 1, 1, 2, 2]


@pytest.mark.usefixtures("two_threads")
def test_the_machine_is_looked_at_now_and_then_only() -> None:
    machine = Machine()
    share = machine.share()
    machine.run(PERIOD * 0.9, own=1, others=1)
    share.settle()
    assert torch.get_num_threads() == 2
    machine.run(PERIOD * 0.2, own=1, others=1)
    share.settle()
    assert torch.get_num_threads() == 1


def test_one_thread_stays_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        machine = Machine()
        share = machine.share()
        machine.run(1, own=1, others=0)
        share.settle()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not threads.STAT.is_file(), reason="Linux says how busy the cores are, others do not")
def test_work_shows_in_what_linux_says() -> None:
    before, cores = busy_seconds()
    assert cores == len(os.sched_getaffinity(0))
    torch.randn(2000, 2000) @ torch.randn(2000, 2000)
    while (now := busy_seconds()[0]) == before:
        sum(range(100_000))  # a test that hangs here reads the wrong column
    assert before < now < before + 60 * cores


def test_the_environment_is_set_unless_the_user_did(monkeypatch) -> None:
    names = (threads.SETTING, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_CBWR")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")

    monkeypatch.delitem(sys.modules, "torch")

    def prepared(**given: str) -> list[str | None]:
        for name in names:
            monkeypatch.setenv(name, "")  # so that it is put back after the test
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        prepare_threads()
        return [os.environ.get(name) for name in names]

    spins = str(threads.SPINS) if threads.STAT.is_file() else None
    assert prepared() == ["auto", "passive", spins, "AUTO,STRICT"]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # read by the first product on a card
    assert prepared(CALIB_THREADS="fixed") == ["fixed", "passive", None, "AUTO,STRICT"]
    assert prepared(OMP_WAIT_POLICY="active", MKL_CBWR="COMPATIBLE") == ["auto", "active", None, "COMPATIBLE"]
    with pytest.raises(ValueError, match=r"Unknown CALIB_THREADS 'fix'. Did you mean 'fixed'"):
        prepared(CALIB_THREADS="fix")


@pytest.mark.slow
def test_results_are_the_same_to_the_last_bit_whatever_the_number_of_threads(tmp_path: Path) -> None:
    """MKL's strict mode, which `prepare_threads` asks for, is set before torch is imported here, too."""
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    little = ["data.name=cxr3", "data.shots=30", "trainer.max_epochs=2", "scores=[mcp]", "n_resamples=20"]
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            out = f"out={tmp_path / str(number)}"
            train(load_config([*SHORT, "trainer.max_epochs=2", "baselines=[]", out], task="prompt"))
            train_failure(load_config(["task=failure", *SHORT, *little, f"{out}-f"], task="failure"))
    finally:
        torch.set_num_threads(before)
    for one, two in (("1", "2"), ("1-f", "2-f")):
        kinds = ("predictions", "prompt") if one == "1" else ("uncertainties",)
        for kind in kinds:
            ours, theirs = (load_file(tmp_path / name / f"{kind}.safetensors") for name in (one, two))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)

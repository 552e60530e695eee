"""SIGTERM and SIGUSR1 in the middle of an epoch: saved, said, and gone on with to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests_shared import PLAIN, SHORT

from calib.cli import run
from calib.failure.module import FailurePredictionModule
from calib.processes import signals
from calib.processes.signals import Preempted, asked_to_stop, deferred, preemptible, requeue, take_over
from calib.prompts.module import PromptTuningModule
from calib.prompts.stack import PromptStackModule

ROOT = Path(__file__).parents[2]
PROMPT = ["train", *SHORT, *PLAIN, "data.batch_size=8", "baselines=[]", "out=run"]  # 3 steps per epoch
CALIBRATED = ["train", *SHORT, "data.batch_size=8", "baselines=[]", "out=run"]  # and prompts of folds
SWEEP = ["sweep", *SHORT, "data.batch_size=8", "preset=coop,calibprompt", "seed=1,2", "out=run"]
FAILURE = ["train", "configs/failure.yaml", *SHORT, "data.shots=16", "data.batch_size=16", "out=run"]
FAILURE += ["n_resamples=20", "head.hidden=[16]", "scores=[entropy]"]
TERM, USR1 = signal.SIGTERM, signal.SIGUSR1
STATUS = {TERM: 143, USR1: 138}
slow = pytest.mark.slow


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that must be the same, to the byte."""
    kinds = {".json", ".safetensors", ".csv", ".yaml", ".md"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds
    }


def start(arguments: list[str], where: Path, monkeypatch) -> int:
    """Run a command in a folder of its own, so that all paths in the settings are the same."""
    where.mkdir(exist_ok=True)
    monkeypatch.chdir(where)
    known = [str(ROOT / each) if each.startswith("configs/") else each for each in arguments]
    return run(known[0], known[1:])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str, list[str]], dict[str, bytes]]:
    """Return a function (name, command) -> what it writes uninterrupted; run once."""
    known: dict[str, dict[str, bytes]] = {}

    def result(name: str, arguments: list[str]) -> dict[str, bytes]:
        if name not in known:
            where = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                assert start(arguments, where, patch) == 0
            known[name] = contents(where / "run")
        return known[name]

    return result


def signal_in_step(module: type, step: int, number: int, monkeypatch) -> None:
    """Send the process a signal while the module is in this step of the run, counted from 1."""
    original, calls = module.training_step, []

    def training_step(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module, "training_step", training_step)


@pytest.mark.parametrize(
    ("kind", "arguments", "module", "step", "number", "says"),
    [
        pytest.param("prompt", PROMPT, PromptTuningModule, 1, TERM, "step 1 of 3 of epoch 1", marks=slow),
        ("prompt", PROMPT, PromptTuningModule, 5, USR1, "step 2 of 3 of epoch 2"),
        pytest.param("prompt", PROMPT, PromptTuningModule, 6, TERM, "all steps of epoch 2", marks=slow),
        pytest.param("prompt", PROMPT, PromptTuningModule, 9, TERM, "all steps of epoch 3", marks=slow),
        pytest.param("folds", CALIBRATED, PromptStackModule, 5, USR1, "step 2 of 3 of epoch 2", marks=slow),
        pytest.param("sweep", SWEEP, PromptStackModule, 5, TERM, "step 2 of 3 of epoch 2", marks=slow),
        ("failure", FAILURE, FailurePredictionModule, 5, TERM, "step 2 of 3 of epoch 2"),
    ],
)
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bytes(
    kind, arguments, module, step, number, says, whole, tmp_path: Path, monkeypatch, caplog, capsys
) -> None:
    with caplog.at_level("INFO", logger="calib"), pytest.MonkeyPatch.context() as patch:
        signal_in_step(module, step, number, patch)
        assert start(arguments, tmp_path / "cut", monkeypatch) == STATUS[number]
    name = signal.Signals(number).name
    assert f"{name}: saved after {says}, in " in caplog.text
    error = capsys.readouterr().err
    assert f"stopped by {name}. The same command goes on from what is saved" in error
    assert not (tmp_path / "cut" / "run" / "metrics.json").exists()
    caplog.clear()
    with caplog.at_level("INFO", logger="calib"):
        assert start(arguments, tmp_path / "cut", monkeypatch) == 0
    assert "Going on after " in caplog.text
    again, wanted = contents(tmp_path / "cut" / "run"), whole(kind, arguments)
    assert again.keys() == wanted.keys()
    assert [file for file, data in again.items() if data != wanted[file]] == []


@slow
def test_gradients_that_are_being_gathered_are_not_lost(tmp_path: Path, monkeypatch, caplog) -> None:
    arguments = [*PROMPT, "data.batch_size=4", "trainer.accumulate_grad_batches=2"]  # 6 batches, 3 steps
    assert start(arguments, tmp_path / "whole", monkeypatch) == 0
    with caplog.at_level("INFO", logger="calib"), pytest.MonkeyPatch.context() as patch:
        signal_in_step(PromptTuningModule, 9, signal.SIGTERM, patch)
        assert start(arguments, tmp_path / "cut", monkeypatch) == 143
    assert "saved after step 4 of 6 of epoch 2" in caplog.text  # not 3, in the middle of a gradient
    assert start(arguments, tmp_path / "cut", monkeypatch) == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_outside_training_a_signal_stops_at_once_and_only_once() -> None:
    done = []

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)
            done.append("went on")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # must not break into the clearing up
            time.sleep(0.01)
            done.append("cleared up")

    with pytest.raises(Preempted) as stop, preemptible():
        interrupted()
    assert done == ["cleared up"]
    assert (stop.value.name, stop.value.status) == ("SIGUSR1", 138)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert asked_to_stop() == 0


def test_a_deferred_signal_waits_for_the_end_of_the_block() -> None:
    asked = []

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        asked.append(asked_to_stop())

    with pytest.raises(Preempted), preemptible(), deferred():
        interrupted()
    assert asked == [signal.SIGTERM]
    with preemptible(), deferred():
        assert asked_to_stop() == 0


def test_other_handlers_are_replaced_while_ours_are_at_work_and_not_otherwise() -> None:
    take_over()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with preemptible():
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: None)
        take_over()
        assert signal.getsignal(signal.SIGTERM) == ours
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_in_another_thread_nothing_is_installed() -> None:
    errors = []

    def inside() -> None:
        try:
            with preemptible():
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert errors == []


def test_what_a_stop_breaks_is_no_error_of_its_own() -> None:
    """Once a stop in the middle of an import ended in the error of what then asked for the module."""

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)
        finally:
            raise RecursionError("numpy.linalg, half imported")

    with pytest.raises(Preempted) as stop, preemptible():
        interrupted()
    assert stop.value.status == 138
    assert isinstance(stop.value.__cause__, RecursionError)
    with pytest.raises(RecursionError), preemptible():
        raise RecursionError("nobody asked to stop")


class Swallows:
    """What is raised while it is removed is swallowed, as in functions of C that return nothing."""

    def __init__(self, number: int, after: list[str]) -> None:
        self.number, self.after = number, after

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(5)
        self.after.append("went on")


@pytest.mark.parametrize(("number", "kind"), [(TERM, Preempted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_that_was_swallowed_is_raised_again(number: int, kind: type[BaseException]) -> None:
    """Once scipy's Sobol tables stayed half filled when it came there: a run went on with wrong numbers."""
    after: list[str] = []

    def interrupted() -> None:
        swallows = Swallows(number, after)
        del swallows
        for _ in range(1000):
            time.sleep(0.001)
        after.append("with wrong numbers")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(kind), preemptible():
            interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert after == []
    assert sys.unraisablehook is not signals._not_lost


def test_a_worker_killed_by_the_same_signal_is_no_error_of_its_own() -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    with pytest.raises(Preempted), preemptible(), deferred():
        interrupted()
    with pytest.raises(RuntimeError, match="something else"), preemptible():
        raise RuntimeError("something else")


SLURM = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "calib", "SLURM_PROCID": "0"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}


def scontrol(folder: Path, status: int = 0) -> None:
    """Put a program into a folder that writes down how it was called, as there is no SLURM here."""
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\necho no such job >&2\nexit {status}\n')
    program.chmod(0o755)


def test_sigusr1_puts_a_slurm_job_back_into_the_queue(tmp_path: Path, monkeypatch, caplog) -> None:
    scontrol(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    requeue(Preempted(signal.SIGUSR1))  # no SLURM job
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    requeue(Preempted(signal.SIGTERM))
    monkeypatch.setenv("SLURM_PROCID", "1")
    requeue(Preempted(signal.SIGUSR1))  # the first process does it
    assert not (tmp_path / "calls").exists()
    monkeypatch.setenv("SLURM_PROCID", "0")
    requeue(Preempted(signal.SIGUSR1))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue(Preempted(signal.SIGUSR1))
    assert (tmp_path / "calls").read_text().splitlines() == ["requeue 77", "requeue 70_3"]
    scontrol(tmp_path, status=1)
    requeue(Preempted(signal.SIGUSR1))
    assert "SLURM job 70_3 could not be queued again: no such job" in caplog.text
    monkeypatch.setenv("PATH", "")
    requeue(Preempted(signal.SIGUSR1))
    assert "there is no scontrol here" in caplog.text


@slow
def test_under_slurm_the_run_is_saved_queued_again_and_gone_on_with(tmp_path: Path) -> None:
    """Lightning finds SLURM and would install its own handlers, which save wherever the run happens to be."""
    scontrol(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, **SLURM, "PATH": path}
    arguments = [*SHORT, *PLAIN, "trainer.max_epochs=40", "baselines=[]", "out=run"]
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 138, error
    assert "SIGUSR1: saved after" in error
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))
    held = torch.load(checkpoint, weights_only=True)
    assert len(held["callbacks"]) == 1
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Going on after" in done.stderr
    rows = (tmp_path / "run" / "logs" / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(epoch) for epoch in range(40)]

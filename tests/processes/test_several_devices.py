"""Runs on two devices against runs on one, as a user starts them."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests_shared import PLAIN, SHORT

from calib.cli import run as calib_command
from calib.commands.failure.run import train_failure
from calib.commands.registry import Command
from calib.commands.train import train
from calib.config import load_config
from calib.data import FeatureTable
from calib.io.files import read_json
from calib.processes import join as processes
from calib.processes import launch as launching
from calib.processes.join import asked_devices, in_processes, place_here
from calib.processes.launch import launch
from calib.processes.signals import LAUNCHER, Preempted
from calib.runs.trainer import check_trainer

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / "train.py")]
TWO = "trainer.devices=2"


def run(*arguments: str, folder: Path, check: bool = True, **environment: str) -> Any:
    """Start a command in a folder, one thread per process, and return it finished."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(arguments, cwd=folder, env=env, check=check, capture_output=True, text=True)


def same(one: Any, two: Any, tolerance: float = 1e-5) -> None:
    """Hold two files' contents equal, numbers up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            same(one[key], two[key], tolerance)
    elif isinstance(one, list):
        assert len(one) == len(two)
        for each, other in zip(one, two, strict=True):
            same(each, other, tolerance)
    elif isinstance(one, float) and isinstance(two, float) and not math.isnan(one):
        assert one == pytest.approx(two, abs=tolerance, rel=tolerance)
    else:
        assert one == two


def curves(folder: Path) -> list[dict[str, Any]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


# 24 shots in batches of 7, 7, 7, 3, those of a fold in 7, 7, 4; 12 validation shots; views of every epoch
PROMPT = [
    *SHORT,
    "data.batch_size=7",
    "baselines=[]",
    "trainer.accumulate_grad_batches=2",
    "data.val_shots=4",
]


def here(settings: list[str], out: Path) -> Path:
    """Do in this process, alone, what the processes of a test share; return the folder."""
    task = "failure" if "task=failure" in settings else "prompt"
    {"prompt": train, "failure": train_failure}[task](load_config([*settings, f"out={out}"], task=task))
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run that one process makes."""
    return here(PROMPT, tmp_path_factory.mktemp("alone") / "one")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["trainer.devices", "torchrun"])
def test_two_devices_train_the_prompt_that_one_trains(start: str, alone: Path, tmp_path: Path) -> None:
    if start == "torchrun":
        several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        ended = run(*several, TRAIN[1], *PROMPT, "out=two", folder=tmp_path)
    else:
        ended = run(*TRAIN, *PROMPT, TWO, "out=two", folder=tmp_path)
    assert ended.stdout.count("Trained and evaluated") == 1
    assert ended.stderr.count("INFO: Training calibprompt") == 1
    assert "Warning" not in ended.stderr
    two = tmp_path / "two"
    assert read_json(two / "metrics.json")["test"]["n"] == 545
    assert read_json(two / "metrics.json")["calibration"]["method"] == "experts"
    for name in ("metrics.json", "bare/metrics.json"):
        same(read_json(alone / name), read_json(two / name))
    same(curves(alone), curves(two))
    assert {path.name for path in alone.rglob("*")} == {path.name for path in two.rglob("*")}
    again = train(load_config([*PROMPT, f"out={two}"], task="prompt"))
    assert again["reused"]  # the same run, whatever the number of devices


@pytest.mark.slow
def test_two_devices_share_images_that_are_not_cached(image_folder: Path, tiny: str, tmp_path: Path) -> None:
    settings = [*SHORT, "data.name=folder", f"data.root={image_folder}", "data.shots=3", "data.val_shots=2"]
    # 9 images in batches of 4, 4 and 1: the last one leaves a process without
    settings += [tiny, "data.cache=false", "data.batch_size=4", "baselines=[]"]
    here([*settings, f"data.cache_dir={tmp_path / 'cache-one'}"], tmp_path / "one")
    run(*TRAIN, *settings, TWO, "out=two", "data.cache_dir=cache-two", folder=tmp_path)
    same(read_json(tmp_path / "one" / "metrics.json"), read_json(tmp_path / "two" / "metrics.json"))
    same(curves(tmp_path / "one"), curves(tmp_path / "two"))
    files = [sorted((tmp_path / cache).glob("*.safetensors")) for cache in ("cache-one", "cache-two")]
    for ours, theirs in zip(*files, strict=True):  # views are not cached; shots, validation, test are
        assert (ours.name, ours.read_bytes()) == (theirs.name, theirs.read_bytes())
    assert sorted(len(FeatureTable.load(path)) for path in files[1]) == [6, 9, 9]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [["trainer.precision=bf16-mixed"], ["head.residual=false", "head.keep_frozen=false"]],
)
def test_two_devices_train_the_failure_head_that_one_trains(changes: list[str], tmp_path: Path) -> None:
    settings = [*SHORT, "task=failure", "data.shots=5", "data.batch_size=7", "n_resamples=50", *changes]
    settings += ["loss.weighting=adaptive", "scores=[mcp,entropy]", "head.n_iter_freeze_proj=4"]
    here(settings, tmp_path / "one")
    ended = run(*TRAIN, *settings, TWO, "out=two", folder=tmp_path)
    assert ended.stdout.count("Trained and evaluated") == 1
    same(read_json(tmp_path / "one" / "metrics.json"), read_json(tmp_path / "two" / "metrics.json"), 1e-4)
    same(curves(tmp_path / "one"), curves(tmp_path / "two"), 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="looks for the processes in /proc")
def test_a_killed_process_ends_the_job_with_its_reason_and_the_run_goes_on(tmp_path: Path, caplog) -> None:
    settings = [*SHORT, "trainer.max_epochs=40", "baselines=[]"]
    command = subprocess.Popen(
        [*TRAIN, *settings, TWO, "out=killed"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    wait_for(checkpoint.exists)
    os.kill(process_of_rank(1, command.pid), signal.SIGKILL)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "calib train: process 1 of 2 was ended by SIGKILL (perhaps memory ran out)" in said
    assert "Traceback" not in said
    assert "stopped by" not in said  # the other one was, which is no reason
    assert not list((tmp_path / "killed").rglob("*.part"))
    assert not (tmp_path / "killed" / "metrics.json").exists()
    whole = here(settings, tmp_path / "whole")
    # Gone on with by one process; that two do is seen where a job was asked to stop.
    with caplog.at_level("INFO", logger="calib"):
        again = here(settings, tmp_path / "killed")
    assert "Going on after epoch" in caplog.text
    same(read_json(whole / "metrics.json"), read_json(again / "metrics.json"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_an_interrupted_job_says_so_once_and_a_lost_launcher_leaves_no_process(tmp_path: Path) -> None:
    command = [*TRAIN, *SHORT, *PLAIN, "trainer.max_epochs=500", "baselines=[]", TWO]
    for number, kind in enumerate((signal.SIGINT, signal.SIGKILL)):
        out = f"out=run-{number}"
        started = subprocess.Popen([*command, out], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        wait_for((tmp_path / f"run-{number}" / "checkpoints" / "last.ckpt").exists)
        started.send_signal(kind)
        _, said = started.communicate(timeout=60)  # until the last process has closed the pipe
        if kind == signal.SIGINT:
            assert started.returncode == 130
            assert len(re.findall(r"interrupted( after [^.]*)?\. The same command goes on", said)) == 1
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with <(...)")
def test_settings_from_a_pipe_reach_every_process(tmp_path: Path) -> None:
    words = shlex.join([*TRAIN, *SHORT, *PLAIN, "trainer.max_epochs=1", "baselines=[]", TWO, "out=run"])
    ended = run("bash", "-c", f"{words} <(echo 'seed: 7')", folder=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    assert read_json(tmp_path / "run" / "metrics.json")["seed"] == 7


@pytest.mark.slow
def test_two_devices_train_without_test_images_what_one_trains(
    image_folder: Path, tiny: str, tmp_path: Path
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "images" / "train")
    data = ["data.name=folder", f"data.root={tmp_path / 'images'}", "data.shots=3", "data.val_shots=2"]
    settings = [*SHORT, tiny, *data]
    one = here([*settings, f"data.cache_dir={tmp_path / 'cache-one'}"], tmp_path / "one")
    ended = run(*TRAIN, *settings, TWO, "out=two", "data.cache_dir=cache-two", folder=tmp_path)
    assert ended.stdout.count("There are no test images, so there are no test results.") == 1
    assert ended.stderr.count("Without test images there will be no test results.") == 1
    two = tmp_path / "two"
    same(read_json(one / "metrics.json"), read_json(two / "metrics.json"))
    assert {path.name for path in one.rglob("*")} == {path.name for path in two.rglob("*")}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_first_process_that_hangs_under_srun_is_noticed(tmp_path: Path) -> None:
    """It keeps the store in which the others count: that does not answer any more."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(2):
        said = {**SLURM, "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
        said |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
        said |= {"SLURM_JOB_NAME": "calib", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CALIB_SILENCE": "4", **said}
        command = [*TRAIN, *SHORT, *PLAIN, "trainer.max_epochs=5000", "baselines=[]", "out=run"]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True))
    try:
        wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
        started[0].send_signal(signal.SIGSTOP)
        _, told = started[1].communicate(timeout=60)
        assert started[1].returncode == 1
        assert told.count("Process 0 of 2 has hung for 4 s (CALIB_SILENCE): it was stopped, or its") == 1
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_what_ended_a_job_is_said_by_the_process_that_started_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(given: object) -> int:
        raise Preempted(signal.SIGTERM)

    monkeypatch.setattr(Command, "function", lambda self: stopped)
    monkeypatch.setenv(LAUNCHER, "1")
    assert calib_command("cache", []) == 143
    assert capsys.readouterr().err == ""
    monkeypatch.delenv(LAUNCHER)
    assert calib_command("cache", []) == 143
    assert capsys.readouterr().err == (
        "calib cache: stopped by SIGTERM. What was not said to be kept or written is as it was.\n"
    )
    with pytest.raises(Preempted, match="SIGTERM"):  # by which all of its processes ended
        launching._stopped(143)
    assert (launching._stopped(1), launching._stopped(130)) == (1, 130)
    monkeypatch.setenv("NODE_RANK", "1")
    assert launching._stopped(143) == 143


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def process_of_rank(rank: int, launcher: int) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if {f"RANK={rank}".encode(), f"CALIB_LAUNCHER={launcher}".encode()} <= set(environment):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"devices": 2}, "Several devices need several processes, which commands start"),
        ({"num_nodes": 2}, "Several devices need several processes, which commands start"),
        ({"devices": -1}, "trainer.accelerator=cpu with trainer.devices=-1 cannot be used here"),
        ({"devices": "many"}, "trainer.accelerator=cpu with trainer.devices=many cannot be used here"),
        ({"num_nodes": 0}, "trainer.num_nodes must be at least 1, got 0"),
        ({"strategy": "fsdp"}, "trainer.strategy=fsdp is not used here"),
    ],
)
def test_devices_that_cannot_be_had_are_refused(
    trainer: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = load_config([*SHORT, f"out={tmp_path / 'run'}"], task="prompt")
    config.trainer.update(trainer)
    with pytest.raises(ValueError, match=re.escape(message)):
        train(config)
    assert not (tmp_path / "run").exists()


def test_several_machines_must_know_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    with pytest.raises(
        ValueError, match="on every machine with MASTER_PORT, NODE_RANK set, or with torchrun"
    ):
        launch("train", [], devices=1, nodes=2)


SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
SLURM["SLURM_NTASKS_PER_NODE"] = "2"
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
}


@pytest.mark.filterwarnings("ignore:The `srun` command")
def test_a_process_knows_what_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SLURM, *TORCHRUN, "SLURM_STEP_ID", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert place_here() is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert place_here() is None  # the script of a job, before srun
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    place = place_here()
    assert place is not None
    assert (place.rank, place.local_rank, place.world_size, place.devices, place.nodes) == (3, 1, 6, 2, 3)
    for name, value in TORCHRUN.items():  # inside a SLURM job, too
        monkeypatch.setenv(name, value)
    place = place_here()
    assert place is not None
    assert (place.rank, place.local_rank, place.world_size, place.devices, place.nodes) == (3, 1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"devices=3 trainer.num_nodes=2 ask for 6 processes, but 4 were"):
        processes._check_number(place, {"devices": 3, "accelerator": "cpu"})
    processes._check_number(place, {"devices": "auto"})
    assert asked_devices({"accelerator": "cpu", "devices": "3"}) == 3


def test_an_error_that_all_processes_meet_is_said_once(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    assert processes._is_news(ValueError("There is no folder x."), store)
    assert not processes._is_news(ValueError("There is no folder x."), store)
    assert processes._is_news(ValueError("Another reason."), store)
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    assert not processes._is_news(gone, store)  # the one that is gone has said why
    empty = torch.distributed.FileStore(str(tmp_path / "other"), 2)
    with pytest.raises(ConnectionError, match=r"ended without a word: it was killed, perhaps as memory"):
        processes._is_news(gone, empty)


def test_what_torchrun_stops_because_another_is_gone_says_that_and_not_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once "stopped by SIGTERM" came first, where the signal came while it waited for a reason."""

    def stopped(_: object) -> None:
        raise Preempted(signal.SIGTERM)

    monkeypatch.setattr(processes.time, "sleep", stopped)
    monkeypatch.delenv(LAUNCHER, raising=False)
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    with pytest.raises(ConnectionError, match=r"ended without a word: it was killed, perhaps as memory"):
        processes._is_news(gone, store)
    monkeypatch.setenv(LAUNCHER, "1")  # which says what ended the job
    with pytest.raises(Preempted):
        processes._is_news(gone, store)


@pytest.mark.parametrize("said", [False, True])
def test_a_stop_is_said_unless_another_process_has_said_why(
    said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun stops the others where one has failed: that one has said the reason."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    monkeypatch.setattr(processes.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(processes.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(processes, "watched", lambda *_, **__: contextlib.nullcontext())
    environment = SimpleNamespace(main_address="localhost", main_port=1)
    place = processes.Place(environment, rank=0, local_rank=0, world_size=2, nodes=1)  # type: ignore[arg-type]
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")

    def main() -> int:
        if said:
            assert processes._is_news(ValueError("There is no folder x."), store)  # as the other one says it
        raise Preempted(signal.SIGTERM)

    if said:
        assert processes._as_one_of(place, {"accelerator": "cpu", "devices": 1}, main) == 143
    else:
        with pytest.raises(Preempted):
            processes._as_one_of(place, {"accelerator": "cpu", "devices": 1}, main)


def test_the_first_process_alone_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for speaks in (True, False):
        with processes._speaking(speaks):
            print(f"speaks: {speaks}")
    assert capsys.readouterr().out == "speaks: True\n"


def test_the_devices_of_a_machine_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib.core.ranks.world_size", lambda: 2)
    place = SimpleNamespace(local_rank=1, devices=2, nodes=3)
    monkeypatch.setattr(processes, "place_here", lambda: place)
    assert processes.trainer_settings({}) == {"devices": 2, "num_nodes": 3}
    assert processes.pick_device({"accelerator": "cpu"}) == torch.device("cpu")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with signals")
def test_a_job_that_was_asked_to_stop_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    command = [*TRAIN, *SHORT, "trainer.max_epochs=50", "baselines=[]", TWO]
    started = subprocess.Popen([*command, "out=stopped"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "stopped" / "checkpoints" / "last.ckpt").exists)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 143, said
    assert said.count("SIGTERM: saved after") == said.count("stopped by SIGTERM") == 1
    for out in ("stopped", "whole"):
        subprocess.run([*command, f"out={out}"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("metrics.json", "logs/metrics.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_processes_than_cores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.devices=999 would start as many processes on \d+ cores"):
        in_processes("train", [], {"devices": 999, "accelerator": "cpu"}, lambda: 0, check=lambda: None)


@pytest.mark.parametrize("settings", [{"num_nodes": 0}, {"num_nodes": None}, {"devices": 2, "logger": True}])
def test_trainer_settings_are_checked_before_other_processes_are_started(settings: dict[str, Any]) -> None:
    trainer = {"accelerator": "cpu", **settings}
    check = partial(check_trainer, trainer)
    with pytest.raises(ValueError, match=r"trainer\.(num_nodes must be|logger cannot be)"):
        in_processes("train", [], trainer, lambda: pytest.fail("it ran"), check=check)


def test_a_command_in_one_process_checks_its_settings_itself() -> None:
    trainer = {"accelerator": "cpu"}
    assert in_processes("train", [], trainer, lambda: 7, check=lambda: pytest.fail("checked twice")) == 7

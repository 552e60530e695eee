"""Two processes at once, on one cache, in one run folder, in one sweep's folder."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests_shared import PLAIN, SHORT

from calib.commands.train import train
from calib.config import load_config
from calib.data import FeatureTable

ROOT = Path(__file__).parents[2]
QUICK = [
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "baselines=[]",
]

# A slow image tower: the encoding lasts, and the test decides when it goes on.
ENCODE = """
import logging, sys, time
from pathlib import Path
import torch
from calib.backbones import create_backbone
from calib.data import cache_features, load_data
from calib.data import encoding_parts
from calib.data.encode import _Looks
logging.basicConfig(format="%(message)s")
logging.getLogger("calib").setLevel("INFO")
images, cache, gate = sys.argv[1:]
encoding_parts.BATCHES_PER_PART = 2
original, encoded = _Looks.encode, []
def slow(self, start, stop):
    if encoded and gate != "open":
        Path(gate).touch()
        time.sleep(60)  # after the first part: until it is killed
    encoded.append(stop - start)
    return original(self, start, stop)
_Looks.encode = slow
torch.set_num_threads(1)
task = load_data("folder", images)
cache_features(create_backbone("embedded"), task.train, cache, batch_size=3)
print("encoded here:", sum(encoded))
"""


def started(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(condition, seconds: float = 90) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.mark.slow
def test_of_two_that_encode_one_waits_and_takes_over_from_a_killed_one(
    image_folder: Path, tmp_path: Path
) -> None:
    cache, gate = tmp_path / "cache", tmp_path / "gate"
    first = started(ENCODE, image_folder, cache, gate)
    until(gate.exists)
    second = started(ENCODE, image_folder, cache, "open")
    assert second.stdout is not None
    assert any("Another process is encoding these images" in line for line in second.stdout)
    assert second.poll() is None
    (parts,) = cache.glob("*.parts")
    (parts / ".000000006-000000012.safetensors.abc.part").write_text("what the first one had begun")
    first.send_signal(signal.SIGKILL)
    first.wait()
    said = second.communicate(timeout=90)[0]
    assert second.returncode == 0, said
    assert "encoded here: 12" in said  # of 18: the finished part of the killed one is used
    (file,) = cache.glob("*.safetensors")
    assert len(FeatureTable.load(file)) == 18
    assert not list(cache.rglob("*.part*"))
    third = started(ENCODE, image_folder, cache, "open")
    assert "encoded here: 0" in third.communicate(timeout=90)[0]


def both(command: list[str], where: Path, *own: list[str]) -> list[tuple[int, str]]:
    """Start a command twice at once, with settings of its own each; return status and words."""
    processes = [
        subprocess.Popen(
            [*command, *each], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for each in own
    ]
    words = [process.communicate(timeout=240)[0] for process in processes]
    return [(process.returncode, said) for process, said in zip(processes, words, strict=True)]


@pytest.mark.slow
def test_of_two_runs_in_one_folder_one_is_refused_and_nothing_is_mixed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SHORT, *PLAIN, "trainer.max_epochs=30", "out=run"]
    ended = both(command, tmp_path, ["optim.lr=0.002"], ["optim.lr=0.004"])
    assert sorted(status for status, _ in ended) == [0, 1], ended
    (refused,) = (said for status, said in ended if status == 1)
    busy = r"Another process is at work in the folder 'run'\. Wait for it, or give another folder"
    assert re.search(rf"calib train: ({busy}|The run folder 'run' belongs to another configuration)", refused)
    winner = ["0.002", "0.004"][[status for status, _ in ended].index(0)]
    assert f"lr: {winner}" in (tmp_path / "run" / "config.yaml").read_text()
    train(load_config([*command[2:-1], f"optim.lr={winner}", f"out={tmp_path / 'alone'}"], task="prompt"))
    for name in ("metrics.json", "logs/metrics.csv", "baselines/coop/metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.slow
def test_of_two_sweeps_in_one_folder_one_is_refused(tmp_path: Path) -> None:
    arguments = ["trainer.max_epochs=30", *SHORT[1:], *PLAIN, "seed=1,2", "out=s"]
    ended = both([sys.executable, "-m", "calib.cli", "sweep", *arguments], tmp_path, [], [])
    assert 0 in [status for status, _ in ended], ended
    for status, said in ended:
        if status:
            assert "calib sweep: Another process is at work in the folder 's'" in said
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        "seed-1",
        "seed-2",
        "table.md",
        "sweep.json",
        ".lock",
    }


def test_a_run_is_refused_at_once_where_another_is_at_work(tmp_path: Path, monkeypatch, capsys) -> None:
    from calib.cli import run
    from calib.runs.folder import RunFolder

    monkeypatch.setattr("calib.commands.train.prepare", None)  # nothing is encoded first
    monkeypatch.setattr("calib.commands.failure.run._data", None)
    monkeypatch.setattr("calib.commands.search.stacks.load_shared", None)
    folder = tmp_path / "run"
    with RunFolder(folder).locked():
        assert run("train", [*SHORT, f"out={folder}"]) == 1
        assert run("train", ["task=failure", *SHORT, f"out={folder}"]) == 1
        assert run("sweep", [*SHORT, "seed=1,2", f"out={folder}"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":", 1)[0] for line in errors] == ["calib train", "calib train", "calib sweep"]
    assert all(": Another process is at work in the folder " in line for line in errors), errors

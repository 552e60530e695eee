"""Fault injection: real runs are killed at random moments of their life, started again, and end the same.

`python -m pytest -m slow -n 0 -s tests/commands/test_kills.py` prints every kill and what the run was at.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import pytest
import torch
import yaml
from forked_jobs import Forked
from PIL import Image
from safetensors import safe_open
from tests_shared import SHORT

ROOT = Path(__file__).parents[2]
SEED = 5
SETTINGS = [*SHORT, "trainer.max_epochs=4", "data.batch_size=4", "out=run"]
KINDS = {".json", ".safetensors", ".csv", ".yaml", ".md", ".png"}
STOPPED = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGUSR1: (138, -10)}
TIMEOUT = 180


class Job(Protocol):
    """A process at work on a command."""

    pid: int

    def ended(self) -> bool:
        """Return whether it has."""

    def wait(self) -> int:
        """Return its exit status once it has ended."""


class CommandLine:
    """`python train.py` itself, imports and all."""

    def __init__(self, cwd: Path, arguments: list[str]) -> None:
        with (cwd / "log").open("a") as log:
            command = [sys.executable, str(ROOT / "train.py"), *arguments]
            self.process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
        self.pid = self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        return self.process.wait(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small pictures: three classes, 12 training and 4 test images each."""
    root, draw = tmp_path_factory.mktemp("pictures"), random.Random(1)
    for split in ("train", "test"):
        for label in range(3):
            (root / split / f"class_{label}").mkdir(parents=True)
            for number in range(12 if split == "train" else 4):
                colour = tuple(draw.randrange(256) for _ in range(3))
                image = Image.new("RGB", (40 + 10 * label, 40), colour)
                image.save(root / split / f"class_{label}" / f"{number}.png")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a run and its cache hold; what it was called while being written is part of it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("run", ".calib_cache")
        for path in sorted((folder / part).rglob("*"))
        if path.suffix in KINDS or path.suffix == ".part"
    }


def check_readable(folder: Path) -> None:
    """Check that every file that is there is whole; unfinished ones bear another name."""
    for path in (each for part in ("run", ".calib_cache") for each in (folder / part).rglob("*")):
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(path.read_text()), dict)
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.open()))
            assert {len(row) for row in rows} == {len(rows[0])}
            assert [row[0] for row in rows[1:]] == [str(epoch) for epoch in range(len(rows) - 1)]
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".md":
            assert path.read_text().endswith("\n")


def at_work_on(folder: Path) -> str:
    """Return what the killed process was doing, from what it said and wrote."""
    lines = [line for line in (folder / "log").read_text().splitlines() if line.startswith("INFO")]
    if not lines:
        return "start-up"
    curves = sorted((folder / "run").rglob("logs/metrics.csv"), key=lambda path: path.stat().st_mtime)
    epochs = len(curves[-1].read_text().splitlines()) - 1 if curves else 0
    trained = f"; {epochs} epochs in the newest curves" if curves else ""
    return lines[-1].removeprefix("INFO: ")[:60] + trained


def moments(count: int, draw: random.Random) -> list[float]:
    """Return random moments as shares of a life, one in each of `count` equal parts of it, shuffled."""
    result = [(number + draw.random()) / count for number in range(count)]
    draw.shuffle(result)
    return result


def injected(start, arguments: list[str], count: int, tmp_path: Path, seed: int) -> None:
    """Kill runs `count` times, each run until it is finished, and compare every finished one."""
    draw = random.Random(seed)
    whole = tmp_path / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert start(whole, arguments).wait() == 0, (whole / "log").read_text()
    life = time.monotonic() - began
    wanted = contents(whole)
    assert {"run/metrics.json", "run/prompt.safetensors", "run/logs/metrics.csv"} <= wanted.keys()
    assert {"run/bare/metrics.json", "run/bare/prompt.safetensors"} <= wanted.keys()  # calibrated by folds
    print(f"\nuninterrupted: {life:.1f} s")
    number, todo = 0, moments(count, draw)
    while todo:
        number += 1
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        todo, life = killed_until_it_ends(start, arguments, folder, todo, life, draw)
        again = contents(folder)
        names = again.keys() | wanted.keys()
        differing = sorted(name for name in names if again.get(name) != wanted.get(name))
        print(f"  {folder.name}: ended; {len(again)} files, {len(differing)} differ")
        assert differing == [], (folder / "log").read_text()


def killed_until_it_ends(
    start, arguments, folder: Path, todo: list[float], life: float, draw
) -> tuple[list[float], float]:
    """Kill one run again and again until it ends before it is killed; return the moments left, and a life.

    A new run that ends before it is killed lives no longer than that: the first one had a slow start.
    """
    for place, share in enumerate(todo):
        job, began = start(folder, arguments), time.monotonic()
        while not job.ended() and time.monotonic() - began < share * life:
            time.sleep(0.005)
        moment = time.monotonic() - began
        number = draw.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGUSR1])
        try:
            if job.ended():
                raise ProcessLookupError
            os.kill(job.pid, number)
        except ProcessLookupError:  # ended, and was waited for
            assert job.wait() == 0
            return todo[place:], life if place else moment
        status = job.wait()
        if status == 0:
            return todo[place:], life if place else moment
        assert status in STOPPED[number], (status, (folder / "log").read_text())
        check_readable(folder)
        print(f"  {folder.name}: {number.name} after {moment:4.1f} s, at: {at_work_on(folder)}")
        (folder / "log").write_text("")
    assert start(folder, arguments).wait() == 0, (folder / "log").read_text()
    return [], life


@pytest.mark.slow
def test_runs_on_packaged_features_survive_14_kills(zygote, tmp_path: Path) -> None:
    start = lambda folder, arguments: Forked(zygote, folder, ["train", *arguments])  # noqa: E731
    injected(start, SETTINGS, 14, tmp_path, SEED)


@pytest.mark.slow
def test_runs_that_encode_images_survive_11_kills(zygote, pictures: Path, tmp_path: Path) -> None:
    start = lambda folder, arguments: Forked(zygote, folder, ["train", *arguments])  # noqa: E731
    data = ["data.name=folder", f"data.root={pictures}", "data.views=1", "data.encode_batch_size=1"]
    data += ["data.val_shots=4"]
    injected(start, [*SETTINGS, *data], 11, tmp_path, SEED + 1)


@pytest.mark.slow
def test_the_command_line_survives_5_kills(tmp_path: Path) -> None:
    injected(CommandLine, SETTINGS, 5, tmp_path, SEED + 2)

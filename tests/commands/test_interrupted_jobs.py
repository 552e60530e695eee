"""Jobs on bad storage or killed at awkward moments: one line says why, the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests_shared import PLAIN, SHORT

import calib.runs.folder
import calib.runs.last_state
from calib.backbones import create_backbone
from calib.cli import run
from calib.commands.search.stacks import _write_run
from calib.config import PromptRun
from calib.data import cache_features, load_data
from calib.io.files import read_json
from calib.runs.evaluation_folder import EvaluationFolder
from calib.runs.folder import RunFolder

ALONE = [*SHORT, *PLAIN, "baselines=[]"]


def test_a_disk_that_fills_up_while_training_costs_one_epoch(
    runs, tmp_path: Path, monkeypatch, capsys
) -> None:
    fsync, saved = os.fsync, []

    def full(handle: int) -> None:
        if ".last.ckpt." in os.readlink(f"/proc/self/fd/{handle}"):
            saved.append(handle)
            if len(saved) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    folder = tmp_path / "run"
    monkeypatch.setattr("os.fsync", full)
    assert run("train", [*ALONE, f"out={folder}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "run/checkpoints/last.ckpt could not be written: No space left on device. Make room there" in error
    assert "The file that was there is untouched. Then the same command goes on" in error
    assert not list(folder.rglob("*.part"))
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert run("train", [*ALONE, f"out={folder}"]) == 0
    assert read_json(folder / "metrics.json") == read_json(runs[1] / "metrics.json")
    assert (folder / "logs" / "metrics.csv").read_bytes() == (runs[1] / "logs" / "metrics.csv").read_bytes()


def test_a_shared_cache_may_be_read_only(
    image_folder: Path, tiny: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    backbone, task = create_backbone(tiny.partition("=")[2]), load_data("folder", str(image_folder))
    wanted = cache_features(backbone, task.test, tmp_path / "cache")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("os.utime", "tempfile.mkstemp", "os.mkdir"):
        monkeypatch.setattr(name, refuse)
    found = cache_features(backbone, task.test, tmp_path / "cache")
    assert torch.equal(found.image_features, wanted.image_features)
    data = [tiny, "data.name=folder", f"data.root={image_folder}", f"data.cache_dir={tmp_path / 'other'}"]
    shots = ["data.shots=3", "data.val_shots=0", "data.views=0", f"out={tmp_path / 'run'}"]
    assert run("train", [*ALONE, *data, *shots]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'other'}" in error
    assert "could not be written: Read-only file system. Choose a folder that you may write to." in error
    assert "data.cache_dir=FOLDER" in error


def test_folders_of_processes_killed_in_their_first_moments_are_free(tmp_path: Path) -> None:
    for name in (".lock", ".config.yaml.x1.part", ".evaluation.yaml.x2.part"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path).check(PromptRun())
    EvaluationFolder(tmp_path)
    with RunFolder(tmp_path).locked():
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_parts_of_baselines_are_cleared_and_those_of_other_runs_within_are_not(tmp_path: Path) -> None:
    names = ("baselines/coop/.metrics.json.x.part", "checkpoints/.last.ckpt.x.part", "seed-1/.a.json.x.part")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path).locked():
        assert [name for name in names if (tmp_path / name).exists()] == [names[2]]


def test_an_overwriting_that_was_killed_in_the_middle_is_gone_on_with(tmp_path: Path, monkeypatch) -> None:
    """Once config.yaml was removed first: the next start found the old checkpoint and went on from it."""
    folder = RunFolder(tmp_path / "run")
    folder.claim(PromptRun(), {"digest": "d"})
    folder.checkpoint.parent.mkdir()
    for path in (folder.checkpoint, folder.metrics, folder.prompt):
        path.write_text("old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calib.runs.folder.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.claim(PromptRun(seed=2, overwrite=True), {"digest": "e"})
    assert folder.checkpoint.exists()
    assert not folder.finished
    folder.claim(PromptRun(seed=2, overwrite=True), {"digest": "e"})
    assert not folder.checkpoint.exists()


def test_a_run_killed_before_its_table_gets_it(runs, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    for name in ("table.md", "reliability.png"):
        (folder / name).unlink()
    assert run("train", [*SHORT, *PLAIN, f"out={folder}"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert (folder / "table.md").read_text() == (runs[1] / "table.md").read_text()
    assert (folder / "reliability.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_sweep_killed_between_two_runs_of_a_stack_writes_the_rest_from_the_same_stack(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    """Once the rest was trained anew in a smaller stack, and differed in the last bits."""
    written = []

    def killed_at_the_third(run, *rest) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(run.point.name)
        _write_run(run, *rest)

    arguments = [*SHORT, "preset=coop,calibprompt", "seed=1,2", "stack=20"]  # with the prompts of their folds
    assert run("sweep", [*arguments, f"out={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("calib.commands.search.stacks._write_run", killed_at_the_third)
        assert run("sweep", [*arguments, f"out={tmp_path / 'cut'}"]) == 130
    assert len(list((tmp_path / "cut").glob("*/metrics.json"))) == 2
    # The same points with other settings are another stack, and do not go on from this one's state.
    assert run("sweep", [*arguments, "optim.momentum=0.5", f"out={tmp_path / 'cut'}"]) == 1
    with caplog.at_level("INFO", logger="calib"):
        assert run("sweep", [*arguments, f"out={tmp_path / 'cut'}"]) == 0
    assert "Going on after epoch 3" in caplog.text
    for name in ("preset-calibprompt_seed-2", "preset-coop_seed-1"):
        whole, cut = (tmp_path / folder / name for folder in ("whole", "cut"))
        for file in ("predictions.safetensors", "metrics.json", "bare/predictions.safetensors"):
            assert (whole / file).read_bytes() == (cut / file).read_bytes()
    assert not list((tmp_path / "cut").glob(".stack-*"))


def test_a_run_whose_folder_is_emptied_stops(runs, tmp_path: Path, monkeypatch, capsys) -> None:
    """As by `rm -r` that meets a file written meanwhile: the folder itself stays."""
    write, folder = calib.runs.last_state.write_curves, tmp_path / "run"

    def empty(path: Path, rows, **more) -> None:
        write(path, rows, **more)
        if len(rows) == 2:
            for each in folder.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(calib.runs.last_state, "write_curves", empty)
        assert run("train", [*ALONE, f"out={folder}"]) == 1
    assert "run' was emptied while this process worked in it" in capsys.readouterr().err
    assert run("train", [*ALONE, f"out={folder}"]) == 0


@pytest.mark.parametrize("how", ["rename", "remove"])
def test_a_run_whose_folder_is_renamed_or_removed_stops_and_makes_nothing(
    runs, tmp_path: Path, monkeypatch, capsys, caplog, how: str
) -> None:
    write = calib.runs.last_state.write_curves
    folder, other = tmp_path / "run", tmp_path / "other"

    def move(path: Path, rows, **more) -> None:
        write(path, rows, **more)
        if len(rows) == 2:
            folder.rename(other)
            if how == "remove":
                shutil.rmtree(other)

    with monkeypatch.context() as patch:
        patch.setattr(calib.runs.last_state, "write_curves", move)
        assert run("train", [*ALONE, f"out={folder}"]) == 1
    assert "run' was renamed or removed while this process worked in it" in capsys.readouterr().err
    assert not folder.exists()
    place = other if how == "rename" else folder
    assert run("train", [*ALONE, f"out={place}"]) == 0
    assert ("Going on after epoch" in caplog.text) == (how == "rename")
    ours, theirs = (load_file(each / "prompt.safetensors")["context"] for each in (place, runs[1]))
    assert torch.equal(ours, theirs)

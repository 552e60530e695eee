"""A file says whose it is: one of another run is refused by name, one of an older version is read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_shared import SHORT

from calib.commands.predict import predict
from calib.commands.train import train
from calib.config import EvaluateRun, PromptRun, load_config
from calib.io.files import read_json, write_json
from calib.io.tensors import load_tensors, mark_of, save_tensors
from calib.prompts.export import Prompt
from calib.runs.entries import find_entries
from calib.runs.exports import load
from calib.runs.folder import RunFolder
from calib.runs.last_state import MARK_KEY, read_checkpoint
from calib.runs.marks import ForeignFileError, mark_in, run_mark
from calib.runs.trainer import resume_point

RECORD = {"train": ["a", "b"], "digest": "d", "test": {"n": 3}}


def copied(runs: dict[int, Path], to: Path) -> RunFolder:
    """Return a copy of the finished run of seed 1."""
    shutil.copytree(runs[1], to)
    return RunFolder(to)


def again(settings: Any, folder: RunFolder) -> dict[str, Any]:
    return train(settings("seed=1", f"out={folder.path}"))


def test_a_mark_is_that_of_settings_and_images_and_of_nothing_else() -> None:
    mark = run_mark(PromptRun(), RECORD)
    free = replace(
        PromptRun(), out="x", overwrite=True, baselines=[], trainer={"max_epochs": 50, "devices": 2}
    )
    assert run_mark(free, {**RECORD, "train_names": ["x.png"], "run": "y"}) == mark
    moved = replace(PromptRun(), data=replace(PromptRun().data, root="/elsewhere"))
    assert run_mark(moved, RECORD) == mark  # which images there are, the record says
    others = [
        run_mark(replace(PromptRun(), seed=2), RECORD),
        run_mark(replace(PromptRun(), preset="coop"), RECORD),
        run_mark(replace(PromptRun(), n_bins=15), RECORD),
        run_mark(PromptRun(), RECORD | {"digest": "e"}),
        run_mark(PromptRun(), RECORD | {"test": {"n": 4}}),
    ]
    assert len({mark, *others}) == 6


def test_every_file_of_a_run_has_its_mark_and_a_renamed_run_stays_itself(
    runs: dict[int, Path], tmp_path: Path, settings: Any
) -> None:
    folder = copied(runs, tmp_path / "renamed")
    mark = folder.mark
    assert mark
    assert mark == mark_of(folder.prompt) == mark_of(folder.predictions)
    assert mark == read_json(folder.metrics)["run"] == read_checkpoint(folder.checkpoint)[MARK_KEY]
    assert mark == mark_of(folder.baseline("zero-shot").prompt) == folder.baseline("zero-shot").mark
    assert mark_of(folder.baseline("coop").prompt) == folder.baseline("coop").mark not in (mark, None)
    assert mark != mark_in(runs[2] / "split.json")
    assert "run" not in folder.results()
    assert again(settings, folder)["reused"]


def test_a_table_of_another_run_is_said_to_be_one_and_left_as_it_is(
    runs: dict[int, Path], tmp_path: Path, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is for people, and has no mark; once nothing was said."""
    folder = copied(runs, tmp_path / "run")
    assert again(settings, folder)["reused"]
    assert "results give" not in caplog.text
    shutil.copy(runs[2] / "table.md", folder.table)
    assert again(settings, folder)["reused"]
    assert f"{folder.table} is not what this run's results give" in caplog.text
    assert folder.table.read_bytes() == (runs[2] / "table.md").read_bytes()
    folder.table.unlink()
    again(settings, folder)
    assert folder.table.read_bytes() == (runs[1] / "table.md").read_bytes()


@pytest.mark.parametrize("beside", ["", "baselines/coop", "baselines/zero-shot"])
@pytest.mark.parametrize("name", ["metrics.json", "prompt.safetensors", "predictions.safetensors"])
def test_a_finished_run_with_a_file_of_another_is_not_shown(
    runs: dict[int, Path], tmp_path: Path, settings: Any, name: str, beside: str
) -> None:
    folder = copied(runs, tmp_path / "run")
    shutil.copy(runs[2] / beside / name, folder.path / beside / name)
    with pytest.raises(ForeignFileError, match=rf"{name} belongs to another run than its folder.*delete it"):
        again(settings, folder)
    with pytest.raises(ForeignFileError, match=rf"{name} belongs to another run"):
        find_entries(EvaluateRun(runs=[str(folder.path)]))


@pytest.mark.parametrize("name", ["metrics.json", "prompt.safetensors", "predictions.safetensors"])
def test_a_file_of_another_run_beside_a_calibrated_prompt_is_not_shown(
    calibrated: Path, runs: dict[int, Path], tmp_path: Path, name: str
) -> None:
    folder = RunFolder(shutil.copytree(calibrated, tmp_path / "run"))
    marks = {mark_of(each.prompt) for each in (folder, folder.bare_run)}
    assert marks == {folder.mark, folder.bare_run.mark, mark_of(folder.bare_run.predictions)}
    assert len(marks) == 1
    shutil.copy(runs[2] / name, folder.bare / name)
    with pytest.raises(ForeignFileError, match=rf"bare/{name} belongs to another run than its folder"):
        train(load_config([*SHORT, f"out={folder.path}"], task="prompt"))
    with pytest.raises(ForeignFileError, match=rf"bare/{name} belongs to another run"):
        find_entries(EvaluateRun(runs=[str(folder.path)]))


def test_the_files_of_a_baseline_are_not_those_of_the_run_it_stands_beside(
    runs: dict[int, Path], tmp_path: Path, settings: Any
) -> None:
    folder = copied(runs, tmp_path / "run")
    shutil.copy(folder.baseline("coop").metrics, folder.metrics)
    with pytest.raises(ForeignFileError, match=r"run/metrics\.json belongs to another run"):
        again(settings, folder)


def test_predict_and_load_refuse_a_prompt_of_another_run(runs: dict[int, Path], tmp_path: Path) -> None:
    folder = copied(runs, tmp_path / "run")
    shutil.copy(runs[2] / "prompt.safetensors", folder.prompt)
    for use in (load, lambda path: predict(path, [])):
        with pytest.raises(ForeignFileError, match=r"prompt\.safetensors belongs to another run"):
            use(folder.path)
    assert isinstance(load(folder.prompt), Prompt)  # named alone, it is what it is


def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    runs: dict[int, Path], tmp_path: Path, settings: Any
) -> None:
    folder = copied(runs, tmp_path / "run")
    folder.metrics.unlink()
    own = folder.checkpoint.read_bytes()
    for other in (runs[2], runs[1] / "baselines" / "coop"):
        shutil.copy(other / "checkpoints" / "last.ckpt", folder.checkpoint)
        with pytest.raises(
            ForeignFileError, match=r"last\.ckpt belongs to another run.*or delete it to train"
        ):
            again(settings, folder)
    folder.checkpoint.write_bytes(own)
    assert resume_point(folder) == str(folder.checkpoint)
    nobody = {key: value for key, value in torch.load(folder.checkpoint).items() if key != MARK_KEY}
    torch.save(nobody, folder.checkpoint)
    assert resume_point(folder) == str(folder.checkpoint)  # of a version that knew no marks


def test_a_split_of_another_run_with_the_same_images_is_refused(
    runs: dict[int, Path], tmp_path: Path, settings: Any
) -> None:
    folder = copied(runs, tmp_path / "run")
    shutil.copy(folder.baseline("coop").split, folder.split)
    with pytest.raises(ForeignFileError, match=r"split\.json belongs to another run than the folder"):
        again(settings, folder)
    with pytest.raises(ForeignFileError, match=r"prompt\.safetensors belongs to another run"):
        find_entries(EvaluateRun(runs=[str(folder.path)]))


def test_a_run_of_a_version_without_marks_is_shown_and_gone_on_with(
    runs: dict[int, Path], tmp_path: Path, settings: Any
) -> None:
    folder = copied(runs, tmp_path / "run")
    for path in folder.path.rglob("*.json"):
        if path.name in ("metrics.json", "split.json"):
            write_json(path, {key: value for key, value in read_json(path).items() if key != "run"})
    for path in folder.path.rglob("*.safetensors"):
        kind = "prompt" if path.name.startswith("prompt") else "predictions"
        tensors, record = load_tensors(path, kind=kind)
        save_tensors(path, tensors, {key: value for key, value in record.items() if key != "run"})
    assert folder.mark == ""
    assert again(settings, folder)["reused"]
    assert len(find_entries(EvaluateRun(runs=[str(folder.path)]))) == 3
    shutil.copy(runs[1] / "prompt.safetensors", folder.prompt)  # a version with marks has not been here
    with pytest.raises(ForeignFileError, match=r"that in split\.json is missing"):
        find_entries(EvaluateRun(runs=[str(folder.path)]))


def test_a_mark_made_with_other_settings_and_defaults_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(PromptRun(), RECORD)
    mark = run_mark(PromptRun(), RECORD)
    assert folder.mark == mark
    older = f"{'0' * 8}-{'1' * 24}"
    write_json(folder.split, {**RECORD, "run": older})
    folder.check(PromptRun())
    folder.claim(PromptRun(), RECORD)
    assert folder.mark == older
    write_json(folder.split, {**RECORD, "run": mark[:-1] + ("0" if mark[-1] != "0" else "1")})
    with pytest.raises(ForeignFileError, match=r"split\.json belongs to another run"):
        folder.check(PromptRun())

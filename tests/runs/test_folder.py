from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calib.config import DataConfig, PromptRun
from calib.io.files import write_json
from calib.runs.folder import RunFolder
from calib.runs.identity import describe_differences
from calib.runs.marks import BACKBONE

SPLIT = {"train": ["a"], "digest": "d"}


def claimed(path: Path, config: PromptRun) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, SPLIT)
    return folder


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "run", PromptRun())
    other = PromptRun(data=DataConfig(shots=16), loss={"smac": {"alpha": 0.2}})
    with pytest.raises(ValueError, match=r"another configuration: data.shots is 8 there and 16 here; loss"):
        folder.check(other)
    assert folder.split.is_file()


def test_the_same_configuration_goes_on_unless_told_otherwise(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "run", PromptRun())
    folder.check(PromptRun(out="elsewhere", log=PromptRun().log, baselines=["coop", "ls"]))
    with pytest.raises(ValueError, match=r"an unfinished run.*resume=true.*overwrite=true"):
        folder.check(PromptRun(resume=False))
    folder.metrics.write_text("{}")
    folder.prompt.write_text("")
    with pytest.raises(ValueError, match="a finished run"):
        folder.check(PromptRun(resume=False))


def test_settings_that_do_not_matter_for_the_result_are_free() -> None:
    base = PromptRun()
    free = replace(base, out="x", overwrite=True, data=replace(base.data, cache_dir="y", encode_batch_size=4))
    assert describe_differences(base, free) == []
    assert describe_differences(base, replace(base, trainer={"max_epochs": 9})) == [
        "trainer.max_epochs is 50 there and 9 here"
    ]


def test_folders_that_are_not_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds files but no run"):
        RunFolder(tmp_path).check(PromptRun())
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(file).check(PromptRun())


def test_overwrite_removes_the_old_run_and_nothing_else(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "run", PromptRun())
    folder.checkpoint.parent.mkdir()
    folder.checkpoint.write_text("old")
    folder.metrics.write_text("{}")
    notes = folder.path / "notes.txt"
    notes.write_text("mine")
    config = PromptRun(seed=2, overwrite=True)
    folder.check(config)
    folder.claim(config, SPLIT)
    assert notes.read_text() == "mine"
    assert not folder.checkpoint.exists()
    assert not folder.finished


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "run", PromptRun())
    with pytest.raises(ValueError, match=r"data have changed.*train"):
        folder.claim(PromptRun(), {"train": ["b"], "digest": "d"})


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file/run' cannot be made: '.*file' is a file. Give another"):
        RunFolder(tmp_path / "file" / "run").check(PromptRun())
    with pytest.raises(OSError, match=r"file/run/config.yaml could not be written.*A file stands where"):
        RunFolder(tmp_path / "file" / "run").claim(PromptRun(), SPLIT)


def test_a_renamed_image_is_the_same_image(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(PromptRun(), {**SPLIT, "train_names": ["scan.png"]})
    folder.check_data({**SPLIT, "train_names": ["renamed.png"]})
    folder.check_data(SPLIT)
    with pytest.raises(ValueError, match=r"differs in: train\)"):
        folder.check_data({**SPLIT, "train": ["b"], "train_names": ["scan.png"]})


def test_other_weights_are_noticed(tmp_path: Path) -> None:
    """A run whose file of weights was replaced meanwhile went on with a context of the former ones."""
    folder = claimed(tmp_path / "run", PromptRun())
    mark = folder.mark
    folder.claim(PromptRun(), {**SPLIT, BACKBONE: "a"})  # one of an older version goes on
    assert folder.mark == mark
    folder.check_data(SPLIT)
    with pytest.raises(ValueError, match=r"weights of the backbone have changed since .*run' began"):
        folder.claim(PromptRun(), {**SPLIT, BACKBONE: "b"})


def test_metrics_changed_after_the_run_are_not_shown(tmp_path: Path) -> None:
    folder = claimed(tmp_path / "run", PromptRun())
    write_json(folder.metrics, {"method": "coop", "test": {"ece": 0.0625}})
    assert folder.results() == {"method": "coop", "test": {"ece": 0.0625}}
    folder.metrics.write_text(folder.metrics.read_text().replace("0.0625", "0.0125"))
    with pytest.raises(ValueError, match=r"metrics\.json was damaged or changed after it was written"):
        folder.results()

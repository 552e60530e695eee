"""Opening a job's folders: nothing is written before the claim, and what may not be used is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calib.config import PromptRun
from calib.io.files import write_json
from calib.runs.folder import FILES, RunFolder
from calib.runs.opening import opened

RECORD = {"train": ["a"], "digest": "d"}
CONFIG = PromptRun()
BESIDE = {"zero-shot": None, "coop": replace(CONFIG, preset="coop", baselines=[])}


def finish(folder: RunFolder) -> None:
    write_json(folder.metrics, {"method": "m", "test": {}})
    folder.prompt.write_text("")


def train(folder: RunFolder, config: PromptRun = CONFIG) -> list[tuple[str, str]]:
    """Return preset and folder of what a job would train, in order, and finish it."""
    trained = []
    with opened(config, folder, {**BESIDE, "coop": replace(config, preset="coop", baselines=[])}) as job:
        if not job.finished:
            job.claim(RECORD)
            finish(folder.baseline("zero-shot"))
            for run, run_folder in job.turns():
                assert run_folder.config.is_file()
                assert not run.overwrite
                finish(run_folder)
                trained.append((run.preset, run_folder.path.name))
    return trained


def test_opening_writes_nothing_and_the_claim_locks_until_the_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with opened(CONFIG, folder, BESIDE) as job:
        assert not job.finished
        assert not folder.path.exists()
        job.claim(RECORD)
        assert {path.name for path in folder.path.iterdir()} == {
            FILES[key].path for key in ("config", "split", "lock")
        }
        with pytest.raises(ValueError, match="Another process is at work"), opened(CONFIG, folder):
            pass
    folder.refuse_if_busy()  # it is not


def test_each_run_has_its_turn_and_the_finished_ones_have_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(folder) == [("coop", "coop"), ("calibprompt", "run")]
    assert train(folder) == []
    folder.baseline("coop").metrics.unlink()
    assert train(folder) == [("coop", "coop")]
    folder.baseline("zero-shot").prompt.unlink()
    assert train(folder) == []  # its results are written anew, and no run is trained
    assert folder.baseline("zero-shot").finished
    assert train(folder, replace(CONFIG, overwrite=True)) == [("coop", "coop"), ("calibprompt", "run")]


def test_a_prompt_is_no_failure_head(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(folder)
    folder.prompt.rename(folder.failure)
    assert folder.finished
    with opened(CONFIG, folder, BESIDE) as job:
        assert not job.finished


def test_another_run_begun_meanwhile_is_refused_at_the_claim(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with opened(CONFIG, folder, BESIDE) as job:
        folder.claim(replace(CONFIG, seed=2), RECORD)
        with pytest.raises(ValueError, match="another configuration: seed is 2 there and 1 here"):
            job.claim(RECORD)


def test_baselines_on_other_images_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(folder)
    for path in (folder.metrics, folder.prompt, folder.split):
        path.unlink()
    folder.claim(CONFIG, {**RECORD, "digest": "e"})
    with opened(CONFIG, folder, BESIDE) as job, pytest.raises(ValueError, match="differs in: digest"):
        job.claim(RECORD)

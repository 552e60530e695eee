"""`calib tune` for real: three epochs per trial, an interruption wherever one can be, several workers."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked_jobs import Forked
from optuna.trial import Trial, TrialState
from tests_shared import PLAIN, SHORT

from calib.cli import main
from calib.commands.search import tune as job
from calib.commands.search.space import Search, search_of
from calib.commands.search.study import Study
from calib.commands.search.tune import tune
from calib.config import load_config
from calib.io.files import read_json, write_json
from calib.prompts.stack import PromptStackModule
from calib.runs.marks import ForeignFileError

SPACE = [*SHORT, *PLAIN, "optim.lr=1e-4..1e-2:log", "preset=coop,calibprompt", "seed=1,2"]


def search_in(folder: Path, arguments: Sequence[str] = SPACE, **own: Any) -> Search:
    words = {"out": folder, "trials": 4, **own}
    return search_of([*arguments, *(f"{key}={value}" for key, value in words.items())])


def outcome(folder: Path) -> list[tuple]:
    """Return what the trials of a search came to, in a form that can be compared."""
    trials = read_json(folder / "tune.json")["trials"]
    return [(t["trial"], t["state"], round(t["value"], 5), t["changes"]) for t in trials]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("tune") / "t"
    return folder, tune(search_in(folder))


def test_it_leaves_runs_a_table_the_best_and_how_to_train_it(tuned) -> None:
    folder, found = tuned
    assert (found["finished"], found["stopped"], found["unfinished"]) == (4, 0, 0)
    names = {path.name for path in folder.iterdir()} - {".lock", ".locks"}
    assert names == {
        "search.json",
        "study.db",
        "table.md",
        "tune.json",
        *(f"trial-00{n}_seed-{s}" for n in range(4) for s in (1, 2)),
    }
    means = []
    for number, _, value, changes in outcome(folder):
        places = [folder / f"trial-00{number}_seed-{seed}" for seed in (1, 2)]
        configs = [load_config([str(place / "config.yaml")], task="prompt") for place in places]
        assert [config.seed for config in configs] == [1, 2]
        assert {config.optim.lr for config in configs} == {float(changes["optim.lr"])}
        validated = [read_json(place / "metrics.json")["val"]["nll"] for place in places]
        assert value == pytest.approx(sum(validated) / 2, abs=1e-5)
        means.append(value)
    best = found["best"]
    assert best["trial"] == means.index(min(means))
    assert found["table"].splitlines()[2].startswith(f"| trial={best['trial']} ")
    words = shlex.split(best["command"])
    assert words[:2] == ["calib", "train"]
    config = load_config(words[2:], task="prompt")
    assert (config.optim.lr, config.preset) == (
        float(best["changes"]["optim.lr"]),
        best["changes"]["preset"],
    )
    assert config.trainer["max_epochs"] == 3


def test_the_trials_differ_and_lie_within_the_bounds(tuned) -> None:
    rates = [float(changes["optim.lr"]) for *_, changes in outcome(tuned[0])]
    assert len(set(rates)) == 4
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_test_metrics_decide_nothing(tuned) -> None:
    folder, found = tuned
    kept = {path: path.read_bytes() for path in folder.glob("trial-*/metrics.json")}
    for number, path in enumerate(sorted(kept)):
        written = read_json(path)
        written["test"] = {**written["test"], "nll": 0.01 * number, "accuracy": 1.0, "ece": 0.0}
        write_json(path, written)
    again = tune(search_in(folder))
    for path, data in kept.items():
        path.write_bytes(data)
    assert again["best"] == found["best"]
    assert again["table"] != found["table"]
    assert len(kept) == 8


@pytest.mark.slow
def test_the_same_command_goes_on_and_more_trials_may_follow(tuned, monkeypatch) -> None:
    folder, found = tuned
    before = outcome(folder)
    monkeypatch.setattr(job, "train_stack", lambda *args: pytest.fail("nothing is left to train"))
    assert tune(search_in(folder)) == found
    monkeypatch.undo()
    assert tune(search_in(folder, trials=5))["finished"] == 5
    assert outcome(folder)[:4] == before


@pytest.mark.slow
def test_an_interrupted_search_continues_as_if_nothing_had_happened(
    tuned, tmp_path, monkeypatch, caplog
) -> None:
    original, epochs = PromptStackModule.on_train_epoch_start, []

    def stopped(self) -> None:
        epochs.append(self.current_epoch)
        if len(epochs) == 6:  # in the last epoch of the second trial
            raise RuntimeError("power cut")
        original(self)

    folder = tmp_path / "t"
    monkeypatch.setattr(PromptStackModule, "on_train_epoch_start", stopped)
    with pytest.raises(RuntimeError, match="power cut"):
        tune(search_in(folder))
    monkeypatch.undo()
    with caplog.at_level("INFO", logger="calib"):
        assert tune(search_in(folder))["finished"] == 4
    assert "Trial 1 was interrupted and is taken up" in caplog.text
    assert "Going on after epoch 2" in caplog.text
    assert outcome(folder) == outcome(tuned[0])[:4]
    assert not list(folder.glob(".trial-*"))


@pytest.mark.slow
def test_a_trial_that_was_trained_and_not_told_is_not_trained_again(tuned, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "t"
    monkeypatch.setattr(Study, "tell", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        tune(search_in(folder, trials=1))
    monkeypatch.undo()
    monkeypatch.setattr(job, "train_stack", lambda *args: pytest.fail("trained already"))
    assert tune(search_in(folder, trials=1))["finished"] == 1
    assert outcome(folder) == outcome(tuned[0])[:1]


def test_a_process_killed_between_two_draws_of_a_trial_changes_none(tmp_path: Path, monkeypatch) -> None:
    def drawn(folder: Path) -> dict[str, str]:
        folder.mkdir(exist_ok=True)
        with Study(folder, search_in(folder), epochs=3).next() as claimed:
            assert claimed is not None
            return claimed.changes

    def killed(*args) -> None:
        raise KeyboardInterrupt

    whole = drawn(tmp_path / "whole")
    monkeypatch.setattr(Trial, "suggest_categorical", killed)
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "killed")
    monkeypatch.undo()
    left = Study(tmp_path / "killed", search_in(tmp_path / "killed"), epochs=3).trials()
    assert [list(trial.params) for trial in left] == [["optim.lr"]]
    assert drawn(tmp_path / "killed") == whole


@pytest.mark.slow
def test_a_trial_whose_loss_is_not_finite_is_stopped_and_no_setting_is_trained_twice(
    tmp_path: Path, caplog
) -> None:
    folder = tmp_path / "t"
    rates = ["optim.lr=0.001,0.002,0.003,1e38", "optim.warmup_epochs=0", "trainer.max_epochs=4"]
    space = [*SHORT[1:], *PLAIN, *rates]
    with caplog.at_level("INFO", logger="calib"):
        found = tune(search_in(folder, space, trials=12, prune=False))
    assert "Stopped: trial" in found["table"]
    assert "Training stopped in epoch" in found["table"]
    assert found["unfinished"] == 0
    for trial in read_json(folder / "tune.json")["trials"]:
        assert (trial["state"] == "complete") == (trial["changes"]["optim.lr"] != "1e38")
        fresh = trial["state"] == "complete" and "same_as" not in trial
        assert (folder / f"trial-{trial['trial']:03d}_seed-1").exists() == fresh
        assert not (folder / f".trial-{trial['trial']:03d}").exists()
    assert caplog.text.count("prompts side by side") <= 4  # the same settings are not trained twice


def all_images(tiny: str, image_folder: Path, tmp_path: Path, *changes: str) -> list[str]:
    data = [tiny, "data.name=folder", f"data.root={image_folder}", f"data.cache_dir={tmp_path / 'cache'}"]
    return [*SHORT, *data, PLAIN[0], "data.views=0", "data.at_most=true", *changes]


def test_without_an_image_left_for_validation_nothing_is_trained(
    image_folder: Path, tiny: str, tmp_path: Path
) -> None:
    space = all_images(tiny, image_folder, tmp_path, PLAIN[1], "data.shots=6", "optim.lr=0.001,0.01")
    with pytest.raises(ValueError, match=r"No image is left for validation, .* data\.shots=6 takes all"):
        tune(search_in(tmp_path / "t", space))
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_a_trial_without_an_image_left_for_validation_is_stopped(
    image_folder: Path, tiny: str, tmp_path: Path
) -> None:
    space = all_images(tiny, image_folder, tmp_path, "data.shots=5,6", "data.val_shots=1")
    found = tune(search_in(tmp_path / "t", space, trials=4, prune=False))
    assert found["unfinished"] == 0
    assert found["best"]["changes"] == {"data.shots": "5"}
    assert "No image is left for validation" in found["table"]


def test_the_median_stops_a_trial(tmp_path: Path) -> None:
    study = Study(tmp_path, search_in(tmp_path, ["optim.lr=1e-4..1e-2:log"], trials=9), epochs=8)
    for number in range(6):
        with study.next() as claimed:
            assert claimed is not None
            watch = job.Watch(claimed, "nll")
            for epoch in range(1, 5):
                value = 0.5 + 0.01 * number if number < 5 else 0.9
                prompts = [
                    SimpleNamespace(
                        failed=None, fold=False, curves=[{"epoch": epoch - 1, "val/nll": value + shift}]
                    )
                    for shift in (-0.3, 0.3)
                ]
                prompts.append(
                    SimpleNamespace(failed=None, fold=True, curves=[])
                )  # without validation images
                module = SimpleNamespace(prompts=prompts)
                if number == 5 and epoch == 3:  # the warm-up, a quarter of 8 epochs, is over
                    with pytest.raises(job.StoppedError, match=r"after epoch 2: val\. nll 0\.9000 is worse"):
                        watch.on_train_epoch_start(None, module)
                    break
                watch.on_train_epoch_start(None, module)
            study.tell(claimed, None if number == 5 else 0.5, why="worse" if number == 5 else None)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert study.trials()[0].intermediate_values == pytest.approx({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5})


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_each_worker_has_trials_of_its_own_and_takes_up_orphans(
    locks: bool, tmp_path: Path, monkeypatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no file locks here")

    if not locks:  # as on some cluster storage
        monkeypatch.setattr("fcntl.flock", missing)
    search = search_in(tmp_path, ["optim.lr=1e-4..1e-2:log"], trials=2)
    first, second = (Study(tmp_path, search, epochs=3) for _ in range(2))
    with first.next() as one, second.next() as other, first.next() as none:
        assert one is not None
        assert other is not None
        assert (one.number, other.number, none) == (0, 1, None)
        assert first.owned() == 2
        second.tell(other, 0.5)
        drawn = one.changes
    assert first.owned() == 0
    with second.next() as orphan:  # its owner let go of it without a word
        assert orphan is not None
        assert (orphan.number, orphan.changes) == (0, drawn)
        second.tell(orphan, 0.4)
    with first.next() as nothing:
        assert nothing is None
    assert [trial.value for trial in first.ended()] == [0.4, 0.5]


def test_other_folders_are_refused(tuned, runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"belongs to another search: optim.lr is '1e-4..1e-2:log' there"):
        tune(search_in(tuned[0], [one.replace("1e-2:log", "1e-1:log") for one in SPACE]))
    with pytest.raises(ValueError, match="holds files but no search"):
        tune(search_in(runs[1]))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        tune(search_in(tmp_path / "file" / "t"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.shots=8,500", "has 85 different images"),
        ("data.cache=false", "leave out data.cache=false"),
        ("loss.smac.alpa=0.1", "alpa"),
    ],
)
def test_what_no_trial_could_do_is_said_before_anything_is_written(change, message, tmp_path: Path) -> None:
    space = ["data.shots=500", *SPACE] if "500" in change else [*SPACE, change]
    with pytest.raises(ValueError, match=message):
        tune(search_in(tmp_path / "t", space))
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_values_that_do_not_go_together_stop_their_trial_only(tmp_path: Path) -> None:
    space = [*SHORT, *PLAIN, "data.shots=2,500", "optim.lr=0.001,0.002"]
    found = tune(search_in(tmp_path / "t", space, trials=5))
    assert found["stopped"] > 0
    assert found["finished"] + found["stopped"] == 5
    assert "has 85 different images" in found["table"]


def test_a_full_disk_is_no_bad_setting(tmp_path: Path, monkeypatch) -> None:
    def full(*args) -> None:
        raise ValueError("The run folder cannot be written: No space left on device.")

    folder = tmp_path / "t"
    monkeypatch.setattr(job, "train_stack", full)
    with pytest.raises(ValueError, match="No space left"):
        tune(search_in(folder, trials=1))
    assert Study(folder, search_in(folder), epochs=3).ended() == []


@pytest.mark.slow
def test_two_workers_share_one_study(tmp_path: Path, capfd) -> None:
    assert main(["tune", *SPACE, f"out={tmp_path / 't'}", "trials=6", "prune=false", "workers=2"]) == 0
    printed = capfd.readouterr()
    assert "6 trials finished, 0 stopped" in printed.out
    assert printed.err.count("prompts side by side") == 6
    assert "ended with status" not in printed.err
    assert [state for _, state, *_ in outcome(tmp_path / "t")] == ["complete"] * 6


@pytest.mark.slow
def test_a_search_killed_again_and_again_ends_like_one_left_alone(tuned, zygote, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    command = ["tune", *SPACE, f"out={folder}", "trials=4"]
    kills = 0
    for pause in (0.0, 0.3, 0.9, 0.1, 0.6):
        process = Forked(zygote, tmp_path, command)
        seen = len(list(folder.glob(".locks/*")))
        while not process.ended() and len(list(folder.glob(".locks/*"))) == seen:
            time.sleep(0.01)
        time.sleep(pause)
        if not process.ended():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 1
    assert Forked(zygote, tmp_path, command).wait() == 0
    assert "4 trials finished, 0 stopped" in (tmp_path / "log").read_text()
    assert outcome(folder) == outcome(tuned[0])[:4]


def test_a_trial_with_the_files_of_another_stops_the_search_and_is_no_bad_setting(tuned, tmp_path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(tuned[0], folder)
    shutil.copy(folder / "trial-001_seed-1" / "metrics.json", folder / "trial-000_seed-1" / "metrics.json")
    with pytest.raises(ForeignFileError, match=r"trial-000_seed-1/metrics\.json belongs to another run"):
        tune(search_in(folder))

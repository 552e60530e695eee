"""W&B offline for real: what its directory holds, and that nothing W&B does stops or changes a training."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import wandb
from run_facts import metric_names
from tests_shared import PLAIN, SHORT
from wandb.sdk.wandb_run import Run
from wandb_files import offline_runs

from calib.commands.failure.run import train_failure
from calib.commands.train import train
from calib.config import load_config
from calib.prompts.export import Prompt
from calib.runs.folder import RunFolder
from calib.runs.results import results_of
from calib.runs.wandb import STEP, WandbLogger

RELEASE = threading.Event()  # lets go of what hangs
METHODS = ("zero-shot", "coop", "calibprompt", "calibprompt calibrated")
MEDIA = {"results", "reliability", "risk_coverage"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    monkeypatch.setattr(WandbLogger, "failed", set())
    RELEASE.clear()
    before = set(threading.enumerate())
    yield
    RELEASE.set()
    for thread in set(threading.enumerate()) - before:  # what hung ends before the next test
        if thread.name == "wandb-logger":
            thread.join(5)


def settings(out: Path, *changes: str, task: str = "prompt"):
    plain = PLAIN if task == "prompt" else []
    return load_config([*SHORT, *plain, "log.wandb=offline", f"out={out}", *changes], task=task)


def names_in(run) -> set[str]:
    names = {name.partition(".")[0] for row in run.history for name in row}
    return names - {"_step", "_runtime", "_timestamp", STEP}


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with RunFolder(folder).curves.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_offline_run_holds_curves_settings_table_diagram_and_export(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hush-hush-4711")
    config = settings(tmp_path / "mine", "log.tags=[a,b]", "loss.smac.alpha=0.1", "calibrate.method=auto")
    train(config)
    (run,) = offline_runs(tmp_path / "mine")
    assert (run.project, run.name, run.exit_code) == ("calib", "mine", 0)
    assert run.run_id == (tmp_path / "mine" / "wandb" / "id.txt").read_text().strip()
    assert {"optim.lr": 0.002, "data.shots": 8, "loss.smac.alpha": 0.1}.items() <= run.config.items()
    logged = names_in(run)
    assert logged - MEDIA == metric_names(config)
    assert {"results", "reliability"} <= logged
    assert [row[STEP] for row in run.history if "train/total" in row] == [1, 3, 5]
    (export,) = [artifact for artifact in run.artifacts if artifact.type == "prompt"]
    files = {entry.path: Path(entry.local_path) for entry in export.manifest.contents}
    assert files.keys() == {"prompt.safetensors", "config.yaml"}
    assert files["prompt.safetensors"] == (tmp_path / "mine" / "prompt.safetensors").resolve()
    folder = next((tmp_path / "mine" / "wandb").glob("offline-run-*"))
    assert [path.suffix for path in folder.glob("files/media/images/*")] == [".png"]
    table = next(folder.glob("files/media/table/*.json")).read_text()
    assert all(f'"{method}"' in table for method in METHODS)
    assert "hush-hush" not in run.text
    assert all(b"hush-hush" not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    (baseline,) = offline_runs(tmp_path / "mine" / "baselines" / "coop")
    assert (baseline.name, baseline.exit_code) == ("mine/coop", 0)
    assert baseline.run_id != run.run_id


@pytest.mark.slow
def test_without_test_images_the_table_is_called_after_the_validation(
    image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "images" / "train")
    data = ["data.name=folder", f"data.root={tmp_path / 'images'}", "data.shots=2", "data.views=0"]
    data += [f"data.cache_dir={tmp_path / 'cache'}", "baselines=[]"]
    config = settings(tmp_path / "mine", *data)
    train(config)
    (run,) = offline_runs(tmp_path / "mine")
    expected = {name for name in metric_names(config) if not name.startswith("test/")}
    assert names_in(run) == expected | {"validation_results"}
    assert run.exit_code == 0
    folder = next((tmp_path / "mine" / "wandb").glob("offline-run-*"))
    table = next(folder.glob("files/media/table/*.json")).read_text()
    assert all(method in table for method in ("zero-shot", "calibprompt"))


@pytest.mark.slow
def test_the_csv_file_has_the_same_names_and_w_and_b_changes_nothing(runs, tmp_path: Path) -> None:
    config = settings(tmp_path / "r", "seed=1", "baselines=[]")
    train(config)
    columns = {name for row in csv_rows(tmp_path / "r") for name in row}
    assert columns - {"step"} == {name for name in metric_names(config) if not name.startswith("test/")}
    plain, logged = (Prompt.load(f / "prompt.safetensors") for f in (runs[1], tmp_path / "r"))
    assert torch.equal(plain.text_features, logged.text_features)


@pytest.mark.slow
def test_a_failure_run_logs_its_head_and_its_table(tmp_path: Path) -> None:
    config = settings(tmp_path / "f", "data.shots=16", "n_resamples=20", task="failure")
    train_failure(config)
    (run,) = offline_runs(tmp_path / "f")
    logged = names_in(run)
    assert {"train/bce", "val/auroc", "test/auroc", "test/aurc", "results", "risk_coverage"} <= logged
    assert logged - MEDIA <= metric_names(config)
    (export,) = [artifact for artifact in run.artifacts if artifact.type == "failure-head"]
    assert {"failure.safetensors", "config.yaml"} <= {entry.path for entry in export.manifest.contents}


def raising(*args, **kwargs) -> None:
    raise RuntimeError("500 from the server")


def hanging(*args, **kwargs) -> None:
    RELEASE.wait(60)


@pytest.mark.parametrize(
    ("owner", "name", "outage", "changes"),
    [
        (wandb, "init", raising, []),  # once in two trainings, too
        (Run, "log", raising, ["baselines=[]"]),
        (Run, "finish", hanging, ["baselines=[]"]),
    ],
)
def test_an_outage_is_said_once_and_changes_nothing(
    owner, name: str, outage, changes: list[str], runs, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("calib.runs.wandb.OFFLINE_SECONDS", 1)
    monkeypatch.setattr(owner, name, outage)
    results = train(settings(tmp_path / "r", "seed=1", *changes))
    assert caplog.text.count("W&B has failed") == 1
    assert "the curves are in" in caplog.text
    plain = Prompt.load(runs[1] / "prompt.safetensors")
    assert torch.equal(plain.text_features, Prompt.load(results["prompt"]).text_features)
    assert len(csv_rows(tmp_path / "r")) == len(csv_rows(runs[1]))
    assert (tmp_path / "r" / "reliability.png").is_file()


@pytest.mark.parametrize(
    ("owner", "name", "outage"),
    [
        (Run, "log_artifact", raising),
        (Run, "finish", raising),
        (wandb, "init", hanging),
        (wandb, "Image", lambda *args, **kwargs: sys.exit(3)),
        (wandb, "Settings", raising),
    ],
)
def test_every_call_may_fail(owner, name: str, outage, runs, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(owner, name, outage)
    folder = RunFolder(tmp_path / "r")
    logger = WandbLogger(settings(folder.path), folder, patience=0.5 if outage is hanging else 60)
    for step in (1, 3):
        logger.log_metrics({"train/total": 1.0 / step}, step)
    logger.log_results(lambda: results_of(RunFolder(runs[1])))
    logger.finish()
    logger.log_metrics({"test/nll": 0.5})
    logger.finish()
    assert caplog.text.count("W&B has failed") == 1
    assert outage is hanging or not logger._thread.is_alive()


def test_a_full_disk_under_w_and_b_is_said_once(tmp_path: Path, caplog) -> None:
    (tmp_path / "wandb").write_text("in the way")
    logger = WandbLogger(settings(tmp_path), RunFolder(tmp_path))
    for step in (1, 3):
        logger.log_metrics({"train/total": 1.0}, step)
    logger.finish()
    assert caplog.text.count("W&B has failed") == 1


@pytest.mark.slow
def test_online_without_a_key_goes_offline(tmp_path: Path, caplog) -> None:
    train(settings(tmp_path / "r", "log.wandb=online"))
    assert caplog.text.count("W&B cannot be used online (PermissionError: no API key") == 1
    for folder in (tmp_path / "r", tmp_path / "r" / "baselines" / "coop"):
        (run,) = offline_runs(folder)
        assert run.exit_code == 0


def test_online_is_asked_for_once_in_a_process_and_offline_takes_over(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    original, asked = wandb.init, []

    def init(**kwargs):
        asked.append((kwargs["mode"], kwargs["resume"], kwargs["id"]))
        if kwargs["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return original(**kwargs)

    monkeypatch.setattr("calib.runs.wandb._has_key", lambda wandb: True)
    monkeypatch.setattr(wandb, "init", init)
    ids = []
    for name in ("a", "b"):
        folder = RunFolder(tmp_path / name)
        logger = WandbLogger(settings(folder.path, "log.wandb=online"), folder)
        logger.log_metrics({"train/total": 1.0}, 1)
        logger.finish()
        ids += [run.run_id for run in offline_runs(folder.path)]
    assert asked == [("online", "allow", ids[0]), ("offline", None, ids[0]), ("offline", None, ids[1])]
    assert caplog.text.count("W&B cannot be used online (CommError: no route to host)") == 1
    assert "W&B has failed" not in caplog.text


def test_results_that_cannot_be_read_stop_nothing(tmp_path: Path, caplog) -> None:
    folder = RunFolder(tmp_path)
    logger = WandbLogger(settings(folder.path), folder)
    logger.log_metrics({"train/total": 1.0}, 1)
    logger.log_results(lambda: results_of(folder))
    logger.finish()
    assert caplog.text.count("W&B has failed") == 1


def test_a_killed_part_leaves_its_rows(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "wandb").mkdir()
    lines = [
        '{"train/total": 3.0, "trainer/global_step": 1}',
        '{"train/total": 2.0, "trainer/global_step": 3}',
    ]
    lines += [lines[1], '{"train/total": 1.0, "trainer/global_step": 5}', '{"train/tot']
    (tmp_path / "wandb" / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "wandb" / "id.txt").write_text("kept01\n")
    logger = WandbLogger(settings(folder.path), folder)
    logger.log_metrics({"train/total": 1.0}, 5)  # the checkpoint was one epoch behind the curve
    logger.finish()
    (run,) = offline_runs(tmp_path)
    assert run.run_id == "kept01"
    assert [(row[STEP], row["train/total"]) for row in run.history] == [(1, 3.0), (3, 2.0), (5, 1.0)]
    kept = (
        (tmp_path / "wandb" / "rows.jsonl").read_text().splitlines()
    )  # the last was appended to the cut one
    assert [json.loads(line)[STEP] for line in kept] == [1, 3, 5]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_id_and_its_curves(tmp_path: Path, monkeypatch) -> None:
    from calib.prompts.module import PromptTuningModule

    original = PromptTuningModule.on_train_epoch_start

    def stopped(self) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        original(self)

    config = settings(tmp_path / "r", "baselines=[]")
    monkeypatch.setattr(PromptTuningModule, "on_train_epoch_start", stopped)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config)
    monkeypatch.undo()
    train(config)
    first, second = offline_runs(tmp_path / "r")
    assert first.run_id == second.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    epochs = [row["epoch"] for row in second.history if "train/total" in row]
    assert epochs == [0, 1, 2]
    old = {row["epoch"]: row["train/total"] for row in first.history if "train/total" in row}
    new = {row["epoch"]: row["train/total"] for row in second.history if "train/total" in row}
    assert {epoch: pytest.approx(value) for epoch, value in old.items()} == {e: new[e] for e in (0, 1)}


@pytest.mark.slow
def test_the_run_of_an_agent_is_the_one_it_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "asked4")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    train(settings(tmp_path / "r"))
    assert [run.run_id for run in offline_runs(tmp_path / "r")] == ["asked4"]
    assert not (tmp_path / "r" / "baselines" / "coop" / "wandb").exists()


def test_disabled_by_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(settings(tmp_path / "r", "baselines=[]"))
    assert not (tmp_path / "r" / "wandb").exists()


SERVICE = """
def service():
    from wandb.sdk import wandb_setup
    return wandb_setup.singleton()._connection._proc._process
"""


def with_a_service_of_its_own(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that starts its own W&B service, not one that an earlier test left named."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGSTOP", "SIGKILL"])
def test_a_service_that_dies_or_freezes_keeps_no_process(name: str, tmp_path: Path) -> None:
    code = f"""{SERVICE}
import os, signal, sys, time
from calib.runs import wandb as wandb_logger
wandb_logger.OFFLINE_SECONDS = 4
log, calls = wandb_logger.WandbLogger.log_metrics, []
def watched(self, metrics, step=None):
    log(self, metrics, step)
    calls.append(step)
    if len(calls) == 3:
        time.sleep(3)
        service().send_signal(signal.{name})
wandb_logger.WandbLogger.log_metrics = watched
from calib.cli import run
sys.exit(run("train", {[*SHORT, *PLAIN, "log.wandb=offline", f"out={tmp_path / 'r'}"]}))
"""
    done = with_a_service_of_its_own(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B has failed") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "r" / "prompt.safetensors").is_file()


@pytest.mark.slow
def test_a_frozen_service_does_not_stop_the_training(tmp_path: Path) -> None:
    """What a logger of fewer lines would lose: `run.log` of wandb 0.31 waits for ever after 237 such rows."""
    code = f"""{SERVICE}
import signal, time
from calib.config import load_config
from calib.runs import wandb as wandb_logger
from calib.runs.folder import RunFolder
wandb_logger.OFFLINE_SECONDS = 4
config = load_config({[*SHORT, "log.wandb=offline"]}, task="prompt")
logger = wandb_logger.WandbLogger(config, RunFolder({str(tmp_path / "r")!r}))
row = {{f"train/{{number}}": 1.0 for number in range(20)}}
logger.log_metrics(row, step=0)
time.sleep(5)
service().send_signal(signal.SIGSTOP)
for step in range(1, 1000):
    logger.log_metrics(row, step=step)
logger.finish()
print("went on")
"""
    done = with_a_service_of_its_own(code)
    assert done.stdout == "went on\n", done.stderr
    assert done.returncode == 0
    assert done.stderr.count("W&B has failed") == 1

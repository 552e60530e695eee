"""W&B's sweep files: every parameter and bound is a setting of train.py, in the words that the agent uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from run_facts import metric_names
from sweep_agent import FILES, ROOT, arguments, bounds, load, points, run_agent
from tests_shared import SHORT
from wandb_files import offline_runs

from calib.commands.failure.run import loss_settings
from calib.config import load_config, task_of
from calib.losses import Objective, resolve_terms
from calib.metrics import FAILURE_METRICS, METRICS
from calib.runs.identity import run_name

MAXIMIZED = {
    f"val/{name}" for table in (METRICS, FAILURE_METRICS) for name in table if table[name].higher_is_better
}


def settings(path: Path, *changes: str):
    """Return the settings of a run as the sweep's command starts it."""
    command = load(path)["command"]
    fixed = [word for word in command[command.index("train") + 1 :] if not word.startswith("${")]
    config = load_config([*fixed, *changes], task=task_of(fixed))
    if config.task == "prompt":
        Objective(resolve_terms(config.preset, config.loss))
    else:
        loss_settings(config.loss)
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_parameter_and_bound_is_a_setting(path: Path) -> None:
    sweep = load(path)
    assert sweep["program"] == "calib"
    assert sweep["command"][:5] == ["${env}", "python", "-m", "calib", "train"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    for key, parameter in sweep["parameters"].items():
        for value in bounds(parameter):
            assert settings(path, *arguments({key: {"value": value}})) is not None
        if "distribution" in parameter:  # 1e-4 would be text: YAML wants 1.0e-4
            low, high = bounds(parameter)
            assert isinstance(low, int | float)
            assert low < high


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_metric_is_one_of_validation_that_runs_log(path: Path) -> None:
    metric = load(path)["metric"]
    assert metric["name"].startswith("val/")
    for args in points(load(path), 20):
        assert metric["name"] in metric_names(settings(path, *arguments(args)))
    assert (metric["goal"] == "maximize") == (metric["name"] in MAXIMIZED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_point_has_a_folder_of_its_own(path: Path) -> None:
    drawn = points(load(path), 6)
    assert len({run_name(settings(path, *arguments(args))) for args in drawn}) == len(drawn) == 6


def test_there_is_a_grid_and_a_search_for_prompts_and_one_for_failures() -> None:
    kinds = sorted((load(path)["method"], settings(path).task) for path in FILES)
    assert kinds == [("bayes", "failure"), ("bayes", "prompt"), ("grid", "prompt")]


def test_arguments_are_as_python_prints_them_and_are_read_as_meant() -> None:
    sent = {
        "optim.lr": {"value": 1e-05},
        "data.drop_last": {"value": True},
        "data.shots": {"value": None},
        "backbone.weights": {"value": None},
        "baselines": {"value": ["coop", "ls"]},
        "loss": {"value": {"smac": {"alpha": 0.1}}},
        "trainer": {"value": {"max_epochs": 3, "gradient_clip_val": None}},
        "data.template": {"value": 'an X-ray of {}, "frontal"'},
    }
    words = arguments(sent)
    assert words[:6] == [
        "optim.lr=1e-05",
        "data.drop_last=True",
        "data.shots=None",
        "backbone.weights=None",
        "baselines=['coop', 'ls']",
        "loss={'smac': {'alpha': 0.1}}",
    ]
    config = load_config(words, task="prompt")
    assert (config.optim.lr, config.data.drop_last, config.data.shots) == (1e-05, True, None)
    assert (config.backbone.weights, config.baselines) == (None, ["coop", "ls"])
    assert config.loss == {"smac": {"alpha": 0.1}}
    assert config.trainer == {"max_epochs": 3, "gradient_clip_val": None}
    assert config.data.template == 'an X-ray of {}, "frontal"'


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_agent_runs_calib_from_any_folder(path: Path, tmp_path: Path, monkeypatch) -> None:
    sweep = load(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    sweep["command"] = [*sweep["command"][:-1], *SHORT, sweep["command"][-1]]
    drawn = points(sweep, 2)[:2]  # of a grid there are more
    for number, args in enumerate(drawn):
        print(f"\n{sweep['program']} point {number + 1}:", *arguments(args))
        assert run_agent(sweep, args, f"point{number}") == 0
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == len(drawn)
    logged = {run.run_id: run for folder in folders for run in offline_runs(folder)}
    assert logged.keys() == {f"point{number}" for number in range(len(drawn))}
    for number, args in enumerate(drawn):
        run = logged[f"point{number}"]
        assert {key: one["value"] for key, one in args.items()}.items() <= run.config.items()
        assert any(sweep["metric"]["name"] in row for row in run.history)

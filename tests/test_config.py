from __future__ import annotations

from pathlib import Path

import pytest

from calib.config import EvaluateRun, PromptRun, load_config, to_yaml


def test_defaults_files_and_arguments_are_merged_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 5\ndata: {shots: 16, views: 3}\nloss: {smac: {alpha: 0.1}}\n")
    second.write_text("data: {shots: 32}\nloss: {smac: {weight: 2.0}}\n")
    config = load_config([str(first), str(second), "data.views=0", "out=here"], task="prompt")
    assert (config.seed, config.data.shots, config.data.views, config.out) == (5, 32, 0, "here")
    assert config.loss == {"smac": {"alpha": 0.1, "weight": 2.0}}
    assert config.optim == PromptRun().optim


def test_null_shots_means_all_images() -> None:
    assert load_config(["data.shots=null"], task="prompt").data.shots is None


def test_interpolation_is_resolved() -> None:
    config = load_config(["out=runs/${backbone.name}-${seed}", "seed=3"], task="prompt")
    assert config.out == "runs/embedded-3"


@pytest.mark.parametrize("config", [PromptRun(seed=4, loss={"as": {"weight": 0.5}}), EvaluateRun(runs=["a"])])
def test_settings_survive_yaml(tmp_path: Path, config: PromptRun | EvaluateRun) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config([str(path)], task=config.task) == config


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("backbone.nmae=plip", r"Unknown key 'backbone.nmae'. Did you mean 'backbone.name'\?"),
        ("sed=1", r"Unknown key 'sed'. Did you mean 'seed'\?"),
        ("data.shots=many", r"data.shots.*'many'.*Integer"),
        ("data=cxr3", r"write data.<key>=..., not 'cxr3'"),
        ("--seed=1", r"'seed=value' instead of '--seed=1'"),
        ("data.shots=0", r"data.shots must be at least 1, got 0"),
        ("data.val_shots=-1", r"data.val_shots must be at least 0"),
        ("optim.lr=0", r"optim.lr must be above 0"),
        ("optim.name=sdg", r"Unknown value of optim.name 'sdg'. Did you mean 'sgd'\?"),
        ("log.wandb=onlin", r"Did you mean 'online'\?"),
        ("prompt.class_position=back", r"Unknown value of prompt.class_position 'back'"),
        ("out=${nothing}", r"cannot be resolved.*nothing"),
        ("task=promt", r"Unknown task 'promt'. Did you mean 'prompt'\?"),
        ("task=evaluate", r"is for task 'evaluate', this command runs 'prompt'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config([argument], task="prompt")


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no settings file 'missing.yaml'"):
        load_config(["missing.yaml"], task="prompt")
    broken, listed = tmp_path / "broken.yaml", tmp_path / "list.yaml"
    broken.write_text("a: [1,\n")
    listed.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"broken.yaml is not valid YAML"):
        load_config([str(broken)], task="prompt")
    with pytest.raises(ValueError, match=r"list.yaml must hold keys and values"):
        load_config([str(listed)], task="prompt")

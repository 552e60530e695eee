"""The door, `import calib`: its names, that they cost nothing before use, and what is done with them."""

from __future__ import annotations

import inspect
import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests_shared import SHORT

import calib
from calib.backbones import BACKBONES
from calib.config import BackboneConfig, PromptRun, load_config
from calib.data.specs import DATASETS
from calib.prompts.stack import PromptStackModule

# Removing one of these needs an entry in the changelog.
NAMES = {
    *("create_backbone", "load_data", "encode", "zero_shot", "fit_prompt", "fit_failure_head"),
    *("load", "open_image", "report", "Prompt", "FailureHead", "Predictions"),
    *("losses", "metrics", "scores", "posthoc", "stats", "vqa", "robustness"),
}


def test_the_names_of_the_door() -> None:
    assert set(calib.__all__) == NAMES
    assert {*dir(calib)} == NAMES | {"__version__"}
    for name in NAMES:
        thing = getattr(calib, name)
        assert inspect.getdoc(thing), name
        assert inspect.ismodule(thing) or callable(thing)
    with pytest.raises(AttributeError, match=r"no attribute 'fit_promt'; it has: FailureHead"):
        _ = calib.fit_promt


@pytest.fixture(scope="module")
def backbone() -> Any:
    return calib.create_backbone("embedded")


@pytest.fixture(scope="module")
def task() -> Any:
    return calib.load_data("cxr3")


@pytest.fixture(scope="module")
def prompt(backbone: Any, task: Any) -> Any:
    return calib.fit_prompt(backbone, task, shots=8, objective="calibprompt", seed=1, epochs=3)


def test_a_prompt_is_trained_used_and_judged_in_ten_lines(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (300, 200), 90).save("scan.png")

    backbone = calib.create_backbone("embedded")
    task = calib.load_data("cxr3")
    prompt = calib.fit_prompt(backbone, task, shots=8, objective="calibprompt", seed=1, epochs=3)
    test = prompt.predict(calib.encode(backbone, task.test))
    ece = test.metrics(n_bins=10)["ece"]
    prompt.save("prompt.safetensors")
    prompt = calib.load("prompt.safetensors")
    backbone = prompt.restore_backbone()
    images = backbone.preprocess(calib.open_image("scan.png")).unsqueeze(0)
    probs = prompt.logits(backbone.encode_image(images)).softmax(dim=1)

    assert 0 < ece < 0.3
    assert probs.shape == (1, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"prompt.safetensors", "scan.png"}  # no run folder
    again = prompt.predict(calib.encode(backbone, task.test))
    assert torch.equal(again.logits, test.logits)


def test_it_is_the_prompt_that_the_command_exports(prompt: Any, tmp_path: Path) -> None:
    from calib.commands.train import train

    train(load_config([*SHORT, "baselines=[]", f"out={tmp_path / 'run'}"], task="prompt"))
    exported = calib.load(tmp_path / "run")
    assert torch.equal(prompt.context, exported.context)
    assert torch.equal(prompt.text_features, exported.text_features)
    assert prompt.backbone == exported.backbone
    assert prompt.training["split"] == exported.training["split"]
    assert prompt.training["objective"] == exported.training["objective"]
    assert prompt.prompt == exported.prompt


def test_a_loss_that_is_not_finite_in_a_fold_alone_is_said_as_such(
    backbone: Any, task: Any, monkeypatch
) -> None:
    make = PromptStackModule.__init__

    def broken(self: PromptStackModule, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        with torch.no_grad():
            self.prompts[2].learner.context.fill_(torch.nan)

    monkeypatch.setattr(PromptStackModule, "__init__", broken)
    with pytest.raises(FloatingPointError, match="Training stopped in epoch 0"):
        calib.fit_prompt(backbone, task, shots=2, epochs=2, views=0)


def test_its_defaults_are_those_of_the_command() -> None:
    said = {name: each.default for name, each in inspect.signature(calib.fit_prompt).parameters.items()}
    config = PromptRun()
    data, optim = asdict(config.data), asdict(config.optim)
    assert {name: said[name] for name in ("shots", "val_shots", "batch_size", "views")} == {
        name: data[name] for name in ("shots", "val_shots", "batch_size", "views")
    }
    assert said["cache"] == data["cache_dir"]
    assert {name: said[name] for name in asdict(config.prompt)} == asdict(config.prompt)
    warmup = {name: said[name] for name in ("warmup_epochs", "warmup_lr")}
    assert said["optimizer"] | warmup == optim
    assert said["objective"] == config.preset
    assert said["epochs"] == config.trainer["max_epochs"]
    assert (said["seed"], said["n_bins"]) == (config.seed, config.n_bins)


def test_training_leaves_the_random_state_and_the_backbone_alone(backbone: Any, task: Any) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    calib.fit_prompt(backbone, task, shots=2, epochs=1, seed=3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_losses_of_ones_own_and_what_is_wrong_with_them(backbone: Any, task: Any) -> None:
    terms = {"ce": {}, "smac": {"alpha": 0.1}}
    prompt = calib.fit_prompt(backbone, task, shots=1, objective=terms, epochs=1, views=0, val_shots=0)
    assert prompt.training["method"] == "custom"
    assert prompt.training["objective"] == {"ce": {"weight": 1.0}, "smac": {"weight": 1.0, "alpha": 0.1}}
    for objective, message in (
        ("calibpromt", "Unknown loss preset 'calibpromt'. Did you mean 'calibprompt'"),
        ({"smack": {}}, "Unknown loss 'smack'. Did you mean 'smac'"),
    ):
        with pytest.raises(ValueError, match=message):
            calib.fit_prompt(backbone, task, objective=objective)
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, not 0"):
        calib.fit_prompt(backbone, task, shots=1, epochs=0)
    for optimizer, message in (  # beside prompts of folds the first was passed over, the second divided by 0
        ({"learning_rate": 0.1}, r"Unknown key 'optimizer\.learning_rate'.*Known: optimizer\.lr, "),
        ({"lr": 0}, r"optimizer\.lr must be above 0, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            calib.fit_prompt(backbone, task, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"Class 0 .* has .* different images"):
        calib.fit_prompt(backbone, task, shots=10**6)


def test_a_file_is_loaded_by_its_kind(prompt: Any, backbone: Any, task: Any, tmp_path: Path) -> None:
    features = calib.encode(backbone, task.test)
    prompt.save(tmp_path / "prompt.safetensors")
    prompt.predict(features).save(tmp_path / "said.safetensors")
    features.save(tmp_path / "features.safetensors")
    assert isinstance(calib.load(tmp_path / "prompt.safetensors"), calib.Prompt)
    assert isinstance(calib.load(tmp_path), calib.Prompt)  # a folder with an export
    assert isinstance(calib.load(str(tmp_path / "said.safetensors")), calib.Predictions)
    assert type(calib.load(tmp_path / "features.safetensors")).__name__ == "FeatureTable"
    (tmp_path / "text.txt").write_text("no tensors")
    with pytest.raises(ValueError, match=r"text\.txt cannot be read as safetensors"):
        calib.load(tmp_path / "text.txt")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing"):
        calib.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no exported prompt at '.*empty"):
        calib.load(tmp_path / "empty")


def test_zero_shot_is_the_template_of_the_data(backbone: Any, task: Any) -> None:
    said = calib.zero_shot(backbone, task).predict(calib.encode(backbone, task.test))
    metrics = said.metrics()
    assert round(metrics["accuracy"], 3) == 0.716  # as in the README
    assert round(metrics["ece"], 3) == 0.046
    assert said.about["method"] == "zero-shot"
    assert torch.equal(said.failure, said.predictions != said.labels)
    assert torch.equal(said.confidence, said.probs.max(dim=1).values)


def test_which_predictions_are_wrong(prompt: Any, backbone: Any, task: Any, tmp_path: Path) -> None:
    split = task.draw(8, val_shots=4, seed=1)
    outside = task.train.subset(split.outside(task.train.ids, task.train.groups)[:240])
    seen, test = calib.encode(backbone, outside, views=2), calib.encode(backbone, task.test)
    said = prompt.predict(test)

    head = calib.fit_failure_head(prompt, seen, seed=1, epochs=2)
    doubt = head.uncertainty(said.image_features, said.predictions)
    rival = calib.scores.fit("class_gaussians", prompt.predict(seen))(said)
    auroc = calib.metrics.summarize_failure(doubt, said.failure)["auroc"]
    reason = head.explain(said.image_features, said.predictions).sentences(said.class_names)[0]

    assert not {*seen.ids} & {*split.train_ids, *split.val_ids}
    assert 0.5 < auroc < 0.9
    assert rival.shape == doubt.shape == (len(task.test),)
    assert reason.startswith("Predicted ")
    head.save(tmp_path / "failure.safetensors")
    assert isinstance(calib.load(tmp_path), calib.FailureHead)


def test_metrics_as_in_torchmetrics() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])
    metric = calib.metrics.CalibrationError(n_bins=10)
    metric.update(logits=logits, labels=labels)
    probs = logits.double().softmax(dim=1)
    confidence, predictions = probs.max(dim=1)
    value = calib.metrics.expected_calibration_error(confidence, predictions == labels, n_bins=10)
    assert float(metric.compute()) == pytest.approx(float(value))


def test_what_is_shown_names_no_image_and_no_patient(prompt: Any, backbone: Any, task: Any) -> None:
    table = calib.encode(backbone, task.test)
    said = [repr(each) for each in (task, table, prompt, prompt.predict(table))]
    assert said[1] == f"<FeatureTable: {len(table)} images, 256 wide, {table.views} views>"
    assert all(len(line) < 500 and "\n" not in line for line in said)
    assert not any(str(name) in line for line in said for name in (*table.names[:5], *table.groups[:5]))


def test_exports_can_be_compared(prompt: Any, backbone: Any, task: Any) -> None:
    test = prompt.predict(calib.encode(backbone, task.test))
    assert prompt == prompt
    assert prompt != replace(prompt, temperature=2.0)
    assert test != prompt.predict(calib.encode(backbone, task.test))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda b, t, p: calib.fit_prompt("embedded", t),
            "backbone must be a Backbone, not the str 'embedded'",
        ),
        (
            lambda b, t, p: calib.fit_prompt(b, "cxr3"),
            "task must be a TaskData, not the str 'cxr3'. calib.load_",
        ),
        (lambda b, t, p: calib.fit_prompt(b, t.train), "task must be a TaskData, not a FeatureTable"),
        (
            lambda b, t, p: calib.fit_prompt(b, t, objective=["ce"]),
            "objective must be a str or Mapping, not a l",
        ),
        (
            lambda b, t, p: calib.fit_prompt(b, t, epochs=1.5),
            "epochs must be a whole number of at least 1, not 1",
        ),
        (
            lambda b, t, p: calib.fit_prompt(b, t, shots="8"),
            "shots must be a whole number of at least 1, not '8'",
        ),
        (
            lambda b, t, p: calib.fit_prompt(b, t, seed=None),
            "seed must be a whole number of at least 0, not Non",
        ),
        (
            lambda b, t, p: calib.fit_prompt(b, t, objective={"smac": {"alpha": -1.0}}),
            "loss 'smac': alpha (label",
        ),
        (lambda b, t, p: calib.encode(b, t), "table must be a FeatureTable or ImageTable, not a TaskData"),
        (lambda b, t, p: calib.zero_shot(b, "cxr3"), "task must be a TaskData, not the str 'cxr3'"),
        (lambda b, t, p: p.predict(t.test.image_features), "table must be a FeatureTable, not a Tensor"),
        (
            lambda b, t, p: p.logits(t.test.image_features.numpy()),
            "image_features must be a torch tensor, not a nu",
        ),
        (
            lambda b, t, p: calib.scores.mcp(p.predict(t.test)),
            "logits must be a torch tensor, not a Predictions: give its .logits",
        ),
        (lambda b, t, p: calib.fit_failure_head(t.test, p), "prompt must be a Prompt, not a FeatureTable"),
        (
            lambda b, t, p: calib.fit_failure_head(p, p.predict(t.test)),
            "features must be a FeatureTable, not a Pr",
        ),
        (
            lambda b, t, p: calib.metrics.expected_calibration_error([0.5], [True]),
            "confidence must be a torch te",
        ),
        (
            lambda b, t, p: calib.metrics.summarize(p.logits(t.test.image_features), [1]),
            "labels must be a torch",
        ),
        (
            lambda b, t, p: calib.metrics.auroc([0.5], [True]),
            "uncertainty must be a torch tensor, not a list",
        ),
    ],
)
def test_a_wrong_argument_is_named(prompt: Any, backbone: Any, task: Any, call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        call(backbone, task, prompt)


@pytest.mark.parametrize("room", ["losses", "metrics", "posthoc", "scores", "stats"])
def test_a_room_shows_its_own_names_only(room: str) -> None:
    shown = {name: getattr(getattr(calib, room), name) for name in dir(getattr(calib, room))}
    assert shown
    for name, value in shown.items():
        assert isinstance(value, dict) or value.__module__.startswith(f"calib.{room}."), name


def test_the_help_names_every_backbone_and_data_set() -> None:  # kathercolon is kather by its other name
    assert set(BACKBONES) <= set(re.findall(r"[a-z_-]+", BackboneConfig.__doc__ or ""))
    assert set(DATASETS) - {"kathercolon"} <= set(re.findall(r"[a-z0-9_-]+", calib.load_data.__doc__ or ""))

"""Trainer settings that Lightning does not take, or takes in silence, are refused in one line."""

from __future__ import annotations

import re
from typing import Any, Union

import pytest
from tests_shared import SHORT

from calib.cli import run
from calib.runs.trainer import _check_type, check_trainer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"enable_checkpointing": False},
            "trainer.enable_checkpointing=false cannot be used here: a run goes",
        ),
        ({"barebones": True}, "trainer.barebones=true cannot be used here"),
        ({"fast_dev_run": True}, "trainer.fast_dev_run=true cannot be used here: it leaves no checkpoint"),
        ({"fast_dev_run": 3}, "trainer.fast_dev_run=3 cannot be used here"),
        (
            {"limit_train_batches": 0},
            "trainer.limit_train_batches=0 cannot be used here: nothing would be trained",
        ),
        ({"limit_train_batches": 0.0}, "nothing would be trained"),
        ({"max_steps": 0}, "trainer.max_steps=0 cannot be used here: nothing would be trained"),
        ({"max_time": "abc"}, "trainer.max_time=abc cannot be used: `Timer(duration='abc')` is not a valid"),
        ({"max_time": 5}, "trainer.max_time must be text or settings by name or null, got 5."),
        (
            {"max_time": {"minute": 5}},
            "trainer.max_time={'minute': 5} cannot be used: ",  # then in Python's words
        ),
        ({"limit_train_batches": 2.5}, "trainer.limit_train_batches=2.5 cannot be used: You have passed"),
        ({"limit_train_batches": "abc"}, "trainer.limit_train_batches must be a whole number or a number"),
        ({"limit_train_batches": True}, "trainer.limit_train_batches must be a whole number or a number"),
        ({"limit_val_batches": -1}, "trainer.limit_val_batches=-1 cannot be used"),
        ({"val_check_interval": 2.5}, "trainer.val_check_interval=2.5 cannot be used"),
        (
            {"max_steps": -5},
            "trainer.max_steps=-5 cannot be used: `max_steps` must be a non-negative integer or -1",
        ),
        ({"max_steps": 2.5}, "trainer.max_steps must be a whole number, got 2.5."),
        ({"max_steps": None}, "trainer.max_steps must be a whole number, got null."),
        ({"max_epochs": 2.0}, "trainer.max_epochs must be a whole number or null, got 2.0."),
        ({"max_epochs": True}, "trainer.max_epochs must be a whole number or null, got true."),
        ({"max_epochs": None}, "trainer.max_epochs must be at least 1, got None."),
        ({"max_epochs": "many"}, "trainer.max_epochs must be at least 1, got many."),
        ({"min_epochs": "a"}, "trainer.min_epochs must be a whole number or null, got a."),
        ({"gradient_clip_algorithm": "foo"}, "trainer.gradient_clip_algorithm=foo cannot be used"),
        ({"gradient_clip_val": "a"}, "trainer.gradient_clip_val must be a whole number or a number or null"),
        ({"precision": "abc"}, "trainer.precision must be 64 or 32 or 16 or transformer-engine or"),
        ({"precision": "64-true"}, "would round the frozen weights"),
        ({"deterministic": "foo"}, "trainer.deterministic must be true or false or warn or null, got foo."),
        ({"benchmark": "foo"}, "trainer.benchmark must be true or false or null, got foo."),
        ({"profiler": "foo"}, "trainer.profiler=foo cannot be used"),
        ({"profiler": True}, "trainer.profiler must be text or null, got true."),
        ({"check_val_every_n_epoch": 0}, "trainer.check_val_every_n_epoch must be at least 1, got 0."),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches must be at least 1, got 0."),
        (
            {"accumulate_grad_batches": 1.5},
            "trainer.accumulate_grad_batches must be a whole number, got 1.5.",
        ),
        ({"reload_dataloaders_every_n_epochs": -1}, "trainer.reload_dataloaders_every_n_epochs=-1 cannot be"),
        ({"detect_anomaly": "yes"}, "trainer.detect_anomaly must be true or false, got yes."),
        ({"model_registry": "a/b"}, "trainer.model_registry cannot be set: the run folder decides it."),
        ({"overfit_batches": 2, "fast_dev_run": -1}, "trainer.fast_dev_run=-1 cannot be used"),
    ],
    ids=str,
)
def test_impossible_trainer_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_trainer({"max_epochs": 3, **settings})
    assert "\n" not in str(caught.value)


def test_words_for_types_do_not_depend_on_who_wrote_a_union_first() -> None:
    for annotation in (Union[int, float, None], Union[None, float, int]):  # noqa: UP007
        with pytest.raises(ValueError, match=r"trainer\.x must be a whole number or a number or null, got a"):
            _check_type("x", "a", annotation)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_time": "00:00:10:00", "max_steps": -1, "limit_train_batches": 2, "limit_val_batches": 0},
        {"max_time": {"minutes": 5}, "limit_train_batches": 0.5, "val_check_interval": 1.0},
        {"max_time": None, "min_epochs": None, "gradient_clip_val": 1, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "precision": "bf16-mixed"},
        {"precision": 32, "deterministic": "warn", "profiler": "simple", "enable_checkpointing": True},
        {"devices": [0], "num_nodes": 1, "accelerator": "cpu", "strategy": "ddp", "fast_dev_run": False},
        {"devices": "auto", "overfit_batches": 0, "num_sanity_val_steps": 0, "log_every_n_steps": 5},
    ],
    ids=str,
)
def test_possible_trainer_settings_pass(settings: dict[str, Any]) -> None:
    check_trainer({"max_epochs": 3, **settings})


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("trainer.enable_checkpointing=false", "trainer.enable_checkpointing=false cannot be used here"),
        ("trainer.limit_train_batches=0.001", "The trainer settings do not fit this training: "),
    ],
)
def test_the_command_says_so(setting: str, reason: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", [*SHORT, "baselines=[]", "out=run", setting]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"calib train: {reason}")

"""What is no tensor, and logits of one class, are refused with what to pass instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import calib
from calib import metrics, scores
from calib.commands.train import train
from calib.config import PromptRun
from calib.prompts.export import Prompt

LABELS = np.array([0, 1, 2, 0, 1, 2])
LOGITS = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 1]] * np.arange(1, 7, dtype=np.float32)[::-1, None]
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
GIVEN = {
    "logits": LOGITS,
    "probs": PROBS,
    "labels": LABELS,
    "predictions": LOGITS.argmax(axis=1),
    "confidence": PROBS.max(axis=1),
    "correct": LOGITS.argmax(axis=1) == LABELS,
    "uncertainty": 1 - PROBS.max(axis=1),
    "failure": LOGITS.argmax(axis=1) != LABELS,
    "text_features": np.eye(3, 4, dtype=np.float32),
    "image_features": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1, 2]],
}
SETTINGS = {"coverage": 0.5, "risk": 0.5, "units": ["a", "b", "b", "a", "c", "a"]}
ARRAYS = {"undefined_reason", "failure_statistic", "interval_statistic"}  # take numpy arrays, as they say
OF_ONE_CLASS = {"net_benefit"}  # its probs are those of one class
OF_PIXELS = {"image_sums"}  # its probs have spatial axes
FUNCTIONS = {
    f"{room.__name__}.{name}": function
    for room in (metrics, scores)
    for name in dir(room)
    if inspect.isfunction(function := getattr(room, name))
    and next(iter(inspect.signature(function).parameters), "") in GIVEN
    and name not in ARRAYS | OF_ONE_CLASS | OF_PIXELS
}


def arguments(function: Callable[..., Any], convert: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    wanted = inspect.signature(function).parameters
    given = {name: convert(value) for name, value in GIVEN.items() if name in wanted}
    return given | {name: value for name, value in SETTINGS.items() if name in wanted}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_tensors_and_say_so(name: str) -> None:
    function = FUNCTIONS[name]
    function(**arguments(function, torch.from_numpy))
    for convert in (lambda array: array, np.ndarray.tolist, lambda _: None, lambda _: 3.0):
        with pytest.raises(ValueError, match=r"^\w+ must be a torch tensor"):
            function(**arguments(function, convert))
    if len(arguments(function, torch.from_numpy)) > 1:  # the first is right, the others are not
        mixed = arguments(function, lambda array: array)
        first = next(key for key in mixed if key in inspect.signature(function).parameters)
        mixed[first] = torch.from_numpy(mixed[first])
        if any(isinstance(value, np.ndarray) for value in mixed.values()):
            with pytest.raises(
                ValueError, match=r"^\w+ must be a torch tensor, not a numpy array: give torch"
            ):
                function(**mixed)


def test_there_are_functions_to_try() -> None:
    assert {"calib.metrics.summarize", "calib.metrics.auroc", "calib.scores.mcp"} <= FUNCTIONS.keys()
    assert len(FUNCTIONS) > 30


@pytest.mark.parametrize("name", scores.SCORES)
def test_scores_take_tensors_and_say_so(name: str) -> None:
    tensors = {key: torch.from_numpy(value) for key, value in GIVEN.items()}
    ready = scores.fit(name, **tensors)
    assert ready(**tensors).shape == (6,)
    with pytest.raises(ValueError, match=r"^\w+ must be a torch tensor, not a numpy array"):
        scores.fit(name, **GIVEN)(**GIVEN)
    with pytest.raises(ValueError, match=r"^\w+ must be a torch tensor, not a numpy array"):
        ready(**GIVEN)


def test_metric_classes_take_tensors_and_say_so() -> None:
    for metric in (metrics.CalibrationError(), metrics.metric_collection(num_classes=3)):
        with pytest.raises(ValueError, match=r"^logits must be a torch tensor, not a numpy array"):
            metric.update(logits=LOGITS, labels=LABELS)
        with pytest.raises(ValueError, match=r"^labels must be a torch tensor, not a list"):
            metric.update(torch.from_numpy(PROBS), LABELS.tolist())


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 0]])
def test_one_column_says_nothing_and_is_refused(labels: list[int]) -> None:
    """A model with one output for two classes: every prediction would be right, with confidence 1."""
    column, truth = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor(labels)
    message = (
        r"(logits|probs) must have one column for each of at least 2 classes, got shape \(3, 1\)\. Of two"
    )
    ones = torch.ones(3, 1)
    for attempt in (
        lambda: metrics.summarize(column, truth),
        lambda: metrics.negative_log_likelihood(column, truth),
        lambda: metrics.brier_score(ones, truth),
        lambda: metrics.per_class_table(ones, truth),
        lambda: metrics.classwise_calibration_error(ones, truth),
        lambda: metrics.CalibrationError().update(logits=column, labels=truth),
        lambda: metrics.SampleMean("accuracy").update(ones, truth),
        lambda: metrics.metric_collection(num_classes=1).update(logits=column, labels=truth),
        lambda: scores.mcp(column),
        lambda: scores.logits_from_probs(ones),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    both = torch.cat([torch.zeros(3, 1), column], dim=1)
    assert metrics.summarize(both, torch.tensor([1, 0, 1]))["accuracy"] == 1.0


def test_backbones_and_prompts_say_what_they_take() -> None:
    backbone = calib.create_backbone("embedded")
    image = Image.new("RGB", (8, 8))
    for wrong in (torch.zeros(3, 8, 8), np.zeros((8, 8, 3), np.uint8), "scan.png", None):
        with pytest.raises(
            ValueError, match=r"The image must be a PIL image, as calib\.open_image returns it"
        ):
            backbone.preprocess(wrong)
    pixels = backbone.preprocess(image)[None]
    with pytest.raises(ValueError, match=r"`preprocess` has normalised, floats, not torch\.uint8"):
        backbone.encode_image(pixels.byte())
    with pytest.raises(ValueError, match=r"images must be a torch tensor, not a numpy array"):
        backbone.encode_image(pixels.numpy())
    prompt = Prompt(text_features=torch.eye(2, 4), class_names=["a", "b"], logit_scale=1.0, backbone={})
    with pytest.raises(ValueError, match=r"image_features must be a torch tensor, not a numpy array"):
        prompt.logits(np.eye(2, 4))
    with pytest.raises(ValueError, match=r"must be a PromptRun, not a dict: give load_config\(\["):
        train({"data": {"shots": 8}})
    assert PromptRun().trainer

"""Failure heads of calibrated prompts: they start at the calibrated confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.failure.cases import FailureCases
from calib.failure.digests import prompt_digest, same_prompt
from calib.failure.export import FailureHead
from calib.failure.fit import fit_failure_head, new_head, part_means
from calib.failure.module import FailurePredictionModule
from calib.prompts.calibration import Calibration
from calib.prompts.export import Prompt
from calib.scores.logits import log_odds

BACKBONE = {"name": "fake", "weights": {"digest": "d"}, "preprocessing": {}}


def prompt_of(seed: int | None = 0) -> Prompt:
    calibration = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        calibration = Calibration(
            weight=5 * torch.randn(3, 6, generator=generator),
            bias=torch.randn(3, generator=generator),
            method="experts",
            weights={"prompt": 0.2, "images": 0.05, "zero_shot": 0.4},
        )
    texts = normalize(torch.eye(3, 6) + 0.1, dim=1)
    return Prompt(texts, ["cat", "dog", "owl"], 2.0, BACKBONE, calibration=calibration)


def table_of(n: int = 60) -> FeatureTable:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 3
    features = normalize(torch.eye(3, 6)[labels] + torch.randn(n, 6, generator=generator), dim=1)
    views = features[:, None].expand(-1, 2, -1).clone()
    ids = [f"{row:064x}" for row in range(n)]
    return FeatureTable(features, labels, ids, ids, augmented_features=views)


def head_of(prompt: Prompt) -> FailureHead:
    head = new_head(6, logit_scale=2.0, seed=1, residual=True, hidden=[4])
    return FailureHead(head, prompt.text_features, prompt.class_names, calibration=prompt.calibration)


def doubt(logits: Tensor) -> Tensor:
    return (-log_odds(logits.double(), logits.argmax(1))).sigmoid()


def test_an_untrained_residual_head_is_the_calibrated_confidence() -> None:
    prompt, table = prompt_of(), table_of()
    logits = prompt.logits(table.image_features)
    found = head_of(prompt).uncertainty(table.image_features, logits.argmax(1))
    torch.testing.assert_close(found, doubt(logits), atol=1e-5, rtol=1e-5)
    plain = head_of(prompt_of(None)).uncertainty(table.image_features)
    torch.testing.assert_close(
        plain, doubt(prompt_of(None).logits(table.image_features)), atol=1e-5, rtol=1e-5
    )


def test_cases_hold_the_calibrated_logits_of_every_view_and_training_is_told_them() -> None:
    prompt, table = prompt_of(), table_of()
    cases = FailureCases.of_prompt(prompt, table)
    assert cases.calibrated
    assert cases.logits.shape == (3, 60, 3)
    torch.testing.assert_close(cases.logits[0], prompt.logits(table.image_features))
    batch = cases[0, torch.arange(5)]
    module = FailurePredictionModule(
        head_of(prompt).head, cases.text_features, optimizer={"lr": 0.1, "name": "sgd"}
    )
    expected = -log_odds(cases.logits[0][:5], cases.predictions[0][:5])
    torch.testing.assert_close(module.failure_logits(batch), expected)
    assert not FailureCases.of_prompt(prompt_of(None), table).calibrated
    assert "model_logits" not in FailureCases.of_prompt(prompt_of(None), table)[0, torch.arange(2)]


def test_a_trained_head_comes_back_with_the_calibration_and_explains_by_it(tmp_path: Path) -> None:
    prompt, table = prompt_of(), table_of()
    head = fit_failure_head(prompt, table, seed=1, epochs=1, hidden=[4])
    head.save(tmp_path / "h.safetensors")
    loaded = FailureHead.load(tmp_path / "h.safetensors")
    picked = prompt.logits(table.image_features).argmax(1)
    before, after = (one.uncertainty(table.image_features, picked) for one in (head, loaded))
    torch.testing.assert_close(after, before)
    quoted = loaded.explain(table.image_features, picked).probs[:, 0]
    torch.testing.assert_close(
        quoted, prompt.logits(table.image_features).double().softmax(1).max(1).values, atol=1e-6, rtol=1e-6
    )
    loaded.check_prompt(prompt)


def test_another_calibration_is_another_prompt() -> None:
    head = head_of(prompt_of())
    for other, message in (
        (prompt_of(None), "judges the prompt calibrated, and the one at hand is as it was trained"),
        (prompt_of(7), "in another way"),
    ):
        with pytest.raises(ValueError, match=message):
            head.check_prompt(other)
    with pytest.raises(ValueError, match="judges the prompt as it was trained"):
        head_of(prompt_of(None)).check_prompt(prompt_of())


def test_only_what_may_change_a_prediction_names_another_classifier() -> None:
    bare, one = prompt_of(None), prompt_of()
    assert one.calibration is not None
    scaled = replace(one, calibration=replace(one.calibration, method="scale", weights={"prompt": 0.5}))
    assert prompt_digest(scaled) == prompt_digest(bare)
    assert prompt_digest(one) != prompt_digest(bare)
    assert same_prompt(one, prompt_of())
    assert not same_prompt(one, prompt_of(7))
    assert not same_prompt(one, bare)


def test_every_image_counts_alike_in_the_average_whatever_model_judged_it() -> None:
    draw = torch.Generator().manual_seed(3)
    images = normalize(torch.randn(12, 8, generator=draw), dim=1)
    labels, texts = torch.arange(12) % 3, torch.eye(3, 8)
    parts = [
        FailureCases.of(images[rows], labels[rows], texts, logit_scale=1.0)
        for rows in (slice(0, 3), slice(3, 12))
    ]
    means = part_means(new_head(8, logit_scale=1.0, seed=0, hidden=(4,)), FailureCases.join(parts))
    assert torch.allclose(means["image"], images.mean(dim=0), atol=1e-6)

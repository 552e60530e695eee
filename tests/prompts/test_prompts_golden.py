"""Three steps of the official CalibPrompt training on a small CLIP: losses and context after them."""

from __future__ import annotations

import pytest
import torch
from golden_models import CLIP, golden_clip, randn

from calib.losses import Objective
from calib.prompts.learner import PromptLearner
from calib.training.optim import make_optimizer


@pytest.fixture(scope="module")
def clip():
    return golden_clip()


@pytest.mark.parametrize("case", CLIP["cases"], ids=lambda case: case["name"])
def test_learner_objective_and_optimiser_equal_the_official_ones(clip, case) -> None:
    learner = PromptLearner(
        clip,
        case["classnames"],
        n_ctx=case["n_ctx"],
        class_specific=case["csc"],
        class_position=case["class_token_position"],
    )
    with torch.no_grad():
        learner.context.copy_((randn(778, *learner.context.shape).double() * 0.02).float())
    images = clip.encode_image(randn(777, case["B"], 3, 64, 64))
    labels = torch.arange(case["B"]) % len(case["classnames"])
    alpha = case["alpha"]
    objective = Objective(
        {"ls": {"alpha": alpha}, "smac": {"alpha": alpha}, "as": {"weight": case["as_weight"]}}
    )
    optimizer = make_optimizer([learner.context], name="sgd", lr=0.002, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(3):
        text = learner(clip)
        logits = clip.logit_scale.exp() * images @ text.T
        values = objective(logits=logits, labels=labels, text_features=text)
        if step == 0:
            expected = torch.tensor(case["text_features"])
            assert torch.allclose(text, expected, atol=1e-5, rtol=0)
            for name in ("ls", "smac", "as"):
                golden = case["losses"][f"{name.upper()}_loss"]
                assert values[name].item() == pytest.approx(golden, abs=2e-5), name
        losses.append(values["total"].item())
        optimizer.zero_grad()
        values["total"].backward()
        optimizer.step()
    assert losses == pytest.approx(case["loss_3_sgd_steps"], abs=2e-4)
    assert learner.context.flatten()[:8].tolist() == pytest.approx(case["ctx_after_first8"], abs=1e-5)

"""Two processes compute what one computes: gradients, validation, empty shares."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from two_processes import in_two_processes

from calib.backbones import base
from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions
from calib.core import ranks
from calib.data.batches import BatchOrder
from calib.failure.captions import CaptionPairs
from calib.failure.cases import FailureCases
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.losses import LOSSES, Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.zero_shot import zero_shot_features
from calib.segmentation.module import SegmentationModule

NAMES = ["covid", "normal", "lung opacity", "pneumothorax", "a nodule"]  # 3 and 2 of them
DEFAULT = {"ce": {}, "smac": {"alpha": 0.05}, "as": {"weight": 0.01}}
# name: (losses, number of classes, context per class, images instead of features, size of the batch)
PROMPTS: dict[str, tuple[dict[str, Any], int, bool, bool, int]] = {
    "default": (DEFAULT, 5, False, False, 9),
    "default, classes not shared": (DEFAULT, 3, False, False, 9),
    "default, context per class": (DEFAULT, 5, True, False, 9),
    "default, 5 images": (DEFAULT, 5, False, True, 5),
    "default, 1 image": (DEFAULT, 5, False, True, 1),
    **{name: ({name: {}}, 5, False, False, 9) for name in LOSSES},
}
IN_FLOAT32 = ("default", "default, context per class", "smac", "mdca", "dca", "mmce")
N, D = 9, 8  # shares of 5 and 4
# name: (loss, its settings, settings of the head, size of the batch)
HEADS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "adaptive": ("bce", {"weighting": "adaptive"}, {}, N),
    "balanced": ("bce", {"weighting": "balanced"}, {}, N),
    "static": ("bce", {"weighting": "static", "weight": 2.0}, {}, N),
    "tcp": ("tcp", {"weighting": "adaptive"}, {}, N),
    "adaptive, residual": ("bce", {"weighting": "adaptive"}, {"residual": True}, N),
    "one image": ("bce", {"weighting": "static"}, {}, 1),
}
SCALE = math.log(20)


class Step(nn.Module):
    """A training step as DistributedDataParallel wants it."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module.training_step(batch, 0)


def gradients(module: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Return the gradients of one step: DDP's with several processes."""
    step = Step(module)
    step = DistributedDataParallel(step) if ranks.world_size() > 1 else step
    step(batch).backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def prompt_gradients(name: str, clip: Any, dtype: torch.dtype) -> list[Tensor]:
    terms, n_classes, specific, as_images, size = PROMPTS[name]
    generator = torch.Generator().manual_seed(2)
    names = NAMES[:n_classes]
    module = PromptTuningModule(
        clip,
        PromptLearner(clip, names, n_ctx=3, class_specific=specific, init_std=0.5, seed=1).to(dtype),
        Objective(terms),
        zero_shot_features(clip, names, "a {}."),
        optimizer={"name": "sgd", "lr": 0.1},
    )
    labels = torch.randint(0, n_classes, (N,), generator=generator)
    (index,) = BatchOrder(size, size, shared=as_images)  # as the data module makes it
    if as_images:
        images = torch.randn(N, 3, 64, 64, generator=generator).to(dtype)[index]
        return gradients(module, {"images": images, "labels": labels[index]})
    features = normalize(torch.randn(N, clip.embed_dim, generator=generator).to(dtype), dim=1)
    return gradients(module, {"image_features": features[index], "labels": labels[index]})


def cases(models: int = 1) -> FailureCases:
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(models, 3, D, generator=generator), dim=2)
    images = normalize(torch.randn(N, D, generator=generator), dim=1)
    labels = (images @ texts[0].T).argmax(1)
    labels[[1, 2, 8]] = (labels[[1, 2, 8]] + 1) % 3
    one = [FailureCases.of(images, labels, text, logit_scale=SCALE) for text in texts]
    return FailureCases.join(one) if models > 1 else one[0]


def failure_module(texts: Tensor | None, name: str = "adaptive") -> FailurePredictionModule:
    loss, settings, options, _ = HEADS[name]
    torch.manual_seed(4)
    head = ViLU(D, logit_scale=SCALE, hidden=(6,), **options)
    optimizer = {"name": "sgd", "lr": 0.1}
    return FailurePredictionModule(head, texts, loss=loss, loss_settings=settings, optimizer=optimizer)


def head_gradients(name: str) -> list[Tensor]:
    data = cases()
    size = HEADS[name][3]
    batch = data.batches(size)
    return gradients(failure_module(data.text_features, name), next(iter(batch)))


def two_model_gradients() -> list[Tensor]:
    """The first share has images of one model only, the second of both."""
    data = cases(models=2)
    (index,) = BatchOrder(len(data), len(data), shared=True)
    module = failure_module(data.text_features)
    return [*gradients(module, data[(0, index)]), module.head.iteration_count.float()]


def caption_gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    images, texts = normalize(torch.randn(2, N, D, generator=generator), dim=2)
    pairs = CaptionPairs(images, texts, SCALE, [str(row) for row in range(N)])
    return gradients(failure_module(None), next(iter(pairs.batches(7, seed=1))))


def validation() -> dict[str, Any]:
    """Return what is logged for 11 images in batches of 4, and how many were judged here and in all."""
    generator = torch.Generator().manual_seed(6)
    texts = normalize(torch.randn(3, D, generator=generator), dim=1)
    images = normalize(torch.randn(11, D, generator=generator), dim=1)
    data = FailureCases.of(images, torch.arange(11) % 3, texts, logit_scale=SCALE)
    module, logged = failure_module(data.text_features), {}
    module.log_dict = lambda values: logged.update(values)  # type: ignore[method-assign]
    module.on_validation_epoch_start()
    for batch in data.batches(4):
        module.validation_step(batch, 0)
    mine = torch.cat([index for index, _, _ in module._outputs])
    module.on_validation_epoch_end()
    return {**logged, "here": len(mine), "rows": ranks.gathered(mine).sort().values.tolist()}


def everything(clip_config: dict[str, Any]) -> dict[str, Any]:
    options = BackboneOptions(weights="random")
    clip = create_open_clip(clip_config, options, name="clip", published="here")
    single = {f"float32 prompt: {name}": prompt_gradients(name, clip, torch.float32) for name in IN_FLOAT32}
    in_float32, base._unit = base._unit, lambda features: normalize(features, dim=-1)
    double = {name: prompt_gradients(name, clip.double(), torch.float64) for name in PROMPTS}
    base._unit = in_float32
    return {
        **single,
        **{f"prompt: {name}": found for name, found in double.items()},
        **{f"head: {name}": head_gradients(name) for name in HEADS},
        "head: two models": two_model_gradients(),
        "head: captions": caption_gradients(),
        "validation": validation(),
        "told": ranks.decided(lambda: f"by {ranks.rank()}"),
        "error": error_of_the_first(),
    }


def error_of_the_first() -> str:
    def refuse() -> None:
        raise ValueError(f"said by {ranks.rank()}")

    try:
        ranks.decided(refuse)
    except ValueError as error:
        return str(error)
    return "none"


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, configs: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    one = everything(configs.clip)
    return one, in_two_processes(everything, tmp_path_factory.mktemp("two"), configs.clip)


# How far gradients may be apart, relative to their length. A text tower in float32 has other last bits for
# other numbers of classes, and the scale of 100 before the losses makes these larger.
STEPS = {
    **{f"float32 prompt: {name}": 1e-5 for name in IN_FLOAT32},
    **{f"prompt: {name}": 1e-12 for name in PROMPTS},
    **{f"head: {name}": 1e-6 for name in (*HEADS, "two models", "captions")},
}


@pytest.mark.parametrize("step", STEPS)
def test_the_gradient_of_two_processes_is_that_of_one(step: str, both: Any) -> None:
    one, two = both
    for found in two:
        assert len(found[step]) == len(one[step]) > 0
        whole = torch.cat([gradient.flatten() for gradient in one[step]])
        shared = torch.cat([gradient.flatten() for gradient in found[step]])
        assert whole.norm() > 1e-4
        difference = float((shared - whole).norm() / whole.norm())
        print(f"{step}: relative difference {difference:.1e}")  # pytest -s shows it
        assert difference <= STEPS[step]


def test_11_images_are_validated_as_11(both: Any) -> None:
    one, two = both
    assert [found["validation"]["here"] for found in two] == [6, 5]
    for found in two:
        assert found["validation"]["rows"] == list(range(11))
        for name in ("val/auroc", "val/aurc"):
            assert found["validation"][name] == pytest.approx(one["validation"][name], abs=1e-12)


def test_the_first_process_decides_and_its_error_is_raised_in_all(both: Any) -> None:
    one, two = both
    assert [found["told"] for found in two] == [one["told"]] * 2 == ["by 0"] * 2
    assert [found["error"] for found in two] == ["said by 0"] * 2


def pixel_gradients(n: int) -> list[Tensor]:
    """Return the gradients of a step on this process's share of n images with a class per pixel."""
    generator = torch.Generator().manual_seed(1)
    batch = {
        "images": torch.randn(n, 3, 6, 6, generator=generator),
        "labels": torch.randint(0, 2, (n, 6, 6), generator=generator),
    }
    batch["labels"][0] = (
        0  # an image without the class: absent classes are left out of the whole batch's mean
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    objective = Objective({"dice": {}, "ce": {}, "ml1_ace": {"absent": "leave_out", "n_bins": 5}})
    module = SegmentationModule(network, objective, ["rest", "cell"], optimizer={"name": "sgd", "lr": 0.1})
    return gradients(module, {name: tensor[ranks.share(n)] for name, tensor in batch.items()})


@pytest.mark.parametrize("n", [3, 1])
def test_networks_of_pixels_have_the_gradients_of_one_process(n: int, tmp_path: Path) -> None:
    """Shares of 2 and 1 images, and of 1 and none."""
    alone = pixel_gradients(n)
    for found in in_two_processes(pixel_gradients, tmp_path, n):
        for mine, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)

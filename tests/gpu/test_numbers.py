"""What a device computes is what the CPU computes, up to rounding: towers, losses, metrics, calibrators."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_outputs import outputs
from toy_steps import NAMES, OF_CLASSES, first_batch, pictures, prompt_steps

from calib.backbones.base import Backbone
from calib.core.float32 import exact_float32
from calib.data import ImageTable, cache_features, encode_table
from calib.data import encode as encoding
from calib.data.records import FileSource
from calib.metrics import METRICS, metric_collection, net_benefit, summarize
from calib.posthoc import CALIBRATORS, make_calibrator
from calib.prompts.learner import PromptLearner

KINDS = {"clip": 64, "biomedclip": 160, "medclip": 32}
# Of features of unit norm, and of gradients against their largest entry: sums of float32 in another order.
FEATURES, GRADIENTS = 5e-6, 5e-5


def there(backbone: Backbone, device: torch.device) -> Backbone:
    """Return a copy of a backbone on a device."""
    return copy.deepcopy(backbone).to(device)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.dtype == expected.dtype
    difference = (found.cpu() - expected).abs().max()
    assert difference <= tolerance * expected.abs().max(), float(difference)


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_the_features_they_have_on_the_cpu(kind: str, small: Any, device: torch.device) -> None:
    backbone, size = small(kind), KINDS[kind]
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(5))
    found = there(backbone, device).encode_image(images)  # which are on the CPU
    assert found.device == device
    assert (found.cpu() - backbone.encode_image(images)).abs().max() < FEATURES


@pytest.mark.slow
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_have_the_features_and_gradients_they_have_on_the_cpu(
    kind: str, sets: int, small: Any, device: torch.device
) -> None:
    backbone = small(kind)
    found = []
    for place in (torch.device("cpu"), device):
        model = there(backbone, place)
        learner = PromptLearner(model, NAMES, n_ctx=3, init_std=0.5, seed=1).to(place)
        contexts = torch.stack([learner.context.detach() * (1 + 0.1 * k) for k in range(sets)])
        contexts.requires_grad_()
        texts = model.encode_prompts(contexts, learner.tokens, learner.positions, sets=True)
        weights = torch.randn(texts.shape, generator=torch.Generator().manual_seed(2)).to(place)
        (texts * weights).sum().backward()
        by_hook = model.encode_prompts_by_hook(contexts, learner.tokens, learner.positions, sets=True)
        assert (texts - by_hook).abs().max() < FEATURES
        found.append((texts.detach(), contexts.grad))
    assert found[1][0].device == device
    assert (found[1][0].cpu() - found[0][0]).abs().max() < FEATURES
    close(found[1][1], found[0][1], GRADIENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_loss_and_its_gradient_are_those_of_the_cpu(name: str, small: Any, device: torch.device) -> None:
    found = []
    for place in (torch.device("cpu"), device):
        module, batches = prompt_steps(there(small("clip"), torch.device("cpu")), {name: {}})
        module.to(place)
        batch = {key: each.to(place) for key, each in first_batch(batches).items()}
        loss = module.training_step(batch, 0)
        (gradient,) = torch.autograd.grad(loss, module.learner.context, allow_unused=True)
        found.append((loss.detach(), torch.zeros(1) if gradient is None else gradient))
    assert torch.allclose(found[1][0].cpu(), found[0][0], rtol=1e-4, atol=1e-5)
    assert (found[1][1].cpu() - found[0][1]).abs().max() <= 2e-4 * found[0][1].abs().max() + 1e-6


@pytest.mark.slow
def test_metrics_are_those_of_the_cpu(device: torch.device) -> None:
    logits, labels = outputs()
    expected = summarize(logits, labels)
    found = summarize(logits.to(device), labels.to(device))
    assert json.loads(json.dumps(found)) == found  # plain numbers
    collection = metric_collection(logits.shape[1]).to(device)
    collection.update(logits=logits.to(device), labels=labels.to(device))
    values = collection.compute()
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], abs=1e-9), name
        assert float(values[name]) == pytest.approx(expected[name], abs=1e-9), name
    confidence, event, at = logits.softmax(1)[:, 0], labels == 0, torch.tensor([0.2, 0.5])
    there = net_benefit(confidence.to(device), event.to(device), at)  # thresholds typed by hand are here
    assert torch.allclose(there.cpu(), net_benefit(confidence, event, at), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_calibrator_of_values_on_a_device_is_that_of_the_cpu(name: str, device: torch.device) -> None:
    logits, labels = outputs()
    expected = make_calibrator(name).fit(logits, labels)
    found = make_calibrator(name).fit(logits.to(device), labels.to(device))
    probs = found(logits.to(device))
    assert probs.device == device
    assert torch.allclose(probs.cpu(), expected(logits), atol=1e-6)
    assert torch.allclose(expected(logits.to(device)).cpu(), expected(logits), atol=1e-12)


def test_features_are_cached_under_one_name_whatever_encoded_them(
    small: Any, device: torch.device, tmp_path: Path
) -> None:
    """The cache does not ask which device it was: it holds float32 up to rounding."""
    backbone = small("clip")
    table = table_of(tmp_path)
    found = cache_features(there(backbone, device), table, tmp_path / "cache", views=1, batch_size=4)
    assert found.image_features.device.type == "cpu"
    again = cache_features(
        backbone, table, tmp_path / "cache", views=1, on_batch=lambda: pytest.fail("again")
    )
    assert torch.equal(again.image_features, found.image_features)
    own = encode_table(backbone, table, views=1, batch_size=4)
    assert (own.image_features - found.image_features).abs().max() < FEATURES
    assert (own.augmented_features - found.augmented_features).abs().max() < FEATURES
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_images_are_read_ahead_by_other_processes_while_a_device_computes(
    small: Any, device: torch.device, tmp_path: Path
) -> None:
    backbone, table = small("clip"), table_of(tmp_path)
    ahead = encode_table(there(backbone, device), table, batch_size=2, num_workers=1)
    assert (ahead.image_features - encode_table(backbone, table).image_features).abs().max() < FEATURES


def test_processes_that_read_ahead_are_handed_no_weights(small: Any, tmp_path: Path) -> None:
    """Where they are not forked all of the model was copied for each, and from some cards it cannot be."""
    looks = encoding._Looks(small("clip"), table_of(tmp_path), 1, 0, 2, 1, print)
    handed = pickle.dumps(encoding._Stacked(looks))
    assert len(handed) < 20_000
    key = (3, range(2))
    assert torch.equal(pickle.loads(handed)[key], encoding._Stacked(looks)[key])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_of_a_device_is_near_float32(kind: str, small: Any, device: torch.device) -> None:
    images = torch.randn(5, 3, *[KINDS[kind]] * 2, generator=torch.Generator().manual_seed(5))
    narrow = small(kind, encode_precision="bf16").to(device).encode_image(images)
    exact = small(kind).encode_image(images)
    assert (narrow.device, narrow.dtype) == (device, torch.float32)
    assert 1e-7 < float(1 - (narrow.cpu() * exact).sum(dim=1).min()) < 5e-3


@pytest.mark.gpu
def test_convolutions_of_a_card_are_not_rounded(card: torch.device) -> None:
    """They are unless they are told otherwise, on cards that know TensorFloat-32."""
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(shape, generator=generator) for shape in ((2, 64, 56, 56), (64, 64, 3, 3)))
    exact = torch.nn.functional.conv2d(images.double(), weight.double())
    errors = {}
    for way in ("as set", "exact"):
        torch.backends.cudnn.allow_tf32 = True
        given = images.to(card), weight.to(card)
        if way == "exact":
            with exact_float32(card):
                found = torch.nn.functional.conv2d(*given)
        else:
            found = torch.nn.functional.conv2d(*given)
        errors[way] = float((found.cpu().double() - exact).abs().max() / exact.abs().max())
    assert errors["exact"] < 2e-6
    if torch.cuda.get_device_capability(card) >= (8, 0):
        assert errors["as set"] > 10 * errors["exact"]  # so the test above can fail


@pytest.mark.slow
def test_the_weights_have_one_digest(small: Any, device: torch.device) -> None:
    backbone = small("biomedclip")
    assert there(backbone, device).weights_digest == backbone.weights_digest
    assert there(backbone, device).describe() == backbone.describe()


def table_of(folder: Path) -> ImageTable:
    files = [folder / f"{number}.png" for number in range(5)]
    for file, picture in zip(files, pictures(5), strict=True):
        picture.save(file)
    return ImageTable([FileSource(each) for each in files], [0, 1, 2, 0, 1], [each.name for each in files])

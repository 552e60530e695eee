"""What every loss of the registry must satisfy, and which symmetries each one has."""

import pytest
import torch

from calib.core.byname import bind, tensors
from calib.losses import LOSSES

ALL = sorted(LOSSES)
ON_LOGITS = [name for name in ALL if "logits" in tensors(LOSSES[name])]
# The losses that see more of an image's logits than their differences.
SHIFTED = ["penalty", "logitnorm"]


def batch(dtype=torch.float64):
    """Return B=5, C=3, D=8: images 0, 1, 3 are right; logits leave the zero-shot range on both sides."""
    generator = torch.Generator().manual_seed(3)

    def unit(*shape):
        return torch.nn.functional.normalize(
            torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1
        )

    logits = [[2.1, -0.3, 0.4], [-11.2, 0.3, 1.7], [0.2, 1.9, -0.8], [-0.6, 0.9, 0.1], [-0.4, 0.35, 1.2]]
    given = {
        "logits": torch.tensor(logits, dtype=torch.float64),
        "zero_shot_logits": 0.8 * torch.randn(5, 3, generator=generator, dtype=torch.float64),
        "text_features": unit(3, 8),
        "zero_shot_text_features": unit(3, 8),
    }
    given = {name: tensor.to(dtype) for name, tensor in given.items()}
    return given | {"labels": torch.tensor([0, 2, 0, 1, 0])}


def value(name, given):
    return bind(LOSSES[name], {}, name=name)(**given)


def permute_classes(given, order):
    moved = {name: given[name][:, order] for name in ("logits", "zero_shot_logits")}
    moved |= {name: given[name][order] for name in ("text_features", "zero_shot_text_features")}
    return moved | {"labels": torch.argsort(torch.tensor(order))[given["labels"]]}


def test_the_registry_has_the_fourteen_losses_of_the_release():
    released = "ce ls fl smac as mdca dca mmce zs_norm penalty mbls logitnorm margin_mean_var"
    assert {*released.split(), "text_moment_matching"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_value(name):
    given = batch()
    trained = [key for key in ("logits", "text_features") if key in tensors(LOSSES[name])]
    inputs = [given[key].clone().requires_grad_() for key in trained]

    def call(*moved):
        return value(name, given | dict(zip(trained, moved, strict=True)))

    assert torch.autograd.gradcheck(call, inputs)
    assert any(gradient.abs().max() > 1e-4 for gradient in torch.autograd.grad(call(*inputs), inputs))


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_the_classes_does_not_matter(name):
    given = batch()
    torch.testing.assert_close(value(name, permute_classes(given, [2, 0, 1])), value(name, given))


@pytest.mark.parametrize("name", ON_LOGITS)
def test_the_order_of_the_images_does_not_matter(name):
    given = batch()
    order = [3, 1, 4, 0, 2]
    rows = {key: given[key][order] for key in ("logits", "zero_shot_logits", "labels")}
    torch.testing.assert_close(value(name, given | rows), value(name, given))


@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_shift_of_an_images_logits_matters_only_for_penalty_and_logitnorm(name):
    given = batch()
    shifted = given | {"logits": given["logits"] + torch.tensor([[3.0], [-1.0], [0.5], [7.0], [0.0]])}
    same = torch.allclose(value(name, shifted), value(name, given), rtol=1e-9)
    assert same == (name not in SHIFTED)


@pytest.mark.parametrize("name", ["logitnorm", "zs_norm"])
def test_the_scale_of_an_images_logits_does_not_matter(name):
    given = batch()
    scaled = given | {"logits": given["logits"] * torch.tensor([[3.0], [0.5], [10.0], [7.0], [1.0]])}
    torch.testing.assert_close(value(name, scaled), value(name, given), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_nan_comes_out_where_nan_goes_in(name):
    given = batch()
    for key in ("logits", "text_features"):
        given[key][1, 2] = float("nan")
    assert value(name, given).isnan()


@pytest.mark.parametrize("name", ALL)
def test_float32_gives_the_float64_value(name):
    single = value(name, batch(torch.float32))
    assert single.dtype == torch.float32
    assert single.shape == ()
    torch.testing.assert_close(single.double(), value(name, batch()), rtol=1e-5, atol=1e-6)


HARD = {
    "saturated and right": ([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]], [0, 1]),
    "saturated and wrong": ([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]], [2, 0]),
    "all zero": ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 2]),
    "tied at the top": ([[4.0, 4.0, 1.0], [0.0, 4.0, 4.0]], [0, 2]),
    "one image": ([[0.3, -0.2, 1.0]], [1]),
}


@pytest.mark.parametrize("name", ON_LOGITS)
@pytest.mark.parametrize("kind", HARD)
def test_value_and_gradient_are_finite_on_hard_batches(name, kind):
    rows, labels = HARD[kind]
    logits = torch.tensor(rows, requires_grad=True)
    zero_shot = batch(torch.float32)["zero_shot_logits"][: len(rows)]
    result = value(name, {"logits": logits, "labels": torch.tensor(labels), "zero_shot_logits": zero_shot})
    (gradient,) = torch.autograd.grad(result, logits)
    assert result.isfinite()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", [name for name in ON_LOGITS if name != "penalty"])
@pytest.mark.parametrize("wrong", [-100, 3])
def test_labels_outside_the_classes_are_never_skipped(name, wrong):
    given = batch()
    given["labels"][4] = wrong
    with pytest.raises((RuntimeError, IndexError)):
        value(name, given)

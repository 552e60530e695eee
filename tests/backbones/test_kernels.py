"""The choice of a kernel for frozen linear layers, and image towers on it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from calib.backbones.fast import kernels
from calib.backbones.fast.blocks import QUICK
from calib.backbones.fast.frozen import FrozenBlock, FrozenLinear
from calib.prompts.learner import PromptLearner


def random_like(shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def afresh():
    """Forget what was found out about this machine, before and after."""
    for known in (kernels._works, kernels._suits, kernels._library):
        known.cache_clear()
    yield
    for known in (kernels._works, kernels._suits, kernels._library):
        known.cache_clear()


@pytest.fixture(params=["onednn", "mkl"])
def library(request, monkeypatch):
    """Let packed products be those of one library and of the other."""
    if request.param == "mkl" and not torch.backends.mkl.is_available():
        pytest.skip("this PyTorch has no MKL")
    monkeypatch.setattr(kernels, "_library", lambda: request.param)
    return request.param


packed_only = pytest.mark.skipif(not kernels._works(), reason="this PyTorch has no packed linear layers")


@packed_only
@pytest.mark.parametrize(("setting", "used"), [("plain", False), ("packed", True)])
def test_the_setting_decides_which_kernel_runs(backbone, images, library, monkeypatch, setting, used):
    product, calls = kernels.PackedLinear.product, []
    monkeypatch.setattr(kernels.PackedLinear, "product", lambda self, x: calls.append(x) or product(self, x))
    monkeypatch.setenv("CALIB_LINEAR", setting)
    PromptLearner(backbone, ["covid", "normal lung"], n_ctx=4)(backbone).sum().backward()
    assert bool(calls) is used
    calls.clear()
    backbone.encode_image(images)
    assert bool(calls) is (used and library == "onednn")  # MKL packs for the rows of a training step


@packed_only
@pytest.mark.parametrize("shape", [(1, 5), (3, 7), (200, 64)])
@pytest.mark.usefixtures("library")
def test_packed_linear_equals_linear_to_the_second_derivative(shape):
    rows, width = shape
    weight, bias = random_like((11, width)), random_like((11,), seed=5)
    layer = kernels.PackedLinear(lambda: (weight, bias))
    x = random_like((2, rows, width), seed=6).requires_grad_()
    y, expected = layer(x), torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-5)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(expected.pow(3).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-2)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    (wanted,) = torch.autograd.grad(wanted.sum(), x)
    torch.testing.assert_close(second, wanted, rtol=1e-4, atol=1e-2)


@packed_only
@pytest.mark.usefixtures("library")
def test_packed_linear_takes_any_layout():
    weight = random_like((11, 6))
    layer = kernels.PackedLinear(lambda: (weight, None))
    x = random_like((6, 4)).t().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, x @ weight.t())
    (gradient,) = torch.autograd.grad(y.sum(), x)  # the gradient of a sum is one number, expanded
    torch.testing.assert_close(gradient, weight.sum(dim=0).expand(4, -1))


@packed_only
@pytest.mark.usefixtures("library")
def test_packed_linear_takes_any_number_of_rows():
    weight, bias = random_like((11, 6)), random_like((11,), seed=5)
    layer = kernels.PackedLinear(lambda: (weight, bias))
    for rows in (3, 9, 0, 1, 3, 200, 9):
        x = random_like((2, rows, 6), seed=rows)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, bias))
        assert kernels._library() != "mkl" or layer._packed[0] == 2 * rows


@packed_only
@pytest.mark.usefixtures("library")
def test_what_another_thread_packs_meanwhile_is_not_multiplied():
    """It was looked up again after packing: an error, or of MKL, with weights for other rows, NaN."""

    class Raced(kernels.PackedLinear):
        @property
        def _packed(self):
            return None  # another thread begins to pack for its own rows

        @_packed.setter
        def _packed(self, made):
            pass

    weight, x = random_like((11, 6)), random_like((4, 6))
    torch.testing.assert_close(Raced(lambda: (weight, None)).product(x), x @ weight.t())


@packed_only
def test_steps_of_other_rows_are_not_packed_for_by_mkl(library, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    weights = [random_like((3, 3))]
    with kernels.other_rows():
        assert kernels.can_pack(weights) is (library == "onednn")
        with kernels.other_rows(False):
            assert kernels.can_pack(weights) is (library == "onednn")
    with kernels.other_rows(False):
        assert kernels.can_pack(weights)
    assert kernels.can_pack(weights)


def test_what_passes_through_memory_is_the_plain_product():
    weight = random_like((6, 5))
    for operation in (torch.mul, torch.div):
        found = kernels.passing(operation, weight.t(), QUICK)
        assert found.is_contiguous()
        assert torch.equal(found, operation(weight.t(), QUICK))


@pytest.mark.usefixtures("afresh")
def test_an_inexact_kernel_is_never_chosen(monkeypatch):
    product = kernels.PackedLinear.product
    monkeypatch.setattr(kernels.PackedLinear, "product", lambda self, x: product(self, x.bfloat16().float()))
    assert not kernels.packed_wanted()
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    assert not kernels.packed_wanted()


@pytest.mark.usefixtures("afresh")
def test_a_missing_kernel_is_never_chosen(monkeypatch):
    def missing(self, inputs):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(kernels.PackedLinear, "product", missing)
    for setting in ("auto", "packed"):
        monkeypatch.setenv("CALIB_LINEAR", setting)
        assert not kernels.packed_wanted()


@packed_only
@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    ("vendor", "chosen", "library"),
    [("AuthenticAMD", True, "onednn"), ("GenuineIntel", True, "mkl"), ("HygonGenuine", False, "onednn")],
)
def test_the_processor_alone_decides(monkeypatch, vendor, chosen, library):
    """A clock erred once in some hundred starts, and a resumed run differed in its last bits."""
    monkeypatch.setattr(kernels, "_processor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setenv("CALIB_LINEAR", "auto")
    assert kernels._library() == library
    state = torch.get_rng_state()
    assert [kernels.packed_wanted() for _ in range(3)] == [chosen] * 3
    assert torch.equal(torch.get_rng_state(), state)  # which belongs to the run
    monkeypatch.setenv("CALIB_LINEAR", "plain")
    assert not kernels.packed_wanted()
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    assert kernels.packed_wanted()


def test_an_unknown_kernel_is_refused(monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "pakced")
    with pytest.raises(ValueError, match=r"Unknown CALIB_LINEAR 'pakced'\. Did you mean 'packed'"):
        kernels.packed_wanted()


def library_features(backbone, images):
    """Return image features by the library's own forwards."""
    backbone = copy.deepcopy(backbone)
    for part in backbone.modules():
        part.__dict__.pop("forward", None)
    return backbone.encode_image(images)


@packed_only
def test_image_towers_equal_the_library(backbone, images, monkeypatch):
    expected = library_features(backbone, images)
    for setting in ("plain", "packed"):
        monkeypatch.setenv("CALIB_LINEAR", setting)
        torch.testing.assert_close(backbone.encode_image(images), expected, atol=1e-6, rtol=0)


def test_every_matrix_of_an_image_tower_is_frozen(small):
    kinds = {"clip": [FrozenBlock] * 2, "biomedclip": [FrozenLinear], "medclip": [FrozenLinear]}
    for kind, expected in kinds.items():
        backbone = small(kind)
        found = [part.__dict__["forward"] for part in backbone.modules() if "forward" in part.__dict__]
        if kind == "clip":
            assert [type(forward) for forward in found] == expected
        else:
            tower = backbone.model.visual if kind == "biomedclip" else backbone.model.vision_model
            layers = [part for part in tower.modules() if type(part) is torch.nn.Linear]
            assert [forward.layer for forward in found] == layers
            assert len(layers) > 4


@packed_only
def test_image_towers_see_changed_weights_and_can_be_copied(small, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    for kind, size in (("clip", 64), ("biomedclip", 160), ("medclip", 32)):
        backbone, images = small(kind), random_like((2, 3, size, size))
        before = backbone.encode_image(images)
        copied, loaded = copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))
        with torch.no_grad():
            for name, weight in backbone.named_parameters():
                if name.endswith(("c_proj.weight", "fc2.weight", "output.dense.weight")):
                    weight.mul_(1.5)
        after = backbone.encode_image(images)
        assert (after - before).abs().max() > 1e-4
        torch.testing.assert_close(after, library_features(backbone, images), atol=1e-6, rtol=0)
        assert torch.equal(copied.encode_image(images), before)
        assert torch.equal(loaded.encode_image(images), before)


@packed_only
def test_a_hooked_part_of_a_block_is_called(small, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    backbone, calls = small("clip"), []
    block = backbone.model.visual.transformer.resblocks[1]
    for part in (block, block.attn, block.mlp.gelu):
        part.register_forward_hook(lambda *args: calls.append(args[0]))
    images = random_like((2, 3, 64, 64))
    features = backbone.encode_image(images)
    assert calls == [block.attn, block.mlp.gelu, block]
    torch.testing.assert_close(features, library_features(backbone, images), atol=1e-6, rtol=0)


def test_a_block_asked_for_attention_to_others_is_the_library_s(small):
    block = small("clip").model.visual.transformer.resblocks[0]
    x, mask = random_like((2, 5, 64)), torch.full((5, 5), float("-inf")).triu(1)
    found = block(x, attn_mask=mask)
    assert not torch.allclose(found, block(x), atol=1e-3)
    torch.testing.assert_close(found, type(block).forward(block, x, attn_mask=mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_image_towers_of_other_types_are_the_library_s(small, dtype, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    backbone = small("clip").to(dtype)
    images = random_like((2, 3, 64, 64)).to(dtype)
    torch.testing.assert_close(backbone.encode_image(images), library_features(backbone, images))


@packed_only
def test_a_tower_can_be_traced(small, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    backbone, images = small("clip"), random_like((2, 3, 64, 64))
    traced = torch.jit.trace(backbone.model.visual, images)
    torch.testing.assert_close(traced(images), backbone.model.visual(images), atol=1e-5, rtol=0)


def test_quick_gelu_is_a_scaled_silu():
    x = random_like((100,)) * 5
    torch.testing.assert_close(torch.nn.functional.silu(QUICK * x) / QUICK, x * torch.sigmoid(QUICK * x))

"""Images encoded in bfloat16: close to float32, converted once, bound to what is made of them."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import time

import pytest
import torch
from torch import nn

from calib.backbones import create_backbone, rebuild_backbone
from calib.backbones.fast import bf16, kernels
from calib.backbones.openclip import OpenClipBackbone
from calib.backbones.same import DEFINING, OF_IMAGES, check_same_backbone


@pytest.fixture(scope="module")
def narrow(backbone, small):
    return small(backbone.name, encode_precision="bf16")


def far(ours, theirs):
    """Return the largest of 1 - cosine, row by row."""
    return float(1 - (ours.double() * theirs.double()).sum(dim=1).min())


def test_features_are_float32_and_near_those_of_float32(backbone, narrow, images):
    exact, found = backbone.encode_image(images), narrow.encode_image(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)), atol=1e-6, rtol=0)
    assert 1e-8 < far(found, exact) < 2e-3  # another computation, of the same thing
    assert not found.requires_grad
    assert found.equal(narrow.encode_image(images.double()))


def test_text_and_weights_stay_as_they_are(backbone, narrow):
    tokens = backbone.tokenize(["a normal lung.", "covid"])
    assert narrow.encode_text(tokens).equal(backbone.encode_text(tokens))
    assert narrow.encode_sentences(tokens).equal(backbone.encode_sentences(tokens))
    assert narrow.weights_digest == backbone.weights_digest
    assert {each.dtype for each in narrow.parameters()} == {torch.float32}
    assert "encode_precision" not in backbone.describe()
    assert narrow.describe() == {**backbone.describe(), "encode_precision": "bf16"}


def test_weights_are_converted_once_and_anew_when_they_change(narrow, images, monkeypatch):
    own, made = copy.deepcopy(narrow), []  # a copy has converted nothing yet
    monkeypatch.setattr(
        bf16, "bf16_product", lambda *args, real=bf16.bf16_product: made.append(1) or real(*args)
    )
    before = own.encode_image(images)
    count = len(made)
    assert count
    assert own.encode_image(images).equal(before)
    assert len(made) == count
    linear = next(each for each in own.image_tower.modules() if type(each) is nn.Linear)
    with torch.no_grad():
        linear.weight.mul_(1.5)
    assert not own.encode_image(images).equal(before)
    assert len(made) > count


def test_an_outer_autocast_changes_nothing(narrow, images):
    plain = narrow.encode_image(images)
    with torch.autocast("cpu", dtype=torch.float16):
        assert narrow.encode_image(images).equal(plain)


def test_a_feature_depends_neither_on_threads_nor_on_the_images_beside_it(narrow, images, monkeypatch):
    before, whole = torch.get_num_threads(), narrow.encode_image(images)
    by = set()
    real = narrow._image_features
    monkeypatch.setattr(
        narrow,
        "_image_features",
        lambda x: by.add((threading.get_ident(), torch.get_num_threads())) or real(x),
    )
    many = torch.cat([images, images.flip(-1), images])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found = narrow.encode_image(many)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert found[:5].equal(whole)
        assert found[10:].equal(whole)
    assert {each for _, each in by} == {1}  # a block is one thread's
    assert len(by) > 1
    for row in range(5):
        assert narrow.encode_image(images[row : row + 1])[0].equal(whole[row])


def test_a_block_depends_on_the_tower_alone():
    towers = {patch: nn.Sequential(nn.Conv2d(3, 4, patch, patch)) for patch in (32, 16, 4)}
    assert [bf16.block_of(towers[patch], 224) for patch in (32, 16, 4)] == [8, 4, 4]  # 49, 196, 3136 tokens
    assert bf16.block_of(nn.Linear(2, 2), 224) == 4


def test_threads_that_start_together_convert_the_weights_once(narrow, images, monkeypatch):
    own, made = copy.deepcopy(narrow), []  # a copy has converted nothing yet
    real = bf16.bf16_product

    def slowly(weight, bias):
        made.append(weight.data_ptr())
        time.sleep(0.001)
        return real(weight, bias)

    monkeypatch.setattr(bf16, "bf16_product", slowly)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        own.encode_image(torch.cat([images] * 3))
        count = len(made)
        own.encode_image(images)
    finally:
        torch.set_num_threads(before)
    assert len(made) == count
    one_thread = copy.deepcopy(narrow)
    made.clear()
    torch.set_num_threads(1)
    try:
        one_thread.encode_image(images)
    finally:
        torch.set_num_threads(before)
    assert len(made) == count


def test_copies_compute_the_same(narrow, images):
    expected = narrow.encode_image(images)
    assert copy.deepcopy(narrow).encode_image(images).equal(expected)
    layer = next(each for each in narrow.image_tower.modules() if "forward" in each.__dict__)
    assert isinstance(pickle.loads(pickle.dumps(layer.__dict__["forward"])), type(layer.__dict__["forward"]))


def test_without_packed_products_it_is_the_same_but_for_rounding(narrow, images, monkeypatch):
    monkeypatch.setattr(bf16, "packs_bf16", lambda: False)
    plain = copy.deepcopy(narrow).encode_image(images)
    assert far(plain, narrow.encode_image(images)) < 2e-3


def test_the_embedded_tower_computes_in_bf16():
    exact, found = (create_backbone("embedded", encode_precision=each) for each in ("fp32", "bf16"))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    assert 1e-8 < far(found.encode_image(images), exact.encode_image(images)) < 2e-3
    assert exact.build == create_backbone("embedded").build
    assert "encode_precision" not in exact.build
    assert found.build == {**exact.build, "encode_precision": "bf16"}
    again = rebuild_backbone(found.build)
    assert again.encode_precision == "bf16"
    check_same_backbone(found.describe(), again.describe(), what="Made for")


@pytest.mark.parametrize("wrong", ["bf-16", "BF16", "", "fp16", None, 16])
def test_an_unknown_precision_is_refused_before_weights_are_read(wrong):
    with pytest.raises(ValueError, match=r"Unknown value of backbone\.encode_precision.*bf16"):
        create_backbone("plip", weights="nowhere", encode_precision=wrong)
    with pytest.raises(ValueError, match=r"encode_precision"):
        rebuild_backbone({"name": "embedded", "encode_precision": wrong or "no"})


def test_a_class_that_says_no_image_tower_is_refused(small, monkeypatch):
    monkeypatch.setattr(OpenClipBackbone, "image_tower", None)
    with pytest.raises(ValueError, match=r"encode_precision=bf16 needs to know the image tower of clip"):
        small("clip", encode_precision="bf16")
    assert small("clip").encode_precision == "fp32"


def test_a_device_without_it_is_refused(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError("unsupported autocast device_type 'abacus'")

    monkeypatch.setattr(bf16.torch, "autocast", refuses)
    with pytest.raises(ValueError, match=r"encode_precision=bf16 cannot be used on meta.*=fp32"):
        bf16.in_bf16(torch.device("meta"))


def test_another_precision_is_another_backbone_of_images(narrow, backbone):
    assert "encode_precision" in OF_IMAGES
    assert "encode_precision" in DEFINING
    ours, theirs = narrow.describe(), backbone.describe()
    for mine, other, said in ((ours, theirs, ("bf16", "fp32")), (theirs, ours, ("fp32", "bf16"))):
        expected = (
            rf"with backbone\.encode_precision {said[0]}, and .* with backbone\.encode_precision {said[1]}"
        )
        with pytest.raises(ValueError, match=expected):
            check_same_backbone(mine, other, what="Made for")


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("flags : fpu avx512_bf16 amx_tile", True),
        ("flags : fpu amx_bf16", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu avx512f avx512_vnni", False),
        ("Apple M3", None),
    ],
)
def test_slow_processors_say_so_once(monkeypatch, caplog, text, fast):
    monkeypatch.setattr(kernels, "_processor", lambda: text)
    bf16._say_if_slow.cache_clear()
    assert bf16.bf16_is_fast() is fast
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bf16.encoded_in_bf16(lambda x: x, torch.zeros(1, 3, 2, 2))
    assert len(caplog.records) == (fast is False)
    bf16._say_if_slow.cache_clear()

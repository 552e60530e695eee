"""On a card float32 is float32 inside the block, and what was set before is set again behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from calib.core.float32 import exact_float32

PRODUCTS, CONVOLUTIONS = torch.backends.cuda.matmul, torch.backends.cudnn
NAMED = hasattr(CONVOLUTIONS, "conv")


def settings() -> tuple[Any, ...]:
    named = (PRODUCTS.fp32_precision, CONVOLUTIONS.conv.fp32_precision) if NAMED else ()
    return torch.get_float32_matmul_precision(), PRODUCTS.allow_tf32, CONVOLUTIONS.allow_tf32, *named


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    precision, _, convolutions, *_ = settings()
    yield
    torch.set_float32_matmul_precision(precision)
    CONVOLUTIONS.allow_tf32 = convolutions


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_nothing_is_rounded_inside_and_nothing_is_changed_behind(precision: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    CONVOLUTIONS.allow_tf32 = convolutions
    before = settings()

    def fail() -> None:
        with exact_float32(torch.device("cuda", 1)):
            if NAMED:
                assert (PRODUCTS.fp32_precision, CONVOLUTIONS.conv.fp32_precision) == ("ieee", "ieee")
            else:
                assert (PRODUCTS.allow_tf32, CONVOLUTIONS.allow_tf32) == (False, False)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == before


@pytest.mark.skipif(not NAMED, reason="this PyTorch has the old switches alone")
def test_switches_by_name_are_set_again() -> None:
    PRODUCTS.fp32_precision, CONVOLUTIONS.conv.fp32_precision = "tf32", "ieee"
    try:
        with exact_float32(torch.device("cuda")):
            assert PRODUCTS.fp32_precision == "ieee"
        assert (PRODUCTS.fp32_precision, CONVOLUTIONS.conv.fp32_precision) == ("tf32", "ieee")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_elsewhere_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "set_float32_matmul_precision", None)
        for name in ("cpu", "mps"):
            with exact_float32(torch.device(name)):
                pass


def test_images_are_encoded_inside(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of PyTorch round on a card unless they are told otherwise, and caches hold no device."""
    seen: list[torch.device] = []

    def watched(device: torch.device) -> Any:
        seen.append(device)
        return exact_float32(device)

    monkeypatch.setattr("calib.backbones.base.exact_float32", watched)
    small("clip").encode_image(torch.zeros(1, 3, 64, 64))
    assert seen == [torch.device("cpu")]

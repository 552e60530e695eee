"""The devices that the same tests run on: the CPU always, a graphics card with  pytest -m gpu."""

from __future__ import annotations

import pytest
import torch

NO_CARD = "needs a CUDA device: torch.cuda.is_available() says that there is none"
CARD = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="session", params=["cpu", CARD])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device that is compared with the CPU; the CPU itself shows that the test works."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(NO_CARD)
    return torch.device(request.param, 0) if request.param == "cuda" else torch.device(request.param)


@pytest.fixture(scope="session")
def card() -> torch.device:
    """Return a graphics card, for what has no meaning elsewhere."""
    if not torch.cuda.is_available():
        pytest.skip(NO_CARD)
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def accelerator(device: torch.device) -> str:
    """Return the setting trainer.accelerator of that device."""
    return "gpu" if device.type == "cuda" else "cpu"

"""Backbones are read from their files here, each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calib.backbones import BACKBONES


@pytest.fixture(autouse=True)
def read_anew(embedded_read_once: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "embedded", embedded_read_once)

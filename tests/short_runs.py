"""Short runs on the embedded backbone and features: the real job, three epochs long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from tests_shared import PLAIN, SHORT

from calib.config import PromptRun, load_config


@pytest.fixture(scope="session")
def settings() -> Callable[..., PromptRun]:
    """Return a function (*changes) -> settings of a short run."""
    return lambda *changes: load_config([*SHORT, *PLAIN, *changes], task="prompt")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> dict[int, Path]:
    """Return finished runs by seed: calibprompt and coop on 8 shots of cxr3."""
    from calib.commands.train import train

    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        train(settings(f"seed={seed}", f"out={folder / str(seed)}"))
    return {seed: folder / str(seed) for seed in (1, 2)}


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with the defaults: calibprompt, calibrated by its 8 shots of cxr3, and coop."""
    from calib.commands.train import train

    folder = tmp_path_factory.mktemp("calibrated") / "run"
    train(load_config([*SHORT, f"out={folder}"], task="prompt"))
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small pictures: three classes, 6 training and 3 test images each."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("test", 3)):
        for label, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
            for number in range(count):
                path = root / split / f"class_{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.new("RGB", (48, 40), (90, 80, 70))
                size = 10 + 3 * number + (1 if split == "test" else 0)
                ImageDraw.Draw(image).ellipse((2, 2, size, size), fill=colour)
                image.save(path)
    return root

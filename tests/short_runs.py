"""Short runs on the embedded backbone and features: the real job, three epochs long."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from tests_shared import PLAIN, SHORT

from calib.config import PromptRun, load_config

ASSETS = Path(__file__).parents[1] / "calib" / "assets" / "embedded"


@pytest.fixture(scope="session", autouse=True)
def embedded_read_once() -> Iterator[Callable[..., Any]]:
    """Let the embedded model be read from its files once per process, and every run have a copy of its own.

    A fifth of a second for each of hundreds of runs. `tests/backbones` reads it anew each time. Yields what
    reads the files.
    """
    from calib.backbones import BACKBONES
    from calib.backbones.options import BackboneOptions

    read, kept = BACKBONES["embedded"], []

    def copied(options: BackboneOptions) -> Any:
        switched_on = {name: True for name, on in options.parity.items() if on}
        if replace(options, parity=switched_on) != BackboneOptions():
            return read(options)
        if not kept:
            kept.append(read(options))
        return copy.deepcopy(kept[0])

    BACKBONES["embedded"] = copied
    yield read
    BACKBONES["embedded"] = read


@pytest.fixture(autouse=True)
def read_anew(
    request: pytest.FixtureRequest,
    embedded_read_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let the tests of backbones read them from their files, each time."""
    if request.path.parent.name == "backbones":
        from calib.backbones import BACKBONES

        monkeypatch.setitem(BACKBONES, "embedded", embedded_read_once)


@pytest.fixture(scope="session", autouse=True)
def diagrams_drawn_once() -> Iterator[None]:
    """Let runs make every figure, and draw the first of each kind: a third of a second for hundreds of runs.

    Figures are of one kind that have as many panels, and as many lines in each. What later runs of this
    process write is the picture of the first. Tests of figures draw theirs themselves.
    """
    from calib.report import plots

    draw, drawn = plots.FigureCanvasAgg, {}

    class DrawnOnce:
        def __init__(self, figure: Any) -> None:
            self.figure = figure

        def print_png(self, path: Path) -> None:
            kind = tuple(len(axes.lines) for axes in self.figure.axes)
            if kind not in drawn:
                draw(self.figure).print_png(path)
                drawn[kind] = path.read_bytes()
            path.write_bytes(drawn[kind])

    plots.FigureCanvasAgg = DrawnOnce  # type: ignore[misc,assignment]
    yield
    plots.FigureCanvasAgg = draw  # type: ignore[misc]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the setting of a model that reads an image in half a millisecond: like the embedded one, random.

    For what happens around images: reading, caching, counting, refusing.
    """
    import torch
    from safetensors.torch import save_file

    from calib.backbones.openclip import build_model

    folder = tmp_path_factory.mktemp("tiny")
    config = json.loads((ASSETS / "open_clip_config.json").read_text())
    config["model_cfg"] |= {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    }
    config["model_cfg"]["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / name, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"backbone.name=local-dir:{folder}"


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

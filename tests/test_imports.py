"""What an import loads and what it leaves alone, one after the other in a single fresh process.

Each step is a few lines of Python; of each it is noted which heavy libraries have been loaded by its end.
What is not there after a step was loaded by none before it, either.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    "open_clip",
    "timm",
    "transformers",
    "torchvision",
    "wandb",
    "datasets",
    "pandas",
    "sklearn",
    "optuna",
)
COMPILER = ("torch._dynamo", "sympy")  # a second, which every optimiser of torch takes
HEAVY = (
    "torch",
    "numpy",
    "scipy.stats",
    "matplotlib",
    "lightning",
    "torchmetrics",
    "optuna",
    *COMPILER,
    *LIBRARIES,
)
ALIKE = "the settings of the losses and all names are read alike from the source and from the modules"
STEPS = {
    "the door": """
import calib
assert dir(calib)
ours = sorted(name for name in sys.modules if name.startswith("calib"))
assert ours == ["calib"], ours
""",
    "the command line": "import calib.cli",
    "the arguments of calibrate": """
from calib.commands.calibrate_arguments import calibrate_arguments
given = calibrate_arguments(["a.csv", "--method", "svs", "--shares", "x=0.5,y=0.5", "--classes", "x, y"])
assert (given.shares, given.classes) == ({"x": 0.5, "y": 0.5}, ["x", "y"])
""",
    "a search that cannot be": """
from calib.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    assert main(["tune", "optim.lr=0.0..0.1"]) == 1
    assert main(["tune", "--help"]) == 0
""",
    "names from the source": """
from calib.config.names import TABLES
from calib.core.tables import names_in, settings_in
places = [place for kind in TABLES.values() for place in kind]
read = {place: names_in(*place) for place in places}
settings = {name: settings_in(*TABLES["loss"][0], name) for name in read[TABLES["loss"][0]]}
""",
    "rooms of the door": "calib.metrics, calib.scores, calib.posthoc, calib.stats, calib.losses",
    "functions of metrics": "calib.metrics.summarize, calib.metrics.interval_statistic, calib.metrics.auroc",
    "an image is classified": """
import tempfile
from pathlib import Path
from PIL import Image
from calib.cli import main
folder = tempfile.TemporaryDirectory()
here = Path(folder.name)
prompt = calib.zero_shot(calib.create_backbone("embedded"), calib.load_data("cxr3"))
prompt.save(here / "prompt.safetensors")
Image.new("RGB", (30, 20), "white").save(here / "white.png")
def quietly(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        assert main([str(argument) for argument in arguments]) == 0, said.getvalue()
quietly("predict", here / "prompt.safetensors", here / "white.png", "--out", here / "predictions.csv")
assert "white.png" in (here / "predictions.csv").read_text()
""",
    "failure without training": "\n".join(
        f"import calib.failure.{name}"
        for name in (
            "cases",
            "captions",
            "data",
            "doubt",
            "evaluation",
            "explain",
            "export",
            "official",
            "report",
            "vilu",
        )
    ),
    "prompts are evaluated": """
quietly("evaluate", here / "prompt.safetensors", "data.name=cxr3", f"out={here}/evaluation")
""",
    "a prompt is trained": """
quietly("train", "trainer.max_epochs=1", "baselines=[]", f"out={here}/run")
folder.cleanup()
""",
    "classes of torchmetrics": "from calib.metrics import CalibrationError",
    "training a head": """
import logging
import lightning.pytorch  # sets levels of its own when it is imported
from toy_head import SMALL, prompt, table
logging.basicConfig(level="INFO")
names = ("lightning.pytorch", "lightning.fabric")
levels = [logging.getLogger(name).level for name in names]
calib.fit_failure_head(prompt(), table(), **SMALL)
assert [logging.getLogger(name).level for name in names] == levels
""",
    ALIKE: """
from importlib import import_module
from calib.core import byname
logging.disable(logging.CRITICAL)
with contextlib.redirect_stderr(io.StringIO()):  # libraries may have something to say
    tables = {(module, name): getattr(import_module(module), name) for module, name in places}
assert read == {place: [*table] for place, table in tables.items()}
assert settings == {name: byname.settings(loss) for name, loss in tables[TABLES["loss"][0]].items()}
assert all(read.values()) and any(settings.values())
""",
}
PROGRAM = f"""
import contextlib, io, json, sys
loaded = {{}}
for name, step in json.loads(sys.argv[1]).items():
    exec(step)
    loaded[name] = [each for each in {HEAVY} if each in sys.modules]
with open(sys.argv[2], "w") as file:
    json.dump(loaded, file)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what was loaded after each step, what the process printed, and what it left in its folder."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "here").mkdir()
    program = f"import sys\nsys.path[:0] = {[str(Path(__file__).parent), *sys.path]}\n{PROGRAM}"
    command = [sys.executable, "-c", program, json.dumps(STEPS), str(folder / "loaded.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder / "here")
    assert done.returncode == 0, done.stderr
    loaded = json.loads((folder / "loaded.json").read_text())
    return {**loaded, "said": done.stdout + done.stderr, "written": list((folder / "here").iterdir())}


@pytest.mark.parametrize(
    "step",
    ["the door", "the command line", "the arguments of calibrate", "a search that cannot be"],
)
def test_the_door_help_and_arguments_load_nothing_heavy(step: str, process: dict[str, Any]) -> None:
    assert process[step] == []


def test_names_from_the_source_are_those_of_the_tables(process: dict[str, Any]) -> None:
    assert process["names from the source"] == []
    assert "lightning" in process[ALIKE]  # the modules were imported, and compared


@pytest.mark.parametrize("step", ["rooms of the door", "functions of metrics"])
def test_metrics_scores_calibrators_and_losses_need_torch_alone(step: str, process: dict[str, Any]) -> None:
    assert process[step] == ["torch", "numpy"]


# torch 2.6, the lowest version that is allowed, imports it itself.
OF_TORCH = ["sympy"] if importlib.metadata.version("torch").startswith("2.6.") else []


def test_an_image_is_classified_with_torch_alone(process: dict[str, Any]) -> None:
    assert process["an image is classified"] == ["torch", "numpy", *OF_TORCH]


def test_prompts_are_evaluated_without_what_trains_and_compiles(process: dict[str, Any]) -> None:
    assert process["prompts are evaluated"] == ["torch", "numpy", "scipy.stats", "matplotlib", *OF_TORCH]


def test_a_prompt_is_trained_without_what_lightning_takes_along(process: dict[str, Any]) -> None:
    assert not set(process["a prompt is trained"]) & set(LIBRARIES)


def test_only_training_loads_lightning(process: dict[str, Any]) -> None:
    assert "lightning" not in process["failure without training"]
    assert "lightning" in process["a prompt is trained"]


def test_only_its_classes_load_torchmetrics(process: dict[str, Any]) -> None:
    assert "torchmetrics" not in process["failure without training"]
    assert "torchmetrics" in process["classes of torchmetrics"]


def test_training_a_head_prints_nothing_and_writes_nothing(process: dict[str, Any]) -> None:
    assert (process["said"], process["written"]) == ("", [])

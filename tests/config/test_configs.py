"""Every shipped settings file loads, and says what its name says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from calib.commands.failure.run import loss_settings
from calib.config import FailureRun, PromptRun, SegmentRun, load_config, task_of
from calib.failure.vilu import ViLU
from calib.losses import SEGMENTATION_PRESETS, Objective, resolve_terms

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted({*CONFIGS.rglob("*.yaml")} - {*CONFIGS.glob("sweeps/*.yaml")})  # those: test_sweep_files.py
# CalibPrompt release (github.com/iabh1shekbasu/CalibPrompt c6ec13e): alpha of LS and SMAC, weight of AS,
# warm-up lr.
CELLS = {
    "plip_kather": (0.05, 0.01, 1e-5),
    "plip_pannuke": (0.2, 0.1, 1e-5),
    "plip_digestpath": (0.03, 0.001, 1e-5),
    "quiltnet_kather": (0.01, 1.0, 1e-5),
    "quiltnet_pannuke": (0.1, 0.001, 1e-5),
    "quiltnet_digestpath": (0.05, 0.001, 1e-5),
    "medclip_covid": (0.2, 1.0, 1e-3),
    "medclip_rsna18": (0.2, 1.0, 1e-3),
    "biomedclip_covid": (0.1, 3.0, 1e-5),
    "biomedclip_rsna18": (0.1, 3.0, 1e-5),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_builds_what_it_trains(path: Path) -> None:
    task = task_of([str(path)])
    config = load_config([str(path)], task=task)
    if task == "prompt":
        assert Objective(resolve_terms(config.preset, config.loss)).weights
    elif task == "segment":
        assert Objective(resolve_terms(config.preset, config.loss, SEGMENTATION_PRESETS)).weights
    else:
        assert ViLU(8, logit_scale=1.0, **asdict(config.head)).options["dim"] == 8
        assert loss_settings(config.loss)["weighting"] == config.loss.weighting


def test_the_main_files_hold_the_defaults() -> None:
    assert len(FILES) == 13
    assert load_config([str(CONFIGS / "failure.yaml")], task="failure") == FailureRun()
    assert load_config([str(CONFIGS / "prompt.yaml")], task="prompt") == PromptRun()
    assert load_config([str(CONFIGS / "segment.yaml")], task="segment") == SegmentRun()


@pytest.mark.parametrize("cell", CELLS)
def test_paper_cells_hold_the_published_settings(cell: str) -> None:
    alpha, weight, warmup_lr = CELLS[cell]
    config = load_config([str(CONFIGS / "paper" / f"{cell}.yaml")], task="prompt")
    assert f"{config.backbone.name}_{config.data.name}" == cell
    objective = Objective(resolve_terms(config.preset, config.loss))
    assert objective.weights == {"ls": 1.0, "smac": 1.0, "as": weight}
    assert resolve_terms(config.preset, config.loss)["ls"]["alpha"] == alpha
    assert resolve_terms(config.preset, config.loss)["smac"]["alpha"] == alpha
    assert (config.optim.warmup_lr, config.optim.lr, config.data.shots) == (warmup_lr, 0.002, 8)

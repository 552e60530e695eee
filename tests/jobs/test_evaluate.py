from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from calib.checkpoints import PromptCheckpoint
from calib.config import EvaluateRun, load_config
from calib.files import read_json
from calib.jobs.evaluate import evaluate, find_entries
from calib.predictions import Predictions


def evaluation(folder: Path, runs: list[Path], *changes: str) -> EvaluateRun:
    config = load_config([f"out={folder}", "n_resamples=200", *changes], task="evaluate")
    config.runs = [str(run) for run in runs]
    return config


@pytest.fixture(scope="module")
def results(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(evaluation(folder, list(runs.values()), "baseline=coop"))


def test_it_repeats_the_numbers_of_the_runs(runs, results) -> None:
    for seed, run in runs.items():
        for method, folder in [("calibprompt", run), ("coop", run / "baselines" / "coop")]:
            written = read_json(folder / "metrics.json")["test"]
            assert results["methods"][method][seed]["nll"] == pytest.approx(written["nll"], abs=1e-12)


def test_it_writes_predictions_metrics_table_and_picture(results) -> None:
    folder = Path(results["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"predictions", "metrics.json", "table.md", "reliability.png"}
    expected = {
        f"{method}-s{seed}.safetensors" for method in ("calibprompt", "coop", "zero-shot") for seed in (1, 2)
    }
    assert {path.name for path in (folder / "predictions").iterdir()} == expected
    assert (folder / "table.md").read_text().count("\n| ") == 6  # header and methods, header and differences


def test_means_and_differences_are_over_seeds(results) -> None:
    folder = Path(results["folder"])
    written = read_json(folder / "metrics.json")
    accuracy = {m: [results["methods"][m][s]["accuracy"] for s in (1, 2)] for m in ("calibprompt", "coop")}
    difference = written["differences"]["calibprompt"]["accuracy"]
    expected = np.mean(accuracy["calibprompt"]) - np.mean(accuracy["coop"])
    assert difference["estimate"] == pytest.approx(expected, abs=1e-12)
    assert difference["low"] <= difference["estimate"] <= difference["high"]
    assert difference["seeds"] == 2
    mean, sd = np.mean(accuracy["coop"]), np.std(accuracy["coop"], ddof=1)
    assert f"{100 * mean:.1f} ± {100 * sd:.1f}" in results["table"]


def test_an_unknown_baseline_is_refused(runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown baseline 'cop'. Did you mean 'coop'"):
        evaluate(evaluation(tmp_path, [runs[1]], "baseline=cop"))
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        evaluate(evaluation(tmp_path, []))
    with pytest.raises(FileNotFoundError, match="no exported prompt at"):
        evaluate(evaluation(tmp_path, [tmp_path / "none"]))
    assert list(tmp_path.iterdir()) == []


def test_changed_losses_get_a_name_of_their_own(runs, tmp_path: Path) -> None:
    other = PromptCheckpoint.load(runs[1] / "prompt.safetensors")
    other.training["objective"]["smac"]["alpha"] = 0.2
    other.save(tmp_path / "other.safetensors")
    entries = find_entries(
        evaluation(tmp_path, [runs[1] / "prompt.safetensors", tmp_path / "other.safetensors"])
    )
    assert [entry.method for entry in entries] == ["calibprompt", "calibprompt smac.alpha=0.2"]


def test_two_different_prompts_of_one_name_and_seed_are_refused(runs, tmp_path: Path) -> None:
    other = PromptCheckpoint.load(runs[1] / "prompt.safetensors")
    other.text_features = other.text_features.roll(1, dims=0)
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"different prompts, both 'calibprompt' with seed 1"):
        find_entries(evaluation(tmp_path, [runs[1], tmp_path / "other.safetensors"]))
    shutil.copy(runs[1] / "prompt.safetensors", tmp_path / "copy.safetensors")
    assert len(find_entries(evaluation(tmp_path, [runs[1], tmp_path / "copy.safetensors"]))) == 3


def test_the_validation_split_of_the_data_can_be_evaluated(runs, tmp_path: Path) -> None:
    results = evaluate(evaluation(tmp_path, [runs[1] / "prompt.safetensors"], "split=val"))
    assert results["methods"]["calibprompt"][1]["n"] == 53
    with pytest.raises(ValueError, match=r"no split 'trian'"):
        evaluate(evaluation(tmp_path, [runs[1]], "split=trian"))


def test_other_classes_are_refused(runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"knows the classes \['no finding'.*lc25000 has \['colon"):
        evaluate(evaluation(tmp_path, [runs[1] / "prompt.safetensors"], "data.name=lc25000"))


def test_predictions_carry_the_groups_that_intervals_resample(results) -> None:
    path = Path(results["folder"]) / "predictions" / "coop-s1.safetensors"
    predictions = Predictions.load(path)
    assert predictions.groups is not None
    assert len(set(predictions.groups)) < len(predictions.groups)
    assert torch.allclose(predictions.probs.sum(dim=1), torch.ones(545, dtype=torch.float64))

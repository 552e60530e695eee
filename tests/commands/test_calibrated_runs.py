"""A run that calibrates its prompt by its own shots: folder, results, evaluation, sweep, resuming, Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_shared import SHORT

import calib
from calib.commands.evaluate import evaluate
from calib.commands.search.grid import sweep_of
from calib.commands.search.sweep import sweep
from calib.commands.train import train
from calib.config import load_config
from calib.data.predictions import Predictions
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs.results import about_calibration

QUICK = [*SHORT, "data.shots=4", "data.views=2", "baselines=[]"]


def run(folder: Path, *changes: str) -> dict[str, Any]:
    return train(load_config([*QUICK, f"out={folder}", *changes], task="prompt"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    return folder, run(folder)


def test_the_export_predicts_what_the_metrics_are_about(made: Any) -> None:
    folder, results = made
    prompt = Prompt.load(folder / "prompt.safetensors")
    assert prompt.calibration is not None
    assert prompt.calibration.method == "experts"
    predictions = Predictions.load(folder / "predictions.safetensors")
    torch.testing.assert_close(prompt.logits(predictions.image_features), predictions.logits)
    metrics = read_json(folder / "metrics.json")
    assert metrics["test"]["nll"] == predictions.metrics()["nll"]
    assert results["methods"]["calibprompt calibrated"]["nll"] == metrics["test"]["nll"]
    assert (folder / "prompt.safetensors").stat().st_size < 100_000


def test_the_bare_prompt_lies_beside_it(made: Any) -> None:
    folder, results = made
    bare, whole = Prompt.load(folder / "bare"), Prompt.load(folder)
    assert bare.calibration is None
    assert torch.equal(bare.text_features, whole.text_features)
    assert bare.training["config"]["calibrate"]["method"] == "none"
    seen = Predictions.load(folder / "bare" / "predictions.safetensors")
    torch.testing.assert_close(seen.logits, whole.bare().logits(seen.image_features))
    assert list(results["methods"]) == ["zero-shot", "calibprompt", "calibprompt calibrated"]


def test_metrics_say_how_it_was_calibrated(made: Any) -> None:
    metrics = read_json(made[0] / "metrics.json")
    said = metrics["calibration"]
    assert said["shots"] == metrics["shots"]["n"] == 12
    assert set(said["left_out_nll"]) == {"none", "scale", "experts"}
    assert metrics["shots"]["nll"] == said["left_out_nll"]["experts"]
    assert sum(said["expert_shares"].values()) == pytest.approx(1)


def test_the_prompt_is_the_one_that_is_trained_alone(made: Any, tmp_path: Path) -> None:
    run(tmp_path / "alone", "calibrate.method=none")
    alone = Prompt.load(tmp_path / "alone")
    assert alone.calibration is None
    assert not (tmp_path / "alone" / "bare").exists()
    torch.testing.assert_close(alone.text_features, Prompt.load(made[0]).text_features, atol=2e-5, rtol=0)


def test_python_gives_the_same_prompt(made: Any) -> None:
    backbone, task = calib.create_backbone("embedded"), calib.load_data("cxr3")
    prompt = calib.fit_prompt(backbone, task, shots=4, views=2, epochs=3, seed=1)
    theirs = Prompt.load(made[0])
    torch.testing.assert_close(prompt.text_features, theirs.text_features, atol=2e-5, rtol=0)
    assert prompt.calibration is not None
    assert theirs.calibration is not None
    torch.testing.assert_close(prompt.calibration.weight, theirs.calibration.weight, atol=5e-3, rtol=1e-3)


def test_a_finished_run_is_read_back_and_its_table_made_again(made: Any) -> None:
    folder, results = made
    table = (folder / "table.md").read_text()
    (folder / "table.md").unlink()
    again = run(folder)
    assert again["reused"]
    assert again["methods"] == results["methods"]
    assert (folder / "table.md").read_text() == table
    assert "calibprompt calibrated" in table


def test_evaluate_tells_both_apart_and_repeats_the_numbers(made: Any, tmp_path: Path) -> None:
    config = load_config([f"out={tmp_path / 'e'}", "baseline=calibprompt", "n_resamples=20"], task="evaluate")
    config.runs = [str(made[0])]
    found = evaluate(config)["methods"]
    assert list(found) == ["calibprompt calibrated", "zero-shot", "calibprompt"]
    metrics = read_json(made[0] / "metrics.json")["test"]
    assert found["calibprompt calibrated"][1]["nll"] == pytest.approx(metrics["nll"], abs=1e-5)


@pytest.mark.slow
def test_variants_of_one_seed_are_evaluated_together(made: Any, tmp_path: Path) -> None:
    variants = {"a": "calibrate.method=scale", "b": "calibrate.folds=2", "c": "calibrate.method=none"}
    for name, change in variants.items():
        run(tmp_path / name, change)
    config = load_config([f"out={tmp_path / 'e'}", "baseline=calibprompt", "n_resamples=20"], task="evaluate")
    config.runs = [str(made[0]), *(str(tmp_path / name) for name in variants)]
    found = evaluate(config)["methods"]
    assert list(found) == [
        "calibprompt calibrated calibrate.folds=3",
        "zero-shot",
        "calibprompt",  # one for all: how it is calibrated makes no other prompt
        "calibprompt calibrated (scale) calibrate.folds=3",
        "calibprompt calibrated calibrate.folds=2",
    ]


def test_stated_prevalence_moves_the_predictions_there(made: Any, tmp_path: Path) -> None:
    shares = "calibrate.prevalence={no finding: 0.9, pneumonia: 0.05, COVID-19: 0.05}"
    run(tmp_path / "r", shares)
    tilted, even = (
        Predictions.load(folder / "predictions.safetensors") for folder in (tmp_path / "r", made[0])
    )
    assert (tilted.predictions == 0).sum() > (even.predictions == 0).sum()
    kept = Prompt.load(tmp_path / "r").calibration
    assert kept is not None
    assert kept.tilt["no finding"] == pytest.approx(torch.tensor(0.9 * 3).log().item())


def test_what_cannot_be_calibrated_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"calibrate\.prevalence"):
        run(tmp_path / "r", "calibrate.prevalence={healthy: 1}")
    assert not (tmp_path / "r").exists()


def test_a_sweep_gives_what_single_runs_give_and_chooses_by_the_shots(made: Any, tmp_path: Path) -> None:
    words = [*QUICK[:-1], "preset=calibprompt,coop", f"out={tmp_path / 's'}"]
    found = sweep(sweep_of(words))
    assert "shots NLL" in found["table"]
    assert found["best"] in ("preset=calibprompt", "preset=coop")
    mine, alone = Prompt.load(tmp_path / "s" / "preset-calibprompt"), Prompt.load(made[0])
    assert mine.calibration is not None
    assert alone.calibration is not None
    torch.testing.assert_close(mine.text_features, alone.text_features, atol=2e-5, rtol=0)
    torch.testing.assert_close(mine.calibration.weight, alone.calibration.weight, atol=5e-3, rtol=1e-3)
    assert (tmp_path / "s" / "preset-coop" / "bare" / "metrics.json").is_file()


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("calib.commands.train.calibrated_by_shots", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "r")
    assert (tmp_path / "r" / "checkpoints" / "last.ckpt").is_file()
    run(tmp_path / "r")
    for name in ("metrics.json", "predictions.safetensors", "logs/metrics.csv", "bare/metrics.json"):
        assert (tmp_path / "r" / name).read_bytes() == (made[0] / name).read_bytes(), name


def test_encoding_at_every_step_is_calibrated_too(image_folder: Path, tiny: str, tmp_path: Path) -> None:
    data = [tiny, "data.name=folder", f"data.root={image_folder}", "data.cache=false", "trainer.max_epochs=1"]
    train(load_config([*QUICK, *data, f"out={tmp_path / 'r'}"], task="prompt"))
    assert Prompt.load(tmp_path / "r").calibration is not None


def test_a_method_that_is_not_the_best_on_the_shots_is_explained_and_no_other() -> None:
    record = {"method": "experts", "shots": 24, "expert_shares": {"prompt": 0.3, "images": 0.7}}
    best = {"none": 0.754, "scale": 0.611, "experts": 0.598}
    assert about_calibration({**record, "left_out_nll": best}).endswith("scale 0.611, experts 0.598.")
    beaten = {**record, "left_out_nll": {**best, "scale": 0.5}}
    said = about_calibration(beaten)
    assert "experts 0.598; experts all the same, as auto leaves it only where" in said
    assert "all the same" not in about_calibration(beaten, asked="experts")
    page, _, anchor = re.search(r"docs/(\S+)#(\S+)\)", said)[0][:-1].partition("#")
    assert f"## {anchor.replace('-', ' ').capitalize()}\n" in (Path(__file__).parents[2] / page).read_text()


def test_one_shot_per_class_is_enough(tmp_path: Path) -> None:
    run(tmp_path / "r", "data.shots=1")
    metrics = read_json(tmp_path / "r" / "metrics.json")
    assert metrics["calibration"]["method"] == "experts"
    assert "shots" not in metrics  # nothing could be left out, and nothing can be chosen by it
    assert "Calibrated by what is assumed beforehand" in about_calibration(metrics["calibration"])

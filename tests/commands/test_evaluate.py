from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from calib.backbones.base import Backbone
from calib.commands.evaluate import evaluate, file_names
from calib.commands.train import train
from calib.config import EvaluateRun, load_config
from calib.data.predictions import Predictions
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs import prepare
from calib.runs.entries import find_entries


def evaluation(folder: Path, runs: list[Path], *changes: str) -> EvaluateRun:
    config = load_config([f"out={folder}", "n_resamples=50", "report=false", *changes], task="evaluate")
    config.runs = [str(run) for run in runs]
    return config


@pytest.fixture(scope="module")
def results(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(evaluation(folder, list(runs.values()), "baseline=coop", "report=true"))


def test_it_repeats_the_numbers_of_the_runs(runs, results) -> None:
    for seed, run in runs.items():
        for method, folder in [("calibprompt", run), ("coop", run / "baselines" / "coop")]:
            written = read_json(folder / "metrics.json")["test"]
            assert results["methods"][method][seed]["nll"] == pytest.approx(written["nll"], abs=1e-12)


def test_it_writes_predictions_metrics_table_and_picture(results) -> None:
    folder = Path(results["folder"])
    names = {path.name for path in folder.iterdir()} - {".lock"}
    reports = {f"report.{ending}" for ending in ("html", "json", "csv", "md")}
    others = {"evaluation.yaml", "predictions", "metrics.json", "table.md", "reliability.png"}
    assert names == others | reports
    expected = {
        f"{method}-s{seed}.safetensors" for method in ("calibprompt", "coop", "zero-shot") for seed in (1, 2)
    }
    assert {path.name for path in (folder / "predictions").iterdir()} == expected
    text = (folder / "table.md").read_text()
    assert text.count("\n| ") == 7  # two headers, three methods, two differences
    assert text.startswith("cxr3 (545 images), test split, seeds 1, 2, mean ± standard deviation over seeds;")
    assert (
        "Minus coop, paired by seed and group of images (patient), with 95% bootstrap intervals (50" in text
    )


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
    assert f"{100 * mean:.1f} ± {100 * sd:.1f}" in results["text"]


def test_an_unknown_baseline_is_refused(runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown baseline 'cop'. Did you mean 'coop'"):
        evaluate(evaluation(tmp_path, [runs[1]], "baseline=cop"))
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        evaluate(evaluation(tmp_path, []))
    with pytest.raises(FileNotFoundError, match="no exported prompt at"):
        evaluate(evaluation(tmp_path, [tmp_path / "none"]))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_have_moved_are_looked_for_where_the_setting_says(runs, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No weights at 'moved\.pt'.*backbone\.weights"):
        evaluate(evaluation(tmp_path / "out", [runs[1]], "backbone.weights=moved.pt"))


def test_changed_losses_get_a_name_of_their_own(runs, tmp_path: Path) -> None:
    other = Prompt.load(runs[1] / "prompt.safetensors")
    other.training["objective"]["smac"]["alpha"] = 0.2
    other.save(tmp_path / "other.safetensors")
    entries = find_entries(
        evaluation(tmp_path, [runs[1] / "prompt.safetensors", tmp_path / "other.safetensors"])
    )
    assert [entry.method for entry in entries] == ["calibprompt", "calibprompt smac.alpha=0.2"]


def test_two_different_prompts_of_one_name_and_seed_are_refused(runs, tmp_path: Path) -> None:
    other = Prompt.load(runs[1] / "prompt.safetensors")
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


def test_images_are_encoded_where_a_training_would_be(runs, tmp_path: Path, monkeypatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(prepare, "quickest_device", lambda: torch.device("cpu", 3))
    monkeypatch.setattr(Backbone, "to", lambda self, device: asked.append(device) or self)
    evaluate(evaluation(tmp_path, [runs[1] / "prompt.safetensors"]))
    assert asked == [torch.device("cpu", 3)]


def test_other_classes_are_refused(runs, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"lc25000: The prompt knows the classes \['no finding'.*data have \['colon"
    ):
        evaluate(evaluation(tmp_path, [runs[1] / "prompt.safetensors"], "data.name=lc25000"))


def test_classes_are_matched_by_name_and_not_by_order(runs, tmp_path: Path) -> None:
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    order = [2, 0, 1]
    prompt.class_names = [prompt.class_names[label] for label in order]
    prompt.text_features = prompt.text_features[order]
    prompt.save(tmp_path / "turned.safetensors")
    turned, straight = (
        evaluate(evaluation(tmp_path / path.stem, [path]))["methods"]["calibprompt"][1]
        for path in (tmp_path / "turned.safetensors", runs[1] / "prompt.safetensors")
    )
    assert turned["accuracy"] == straight["accuracy"]
    assert turned["nll"] == pytest.approx(straight["nll"], abs=1e-12)
    assert [row["class"] for row in turned["per_class"]] == [row["class"] for row in straight["per_class"]]


def test_an_evaluation_replaces_only_an_evaluation(runs, tmp_path: Path, caplog) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    before = (run / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match=r"run' is the folder of a run, whose results would be lost"):
        evaluate(evaluation(run, [run]))
    assert (run / "metrics.json").read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"notes' holds files but no evaluation. Give another folder"):
        evaluate(evaluation(tmp_path / "notes", [run]))
    with pytest.raises(ValueError, match=r"cannot be made: '.*thesis.tex' is a file"):
        evaluate(evaluation(tmp_path / "notes" / "thesis.tex" / "x", [run]))
    out = tmp_path / "out"
    evaluate(evaluation(out, [run]))
    with caplog.at_level("INFO", logger="calib"):
        evaluate(evaluation(out, [run / "prompt.safetensors"]))
    assert "Replacing the evaluation in" in caplog.text
    assert [path.name for path in (out / "predictions").iterdir()] == ["calibprompt-s1.safetensors"]


def test_predictions_carry_the_groups_that_intervals_resample(results) -> None:
    path = Path(results["folder"]) / "predictions" / "coop-s1.safetensors"
    predictions = Predictions.load(path)
    assert predictions.groups is not None
    assert len(set(predictions.groups)) < len(predictions.groups)
    assert torch.allclose(predictions.probs.sum(dim=1), torch.ones(545, dtype=torch.float64))


def test_runs_can_be_named_by_a_pattern(runs, tmp_path: Path) -> None:
    pattern = runs[1].parent / "[12]"
    entries = find_entries(evaluation(tmp_path, [pattern]))
    assert {(entry.method, entry.seed) for entry in entries} >= {("calibprompt", 1), ("calibprompt", 2)}
    with pytest.raises(FileNotFoundError, match=r"The pattern '.*\[89\]' fits no run folder"):
        find_entries(evaluation(tmp_path, [runs[1].parent / "[89]"]))


def test_runs_of_other_settings_are_other_methods_and_no_seeds(runs, settings, tmp_path: Path) -> None:
    """A pattern that fits too much would otherwise give a mean over runs that have nothing in common."""
    other = tmp_path / "other"
    train(settings("seed=2", "optim.lr=0.01", "baselines=[]", f"out={other}"))
    out = tmp_path / "e"
    arguments = [f"out={out}", "n_resamples=20"]
    evaluate(load_config([f"runs=[{runs[1]},{other}]", *arguments], task="evaluate"))
    named = set(read_json(out / "metrics.json")["methods"])
    assert {"calibprompt optim.lr=0.002", "calibprompt optim.lr=0.01", "zero-shot"} <= named
    assert "calibprompt" not in named


def test_a_default_that_was_asked_for_is_no_runs_own(runs, tmp_path: Path) -> None:
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    prompt.training["config"]["data"] |= {"root": "images", "template": "A scan of {}."}
    prompt.save(tmp_path / "elsewhere.safetensors")
    found = []
    for changes in ([], ["data.root=null"], ["data.root=null", "data.template=null", "data.name=''"]):
        (entry,) = find_entries(evaluation(tmp_path, [tmp_path / "elsewhere.safetensors"], *changes))
        found.append((entry.data.name, entry.data.root, entry.data.template))
    assert found == [
        ("cxr3", "images", "A scan of {}."),
        ("cxr3", None, "A scan of {}."),
        ("cxr3", None, None),
    ]


@pytest.mark.parametrize("layout", ["test/{}", "{}"])
def test_external_images_of_two_of_three_classes_need_no_training_split(
    runs, tmp_path: Path, make_pictures, layout: str
) -> None:
    images = make_pictures({layout.format(name): 2 for name in ("pneumonia", "COVID-19")})
    changes = ["data.name=folder", f"data.root={images}", f"data.cache_dir={tmp_path / 'cache'}"]
    results = evaluate(evaluation(tmp_path / "out", [runs[1]], *changes, "baseline=coop"))
    metrics = results["methods"]["calibprompt"][1]
    recalls = {row["class"]: row["recall"] for row in metrics["per_class"]}
    assert set(recalls) == {"no finding", "pneumonia", "COVID-19"}
    assert np.isnan(recalls["no finding"])
    assert not np.isnan(recalls["pneumonia"])
    predictions = Predictions.load(tmp_path / "out" / "predictions" / "calibprompt-s1.safetensors")
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    assert predictions.class_names == prompt.class_names  # its own numbering, a column for each
    assert predictions.logits.shape == (4, 3)
    assert sorted(predictions.class_names[label] for label in predictions.labels.tolist()) == [
        "COVID-19",
        "COVID-19",
        "pneumonia",
        "pneumonia",
    ]


def test_external_images_of_a_class_that_the_prompt_does_not_know_are_refused(
    runs, tmp_path: Path, make_pictures
) -> None:
    images = make_pictures({"test/pneumonia": 1, "test/fracture": 1})
    changes = ["data.name=folder", f"data.root={images}", f"data.cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(ValueError, match=r"knows the classes .* the data have \['fracture', 'pneumonia'\]"):
        evaluate(evaluation(tmp_path / "out", [runs[1]], *changes))


@pytest.fixture
def make_pictures(tmp_path: Path):
    """Return a function that writes {"test/pneumonia": 3, ...} pictures, and returns their folder."""

    def make(counts: dict[str, int]) -> Path:
        random = np.random.default_rng(0)
        for folder, count in counts.items():
            (tmp_path / "images" / folder).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / folder / f"{number}.png")
        return tmp_path / "images"

    return make


def test_names_of_files_are_short_and_each_its_own() -> None:
    methods = ["coop", "coop x=1", "m" * 5000, "m" * 5000 + "n", "a/b", "a_b", "A_B", "é" * 150, "../../x"]
    names = file_names([SimpleNamespace(method=method, seed=1) for method in methods])
    assert names[:2] == ["coop-s1", "coop_x=1-s1"]
    assert len({name.casefold() for name in names}) == len(methods)
    assert all(len(f"{name}.safetensors".encode()) <= 255 and "/" not in name for name in names)


def test_a_long_method_of_an_export_is_evaluated(runs, tmp_path: Path) -> None:
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    prompt.training["method"] = "m" * 5000
    prompt.save(tmp_path / "prompt.safetensors")
    evaluate(evaluation(tmp_path / "evaluation", [tmp_path / "prompt.safetensors"]))
    (file,) = (tmp_path / "evaluation" / "predictions").iterdir()
    assert file.name.startswith("mmm")

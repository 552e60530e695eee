"""Failure prediction as a whole job: short runs on embedded tasks, on images and on files of embeddings."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tests_shared import PLAIN, SHORT

from calib.cli import main
from calib.commands.failure import cross_fit
from calib.commands.failure.embeddings import from_embeddings
from calib.commands.failure.images import _free_rows, _known_rows, _with_own_shots, resolve
from calib.commands.failure.run import train_failure
from calib.commands.failure.validation import judged_by_head
from calib.commands.predict import predict
from calib.commands.train import train
from calib.config import FailureRun, ReportRun, load_config, to_yaml
from calib.data import FeatureTable, few_shot_split, load_data
from calib.data.embeddings import load_embeddings
from calib.data.folds import make_folds
from calib.data.predictions import Predictions
from calib.failure.doubt import PARTS
from calib.failure.evaluation import ece_of_doubt
from calib.failure.export import FailureHead
from calib.failure.module import FailurePredictionModule
from calib.failure.report import heading
from calib.io.files import read_json, write_json
from calib.io.tensors import load_tensors
from calib.metrics.failure import auroc, summarize_failure
from calib.posthoc import Decisions, Familiarity
from calib.prompts.export import Prompt
from calib.prompts.stack import PromptStackModule
from calib.prompts.zero_shot import zero_shot, zero_shot_features
from calib.runs.exports import failure_path
from calib.runs.marks import ForeignFileError
from calib.runs.reports import report_of
from calib.scores import mcp
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling

QUICK = [*SHORT, "n_resamples=20", "head.hidden=[16]", "optim.name=adamw", "optim.lr=0.01"]
FILES = {  # besides a lock that is free, which some versions of filelock take away
    "config.yaml",
    "split.json",
    "metrics.json",
    "failure.safetensors",
    "predictions.safetensors",
    "uncertainties.safetensors",
    "failures.csv",
    "table.md",
    "risk_coverage.png",
    "checkpoints",
    "logs",
}


@pytest.fixture(scope="session")
def failure_settings() -> Callable[..., FailureRun]:
    return lambda *changes: load_config([*QUICK, *changes], task="failure")


@pytest.fixture(scope="module")
def zero_shot_run(tmp_path_factory, failure_settings) -> Path:
    folder = tmp_path_factory.mktemp("failure") / "run"
    train_failure(failure_settings(f"out={folder}"))
    return folder


@pytest.fixture(scope="module")
def prompt_run(runs: dict[int, Path], tmp_path_factory, failure_settings) -> Path:
    folder = tmp_path_factory.mktemp("failure") / "run"
    train_failure(failure_settings(f"out={folder}", f"prompt={runs[1]}", "scores=[entropy]"))
    return folder


def test_images_without_those_that_are_gone_have_no_names_of_them() -> None:
    """In split.json stood names beside other images' ids."""
    table = FeatureTable(torch.eye(3, 4), torch.tensor([0, 1, 1]), ["a", "b", "c"], ["1", "2", "3"])
    record = few_shot_split(table.labels, ["a", "b", "c"], 1, seed=1).to_dict()
    record |= {"train": ["a", "gone", "c"], "train_names": ["1", "gone", "3"], "val_names": []}
    known = _known_rows(record, table)
    assert known.train_ids == ["a", "c"]
    assert "train_names" not in known.to_dict()


def test_images_left_out_for_a_patient_among_the_shots_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    task, config = load_data("cxr3"), FailureRun()
    table = task.train
    shots = few_shot_split(table.labels, table.ids, 8, seed=1, groups=table.groups)
    taken = {table.groups[row] for row in shots.train.tolist()}
    own = set(shots.train_ids)
    theirs = sum(g in taken and id_ not in own for g, id_ in zip(table.groups, table.ids, strict=True))
    free = _free_rows(table, shots, set())
    assert theirs > 0
    assert len(free) + 24 + theirs == len(table)
    caplog.set_level("INFO")
    _with_own_shots(config, task, shots, free, set())
    assert (
        f"{len(free)} images outside the prompt's shots, and 24 of these cross-fitted. {theirs} more"
        in caplog.text
    )
    caplog.clear()
    _with_own_shots(FailureRun(fit_on="cross_fitted"), task, shots, [], set())
    assert "more" not in caplog.text


def test_the_folder_holds_every_result(zero_shot_run: Path) -> None:
    assert {path.name for path in zero_shot_run.iterdir()} - {".lock"} == FILES | {"prompt.safetensors"}
    metrics = read_json(zero_shot_run / "metrics.json")
    assert next(iter(metrics["scores"])) == "mcp"
    assert metrics["head"] == "vilu-residual"
    assert {"rel_u", "logistic", "temperature_mcp", "vilu-residual"} <= set(metrics["scores"])
    for name, row in metrics["scores"].items():
        low, high = row["intervals"]["auroc"]
        assert low <= row["auroc"] <= high
        if name != "mcp":
            _, difference, _ = row["minus_mcp"]["aurc"]
            assert difference == pytest.approx(row["aurc"] - metrics["scores"]["mcp"]["aurc"], abs=1e-12)
    written = load_config([str(zero_shot_run / "config.yaml")], task="failure")
    assert written.data.name == "cxr3"  # filled in
    table = (zero_shot_run / "table.md").read_text()
    assert f"{100 * metrics['scores']['mcp']['auroc']:.1f} [" in table
    assert table.startswith("cxr3: 545 test images, 155 predictions wrong. The head learned from ")
    assert "these numbers say little" not in table
    few = heading({**metrics, "test": {"n": 200, "n_failures": 1}})
    assert "Only 1 of the test predictions are wrong: these numbers say little" in few


def test_numbers_follow_from_the_written_predictions_and_uncertainties(zero_shot_run: Path) -> None:
    metrics = read_json(zero_shot_run / "metrics.json")["scores"]
    predictions = Predictions.load(zero_shot_run / "predictions.safetensors")
    wrong = predictions.logits.argmax(1) != predictions.labels
    assert metrics["mcp"]["auroc"] == pytest.approx(auroc(mcp(predictions.logits), wrong).item(), abs=1e-9)
    assert metrics["mcp"]["n_failures"] == int(wrong.sum())
    uncertainties = load_file(zero_shot_run / "uncertainties.safetensors")
    head = FailureHead.load(zero_shot_run / "failure.safetensors")
    judged = predictions.image_features, uncertainties["predictions"]
    again = head.uncertainty(*judged, by="head")
    assert torch.allclose(again, uncertainties["uncertainty.vilu-residual"], atol=1e-12)
    probs = head.uncertainty(*judged)
    assert torch.allclose(probs, uncertainties["uncertainty.doubt"], atol=1e-12)
    assert metrics["doubt"]["auroc"] == pytest.approx(auroc(probs, wrong).item(), abs=1e-12)
    assert metrics["doubt"]["ece"] == pytest.approx(ece_of_doubt(probs.numpy(), wrong.numpy()), abs=1e-9)
    assert metrics["doubt"]["auroc"] > metrics["mcp"]["auroc"] + 0.03
    low, high = metrics["doubt"]["intervals"]["ece"]
    assert low < high
    assert "ece" not in metrics["class_gaussians"]  # no probability
    assert metrics["vilu-residual"]["auroc"] == pytest.approx(auroc(again, wrong).item(), abs=1e-12)
    assert metrics["vilu-residual"]["auroc"] != metrics["mcp"]["auroc"]  # it has learned something


def test_scores_of_image_features_are_fitted_on_the_images_of_the_head(zero_shot_run: Path) -> None:
    split = read_json(zero_shot_run / "split.json")
    predictions = Predictions.load(zero_shot_run / "predictions.safetensors")
    prompt = Prompt.load(zero_shot_run / "prompt.safetensors")
    table = load_data("cxr3").train
    table = table.subset([table.ids.index(id_) for id_ in split["train"]])
    features, labels, texts = table.image_features, table.labels, prompt.text_features
    fitted = {
        "image_prototypes": ImagePrototypes().fit(features, labels),
        "class_gaussians": ClassGaussians().fit(features, labels),
        "logit_scaling": LogitScaling().fit(
            features, labels, logits=prompt.logits(features), text_features=texts
        ),
    }
    written = load_file(zero_shot_run / "uncertainties.safetensors")
    for name, score in fitted.items():
        expected = score(predictions.image_features, predictions.logits)
        assert torch.allclose(written[f"uncertainty.{name}"], expected, atol=1e-4), name


@pytest.mark.slow
def test_logit_scaling_takes_cross_fitted_images_too(runs, failure_settings, tmp_path: Path) -> None:
    changes = [f"out={tmp_path / 'run'}", f"prompt={runs[1]}", "scores=[logit_scaling]", "folds=2"]
    results = train_failure(failure_settings(*changes, "data.shots=6", "data.views=0"))
    assert read_json(tmp_path / "run" / "split.json")["cross_fitted"]
    assert list(results["scores"]) == ["mcp", "logit_scaling", "vilu-residual", "doubt"]
    assert results["scores"]["logit_scaling"]["undefined"] == {}


def test_doubtful_images_are_listed_with_reasons_in_words(zero_shot_run: Path) -> None:
    with (zero_shot_run / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    predictions = Predictions.load(zero_shot_run / "predictions.safetensors")
    assert sorted(row["name"] for row in rows) == sorted(predictions.names)
    values = [float(row["uncertainty"]) for row in rows]
    assert values == sorted(values, reverse=True)
    baselines = []
    for row in rows[:20]:
        assert row["correct"] == ("yes" if row["label"] == row["prediction"] else "no")
        assert row["prediction"] in row["why"]
        assert re.fullmatch(r"[^;]+ \d+%; [^;]+ \d+%", row["weighed against"])  # 3 classes: two alternatives
        assert row["prediction"] not in row["weighed against"]
        rival = row["weighed against"].rpartition("; ")[0].rpartition(" ")[0]
        if abs(float(row["doubt from mcp"])) >= 0.0055:
            assert f" for {rival} (" in row["why"]
        parts = {key: float(value) for key, value in row.items() if key.startswith("doubt from")}
        numbers = sorted(float(found) for found in re.findall(r"\(([+-]\d+\.\d\d)\)", row["why"]))
        expected = sorted(round(value, 2) for value in parts.values() if abs(value) >= 0.0055)
        assert numbers[0] == pytest.approx(expected[0], abs=0.011)
        assert numbers[-1] == pytest.approx(expected[-1], abs=0.011)
        score = float(np.log(float(row["uncertainty"]) / (1 - float(row["uncertainty"]))))
        baselines.append(score - sum(parts.values()))
    assert baselines == pytest.approx([baselines[0]] * 20, abs=1e-3)  # the written numbers add up
    doubts = {key for key in rows[0] if key.startswith("doubt from")}
    assert doubts == {f"doubt from {part}" for part in (*PARTS, "head")}


def test_zero_shot_learns_from_the_training_split_and_never_from_test(zero_shot_run: Path) -> None:
    split, task = read_json(zero_shot_run / "split.json"), load_data("cxr3")
    assert split["fit_on"] == "all"
    assert set(split["train"]) | set(split["val"]) <= set(task.train.ids)
    assert not (set(split["train"]) | set(split["val"])) & set(task.test.ids)
    group = dict(zip(task.train.ids, task.train.groups, strict=True))
    assert not {group[id_] for id_ in split["train"]} & {group[id_] for id_ in split["val"]}
    assert len(split["train"]) > 150


def test_a_prompt_is_judged_on_images_it_was_not_trained_on(prompt_run: Path, runs: dict[int, Path]) -> None:
    """Nearly all COVID-19 patients are among the shots: that class, and only it, needs cross-fitted ones."""
    split, own = read_json(prompt_run / "split.json"), read_json(runs[1] / "split.json")
    task = load_data("cxr3")
    assert split["fit_on"] == "outside_and_cross_fitted"
    assert split["val"] == own["val"]
    group = dict(zip(task.train.ids, task.train.groups, strict=True))
    outside = set(split["train"]) - set(split["cross_fitted"])
    assert not {group[id_] for id_ in outside} & {group[id_] for id_ in own["train"] + own["val"]}
    assert len(outside) > 100
    assert set(split["cross_fitted"]) == set(own["train"])
    for fold in (prompt_run / "folds").iterdir():
        rest = set(read_json(fold / "split.json")["train"])
        held_out = set(own["train"]) - rest
        assert held_out
        assert not {group[id_] for id_ in held_out} & {group[id_] for id_ in rest}
    metrics = read_json(prompt_run / "metrics.json")
    assert list(metrics["scores"]) == ["mcp", "entropy", "vilu-residual", "doubt"]
    assert metrics["doubt"]["stack"]["names"] == [*PARTS, "head"]
    known = Predictions.load(runs[1] / "predictions.safetensors")
    assert metrics["test"]["n_failures"] == int((known.logits.argmax(1) != known.labels).sum())
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    FailureHead.load(prompt_run / "failure.safetensors").check_prompt(prompt)


@pytest.mark.slow
def test_shots_for_the_head_are_counted_per_class(runs, failure_settings, tmp_path: Path) -> None:
    changes = [f"out={tmp_path / 'run'}", f"prompt={runs[1]}", "scores=[mcp]", "data.shots=6", "folds=2"]
    train_failure(failure_settings(*changes, "data.views=2", "head.residual=false"))
    split, task = read_json(tmp_path / "run" / "split.json"), load_data("cxr3")
    label = dict(zip(task.train.ids, task.train.labels.tolist(), strict=True))
    for c in range(3):
        assert sum(label[id_] == c for id_ in split["train"]) == 6
    assert {label[id_] for id_ in split["cross_fitted"]} == {2}
    assert read_json(tmp_path / "run" / "metrics.json")["head"] == "vilu"
    with pytest.raises(ValueError, match=r"Too few.*what the prompt's shots leave of it: Class 2 .* has 2"):
        train_failure(failure_settings(f"prompt={runs[1]}", f"out={tmp_path / 'b'}", "fit_on=outside"))


@pytest.mark.slow
def test_images_outside_suffice_where_there_are_enough(failure_settings, tmp_path: Path) -> None:
    lc = ["data.name=lc25000", "data.shots=4"]
    train(load_config([*SHORT, *PLAIN, *lc, "baselines=[]", f"out={tmp_path / 'p'}"], task="prompt"))
    train_failure(failure_settings(f"prompt={tmp_path / 'p'}", f"out={tmp_path / 'f'}", "scores=[mcp]"))
    split, own = read_json(tmp_path / "f" / "split.json"), read_json(tmp_path / "p" / "split.json")
    assert split["fit_on"] == "outside"
    assert not (set(split["train"]) | set(split["val"])) & set(own["train"] + own["val"])
    assert len(split["train"]) == 200 - 5 * (4 + 4 + 4)
    assert load_config([str(tmp_path / "f" / "config.yaml")], task="failure").data.name == "lc25000"


def test_a_default_that_was_asked_for_is_honoured_or_refused(runs, failure_settings, tmp_path: Path) -> None:
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    prompt.backbone["name"] = prompt.backbone["build"]["name"] = "plip"
    prompt.training["config"]["data"] |= {"root": "images", "template": "A scan of {}."}
    path = tmp_path / "prompt.safetensors"
    prompt.save(path)
    filled = resolve(failure_settings(f"prompt={path}", "data.root=null")).data
    assert (filled.name, filled.root, filled.template) == ("cxr3", None, "A scan of {}.")
    with pytest.raises(ValueError, match=r"was made for plip; leave out backbone.name \(it is embedded\)"):
        train_failure(failure_settings(f"prompt={path}", "data.root=null", "backbone.name=embedded"))
    for asked in ("preprocessing=calibprompt", "revision=abc", "quick_gelu=true"):
        key = f"backbone.{asked.partition('=')[0]}"
        with pytest.raises(ValueError, match=rf"for plip with {key}=.*leave out {key} \(it is"):
            train_failure(failure_settings(f"prompt={path}", "data.root=null", f"backbone.{asked}"))
    whole = tmp_path / "failure.yaml"
    whole.write_text(to_yaml(FailureRun()))  # a file that says every default asks for none
    for same in ("backbone.name=plip", "backbone.preprocessing=own", "backbone.quick_gelu=null"):
        with pytest.raises(ValueError, match=r"plip.*backbone\.weights"):
            train_failure(failure_settings(str(whole), f"prompt={path}", "data.root=null", same))


def test_a_finished_run_is_read_back(prompt_run: Path, runs, failure_settings, tmp_path: Path) -> None:
    before = (prompt_run / "failure.safetensors").stat().st_mtime_ns
    same = failure_settings(f"out={prompt_run}", f"prompt={runs[1]}", "scores=[entropy]")
    assert train_failure(same)["reused"]
    assert (prompt_run / "failure.safetensors").stat().st_mtime_ns == before
    with pytest.raises(
        ValueError, match=r"another configuration: head.residual is True there and False here"
    ):
        train_failure(
            failure_settings(
                f"out={prompt_run}", f"prompt={runs[1]}", "scores=[entropy]", "head.residual=false"
            )
        )
    with pytest.raises(ValueError, match="task is 'prompt' there and 'failure' here"):
        train_failure(failure_settings(f"out={runs[1]}"))
    folder = tmp_path / "prompt"
    shutil.copytree(runs[2], folder)
    copied = tmp_path / "run"
    shutil.copytree(prompt_run, copied)
    config = (copied / "config.yaml").read_text().replace(str(runs[1]), str(folder))
    (copied / "config.yaml").write_text(config.partition("# calib_crc32")[0])  # it was meant to be changed
    changed = failure_settings(f"out={copied}", f"prompt={folder}", "scores=[entropy]")
    with pytest.raises(ValueError, match=r"data have changed since the run.*prompt"):
        train_failure(changed)


@pytest.mark.slow
def test_an_unfinished_run_goes_on_to_the_same_head(failure_settings, tmp_path: Path, monkeypatch) -> None:
    changes = ["trainer.max_epochs=6", "scores=[mcp]"]
    whole = train_failure(failure_settings(f"out={tmp_path / 'whole'}", *changes))
    start = FailurePredictionModule.on_train_epoch_start

    def stop(self: FailurePredictionModule) -> None:
        if self.current_epoch == 3:
            raise KeyboardInterrupt
        start(self)

    monkeypatch.setattr(FailurePredictionModule, "on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        train_failure(failure_settings(f"out={tmp_path / 'cut'}", *changes))
    assert not (tmp_path / "cut" / "failure.safetensors").exists()
    monkeypatch.setattr(FailurePredictionModule, "on_train_epoch_start", start)
    rest = train_failure(failure_settings(f"out={tmp_path / 'cut'}", *changes))
    assert rest["scores"] == whole["scores"]
    first, second = (load_file(tmp_path / name / "failure.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def rounded_otherwise(monkeypatch, by: float) -> None:
    """Let zero-shot text features come out as on another processor."""
    from calib.commands.failure import images

    def elsewhere(*given: Any, **more: Any) -> Prompt:
        prompt = zero_shot(*given, **more)
        return replace(prompt, text_features=prompt.text_features + by)

    monkeypatch.setattr(images, "zero_shot", elsewhere)


@pytest.mark.slow
def test_a_run_goes_on_where_text_features_are_rounded_otherwise(
    failure_settings, tmp_path: Path, monkeypatch
) -> None:
    given = failure_settings(f"out={tmp_path / 'run'}", "scores=[mcp]")
    step = FailurePredictionModule.on_train_epoch_start

    def stop(self: FailurePredictionModule) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(FailurePredictionModule, "on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        train_failure(given)
    monkeypatch.setattr(FailurePredictionModule, "on_train_epoch_start", step)
    begun = (
        (tmp_path / "run" / "split.json").read_bytes(),
        (tmp_path / "run" / "prompt.safetensors").read_bytes(),
    )
    rounded_otherwise(monkeypatch, 1e-2)
    with pytest.raises(ValueError, match=r"data have changed since the run.*prompt"):
        train_failure(given)
    rounded_otherwise(monkeypatch, 2e-7)
    assert not train_failure(given)["reused"]
    assert train_failure(given)["reused"]
    folder = tmp_path / "run"
    assert ((folder / "split.json").read_bytes(), (folder / "prompt.safetensors").read_bytes()) == begun
    FailureHead.load(folder / "failure.safetensors").check_prompt(Prompt.load(folder / "prompt.safetensors"))
    rounded_otherwise(monkeypatch, 1e-2)
    with pytest.raises(ValueError, match=r"data have changed since the run.*prompt"):
        train_failure(given)
    train_failure(replace(given, overwrite=True))
    assert (folder / "prompt.safetensors").read_bytes() != begun[1]


@pytest.mark.slow
def test_a_prompt_of_all_images_is_cross_fitted(
    image_folder: Path, tiny: str, failure_settings, tmp_path: Path, monkeypatch
) -> None:
    read = []  # class names: what is to be said of them is said where they are read

    def counted(*given):
        read.append(given)
        return zero_shot_features(*given)

    monkeypatch.setattr("calib.commands.failure.cross_fit.zero_shot_features", counted)
    data = [tiny, "data.name=folder", f"data.root={image_folder}", f"data.cache_dir={tmp_path / 'cache'}"]
    prompt = tmp_path / "prompt"
    shots = ["data.shots=6", "data.val_shots=0", "data.views=0"]
    train(
        load_config([*SHORT, *data, *shots, "baselines=[]", f"out={prompt}", "optim.lr=0.5"], task="prompt")
    )
    changes = [
        f"prompt={prompt}",
        f"out={tmp_path / 'run'}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.views=0",
        "folds=3",
    ]
    with pytest.raises(ValueError, match=r"Too few images.*what the prompt's shots leave"):
        train_failure(failure_settings(*changes, "fit_on=outside"))
    assert not (tmp_path / "run").exists()
    try:
        train_failure(failure_settings(*changes))
    except ValueError as error:  # these toy prompts may all be right; the folds are there all the same
        assert "training predictions are" in str(error)  # noqa: PT017
    split = read_json(tmp_path / "run" / "split.json")
    assert split["fit_on"] == "cross_fitted"
    assert split["train"] == read_json(prompt / "split.json")["train"]
    folds = sorted((tmp_path / "run" / "folds").iterdir())
    assert (len(folds), len(read)) == (3, 1)
    held_out: list[str] = []
    for fold in folds:
        rest = read_json(fold / "split.json")["train"]
        held_out += sorted(set(split["train"]) - set(rest))
        checkpoint = Prompt.load(fold / "prompt.safetensors")
        whole = Prompt.load(prompt / "prompt.safetensors")
        assert checkpoint.training["method"] == whole.training["method"]
        assert not torch.allclose(checkpoint.text_features, whole.text_features, atol=1e-6)
    assert sorted(held_out) == sorted(split["train"])  # every image is held out once


@pytest.mark.slow
def test_cross_fitted_predictions_on_the_embedded_task(runs, failure_settings, tmp_path: Path) -> None:
    changes = [
        f"prompt={runs[1]}",
        f"out={tmp_path / 'run'}",
        "fit_on=cross_fitted",
        "folds=2",
        "scores=[logistic]",
    ]
    results = train_failure(failure_settings(*changes))
    own = read_json(runs[1] / "split.json")
    split = read_json(tmp_path / "run" / "split.json")
    assert sorted(split["train"]) == sorted(own["train"])
    assert split["val"] == own["val"]
    assert results["images"]["train"] == 24
    assert 0 < results["images"]["failures"] < 24
    checkpoint = FailureHead.load(tmp_path / "run" / "failure.safetensors")
    checkpoint.check_prompt(Prompt.load(runs[1] / "prompt.safetensors"))
    folds = [tmp_path / "run" / "folds" / str(number) for number in (1, 2)]
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.copy(folds[0] / "prompt.safetensors", folds[1] / "prompt.safetensors")
    with pytest.raises(ForeignFileError, match=r"folds/2/prompt\.safetensors belongs to another run"):
        train_failure(failure_settings(*changes))
    (folds[1] / "prompt.safetensors").unlink()
    together = tmp_path / "run" / "folds" / ".stack-1" / "checkpoints"
    assert not together.exists()
    together.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.ckpt", together)
    with pytest.raises(ForeignFileError, match=r"\.stack-1/checkpoints/last\.ckpt belongs to another run"):
        train_failure(failure_settings(*changes))


@pytest.mark.slow
def test_prompts_of_folds_are_those_trained_alone_and_go_on_from_their_common_checkpoint(
    runs, failure_settings, tmp_path: Path, monkeypatch, caplog
) -> None:
    changes = [f"prompt={runs[1]}", "fit_on=cross_fitted", "folds=3", "scores=[mcp]"]
    write, written = cross_fit._write_fold, []

    def stopped(prompt, curves, folder) -> None:
        if len(written) == 1:
            raise OSError("the disk is gone")
        written.append(folder)
        write(prompt, curves, folder)

    with monkeypatch.context() as patch:
        patch.setattr(cross_fit, "_write_fold", stopped)
        with pytest.raises(OSError, match="the disk is gone"):
            train_failure(failure_settings(*changes, f"out={tmp_path / 'beside'}"))
    caplog.set_level("INFO")
    train_failure(failure_settings(*changes, f"out={tmp_path / 'beside'}"))
    assert "Going on after epoch 3" in caplog.text
    monkeypatch.setattr(cross_fit, "SIDE_BY_SIDE", 1)
    train_failure(failure_settings(*changes, f"out={tmp_path / 'alone'}"))
    for number in "123":
        beside, alone = (tmp_path / each / "folds" / number for each in ("beside", "alone"))
        assert {path.name for path in beside.iterdir()} == {"logs", "prompt.safetensors", "split.json"}
        ours, theirs = (Prompt.load(each / "prompt.safetensors") for each in (beside, alone))
        assert torch.allclose(ours.context, theirs.context, atol=1e-6)
        assert not torch.equal(ours.context, Prompt.load(runs[1] / "prompt.safetensors").context)
        assert len((beside / "logs" / "metrics.csv").read_text().splitlines()) == 4


def test_a_prompt_of_a_fold_whose_loss_breaks_ends_the_run(
    runs, failure_settings, tmp_path, monkeypatch
) -> None:
    means = PromptStackModule._means_of

    def broken(self, step, prompt):
        if prompt is self.prompts[1] and self.current_epoch == 1:
            prompt.failed = "Training stopped in epoch 1. The loss ce is nan."
        return means(self, step, prompt)

    monkeypatch.setattr(PromptStackModule, "_means_of", broken)
    changes = [f"prompt={runs[1]}", "fit_on=cross_fitted", "folds=2", f"out={tmp_path / 'run'}"]
    with pytest.raises(FloatingPointError, match="The loss ce is nan"):
        train_failure(failure_settings(*changes))
    assert not list((tmp_path / "run" / "folds").glob("*/prompt.safetensors"))


def test_folds_keep_groups_together_and_spread_classes() -> None:
    labels = torch.arange(30) % 3
    owner = [str(i // 2) for i in range(30)]
    folds = make_folds(labels, owner, 5, ["a", "b", "c"])
    assert sorted(row for fold in folds for row in fold) == list(range(30))
    for fold in folds:
        assert {owner[row] for row in fold}.isdisjoint(owner[row] for row in range(30) if row not in fold)
        assert labels[fold].bincount(minlength=3).min() >= 1
    with pytest.raises(ValueError, match=r"all 10 of class 1 \('b'\) stay together"):
        make_folds(
            labels, ["x" if label == 1 else str(i) for i, label in enumerate(labels.tolist())], 3, list("abc")
        )


# ---- files of embeddings: made with numpy alone, as by a stranger's transformers or open_clip script


def stranger(folder: Path, *, wrong: float = 0.3, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n, size, dim = 160, 3, 10
    texts = np.linalg.qr(rng.normal(size=(dim, size)))[0].T
    labels = rng.integers(0, size, n)
    seen = np.where(rng.random(n) < wrong, (labels + 1) % size, labels)
    strength = rng.uniform(0.5, 1.5, (n, 1))
    images = strength * texts[seen] + 0.25 * rng.normal(size=(n, dim))
    arrays = {
        "image_features": (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32),
        "text_features": texts.astype(np.float32),
        "labels": labels,
        "logit_scale": np.float32(np.log(20)),
        "groups": np.arange(n) // 2,
        **changes,
    }
    rows = slice(0, 100), slice(100, n)
    for name, part in zip(("train", "test"), rows, strict=True):
        shared = ("text_features", "logit_scale", "class_names")
        mine = {key: value if key in shared else value[part] for key, value in arrays.items()}
        np.savez(folder / f"{name}.npz", **mine)
    return arrays


def files(folder: Path) -> list[str]:
    return [f"embeddings.train={folder / 'train.npz'}", f"embeddings.test={folder / 'test.npz'}"]


def test_a_head_for_a_model_known_by_its_embeddings_only(failure_settings, tmp_path: Path) -> None:
    arrays = stranger(tmp_path, class_names=np.array(["cat", "dog", "cow"]))
    results = train_failure(failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}"))
    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == FILES
    logits = arrays["image_features"] @ arrays["text_features"].T
    wrong = (logits.argmax(1) != arrays["labels"])[100:]
    assert results["test"] == {"n": 60, "n_failures": int(wrong.sum())}
    split = read_json(tmp_path / "run" / "split.json")
    assert (len(split["train"]), len(split["val"])) == (76, 12)  # pairs: 12 mates of 4 per class are left out
    judged = judged_by_head(tmp_path / "run" / "failure.safetensors")  # what calib review fits on
    assert (len(judged.doubt), len(set(judged.groups or []))) == (12, 12)
    checkpoint = FailureHead.load(tmp_path / "run" / "failure.safetensors")
    assert (checkpoint.backbone, checkpoint.prompt, checkpoint.class_names) == (
        None,
        None,
        ["cat", "dog", "cow"],
    )
    one_file = tmp_path / "one.safetensors"
    strings = {"split": ["train"] * 100 + ["test"] * 60, "class_names": ["cat", "dog", "cow"]}
    numbers = {key: np.ascontiguousarray(value) for key, value in arrays.items() if key != "class_names"}
    save_file(numbers, one_file, metadata={key: json.dumps(value) for key, value in strings.items()})
    again = train_failure(failure_settings(f"embeddings.train={one_file}", f"out={tmp_path / 'again'}"))
    assert again["scores"] == results["scores"]


def test_predictions_in_the_file_are_the_ones_judged(failure_settings, tmp_path: Path) -> None:
    arrays = stranger(tmp_path)
    picked = (arrays["labels"] + (np.arange(160) % 4 == 0)) % 3
    stranger(tmp_path, predictions=picked)
    results = train_failure(failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}", "scores=[mcp]"))
    assert results["test"]["n_failures"] == 15
    assert results["images"]["failures"] / results["images"]["train"] == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize(
    ("wrong", "reason"), [(0.0, "no prediction is wrong"), (1.0, "every prediction is wrong")]
)
def test_undefined_metrics_are_named_and_nothing_breaks(
    wrong: float, reason: str, failure_settings, tmp_path
) -> None:
    stranger(tmp_path)
    arrays = dict(np.load(tmp_path / "test.npz"))
    top = (arrays["image_features"] @ arrays["text_features"].T).argmax(1)
    np.savez(tmp_path / "test.npz", **{**arrays, "labels": (top + int(wrong)) % 3})
    results = train_failure(failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}"))
    row = results["scores"]["vilu-residual"]
    assert row["auroc"] is None
    assert row["undefined"]["auroc"] == reason
    assert row["aurc"] == pytest.approx(wrong, abs=1e-12)
    table = (tmp_path / "run" / "table.md").read_text()
    assert "n/a" in table
    assert reason in table


@pytest.mark.parametrize(
    ("wrong", "changes", "message"),
    [
        (0, ["doubt=head"], "training predictions are right: nothing shows the head what makes one wrong"),
        (1, [], "are wrong"),
    ],
)
def test_training_on_one_kind_only_is_refused(
    wrong: int, changes: list[str], message: str, failure_settings, tmp_path: Path
) -> None:
    stranger(tmp_path)
    arrays = dict(np.load(tmp_path / "train.npz"))
    top = (arrays["image_features"] @ arrays["text_features"].T).argmax(1)
    np.savez(tmp_path / "train.npz", **{**arrays, "labels": (top + wrong) % 3})
    with pytest.raises(ValueError, match=message):
        train_failure(failure_settings(*files(tmp_path), *changes, f"out={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_where_all_training_predictions_are_right_the_run_says_what_it_does(
    failure_settings, tmp_path: Path
) -> None:
    stranger(tmp_path)
    arrays = dict(np.load(tmp_path / "train.npz"))
    top = (arrays["image_features"] @ arrays["text_features"].T).argmax(1)
    np.savez(tmp_path / "train.npz", **{**arrays, "labels": top})
    given = failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}", "scores=[mcp]")
    results = train_failure(given)
    assert results["doubt"]["stack"]["how"] == "prior"
    assert "out-of-fold predictions is wrong" in (tmp_path / "run" / "table.md").read_text()
    assert results["scores"]["vilu-residual"]["auroc"] == results["scores"]["mcp"]["auroc"]  # untrained
    assert train_failure(given)["reused"]


def nan_rows(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays["image_features"][[4, 9], 2] = np.nan
    return arrays


def narrower(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    cut = {name: arrays[name][:, :5] for name in ("image_features", "text_features")}
    return arrays | {
        name: value / np.linalg.norm(value, axis=1, keepdims=True) for name, value in cut.items()
    }


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("train", nan_rows, r"train\.npz: image_features holds NaN or infinite values in rows 4, 9"),
        ("test", nan_rows, r"test\.npz: image_features holds NaN or infinite values in rows 4, 9"),
        ("test", narrower, r"text_features are \(3, 10\) in .*train\.npz and \(3, 5\) in .*test\.npz"),
        ("test", lambda a: a | {"labels": a["labels"] + 1}, r"test\.npz: labels must lie in 0\.\.2"),
        ("test", lambda a: a | {"image_features": 2 * a["image_features"]}, r"test\.npz.* row 0 has norm 2"),
        ("train", lambda a: a | {"labels": 0 * a["labels"]}, r"train\.npz: Class 1 \('class 1'\) has 0"),
    ],
)
def test_bad_rows_of_either_file_are_refused_before_any_work(
    which: str, change: Callable[..., Any], message: str, failure_settings, tmp_path: Path
) -> None:
    stranger(tmp_path)
    path = tmp_path / f"{which}.npz"
    np.savez(path, **change(dict(np.load(path))))
    with pytest.raises(ValueError, match=message):
        train_failure(failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_no_row_is_for_two_things(failure_settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stranger(tmp_path)
    first, second = dict(np.load(tmp_path / "train.npz")), dict(np.load(tmp_path / "test.npz"))
    for row, (source, twin) in {80: (first, 0), 81: (second, 5)}.items():
        for name in ("image_features", "labels"):
            first[name][row] = source[name][twin]
    split = np.array(["train"] * 80 + ["val"] * 20)
    np.savez(tmp_path / "train.npz", **first, split=split)
    found = from_embeddings(failure_settings(*files(tmp_path)), str(tmp_path / "train.npz"))
    ids = load_embeddings(tmp_path / "train.npz").table.ids
    assert set(found.record["val"]) == {*ids[80:81], *ids[82:]}  # row 81 is tested on
    assert set(found.record["train"]) == set(ids[1:80])  # row 0 is validated on
    assert "1 validation rows are test rows as well" in caplog.text
    assert "1 training rows are validation rows as well" in caplog.text


def test_training_rows_that_are_test_rows_are_said_to_be_left_out(failure_settings, tmp_path: Path) -> None:
    stranger(tmp_path)
    out, train, test = f"out={tmp_path / 'run'}", tmp_path / "train.npz", tmp_path / "test.npz"
    same = [f"embeddings.train={train}", f"embeddings.test={train}"]
    with pytest.raises(ValueError, match=r"all 100 training rows are test rows of .*train\.npz as well"):
        train_failure(failure_settings(*same, out))
    first, second = dict(np.load(train)), dict(np.load(test))
    rows = first["labels"] == 1
    for name in ("image_features", "labels", "groups"):
        second[name] = np.concatenate([second[name], first[name][rows]])
    np.savez(test, **second)
    with pytest.raises(
        ValueError, match=rf"Class 1 .* has 0 .*\({rows.sum()} rows that are test rows as well"
    ):
        train_failure(failure_settings(*files(tmp_path), out))
    assert not (tmp_path / "run").exists()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_checkpoint_in_the_run_folder_is_refused_and_not_run(
    failure_settings, tmp_path: Path, monkeypatch
) -> None:
    stranger(tmp_path)
    settings = failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}", "scores=[mcp]")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FailureHead, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_failure(settings)
    last, trace = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "it_ran"
    torch.save({"epoch": 0, "state_dict": {}, "extra": Payload(trace)}, last)
    with pytest.raises(ValueError, match=r"last\.ckpt is refused.*Nothing was run\.") as caught:
        train_failure(settings)
    assert "weights_only" not in str(caught.value)
    assert not trace.exists()
    assert not (tmp_path / "run" / "failure.safetensors").exists()


def test_a_score_that_cannot_be_fitted_has_a_reason(failure_settings, tmp_path: Path) -> None:
    stranger(tmp_path, wrong=0.9)
    results = train_failure(
        failure_settings(*files(tmp_path), f"out={tmp_path / 'run'}", "scores=[temperature_mcp]")
    )
    row = results["scores"]["temperature_mcp"]
    assert row["auroc"] is None
    assert "best temperature is infinite" in row["undefined"]["auroc"]
    assert "temperature_mcp: not fitted" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["embeddings.train=none.npz"], "no file of embeddings 'none.npz'"),
        (["embeddings.test=none.npz"], "embeddings.test was given without embeddings.train"),
        (["embeddings.train={folder}/train.npz"], "does not say which rows are for testing"),
        (["embeddings.train=a.npz", "prompt=b"], "not from both"),
        (["prompt=nowhere"], "no exported prompt at 'nowhere'"),
        (["scores=[entropi]"], "Unknown score 'entropi'. Did you mean 'entropy'"),
        (["doubt=stak"], "Unknown doubt 'stak'. Did you mean 'stack'"),
        (["doubt=entropi"], "Unknown doubt 'entropi'. Did you mean 'entropy'"),
        (["loss.name=bec"], "Unknown failure loss 'bec'. Did you mean 'bce'"),
        (["loss.entropy=0.1"], "'bce' has no setting 'entropy'"),
        (["loss.weighting=adaptiv"], "Did you mean 'adaptive'"),
        (["head.activation=rely"], "Did you mean 'relu'"),
        (["head.hidden=[]"], "at least one hidden width"),
        (["fit_on=inside"], "Unknown value of fit_on 'inside'. Did you mean 'outside'"),
        (["fit_on=cross_fitted"], "needs a learned prompt"),
        (["data.shots=100"], "in the training split: Class 0 ('no finding') has 85"),
        (["trainer.devices=2"], "Several devices need several processes"),
        (["folds=1"], "folds must be at least 2"),
        (["level=95"], "level must lie between 0 and 1"),
        (["backbone.weights=random"], "the backbone at hand is embedded with weights"),
    ],
)
def test_bad_settings_say_what_is_wrong_and_write_nothing(
    changes, message, failure_settings, tmp_path: Path
) -> None:
    stranger(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        train_failure(
            failure_settings(
                f"out={tmp_path / 'run'}", *(change.format(folder=tmp_path) for change in changes)
            )
        )
    assert not (tmp_path / "run").exists()


def test_prompts_that_do_not_fit_the_data_are_refused(runs, failure_settings, tmp_path: Path) -> None:
    out = f"out={tmp_path / 'run'}"
    with pytest.raises(ValueError, match=r"knows the classes no finding.*lc25000 has colon"):
        train_failure(failure_settings(out, f"prompt={runs[1]}", "data.name=lc25000"))
    lonely = Prompt.load(runs[1] / "prompt.safetensors")
    lonely.training["split"] = "0" * 64
    lonely.save(tmp_path / "lonely" / "prompt.safetensors")
    with pytest.raises(ValueError, match="was trained on cannot be found out"):
        train_failure(failure_settings(out, f"prompt={tmp_path / 'lonely'}"))
    shutil.copy(runs[1] / "split.json", tmp_path / "lonely" / "split.json")
    written = read_json(tmp_path / "lonely" / "split.json")
    write_json(tmp_path / "lonely" / "split.json", {**written, "digest": "0" * 64})
    train_failure(failure_settings(out, f"prompt={tmp_path / 'lonely'}", "scores=[mcp]"))
    used = read_json(tmp_path / "run" / "split.json")
    assert set(used["cross_fitted"]) == set(written["train"])


def test_a_loss_that_is_not_a_number_leaves_no_result(failure_settings, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"stopped in epoch \d+.*bce = (nan|inf)"):
        train_failure(
            failure_settings(
                f"out={tmp_path / 'run'}", "optim.name=sgd", "optim.lr=1e38", "optim.warmup_lr=1e38"
            )
        )
    assert not (tmp_path / "run" / "failure.safetensors").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_command_line_dispatches_by_task(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "task=failure", *QUICK, "scores=[entropy]"]) == 0
    printed = capsys.readouterr().out
    assert "cxr3: 545 test images" in printed
    assert "| vilu-residual |" in printed
    assert "| doubt " in printed
    assert "Use 'doubt': the probability that a prediction is wrong" in printed
    assert "| energy" not in printed  # all scores are in table.md
    assert "runs/failure-embedded-cxr3-zero-shot-all-s1-" in printed
    assert main(["train", "task=failre"]) == 1
    assert "Did you mean 'failure'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def image_runs(image_folder: Path, tmp_path_factory, failure_settings) -> Path:
    """Return a failure run on pictures, zero-shot, with labels that make some predictions wrong."""
    folder = tmp_path_factory.mktemp("images-run")
    data = ["data.name=folder", f"data.root={image_folder}", f"data.cache_dir={folder / 'cache'}"]
    changes = [*data, "data.views=1", "data.val_shots=0", "scores=[mcp]", f"out={folder / 'run'}"]
    train_failure(failure_settings(*changes))
    return folder / "run"


@pytest.mark.slow
def test_seeds_share_the_features_of_all_images(
    image_folder: Path, tiny: str, failure_settings, tmp_path
) -> None:
    cache = tmp_path / "cache"
    data = [tiny, "data.name=folder", f"data.root={image_folder}", f"data.cache_dir={cache}", "data.views=1"]
    found = []
    for seed in (1, 2):
        changes = [*data, "data.val_shots=1", "scores=[mcp]", f"seed={seed}", f"out={tmp_path / str(seed)}"]
        train_failure(failure_settings(*changes))
        found.append({path.name for path in cache.iterdir()})
    first, second = (read_json(tmp_path / seed / "split.json")["train"] for seed in "12")
    assert first != second
    assert len(found[1] - found[0]) == 1  # the other validation images, without views


def test_predict_adds_uncertainty_and_reasons(image_runs: Path, image_folder: Path, tmp_path: Path) -> None:
    text = predict(image_runs, [str(image_folder / "test")], failure=image_runs, out=tmp_path / "out.csv")
    plain = predict(image_runs, [str(image_folder / "test")])
    rows, before = (list(csv.DictReader(each.splitlines())) for each in (text, plain))
    assert [{k: v for k, v in row.items() if k not in ("uncertainty", "why")} for row in rows] == before
    with (image_runs / "failures.csv").open() as file:
        known = {row["name"]: row for row in csv.DictReader(file)}
    for row in rows:
        name = next(name for name in known if row["file"].endswith(name.removeprefix("test/")))
        assert float(row["uncertainty"]) == pytest.approx(float(known[name]["uncertainty"]), abs=1e-4)
        assert row["why"].startswith(f"Predicted {row['prediction']}, probability of being wrong")


def test_of_an_image_unlike_those_of_training_the_doubt_is_said_to_know_nothing(
    image_runs: Path, image_folder: Path, tmp_path: Path
) -> None:
    prompt = Prompt.load(image_runs / "prompt.safetensors")
    shots = torch.eye(prompt.text_features.shape[1])[:12]
    known = Familiarity().fit(shots, torch.arange(12) % 3)  # of images that are none of these
    for threshold, unlike in ((0.0, "yes"), (2.0, "no")):
        known.threshold = threshold
        replace(prompt, decisions=Decisions(familiarity=known)).save(tmp_path / "prompt.safetensors")
        text = predict(tmp_path, [str(image_folder / "test")], failure=image_runs)
        for row in csv.DictReader(text.splitlines()):
            assert row["unlike"] == unlike
            assert row["why"].startswith("Unlike the images of training") == (unlike == "yes")


def test_predict_quotes_one_confidence_where_the_prompt_got_a_temperature_later(
    image_runs: Path, image_folder: Path, tmp_path: Path
) -> None:
    prompt = Prompt.load(image_runs / "prompt.safetensors")
    prompt.temperature = 5.0
    prompt.save(tmp_path / "prompt.safetensors")
    alone = replace(FailureHead.load(image_runs / "failure.safetensors"), doubt=None)
    alone.save(tmp_path / "failure.safetensors")  # a head alone names the confidence among its reasons
    images = [str(image_folder / "test")]
    cold, warm = (
        list(csv.DictReader(predict(run, images, failure=tmp_path / "failure.safetensors").splitlines()))
        for run in (image_runs, tmp_path)
    )
    for row in [*cold, *warm]:
        quoted = re.search(r"the model's probability of (\d+)%", row["why"])
        assert quoted is None or int(quoted[1]) == round(100 * float(row["confidence"]))
    assert any("the model's probability" in row["why"] for row in warm)
    assert [row["uncertainty"] for row in warm] == [row["uncertainty"] for row in cold]
    assert all(float(w["confidence"]) < float(c["confidence"]) for w, c in zip(warm, cold, strict=True))


def test_predict_refuses_a_head_for_another_prompt(
    image_runs: Path, image_folder: Path, runs, tmp_path
) -> None:
    with pytest.raises(ValueError, match=r"judges the classes"):
        predict(runs[1], [str(image_folder)], failure=image_runs)
    other = Prompt.load(image_runs / "prompt.safetensors")
    other.text_features = other.text_features.roll(1, dims=0)
    other.save(tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="trained with other text features"):
        predict(tmp_path, [str(image_folder)], failure=image_runs)
    with pytest.raises(FileNotFoundError, match="no failure head at"):
        predict(image_runs, [str(image_folder)], failure=tmp_path)


def test_the_table_and_the_doubtful_images_of_another_run_are_said_to_be_its(
    zero_shot_run: Path, prompt_run: Path, tmp_path: Path, caplog
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(zero_shot_run, folder)
    given = load_config([str(folder / "config.yaml"), f"out={folder}"], task="failure")
    assert train_failure(given)["reused"]
    assert "results give" not in caplog.text
    for name in ("table.md", "failures.csv"):
        shutil.copy(prompt_run / name, folder / name)
    assert train_failure(given)["reused"]
    for name in ("table.md", "failures.csv"):
        assert f"{folder / name} is not what this run's results give" in caplog.text
    assert caplog.text.count("Put the folder's own file back; or delete it") == 2


def test_a_file_of_another_failure_run_is_refused(
    zero_shot_run: Path, prompt_run: Path, failure_settings, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(zero_shot_run, folder)
    for name in (
        "failure.safetensors",
        "uncertainties.safetensors",
        "predictions.safetensors",
        "metrics.json",
    ):
        own = (folder / name).read_bytes()
        shutil.copy(prompt_run / name, folder / name)
        with pytest.raises(ForeignFileError, match=rf"{name} belongs to another run"):
            train_failure(load_config([str(folder / "config.yaml"), f"out={folder}"], task="failure"))
        (folder / name).write_bytes(own)
    shutil.copy(prompt_run / "failure.safetensors", folder / "failure.safetensors")
    with pytest.raises(ForeignFileError, match=r"failure\.safetensors belongs to another run"):
        failure_path(folder)
    assert failure_path(folder / "failure.safetensors").is_file()


def test_its_report_sorts_by_the_head_and_gives_the_reasons(prompt_run: Path) -> None:
    document = report_of(ReportRun(runs=[str(prompt_run)], n_resamples=40))
    tensors, _ = load_tensors(prompt_run / "uncertainties.safetensors", kind="uncertainties")
    sections = {section.name: section for section in document.sections}
    name, *others = document.tables["doubt"].rows  # the head's, or what it is part of
    assert {"mcp", "entropy"} <= set(others)
    doubt = tensors[f"uncertainty.{name}"].double()
    failure = tensors["failure"].bool()
    row = document.tables["doubt"].rows[name]["auroc"]
    assert row.value == pytest.approx(summarize_failure(doubt, failure)["auroc"])
    steps = sections["review"].slider["steps"]
    assert steps[0][0] == pytest.approx(float(doubt.min()), rel=1e-4)
    for found in sections["cases"].cases.values():
        assert all(case.why.startswith("Predicted ") for case in found)
        assert all("doubt is" in case.why for case in found)
    passed, _ = sections["cases"].cases.values()
    assert passed[0].doubt == pytest.approx(float(doubt[failure].min()))
    assert "packaged features without images" in sections["cases"].notes[0]
    assert document.tables["model"].rows["failures from"]["value"]


def test_its_report_shows_the_images_where_they_lie(image_runs: Path) -> None:
    document = report_of(ReportRun(runs=[str(image_runs)], n_resamples=40))
    cases = [case for section in document.sections for found in section.cases.values() for case in found]
    assert cases
    assert all(case.thumbnail is not None for case in cases)

"""`calib review`: files of any model, and runs by their validation images or left-out shots."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run_facts import decisions_of
from tests_shared import SHORT
from torch.nn.functional import normalize

from calib import cli
from calib.commands.failure.run import train_failure
from calib.commands.predict import predict
from calib.commands.review_arguments import review_arguments
from calib.commands.train import train
from calib.config import load_config
from calib.data.review_file import ReviewFile
from calib.io.files import write_json
from calib.io.tensors import mark_of
from calib.prompts.export import Prompt

ROWS = 400


def write(path: Path, *, outcomes: bool = True, some: bool = False, patients: int = 0, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    doubt = 0.5 * rng.random(ROWS) ** 3
    wrong = rng.random(ROWS) < doubt
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        more = (["correct"] if outcomes else []) + (["patient"] if patients else [])
        writer.writerow(["file", "confidence", *more])
        for row in range(ROWS):
            said = "" if some and row % 2 else ("no" if wrong[row] else "yes")
            cells = ([said] if outcomes else []) + ([f"p{row % patients}"] if patients else [])
            writer.writerow([f"{row}.png", f"{1 - doubt[row]:.6f}", *cells])
    return path


def run(*arguments: object) -> int:
    return cli.main(["review", *map(str, arguments)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_threshold_for_any_model_is_written_shown_and_applied(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "old.csv")
    write(tmp_path / "new.csv", outcomes=False, seed=1)
    assert run("old.csv", "error=0.05", "confidence=0.9") == 0
    printed = capsys.readouterr().out
    assert "Doubt: 1 - confidence. 400 labelled cases" in printed
    assert printed.startswith("Accept:  where the doubt is below ")
    assert re.search(
        r"\nPasses:  [\d.]+ % of the labelled cases; .*\nWrong:   \d+ of \d+ accepted cases", printed
    )
    assert "at most 5 % are wrong: true with probability 90 %" in printed
    kept = (tmp_path / "review.json").read_bytes()
    assert run("old.csv", "error=0.2", "--dry-run") == 0
    assert "Nothing was kept" in capsys.readouterr().out
    assert (tmp_path / "review.json").read_bytes() == kept
    file = ReviewFile.load("review.json")
    assert sum(line.rstrip(" |").endswith("x") for line in printed.splitlines()) == 1
    assert run("review.json", "--apply", "new.csv", "--out", "reviewed.csv") == 0
    said = capsys.readouterr()
    assert "at most 5 % are wrong" in said.err
    found = rows(tmp_path / "reviewed.csv")
    assert file.review.threshold is not None
    for row in found:
        doubt = round(1 - float(row["confidence"]), 6)
        assert row["decision"] == ("accept" if doubt < file.review.threshold else "review")
        assert row["reason"].startswith("doubt ")
    count = sum(row["decision"] == "accept" for row in found)
    assert f"{count} of 400 accepted, {400 - count} to review, in reviewed.csv" in said.out


def test_rows_without_an_outcome_give_the_thresholds_and_are_decided_in_one_go(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", some=True)
    assert run("a.csv", "error=0.1", "--apply", "a.csv", "--out", "b.csv") == 0
    assert "200 labelled cases" in (printed := capsys.readouterr().out)
    assert "thresholds from 200 unlabelled ones" in printed
    assert len(rows(tmp_path / "b.csv")) == ROWS
    assert ReviewFile.load("review.json").review.unlabelled == 200


def test_patients_are_counted_and_two_are_too_few(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(write(tmp_path / "a.csv", patients=2)) == 0
    printed = capsys.readouterr().out
    assert "400 labelled cases of 2 patients" in printed
    assert "not achievable with 2 labelled patients" in printed
    assert ReviewFile.load("review.json").review.threshold is None


def test_a_workload_and_a_batch(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    assert run("a.csv", "workload=0.2", "--apply", "a.csv", "--out", "b.csv") == 0
    assert sum(row["decision"] == "review" for row in rows(tmp_path / "b.csv")) <= 80
    assert "No error was asked for" in capsys.readouterr().out
    assert run("a.csv", "rule=batch", "error=0.05", "--apply", "a.csv", "--out", "b.csv") == 0
    assert "On average over batches" in capsys.readouterr().out
    assert rows(tmp_path / "b.csv")[0]["reason"] in ("accepted with the batch", "too doubtful in this batch")


def test_another_doubt_or_other_classes_are_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    run("a.csv")
    (tmp_path / "b.csv").write_text("uncertainty\n0.1\n")
    assert run("review.json", "--apply", "b.csv", "--out", "c.csv") == 1
    assert "it needs confidence" in capsys.readouterr().err
    for name, classes in (("d.csv", "ab"), ("e.csv", "ac")):
        lines = [f"p({classes[0]}),p({classes[1]}),label", *["0.9,0.1,a"] * 30]
        (tmp_path / name).write_text("\n".join(lines))
    assert run("d.csv", "error=0.1", "--out", "d.json") == 0
    assert "No prediction is wrong" in (printed := capsys.readouterr().out)
    assert "No labelled case is of class b" in printed
    assert run("d.json", "--apply", "e.csv", "--out", "c.csv") == 1
    assert "says nothing of others" in capsys.readouterr().err


def test_a_file_that_was_changed_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    run("a.csv", "error=0.1")
    text = (tmp_path / "review.json").read_text()
    (tmp_path / "review.json").write_text(text.replace('"max_error": 0.1', '"max_error": 0.3'))
    assert run("review.json", "--apply", "a.csv", "--out", "b.csv") == 1
    assert "review.json was damaged or changed" in capsys.readouterr().err
    record = json.loads(text)
    record.pop(next(key for key in record if "crc" in key))
    record["review"]["settings"]["max_error"] = 0.001  # in a file that is whole again
    write_json(tmp_path / "review.json", record)
    assert run("review.json", "--apply", "a.csv", "--out", "b.csv") == 1
    assert "contradicts itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "error=0"], "error must be a share above 0 and below 1 .* not 0"),
        (["a.csv", "error=5"], "error must be a share"),
        (["a.csv", "error=nan"], "error must be a share"),
        (["a.csv", "confidence=1"], "confidence must be a share"),
        (["a.csv", "workload=1"], "workload must be a share from 0 and below 1"),
        (["a.csv", "eror=0.1"], "Did you mean 'error'"),
        (["a.csv", "rule=best"], "Unknown value of rule 'best'"),
        (["a.csv", "rule=workload"], "workload=SHARE and rule=workload belong together"),
        (["a.csv", "rule=batch", "workload=0.1"], "no other rule takes a workload"),
        (["a.csv", "error=0.1", "error=0.2"], "error was given twice"),
        (["a.csv", "b.csv"], "'b.csv' is no setting"),
        (["a.csv", "--apply", "b.csv"], "--apply needs --out"),
        (["r.json"], "applied with --apply FILE --out FILE"),
        (
            ["r.json", "error=0.1", "--apply", "a.csv", "--out", "b.csv"],
            "error: nothing is fitted with r.json",
        ),
        (["runs/x", "--on", "a.csv", "--weights", "w"], "not for --on FILE"),
        (["a.csv", "seed=-1"], "seed must be a whole number"),
        (["a.csv", "--kind", "odds"], "--kind Unknown kind of outputs"),
        (["a.csv", "--dry-run", "--apply", "b.csv", "--out", "c.csv"], "--dry-run only fits"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_the_door(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        review_arguments(arguments)


def test_no_other_file_is_replaced(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    (tmp_path / "mine.json").write_text("{}")
    for words, message in (
        (["a.csv", "--out", "mine.json"], "is not a file of a review threshold"),
        (["a.csv", "--out", "a.txt"], "must end in .json"),
        (["a.csv", "--apply", "a.csv", "--out", "a.csv"], "one of the files to read"),
        (["a.csv", "--on", "a.csv"], "--on is for runs"),
    ):
        assert run(*words) == 1
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(image_folder: Path, tmp_path_factory) -> Path:
    """Return a run without validation images and, beside it, one with some."""
    folder = tmp_path_factory.mktemp("runs")
    data = ["data.name=folder", f"data.root={image_folder}", "data.views=0", "baselines=[]"]
    data += ["trainer.max_epochs=1", "calibrate.folds=2"]
    cache = f"data.cache_dir={folder / 'cache'}"
    for name, shots, val in (("shots", 4, 0), ("val", 2, 2)):
        words = [*SHORT, *data, cache, f"data.shots={shots}", f"data.val_shots={val}", f"out={folder / name}"]
        train(load_config(words, task="prompt"))
    return folder


@pytest.mark.slow
def test_a_run_is_fitted_on_its_validation_images_and_stays_the_run_it_was(
    trained: Path, image_folder: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "val"
    shutil.copytree(trained / "val", folder)
    path = folder / "prompt.safetensors"
    mark = mark_of(path)
    before = Prompt.load(path)
    assert run(folder, "error=0.2") == 0
    printed = capsys.readouterr().out
    assert "6 labelled validation images" in printed
    assert "There are equally many of every class" in printed
    assert "not achievable with 6 labelled" in printed
    after = Prompt.load(path)
    assert mark_of(path) == mark
    assert torch.equal(after.text_features, before.text_features)
    assert decisions_of(folder).review is not None
    data = [f"data.root={image_folder}", "data.name=folder", "data.views=0", "baselines=[]"]
    data += ["trainer.max_epochs=1", "calibrate.folds=2"]
    words = [*SHORT, *data, f"data.cache_dir={trained / 'cache'}", "data.shots=2", "data.val_shots=2"]
    assert train(load_config([*words, f"out={folder}"], task="prompt"))["reused"]  # finished, and still whole
    assert decisions_of(folder).review is not None
    table = predict(folder, [str(image_folder / "test" / "class_0")])
    assert {row["decision"] for row in csv.DictReader(table.splitlines())} == {"review"}


def test_without_validation_images_the_left_out_shots_are_a_hint(tmp_path: Path, capsys) -> None:
    texts = normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    about = {"name": "toy", "weights": {"digest": "a" * 64}, "preprocessing": {}}
    Prompt(texts, ["a", "b", "c"], 3.0, about).save(tmp_path / "prompt.safetensors", run="m")
    labels = [row % 3 for row in range(24)]
    logits = (
        4 * torch.eye(3)[labels] + torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    ).tolist()
    left_out = {"logits": logits, "labels": labels, "groups": [f"p{row}" for row in range(24)]}
    write_json(tmp_path / "metrics.json", {"left_out": left_out})
    bare = (tmp_path / "prompt.safetensors").read_bytes()
    assert run(tmp_path, "error=0.1", "--dry-run") == 0
    assert (tmp_path / "prompt.safetensors").read_bytes() == bare
    assert run(tmp_path, "error=0.1") == 0
    printed = capsys.readouterr().out
    assert "24 labelled left-out shots of 24 patients" in printed
    assert "up to 72 nearly never suffice" in printed
    held = decisions_of(tmp_path)
    assert held.review is not None
    assert held.review.achievable == (
        not (torch.tensor(logits).argmax(dim=1) != torch.tensor(labels))[:22].any()
    )
    assert mark_of(tmp_path / "prompt.safetensors") == "m"
    for wrong in ({"logits": logits[1:]}, {"labels": [5] * 24}, {"logits": [[0.0]] * 24}, {"groups": 3}):
        write_json(tmp_path / "metrics.json", {"left_out": {**left_out, **wrong}})
        assert run(tmp_path) == 1
        assert "left_out does not fit the prompt beside it" in capsys.readouterr().err
    write_json(tmp_path / "metrics.json", {"calibration": {}})
    assert run(tmp_path) == 1
    assert re.search("there is nothing else to fit on.*--on FILE", capsys.readouterr().err)
    assert run(tmp_path, "--kind", "probs") == 1
    assert "no file is read here" in capsys.readouterr().err


@pytest.mark.slow
def test_labels_in_the_table_of_predictions_decide_about_the_rest_and_about_new_images(
    trained: Path, image_folder: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained / "shots", folder)
    few = [str(image_folder / "test" / "class_1")]
    found = list(csv.DictReader(predict(folder, few).splitlines()))
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*found[0], "label"])
        writer.writeheader()
        for number in range(300):  # as if there were so many
            row = found[number % len(found)]
            label = row["prediction"] if number % 3 else ""
            writer.writerow({**row, "unlike": "no", "label": label})
    out = tmp_path / "reviewed.csv"
    assert (
        run(folder, "--on", tmp_path / "p.csv", "error=0.05", "--apply", tmp_path / "p.csv", "--out", out)
        == 0
    )
    printed = capsys.readouterr().out
    assert "200 labelled cases" in printed
    assert "thresholds from 100 unlabelled ones" in printed
    assert {row["decision"] for row in rows(out)} == {"accept"}
    again = csv.DictReader(predict(folder, few).splitlines())
    for row in again:
        assert (row["decision"] == "accept") == (row["unlike"] == "no")
    held = decisions_of(folder)
    assert held.about["review"] == {**held.about["review"], "on": "p.csv", "rows": 200}


@pytest.mark.slow
def test_a_failure_run_is_fitted_on_what_its_head_says(image_folder: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "failure"
    words = ["data.name=cxr3", "data.val_shots=4", "trainer.max_epochs=1", "n_resamples=10", f"out={folder}"]
    config = load_config([*words, "trainer.enable_progress_bar=false"], task="failure")
    train_failure(config)
    assert run(folder, "error=0.3", "confidence=0.8") == 0
    printed = capsys.readouterr().out
    assert "Doubt: uncertainty. 12 labelled validation images of" in printed
    assert decisions_of(folder).review is not None
    assert decisions_of(folder / "prompt.safetensors").review is None
    assert train_failure(config)["reused"]
    rows = list(csv.DictReader(predict(folder, [str(image_folder / "test")], failure=folder).splitlines()))
    assert {row["decision"] for row in rows} <= {"accept", "review"}
    path = tmp_path / "p.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerows({**rows[0], "label": rows[0]["prediction"]} for _ in range(60))
    assert run(folder, "--on", path, "error=0.1") == 0
    again = list(csv.DictReader(predict(folder, [str(image_folder / "test")], failure=folder).splitlines()))
    assert {row["decision"] for row in again} == {"accept"}  # no error was seen
    assert "decision" not in predict(folder, [str(image_folder / "test" / "class_0")]).splitlines()[0]


def test_of_a_patient_all_cases_are_labelled_or_one_is_counted(tmp_path: Path, capsys, monkeypatch) -> None:
    """A guarantee for patients was given where only one case of each had been looked at."""
    monkeypatch.chdir(tmp_path)
    half = write(tmp_path / "half.csv", some=True, patients=99)  # every other row, and so of every patient
    assert run(half, "error=0.2") == 1
    assert "Of 99 patients some cases have a label and others none" in capsys.readouterr().err
    assert run(half, "error=0.2", "patients=one") == 0
    assert "thresholds from" not in capsys.readouterr().out  # those of labelled patients are no further cases
    assert run(write(tmp_path / "whole.csv", some=True, patients=100), "error=0.2") == 0
    assert "200 labelled cases of 50 patients" in capsys.readouterr().out


def test_one_question_is_asked_and_nothing_is_kept_before_its_cases_are_read(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = write(tmp_path / "old.csv")
    assert run(old, "error=0.1", "workload=0.2") == 1
    assert "ask two questions" in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("file,other\na.png,0.5\n", encoding="utf-8")
    assert run(old, "error=0.1", "--apply", "new.csv", "--out", "out.csv") == 1
    assert not (tmp_path / "review.json").exists()


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nope", "--on", "x.csv", "error=0.1") == 1
    assert f"There is no run and no file '{tmp_path / 'nope'}'." in capsys.readouterr().err

"""`calib report` on finished runs, evaluations and what is none of these."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from calib.cli import COMMANDS, main
from calib.commands.evaluate import evaluate
from calib.commands.failure.run import train_failure
from calib.config import DataConfig, EvaluateRun, ReportRun, load_config
from calib.data.judged import rounded_doubt
from calib.data.mapping import OutputMapping
from calib.data.predictions import Predictions
from calib.io.files import read_json
from calib.posthoc import PredictionSets, ReviewThreshold, TemperatureScaling
from calib.posthoc.decisions import Decisions
from calib.prompts.export import Prompt
from calib.runs.decisions import keep_decisions
from calib.runs.entries import Entry
from calib.runs.folder import RunFolder
from calib.runs.material import of_entry
from calib.runs.reports import document_from, report_of
from calib.runs.sharing import share
from calib.runs.slices import MOST, read_slices

QUICK = ["n_resamples=40"]


def reported(out: Path, *words: Any) -> dict[str, Any]:
    assert main(["report", *(str(word) for word in words), *QUICK, f"out={out}"]) == 0
    return dict(json.loads(out.with_suffix(".json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def evaluation(runs: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    config = load_config([f"out={folder}", "baseline=coop", "names=false", *QUICK], task="evaluate")
    config.runs = [str(run) for run in runs.values()]
    evaluate(config)
    return folder


def test_seeds_and_methods_of_runs_stand_in_one_report(runs: dict[int, Path], tmp_path: Path, capsys) -> None:
    content = reported(tmp_path / "both.html", runs[1], runs[2])
    assert "Report: " in capsys.readouterr().out
    comparison = content["sections"]["comparison"]["tables"]["comparison"]["rows"]
    assert list(comparison) == ["calibprompt", "coop", "zero-shot"]
    written = {seed: read_json(folder / "metrics.json")["test"] for seed, folder in runs.items()}
    mean = sum(each["nll"] for each in written.values()) / 2
    assert comparison["calibprompt"]["nll"]["value"] == pytest.approx(mean, abs=1e-9)
    provenance = content["sections"]["provenance"]["tables"]
    assert provenance["settings"]["rows"]["data.shots"]["value"] == "8"
    assert provenance["data"]["rows"]["source"]["value"].startswith("NIH ChestX-ray14")
    assert "confounded" in " ".join(content["sections"]["provenance"]["notes"])
    assert "data.root=IMAGES gives them" in " ".join(content["sections"]["cases"]["notes"])
    tripod = content["sections"]["checklist"]["checklist"]["TRIPOD+AI (2024)"]
    assert next(row for row in tripod if row["item"] == "12a")["where"].startswith("Provenance. 24 images")


def test_the_page_of_one_run_lies_in_its_folder_and_goes_with_it(
    runs: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    assert main(["report", str(run), *QUICK]) == 0
    folder = RunFolder(run)
    assert folder.report.is_file()
    assert {path.suffix for path in run.glob("report.*")} == {".html", ".json", ".csv", ".md"}
    folder.check(load_config([str(run / "config.yaml")], task="prompt"))  # it is still the folder of a run
    folder._clear()
    assert not list(run.glob("report.*"))


def test_the_confidences_are_the_calibrated_ones_and_the_bare_prompt_stands_beside(
    calibrated: Path, tmp_path: Path
) -> None:
    content = reported(tmp_path / "r.html", calibrated)
    rows = content["sections"]["comparison"]["tables"]["comparison"]["rows"]
    assert next(iter(rows)) == "calibprompt calibrated"
    assert "calibprompt" in rows
    said = Predictions.load(calibrated / "predictions.safetensors")
    steps = content["sections"]["review"]["steps"]["steps"]
    assert steps[0][0] == pytest.approx(1 - float(said.confidence.max()), rel=1e-4, abs=1e-9)
    assert content["sections"]["provenance"]["tables"]["model"]["rows"]["calibration"]["value"] == "experts"


@pytest.mark.slow
def test_a_failure_run_calls_its_prompt_as_the_report_of_the_prompt_does(
    calibrated: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "failure"
    words = ["data.name=cxr3", f"prompt={calibrated}", "trainer.max_epochs=1", "n_resamples=10"]
    words += ["trainer.enable_progress_bar=false", "scores=[entropy]", f"out={folder}"]
    train_failure(load_config(words, task="failure"))
    content = reported(tmp_path / "r.html", folder)
    rows = content["sections"]["comparison"]["tables"]["comparison"]["rows"]
    assert list(rows) == ["calibprompt calibrated"]
    assert content["title"].startswith("calibprompt calibrated on ")
    said = content["sections"]["overview"]["said"][0]
    assert said.startswith("calibprompt calibrated was asked")
    doubt = torch.arange(200, dtype=torch.float64) / 200
    review = ReviewThreshold(max_error=0.2).fit(doubt, doubt > 0.9)
    keep_decisions(folder / "failure.safetensors", {}, review=review)
    share(folder, tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    decisions = card.split("## Decisions")[1].split("## Limits")[0]
    assert f"- Review threshold in failure.safetensors: {review.guarantee} On the test images it" in decisions
    assert "- Unfamiliar images are marked by prompt.safetensors: " in decisions
    assert "- No prediction sets were fitted." in decisions


@pytest.fixture(scope="module")
def decided(runs: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the prompts by seed, each with prediction sets of a coverage of its own."""
    folder = tmp_path_factory.mktemp("decided")
    for seed, coverage in ((1, 0.5), (2, 0.99)):
        shutil.copytree(runs[seed], folder / str(seed), ignore=shutil.ignore_patterns("baselines"))
        said = Predictions.load(folder / str(seed) / "predictions.safetensors")
        sets = PredictionSets(coverage=coverage).fit(said.probs, said.labels)
        keep_decisions(folder / str(seed) / "prompt.safetensors", {}, sets=sets)
    return {seed: folder / str(seed) for seed in runs}


def test_sets_and_provenance_are_of_the_seed_that_is_looked_at(
    decided: dict[int, Path], tmp_path: Path
) -> None:
    """Sets of the run that is named first were applied to the predictions of the least seed."""
    config = load_config([f"out={tmp_path / 'e'}", *QUICK], task="evaluate")
    config.runs = [str(decided[2]), str(decided[1])]
    evaluate(config)
    own = json.loads((tmp_path / "e" / "report.json").read_text(encoding="utf-8"))
    pages = [
        own,
        reported(tmp_path / "r.html", decided[2], decided[1]),
        reported(tmp_path / "e.html", tmp_path / "e"),
    ]
    for sections in (page["sections"] for page in pages):
        assert "All that follows on single images is of seed 1." in sections["overview"]["said"][0]
        assert "50 %" in sections["sets"]["said"][0]
        assert sections["provenance"]["tables"]["settings"]["rows"]["seed"]["value"] == "1"


def test_what_another_prompt_said_is_not_reported_as_this_ones(
    decided: dict[int, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside a prompt lay what it said without its calibrator; an evaluated run was trained anew since."""
    run, folder = tmp_path / "run", tmp_path / "e"
    shutil.copytree(decided[1], run)
    config = load_config([f"out={folder}", "report=false", *QUICK], task="evaluate")
    config.runs = [str(run)]
    evaluate(config)
    assert "sets" in reported(tmp_path / "same.html", folder)["sections"]
    prompt = Prompt.load(run / "prompt.safetensors")
    said = Predictions.load(run / "predictions.safetensors")
    fitted = OutputMapping(prompt.class_names, TemperatureScaling().fit(said.logits, said.labels))
    prompt.mapped(fitted).save(run / "mine.safetensors")
    with pytest.raises(ValueError, match=r"another prompt said than .*mine\.safetensors\. Evaluate this one"):
        report_of(ReportRun(runs=[str(run / "mine.safetensors")]))
    replace(prompt.bare(), temperature=1.1, decisions=None).save(run / "prompt.safetensors")
    keep_decisions(run / "prompt.safetensors", {}, sets=prompt.decisions.sets)
    sections = reported(tmp_path / "other.html", folder)["sections"]
    assert "sets" not in sections
    assert "settings" not in sections["provenance"]["tables"]
    assert "are others by now than those that it evaluated" in caplog.text


def test_a_threshold_accepts_on_the_page_what_predict_accepts(calibrated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(calibrated, run)
    said, prompt = Predictions.load(run / "predictions.safetensors"), Prompt.load(run / "prompt.safetensors")
    assert prompt.decisions is not None
    known = prompt.decisions.familiarity
    assert known is not None
    known.threshold = float(known.distance(said.image_features).median())
    replace(prompt, decisions=Decisions(familiarity=known)).save(run / "prompt.safetensors")
    doubt = torch.arange(200, dtype=torch.float64) / 200
    held = keep_decisions(
        run / "prompt.safetensors", {}, review=ReviewThreshold(max_error=0.2).fit(doubt, doubt > 0.9)
    )
    accepted, reasons = held.decide(rounded_doubt(1 - said.confidence), known(said.image_features))
    unlike, n = reasons.count("unlike the images seen"), len(reasons)
    assert 0 < unlike < n
    shown = " ".join(reported(tmp_path / "r.html", run)["sections"]["review"]["said"])
    assert f"accepts {int(accepted.sum()):,} of {n:,} (" in shown
    assert f"{unlike:,} of {n:,} are unlike the images seen: a reader sees them" in shown


def test_no_file_of_a_run_is_replaced_by_its_report(
    runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("metrics", "table"):
        assert main(["report", str(run), *QUICK, f"out={run / name}.html"]) != 0
        assert "choose another out=" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    for _ in range(2):  # its own is
        assert main(["report", str(run), *QUICK]) == 0


def test_an_evaluation_writes_its_report_and_can_be_reported_again(evaluation: Path, tmp_path: Path) -> None:
    own = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))
    content = reported(tmp_path / "again.html", evaluation, "names=false", "baseline=coop")
    for name in ("comparison", "differences"):
        tables = (each["sections"]["comparison"]["tables"][name] for each in (own, content))
        assert next(tables) == next(tables)
    assert own["sections"]["comparison"]["tables"]["differences"]["title"].startswith("Minus coop")
    assert "image 1" in (evaluation / "report.md").read_text(encoding="utf-8") or own["sections"]["cases"]
    metrics = read_json(evaluation / "metrics.json")
    metrics.pop("files")
    older = tmp_path / "older"
    shutil.copytree(evaluation, older)
    (older / "metrics.json").write_text(json.dumps({k: v for k, v in metrics.items() if k != "calib_crc32"}))
    with pytest.raises(ValueError, match="older version that does not say which file is whose"):
        report_of(ReportRun(runs=[str(older)]))


def test_a_later_evaluation_without_a_report_removes_it(runs: dict[int, Path], tmp_path: Path) -> None:
    config = load_config([f"out={tmp_path / 'e'}", *QUICK], task="evaluate")
    config.runs = [str(runs[1] / "prompt.safetensors")]
    evaluate(config)
    assert (tmp_path / "e" / "report.html").is_file()
    config.report = False
    evaluate(config)
    assert not list((tmp_path / "e").glob("report.*"))


@pytest.mark.slow
def test_images_are_found_where_they_are_and_named_where_they_are_not(
    image_folder: Path, settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from calib.commands.train import train

    run = tmp_path / "run"
    data = [
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=2",
        "data.val_shots=0",
        "data.views=0",
    ]
    train(settings(*data, "baselines=[]", f"data.cache_dir={tmp_path / 'cache'}", f"out={run}"))
    content = reported(tmp_path / "r.html", run)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    shown = sum(len(found) for found in content["sections"]["cases"]["cases"].values())
    assert page.count("data:image/jpeg;base64,") == shown > 0
    assert str(image_folder) not in page  # where images lie on this machine is nobody's business
    moved = tmp_path / "moved"
    shutil.copytree(image_folder, moved)
    assert (
        reported(tmp_path / "m.html", run, f"data.root={moved}")["sections"]["cases"]
        == (content["sections"]["cases"])
    )
    reported(tmp_path / "without.html", run, "images=false", "names=false")
    without = (tmp_path / "without.html").read_text(encoding="utf-8")
    assert "data:image" not in without
    assert "class_0/" not in without
    file, words = run / "predictions.safetensors", ["data.name=folder", f"data.root={image_folder}"]
    shown_of_file = reported(tmp_path / "f.html", file, *words)["sections"]["cases"]["cases"]
    assert shown_of_file == content["sections"]["cases"]["cases"]
    content = reported(tmp_path / "gone.html", run, f"data.root={tmp_path / 'nowhere'}")
    assert "The images could not be read when" in content["sections"]["cases"]["notes"][0]
    assert f"There is no folder {tmp_path / 'nowhere'}" in caplog.text  # for who runs it, not for the page
    others = tmp_path / "others"
    for place in sorted(image_folder.rglob("*.png")):
        other = others / place.relative_to(image_folder)
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(place).rotate(90).save(other)
    content = reported(tmp_path / "others.html", run, f"data.root={others}")
    assert "The images at hand are others" in content["sections"]["cases"]["notes"][0]
    for ending in ("html", "json", "md"):
        for name in ("gone", "others"):
            assert str(tmp_path) not in (tmp_path / f"{name}.{ending}").read_text(encoding="utf-8")


def test_subgroups_come_from_a_table(runs: dict[int, Path], tmp_path: Path) -> None:
    said = Predictions.load(runs[1] / "predictions.safetensors")
    table = tmp_path / "sites.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "site", "sex"])
        writer.writerows([name, f"site {i % 2}", "fm"[i % 3 == 0]] for i, name in enumerate(said.names))
    content = reported(tmp_path / "r.html", runs[1], f"slices={table}")
    rows = content["sections"]["groups"]["tables"]["by site"]["rows"]
    assert {name: row["n"] for name, row in rows.items()} == {"site 0": 273, "site 1": 272}
    right = (~said.failure)[::2].double().mean()
    assert rows["site 0"]["accuracy"]["value"] == pytest.approx(float(right))
    tripod = content["sections"]["checklist"]["checklist"]["TRIPOD+AI (2024)"]
    assert next(row for row in tripod if row["item"] == "23a")["state"] == "reported"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site\nA\n", "needs a column 'name' or 'id'"),
        ("name\na\nb\n", "needs a column 'name' or 'id' of the images and at least one more"),
        ("name,site\na,A\n", "lacks 1 of 2 images: b"),
        ("name,site\na,A\na,A\nb,B\n", "stands there more than once"),
        ("name,site,site\na,A,A\nb,B,B\n", "columns must have different names"),
        ("name,site\n\na,A\nb\n", "line 4 has more or fewer cells than the header"),
        ("name,site\na,\xff\n", "cannot be read as a CSV file in UTF-8"),
    ],
)
def test_a_table_of_subgroups_that_does_not_fit_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_slices(path, ["a", "b"], ["1", "2"])


def test_ages_are_no_subgroups_and_ids_will_do(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    ids = [str(i) for i in range(MOST + 1)]
    path.write_text("id,age,site\n" + "\n".join(f"{i},{i},A" for i in ids), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the column 'age' has 21 different values, and at most 20"):
        read_slices(path, ids, ids)
    path.write_text("id,site\n" + "\n".join(f"{i},A" for i in ids), encoding="utf-8")
    assert read_slices(path, ["x"] * len(ids), ids) == {"site": ["A"] * len(ids)}
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.csv'"):
        read_slices("nowhere.csv", [], [])


def test_files_of_predictions_are_reported_too(runs: dict[int, Path], tmp_path: Path) -> None:
    files = [run / "predictions.safetensors" for run in runs.values()]
    content = reported(tmp_path / "r.html", *files)
    rows = content["sections"]["comparison"]["tables"]["comparison"]["rows"]
    assert list(rows) == ["calibprompt"]
    mean = sum(Predictions.load(file).metrics()["nll"] for file in files) / 2
    assert rows["calibprompt"]["nll"]["value"] == pytest.approx(mean)
    assert "not known where the images are" in " ".join(content["sections"]["cases"]["notes"])
    for given, message in (
        ([files[0], files[0]], "is a second file of 'calibprompt' with seed 1"),
        ([files[0], runs[2]], "name such files alone"),
    ):
        with pytest.raises(ValueError, match=message):
            report_of(ReportRun(runs=[str(each) for each in given]))


def test_what_cannot_be_reported_is_refused(
    runs: dict[int, Path], evaluation: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "empty.csv").touch()
    for words, message in (
        (["report", str(tmp_path / "empty.csv")], "empty.csv' cannot be reported: RUN must be a run folder"),
        (["report"], "Nothing to report"),
        (["report", str(tmp_path / "nowhere")], "no exported prompt at"),
        (["report", str(runs[1]), "out=report.pdf"], "ends in .html"),
        (["report", str(runs[1]), f"out={runs[1] / 'config.yaml' / 'x.html'}"], "config.yaml' is a file"),
        (["report", str(runs[1]), str(evaluation)], "is reported alone: name one folder"),
        (["report", str(runs[1]), "nams=false"], "Did you mean 'names'"),
        (
            ["report", str(runs[1]), "main=calibpromt", f"out={tmp_path / 'x.html'}"],
            "Did you mean 'calibprompt'",
        ),
    ):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    alone = tmp_path / "alone"
    shutil.copytree(runs[1], alone)
    (alone / "predictions.safetensors").unlink()
    with pytest.raises(ValueError, match=r"Evaluate it first: calib evaluate .* Then: calib report FOLDER"):
        report_of(ReportRun(runs=[str(alone)]))


def test_its_help_explains_every_setting(capsys) -> None:
    assert main(["report", "--help"]) == 0
    printed = capsys.readouterr().out
    for setting in ("slices=null", "names=true", "images=true", "data.root=null", "n_resamples=2000"):
        assert f"  {setting}" in printed
    assert COMMANDS["report"].read(["a", "b", "level=0.9"]).runs == ["a", "b"]


def test_the_heading_names_the_folder_of_own_images_and_not_their_reader(runs: dict[int, Path]) -> None:
    path = runs[1] / "prompt.safetensors"
    said = Predictions.load(runs[1] / "predictions.safetensors")
    own = DataConfig(name="folder", root="/data/organs")
    material = of_entry(Entry(path, Prompt.load(path), own, EvaluateRun().data, {}, "mine"), images=False)
    said = replace(said, about={**said.about, "data": "folder"})
    material = replace(material, by_method={"mine": {1: said}})
    how = ReportRun(images=False, n_resamples=10)
    document = document_from(material, how)
    assert document.title == "mine on organs"
    assert " images of organs shows" in document.sections[0].said[0]
    assert document.tables["data"].rows["data set"]["value"] == "organs"
    assert document_from(material, replace(how, title="Site B")).title == "Site B"
    packaged = of_entry(Entry(path, Prompt.load(path), DataConfig(name="cxr3"), EvaluateRun().data, {}))
    assert packaged.called is None

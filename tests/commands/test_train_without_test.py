"""Training without test images: the same prompt, no test results, and a word on how to get them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_shared import PLAIN, SHORT

import calib
from calib.commands import train as command
from calib.commands.evaluate import evaluate
from calib.commands.failure.run import train_failure
from calib.commands.search.grid import sweep_of
from calib.commands.search.sweep import sweep
from calib.commands.train import train
from calib.config import PromptRun, load_config
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs.entries import find_entries
from calib.runs.folder import FILES, RunFolder
from calib.runs.results import results_of

DRAW = ["data.name=folder", "data.shots=2", "data.val_shots=2", "data.views=0", "baselines=[]"]


@dataclass
class Made:
    """Images with and without a test split, a run on each, and the settings of the latter."""

    whole: Path
    images: Path
    tested: Path
    run: Path
    said: list[str]
    results: dict[str, Any]


@pytest.fixture(scope="module")
def made(
    image_folder: Path,
    tiny: str,
    tmp_path_factory: pytest.TempPathFactory,
    settings: Callable[..., PromptRun],
) -> Made:
    root = tmp_path_factory.mktemp("without")
    images = root / "images"
    shutil.copytree(image_folder / "train", images / "train")
    shutil.copytree(image_folder / "test", images / "val")
    said = [*DRAW, tiny, f"data.root={images}", f"data.cache_dir={root / 'cache'}", f"out={root / 'run'}"]
    results = train(settings(*said))
    train(settings(*said, f"data.root={image_folder}", f"out={root / 'tested'}"))
    return Made(image_folder, images, root / "tested", root / "run", said, results)


def copied(made: Made, tmp_path: Path) -> Path:
    """Return a copy of the run, which a test may change."""
    return Path(shutil.copytree(made.run, tmp_path / "run"))


def test_the_prompt_is_the_one_of_a_run_with_test_images(made: Made) -> None:
    ours, theirs = (Prompt.load(folder / "prompt.safetensors") for folder in (made.run, made.tested))
    assert torch.equal(ours.text_features, theirs.text_features)
    assert isinstance(calib.load(made.run), Prompt)


def test_there_is_everything_but_what_is_about_test_images(made: Made) -> None:
    ours, theirs = ({p.relative_to(f) for p in f.rglob("*")} for f in (made.run, made.tested))
    about_test = {Path(file.path) for file in FILES.values() if file.of_test and "prompt" in file.by}
    zero_shot = Path("baselines") / "zero-shot"
    assert theirs - ours == about_test | {zero_shot / "predictions.safetensors"}
    assert not ours - theirs
    assert read_json(made.run / "split.json")["test"] is None
    for folder in (made.run, made.run / zero_shot):
        metrics = read_json(folder / "metrics.json")
        assert "test" not in metrics
        assert metrics["val"] == read_json(made.tested / folder.relative_to(made.run) / "metrics.json")["val"]


def test_validation_results_are_called_so(made: Made, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.results["methods"] == {}
    assert [*made.results["val"]] == ["zero-shot", "calibprompt"]
    text = (made.run / "table.md").read_text()
    model = tiny.partition("=")[2]
    assert text.startswith(f"folder, {model} backbone, 6 validation shots (no test images), seed 1; ECE")
    assert "calib evaluate RUN data.root=IMAGES" in text
    assert "n test images" not in text
    results = results_of(RunFolder(made.run))
    assert (results.name, results.figures) == ("validation_results", {})
    assert [row[0] for row in results.rows] == ["zero-shot", "calibprompt"]
    assert command.main(load_config([*SHORT, *PLAIN, *made.said], task="prompt")) == 0
    shown = capsys.readouterr().out
    assert "| calibprompt (CE + SMAC + AS) |" in shown
    assert "There are no test images, so there are no test results." in shown
    assert f"calib evaluate {made.run} data.root=IMAGES" in shown
    assert "Reliability diagrams" not in shown


def test_it_is_read_back_its_table_made_anew_and_a_lost_end_gone_on_with(
    made: Made, settings: Callable[..., PromptRun], tmp_path: Path
) -> None:
    folder = copied(made, tmp_path)
    said = [*made.said, f"out={folder}"]
    text = (folder / "table.md").read_text()
    (folder / "table.md").unlink()
    assert train(settings(*said))["reused"]
    assert (folder / "table.md").read_text() == text
    before = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").unlink()
    assert not train(settings(*said))["reused"]
    assert (folder / "metrics.json").read_bytes() == before
    shutil.copy(made.tested / "metrics.json", folder / "metrics.json")
    with pytest.raises(ValueError, match=r"metrics\.json belongs to another run than its folder"):
        train(settings(*said))


def test_test_images_that_come_later_are_evaluated_or_trained_beside(
    made: Made, settings: Callable[..., PromptRun], tmp_path: Path
) -> None:
    folder = copied(made, tmp_path)
    said = [*made.said, f"out={folder}"]
    shutil.copytree(made.whole / "test", made.images / "test")
    try:
        with pytest.raises(ValueError, match=r"differs in: overlap, test\).*`calib evaluate` judges the"):
            train(settings(*said))
        assert train(settings(*said, "overwrite=true"))["methods"]["calibprompt"]["n"] == 9
    finally:
        shutil.rmtree(made.images / "test")
    assert (folder / "reliability.png").is_file()


def test_test_images_elsewhere_give_the_test_results(made: Made, tmp_path: Path) -> None:
    def evaluated(*changes: str) -> dict[str, Any]:
        config = load_config([f"out={tmp_path / 'out'}", "n_resamples=10", *changes], task="evaluate")
        config.runs = [str(made.run)]
        return evaluate(config)["methods"]["calibprompt"][1]

    expected = read_json(made.tested / "metrics.json")["test"]
    for changes in (
        [f"data.root={made.whole / 'test'}"],  # class folders
        ["split=val"],  # the same images, as the data's own validation split
    ):
        found = evaluated(*changes)
        assert (found["n"], found["nll"]) == (9, pytest.approx(expected["nll"], abs=1e-5))
    message = (
        r"has no 'test' folder; it has: train, val\. To evaluate .*prompt\.safetensors, give data with "
        r"test images \(data\.root=IMAGES, with test/<class>/\* or <class>/\* alone\)"
    )
    with pytest.raises(ValueError, match=message + r", or the val split \(split=val\)"):
        evaluated()


def test_options_that_say_where_training_images_are_do_not_bind_other_data(
    made: Made, tmp_path: Path
) -> None:
    prompt = Prompt.load(made.run / "prompt.safetensors")
    for number, (options, root, expected) in enumerate(
        [
            ({"splits": {"train": "all"}}, tmp_path, {"splits": None}),
            ({"table": {"train": "a.csv", "val": "b.csv"}}, tmp_path, {"table": {"val": "b.csv"}}),
            ({"table": "a.csv"}, __file__, {}),  # the root is a table itself
        ]
    ):
        prompt.training["config"]["data"]["options"] = options
        path = tmp_path / f"{number}.safetensors"
        prompt.save(path)
        config = load_config([f"data.root={root}"], task="evaluate")
        config.runs = [str(path)]
        assert find_entries(config)[0].data.options == expected
        config = load_config([], task="evaluate")
        config.runs = [str(path)]
        assert find_entries(config)[0].data.options == options


def test_without_validation_shots_a_sentence_is_all_there_is(
    made: Made, settings: Callable[..., PromptRun], tmp_path: Path
) -> None:
    results = train(settings(*made.said, "data.val_shots=0", f"out={tmp_path / 'run'}"))
    assert (results["methods"], results["val"]) == ({}, {})
    assert (tmp_path / "run" / "table.md").read_text().startswith("There are no test images, so")
    assert results_of(RunFolder(tmp_path / "run")).rows == []


def test_a_sweep_shows_validation_metrics_by_their_name(made: Made, tmp_path: Path) -> None:
    said = [each for each in made.said if not each.startswith(("out=", "baselines="))]
    found = sweep(sweep_of([*SHORT, PLAIN[0], *said, "optim.lr=0.002,0.2", f"out={tmp_path / 's'}"]))
    header, _, *rows = (line.split("|")[1:-1] for line in found["table"].splitlines())
    titles = [each.strip() for each in header]
    assert titles[:6] == ["settings", "seeds", "val. NLL", "mean rank", "val. accuracy %", "val. bal. acc. %"]
    assert len(titles) == len(set(titles))
    assert not any("test" in each for each in titles)
    assert found["best"] == rows[0][0].strip()
    runs = read_json(tmp_path / "s" / "sweep.json")["runs"]
    assert min(runs, key=lambda each: each["val"]["nll"])["optim.lr"] == found["best"].partition("=")[2]
    assert all("test" not in each for each in runs)


def test_a_failure_run_says_that_it_needs_them(made: Made, tmp_path: Path) -> None:
    config = load_config(
        [*SHORT, "task=failure", f"prompt={made.run}", f"out={tmp_path / 'run'}"], task="failure"
    )
    with pytest.raises(ValueError, match=r"no 'test' folder; .*judges its head .*calib\.fit_failure_head"):
        train_failure(config)
    assert not (tmp_path / "run").exists()


def test_from_python(made: Made, tiny: str) -> None:
    backbone, task = calib.create_backbone(tiny.partition("=")[2]), calib.load_data("folder", made.images)
    cache = made.run.parent / "cache"
    prompt = calib.fit_prompt(backbone, task, shots=2, val_shots=2, views=0, epochs=1, cache=cache)
    assert prompt.class_names == task.class_names
    with pytest.raises(ValueError, match="no images to encode: `test` is empty where the data have no test"):
        calib.encode(backbone, task.test)

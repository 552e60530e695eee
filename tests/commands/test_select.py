"""`calib select`: a list, contact sheets, a record; labels read back; training from exactly these images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests_shared import SHORT

import calib
from calib.cli import main
from calib.commands.select import LIST, RECORD, choose
from calib.commands.train import shown
from calib.config import PromptRun, load_config
from calib.data.shot_list import ShotList, read_shot_list
from calib.data.task import DEFAULT_TEMPLATE
from calib.prompts.export import Prompt
from calib.runs.prepare import say_sentence
from calib.runs.selecting import model_of

NAMES = '"data.class_names=[class 0,class 1,class 2]"'.strip('"')


def fill(path: Path, label_of: Callable[[str], str | None]) -> ShotList:
    """Fill in the labels that are missing, as a person would, by the name of the file."""
    images = [replace(each, label=each.label or label_of(each.file)) for each in read_shot_list(path).images]
    filled = ShotList(tuple(images), str(path))
    filled.save(path)
    return filled


def test_classes_are_those_of_the_prompt_in_any_spelling(runs: dict[int, Path], tmp_path: Path) -> None:
    """An underscore stands elsewhere in the alphabet than a blank: the same names were refused."""
    path = tmp_path / "prompt.safetensors"
    prompt = Prompt.load(runs[1] / "prompt.safetensors")
    training = {**prompt.training, "config": {"data": {"template": "A slide of {}."}}}
    replace(prompt, class_names=["T cell", "TB", "other"], training=training).save(path)
    config = load_config([f"prompt={path}"], task="select")
    model = model_of(config, ["TB", "T_cell", "other"], "a {}.")
    assert model.class_names == ["T cell", "TB", "other"]
    assert model.template == "A slide of {}."  # the command that is printed hands it on
    with pytest.raises(ValueError, match="knows the classes T cell, TB, other, and the images are of TB, T"):
        model_of(config, ["TB", "T_cells", "other"], "a {}.")


@pytest.fixture
def scans(image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folder / "train", tmp_path / "scans"))


def test_images_are_chosen_labelled_and_chosen_again(
    scans: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = [tiny, f"data.cache_dir={tmp_path / 'cache'}", "near=1"]
    first, second = tmp_path / "first", tmp_path / "second"
    here.append("strategy=typicality")
    assert main(["select", str(scans), "budget=5", f"out={first}", *here]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 of 18 images chosen by typicality.\nPatients are not known: several")
    assert '"data.template=A chest X-ray of {}." data.shots_from=' in said
    assert "That data.template is an example: say what your images are" in said
    assert (first / LIST).read_text().startswith("file,label,")  # what is to be filled in comes first
    assert {path.name for path in first.iterdir()} == {LIST, RECORD, "sheet-1.png"}
    record = json.loads((first / RECORD).read_text())
    assert (record["chosen"], record["model"]) == ({"typicality": 5}, "none")
    assert "not drawn at random" in record["statement"]
    chosen = read_shot_list(first / LIST)
    assert [each.rank for each in chosen.images] == [1, 2, 3, 4, 5]
    assert main(["select", str(scans), "budget=5", f"out={first}", *here]) == 0  # nothing is lost yet
    assert read_shot_list(first / LIST) == chosen

    unfilled = ["select", str(scans), "budget=4", f"labels={first / LIST}", f"out={second}", *here]
    assert main(unfilled) == 1
    assert "5 of the 5 images in" in capsys.readouterr().err
    fill(first / LIST, lambda file: file.split("/")[0].replace("_", " "))
    assert main(["select", str(scans), "budget=5", f"out={first}", *here]) == 1
    assert "holds labels, which would be lost" in capsys.readouterr().err
    assert main([*unfilled, "strategy=margin", NAMES]) == 0
    both = read_shot_list(second / LIST)
    assert both.strategies == {"typicality": 5, "margin": 4}
    assert [each.label is None for each in both.images] == [False] * 5 + [True] * 4
    assert len({each.content_id for each in both.images}) == 9
    assert json.loads((second / RECORD).read_text())["model"] == "zero-shot"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say how many images to choose: budget=24"),
        (["budget=19"], "budget=19 is more than the pool has: 18 different images"),
        (["budget=4", "strategy=entropy"], "strategy=entropy asks what the model doubts"),
        (["budget=4", "strategy=entrpy"], "Did you mean 'entropy'"),
        (
            ["budget=4", "strategy=typicality", "settings.clusters=3"],
            "Unknown setting of strategy 'typicality' 'clu",
        ),
        (["budget=4", "strategy=aligned"], "source=FOLDER"),
        (
            ["budget=4", "strategy=aligned", "source=no", NAMES],
            "source=no is neither a data set nor a folder",
        ),
        (["budget=4", "source=cxr3"], "source is for strategy=aligned"),
        (["budget=4", "near=1.5"], "near must be at most 1"),
        (["budget=4", "data.options.flag=x"], "data.options.flag is for other data"),
        (["budget=4", "data.root=other"], "Expected one folder or table of images"),
        (["budget=4", "labels=no.csv"], "There is no list of chosen images at no.csv"),
    ],
)
def test_what_cannot_be_chosen_is_said_and_nothing_is_written(
    scans: Path, tiny: str, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["select", str(scans), tiny, f"out={out}", f"data.cache_dir={tmp_path / 'cache'}", *words]) == 1
    )
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a list of cxr3 whose last class was not found."""
    folder = tmp_path_factory.mktemp("uneven")
    words = ["data.name=cxr3", "strategy=k_centre", "budget=14", f"out={folder}"]
    chosen = choose(load_config(words, task="select"))
    names = calib.load_data("cxr3").train.names
    kept = [each for each in chosen.images.images if not each.file.startswith("covid")]
    assert len(kept) < 14 <= len(names)
    ShotList(tuple(kept)).save(folder / LIST)
    return folder / LIST


def test_a_prompt_learns_from_exactly_the_list_and_what_it_promises_says_so(
    uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*SHORT, "baselines=[]", f"data.shots_from={uneven}", f"out={run}"]
    assert main(["train", *words]) == 0
    said = json.loads((run / "split.json").read_text())
    chosen = read_shot_list(uneven)
    assert set(said["train"]) == {each.content_id for each in chosen.images}
    assert said["chosen"] == {"k_centre": len(chosen.images)}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["calibration"]["method"] in ("scale", "none")  # no discriminant without the class
    assert Prompt.load(run / "prompt.safetensors").training["chosen"] == said["chosen"]
    assert main(["train", *words]) == 0  # goes on: it is finished
    capsys.readouterr()
    assert main(["sets", str(run)]) == 0
    assert "The shots were chosen by the strategy k_centre, not drawn at random" in capsys.readouterr().out
    held = Prompt.load(run / "prompt.safetensors").decisions
    assert held is not None
    assert held.sets is not None
    assert "chosen by the strategy k_centre" in held.sets.guarantee
    assert main(["review", str(run), "error=0.6"]) == 0
    assert "chosen by the strategy k_centre" in capsys.readouterr().out
    assert main(["export", str(run), f"out={tmp_path / 'shared'}"]) == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert (
        f"learned from {len(chosen.images)} images, chosen by the strategy k_centre: no random sample" in card
    )
    assert (
        Prompt.load(tmp_path / "shared" / "prompt.safetensors").training["config"]["data"]["shots_from"]
        is None
    )
    more = ["select", "data.name=cxr3", "strategy=entropy", "budget=3", f"prompt={run}", f"labels={uneven}"]
    assert main([*more, f"out={tmp_path / 'next'}"]) == 0  # labels the data set knows need no filling in


def test_the_library_learns_from_a_list_as_the_command_does(uneven: Path) -> None:
    backbone, task = calib.create_backbone("embedded"), calib.load_data("cxr3")
    prompt = calib.fit_prompt(backbone, task, shots_from=uneven, epochs=1, seed=1, calibrate="none")
    assert prompt.training["chosen"] == {"k_centre": len(read_shot_list(uneven).images)}
    with pytest.raises(
        ValueError, match=r"method=experts needs a shot of every class, and there is none of COVID-19"
    ):
        calib.fit_prompt(backbone, task, shots_from=uneven, epochs=1, seed=1, calibrate="experts")


def test_a_list_and_a_number_of_shots_exclude_each_other_and_only_prompts_learn_from_lists() -> None:
    def settings(*words: str, task: str = "prompt") -> Any:
        return load_config(["data.shots_from=x.csv", *words], task=task)

    assert isinstance(settings("data.shots=null"), PromptRun)
    with pytest.raises(ValueError, match=r"data\.shots=16 and data\.shots_from exclude each other"):
        settings("data.shots=16")
    for task in ("failure", "evaluate", "report"):
        with pytest.raises(ValueError, match=r"data\.shots_from says which images a prompt learns from"):
            settings(task=task)


def test_what_a_pool_cannot_give_is_said_before_an_image_is_encoded(
    scans: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.commands.select.encoded", lambda *_: pytest.fail("images were encoded"))
    for words in (["budget=19"], ["budget=4", "strategy=aligned", "source=no", NAMES]):
        assert main(["select", str(scans), tiny, f"out={tmp_path / 'out'}", *words]) == 1


def test_of_each_patient_of_a_table_as_many_are_chosen_as_may_be(
    scans: Path, tiny: str, tmp_path: Path, capsys
):
    files = sorted(path.relative_to(scans).as_posix() for path in scans.rglob("*.png"))
    table = scans / "all.csv"
    table.write_text("\n".join(["file,patient", *(f"{file},{row % 3}" for row, file in enumerate(files))]))
    words = ["select", str(table), tiny, f"data.cache_dir={tmp_path / 'cache'}", "near=1"]
    assert main([*words, "budget=3", f"out={tmp_path / 'out'}"]) == 0
    assert "images chosen by random.\nPatients (groups): 3, of each at most 1." in capsys.readouterr().out
    assert len({each.group for each in read_shot_list(tmp_path / "out" / LIST).images}) == 3
    table.write_text(f"file,patient\n{scans.absolute().parent / 'x.png'},1\n")
    assert main([*words, "budget=1", f"out={tmp_path / 'none'}"]) == 1
    assert capsys.readouterr().err.strip().endswith("without '..'.")  # no setting lets a pool read it


def test_what_comes_next_keeps_the_template_and_can_be_typed(scans: Path, tmp_path: Path, capsys) -> None:
    words = [str(scans), "budget=2", "data.template=A slide of {}.", f"out={tmp_path / 'chosen'}"]
    assert main(["select", *words, "data.class_names=[circle,square]", "backbone.name=embedded"]) == 0
    told = capsys.readouterr().out
    assert '"data.template=A slide of {}." data.shots_from=' in told
    assert "is an example" not in told
    pool = load_config(["data.name=pool", "data.root=x", "data.shots_from=x.csv"], task="prompt")
    said = shown(pool, {}, {}, "runs/first")
    assert "calib evaluate runs/first data.name=folder data.root=IMAGES." in said
    assert "split=val" not in said
    assert "split=val" in shown(load_config([], task="prompt"), {}, {}, "runs/first")


def test_a_sentence_that_nobody_wrote_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    task = calib.load_data("cxr3")
    with caplog.at_level("INFO", logger="calib"):
        say_sentence(task)
        say_sentence(replace(task, template=DEFAULT_TEMPLATE))
    own, default = caplog.records
    assert (own.levelname, default.levelname) == ("INFO", "WARNING")
    assert default.getMessage().startswith('Zero-shot reads "An image of ')
    assert '"data.template=A chest X-ray of {}."' in default.getMessage()

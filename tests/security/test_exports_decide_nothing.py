"""An export from elsewhere decides nothing: where is written, what is fetched, what is allowed."""

from __future__ import annotations

import copy
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from calib.backbones import create_backbone, rebuild_backbone
from calib.commands.evaluate import evaluate
from calib.commands.failure.images import resolve
from calib.commands.predict import predict
from calib.config import load_config
from calib.io.tensors import load_tensors, save_tensors
from calib.runs.entries import find_entries
from calib.runs.material import material_of
from calib.runs.validation import validation_predictions

NOT_ASKED = "what a file says is not done unasked"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is asked of the network, as names of functions; asking is an error."""
    import datasets
    import huggingface_hub

    asked: list[str] = []

    def refuse(name: str) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            asked.append(name)
            raise OSError("no network in tests")

        return call

    for module, name in (
        (datasets, "load_dataset"),
        (huggingface_hub, "list_repo_files"),
        (huggingface_hub, "hf_hub_download"),
        (huggingface_hub, "snapshot_download"),
    ):
        monkeypatch.setattr(module, name, refuse(name))
    return asked


def resigned(
    runs: dict[int, Path], to: Path, change: dict[str, Any], *place: str, of: Path | None = None
) -> Path:
    """Write a copy of a prompt, well-formed and well signed, with other values at one place."""
    tensors, record = load_tensors(of or runs[1] / "prompt.safetensors", kind="prompt")
    record = copy.deepcopy(record)
    inner = record
    for key in place:
        inner = inner[key]
    inner.update(change)
    to.mkdir(parents=True, exist_ok=True)
    save_tensors(to / "prompt.safetensors", tensors, record)
    return to / "prompt.safetensors"


def evaluation(path: Path, *changes: str) -> Any:
    config = load_config([f"out={path.parent / 'evaluation'}", *changes], task="evaluate")
    config.runs = [str(path)]
    return config


DATA = ("training", "config", "data")
HUB = {"name": "hf", "root": "evil/x"}


def test_the_cache_is_where_this_command_says(
    runs: dict[int, Path], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, here = tmp_path / "outside", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    names = ["no finding", "pneumonia", "COVID-19"]
    change = {
        "name": "folder",
        "root": str(image_folder),
        "class_names": names,
        "cache_dir": str(outside / "cache"),
        "encode_batch_size": 65_000,
    }
    path = resigned(runs, tmp_path / "export", change, *DATA)
    (entry,) = find_entries(evaluation(path))
    assert (entry.data.cache_dir, entry.data.encode_batch_size) == (".calib_cache", 16)
    assert find_entries(evaluation(path, "data.cache_dir=mine"))[0].data.cache_dir == "mine"
    evaluate(evaluation(path))
    assert not outside.exists()
    assert (here / ".calib_cache").is_dir()
    config = resolve(load_config([f"prompt={path}"], task="failure"))
    assert (config.data.cache_dir, config.data.encode_batch_size) == (".calib_cache", 16)
    assert config.data.root == str(image_folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (HUB, "data.root=evil/x"),
        ({"name": "hf", "options": {"dataset": "evil"}}, "data.options.dataset=evil"),
        ({"name": "hf", "root": "hub-name-without-owner"}, "data.root=hub-name-without-owner"),
        (
            {"name": "table", "root": "/tmp", "options": {"allow_outside": True, "table": "labels.csv"}},
            "data.options.allow_outside=true data.options.table=labels.csv",
        ),
        ({"name": "table", "root": "/tmp", "options": {"table": "/etc/passwd"}}, "data.options.table=/etc/p"),
        (
            {"name": "table", "root": "/tmp", "options": {"table": "a/../../x"}},
            "data.options.table=a/../../x",
        ),
        (
            {"name": "table", "root": "/tmp", "options": {"table": r"C:\x.csv"}},
            r"'data.options.table=C:\x.csv'",
        ),
        (
            {"name": "table", "root": "/tmp", "options": {"table": r"\\h\s\x"}},
            r"'data.options.table=\\h\s\x'",
        ),
        (
            {"name": "table", "root": "/tmp", "options": {"table": {"train": "a.csv", "test": "../b.csv"}}},
            "data.options.table.train=a.csv data.options.table.test=../b.csv",
        ),
        ({"name": "folder", "root": "//evil/share"}, "data.root=//evil/share"),
        ({"name": "folder", "root": r"\\evil\share"}, r"'data.root=\\evil\share'"),
        ({"name": "hf", "options": {"dataset": "$(id)"}}, "'data.options.dataset=$(id)'"),
    ],
)
def test_data_that_reach_farther_have_to_be_named_by_the_user(
    runs: dict[int, Path], tmp_path: Path, network: list[str], change: dict[str, Any], words: str
) -> None:
    path = resigned(runs, tmp_path / "export", {"root": None, **change}, *DATA)
    with pytest.raises(ValueError, match=NOT_ASKED) as caught:
        find_entries(evaluation(path))
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    with pytest.raises(ValueError, match=NOT_ASKED):
        resolve(load_config([f"prompt={path}"], task="failure"))
    assert network == []


def test_a_report_is_made_without_images_that_would_have_to_be_asked_for(
    runs: dict[int, Path], tmp_path: Path, network: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It was refused, for images that it does not need, and what it said to type changed nothing."""
    change = {"name": "table", "root": str(tmp_path), "options": {"allow_outside": True, "table": "t.csv"}}
    path = resigned(runs, tmp_path / "export", change, *DATA)
    shutil.copy(runs[1] / "predictions.safetensors", path.parent)
    config = load_config(["n_resamples=20"], task="report")
    config.runs = [str(path)]
    assert material_of(config).data is None
    assert NOT_ASKED in caplog.text
    caplog.clear()
    config.images = False
    assert material_of(config).data is None
    config.images, config.data.options = True, {"allow_outside": True}
    found = material_of(config).data
    assert found is not None
    assert (found.name, found.options) == ("table", {"allow_outside": True})
    assert caplog.text == ""
    assert network == []


def test_who_takes_no_settings_of_data_says_what_it_takes(runs: dict[int, Path], tmp_path: Path) -> None:
    path = resigned(runs, tmp_path / "export", HUB, *DATA)
    with pytest.raises(ValueError, match=rf"{NOT_ASKED}\. Give labelled outputs .*: --on FILE\.$"):
        validation_predictions(path)


def test_data_that_the_user_names_are_looked_for(
    runs: dict[int, Path], tmp_path: Path, network: list[str]
) -> None:
    path = resigned(runs, tmp_path / "export", HUB, *DATA)
    with pytest.raises(FileNotFoundError, match="evil/x"):
        evaluate(evaluation(path, "data.root=evil/x"))
    assert network == ["load_dataset"]
    config = resolve(load_config([f"prompt={path}", "data.root=evil/x"], task="failure"))
    assert (config.data.name, config.data.root) == ("hf", "evil/x")
    options = {"name": "table", "root": "x", "options": {"allow_outside": True}}
    path = resigned(runs, tmp_path / "export", options, *DATA)
    (entry,) = find_entries(evaluation(path, "data.options.allow_outside=true"))
    assert entry.data.options == {"allow_outside": True}
    (entry,) = find_entries(evaluation(path, "data.options.table=mine.csv"))
    assert entry.data.options == {"table": "mine.csv"}


def test_how_its_own_data_are_read_is_nothing_to_other_data(runs: dict[int, Path], tmp_path: Path) -> None:
    """A prompt of a table is judged on a folder: columns and place of the table are not the folder's."""
    options = {"columns": {"label": "diagnosis"}, "delimiter": ";", "grey16_max": 4095}
    change = {"name": "table", "root": "labels.csv", "options": options, "class_names": ["x", "y", "z"]}
    path = resigned(runs, tmp_path / "export", change, *DATA)
    (entry,) = find_entries(evaluation(path, "data.name=folder", "data.root=images"))
    assert (entry.data.name, entry.data.root) == ("folder", "images")
    assert (entry.data.options, entry.data.class_names) == ({"grey16_max": 4095}, ["x", "y", "z"])
    (entry,) = find_entries(evaluation(path, "data.name=cxr3"))
    assert (entry.data.name, entry.data.root) == ("cxr3", None)
    for same in (
        ["data.root=other.csv"],
        ["data.name=table", "data.root=other.csv"],
    ):  # other rows, read alike
        (entry,) = find_entries(evaluation(path, *same))
        assert (entry.data.root, entry.data.options) == ("other.csv", options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encode_batch_size": 0}, "data.encode_batch_size must be at least 1, got 0"),
        ({"encode_batch_size": 10**9}, "data.encode_batch_size must be below 65536, got 1000000000"),
        ({"batch_size": -1}, "data.batch_size must be at least 1, got -1"),
        ({"shots": 0}, "data.shots must be at least 1, got 0"),
        ({"val_shots": -1}, "data.val_shots must be at least 0"),
        ({"views": -8}, "data.views must be at least 0"),
        ({"options": {"root": "/etc"}}, "data.options.root is written data.root"),
    ],
)
def test_settings_of_an_export_are_in_the_range_of_any_others(
    runs: dict[int, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = resigned(runs, tmp_path / "export", change, *DATA)
    for use in (
        lambda: find_entries(evaluation(path)),
        lambda: resolve(load_config([f"prompt={path}"], task="failure")),
    ):
        with pytest.raises(ValueError, match=rf"prompt\.safetensors: {message}"):
            use()


@pytest.mark.parametrize("white", [0, -5, 2**16, True, "x", [1]])
def test_the_white_of_an_export_is_a_number_there_is(
    runs: dict[int, Path], tmp_path: Path, image_folder: Path, white: Any
) -> None:
    path = resigned(runs, tmp_path / "export", {"options": {"grey16_max": white}}, *DATA)
    with pytest.raises(
        ValueError, match=r"prompt\.safetensors: data.options.grey16_max must lie.*--grey16-max"
    ):
        predict(path, [str(image_folder / "test")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "hf-hub:evil/x"}, "--weights hf://evil/x"),
        ({"name": "plip", "weights": "hf://evil/x"}, "--weights hf://evil/x"),
        ({"name": "plip", "weights": "evil-org/x"}, "backbone.weights=evil-org/x"),
        ({"weights": "hf://evil/x", "revision": "main"}, "restore_backbone(weights='hf://evil/x')"),
        ({"name": "medclip", "weights": "random", "tokenizer": "hf://evil/t"}, "--tokenizer hf://evil/t"),
        ({"name": "hf-hub:evil/x", "weights": "hf://other/y"}, "--weights hf://evil/x"),
        ({"name": "local-dir:/tmp", "weights": "hf://evil/x; id"}, "--weights 'hf://evil/x; id'"),
    ],
)
def test_weights_on_the_hub_have_to_be_named_by_the_user(
    runs: dict[int, Path],
    tmp_path: Path,
    image_folder: Path,
    network: list[str],
    change: dict[str, Any],
    words: str,
) -> None:
    path = resigned(runs, tmp_path / "export", change, "backbone", "build")
    for use in (lambda: predict(path, [str(image_folder)]), lambda: evaluate(evaluation(path))):
        with pytest.raises(ValueError, match=f"not fetched unasked.*{re.escape(words)}"):
            use()
    assert network == []


def test_random_weights_of_a_huge_model_are_refused_before_they_are_drawn(
    runs: dict[int, Path], tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once half a minute passed before the digest said it."""
    monkeypatch.setattr("calib.backbones.openclip.build_model", lambda *_: pytest.fail("it was built"))
    change = {"name": "open_clip:ViT-bigG-14", "weights": "random"}
    path = resigned(runs, tmp_path / "export", change, "backbone", "build")
    refusal = "made with the weights 'embedded', and open_clip:ViT-bigG-14 with random weights"
    for use in (lambda: predict(path, [str(image_folder)]), lambda: evaluate(evaluation(path))):
        with pytest.raises(ValueError, match=refusal):
            use()


@pytest.mark.parametrize("name", ["open_clip:hf-hub:evil/x", "open_clip:local-dir:/etc", "hf-hub", "hf-hub:"])
def test_no_other_spelling_of_a_name_reaches_the_hub(
    runs: dict[int, Path], tmp_path: Path, image_folder: Path, network: list[str], name: str
) -> None:
    path = resigned(runs, tmp_path / "export", {"name": name, "weights": "random"}, "backbone", "build")
    path = resigned(runs, tmp_path / "export", {"source": "random (seed 0)"}, "backbone", "weights", of=path)
    with pytest.raises(ValueError, match=r"Unknown (open_clip model|backbone)"):
        predict(path, [str(image_folder)])
    with pytest.raises(ValueError, match=r"Unknown (open_clip model|backbone)"):
        create_backbone(name, weights="random")
    assert network == []


def test_a_hub_id_that_the_user_names_is_asked_for(network: list[str]) -> None:
    for build, given in (
        ({"name": "hf-hub:org/x"}, {"weights": "hf://org/x"}),
        ({"name": "hf-hub:org/x"}, {"weights": "org/x"}),
        ({"name": "plip", "weights": "hf://org/x"}, {"weights": "hf://org/x"}),
    ):
        network.clear()
        with pytest.raises(OSError, match="no network"):
            rebuild_backbone(build, **given)
        assert network
    network.clear()
    with pytest.raises(FileNotFoundError, match="No weights at"):
        rebuild_backbone({"name": "plip", "weights": "hf://org/x"}, weights=os.path.join(os.sep, "nowhere"))
    moved = {"name": "plip", "weights": "hf://org/x", "revision": "main"}  # a file has no revision
    with pytest.raises(FileNotFoundError, match="No weights at"):
        rebuild_backbone(moved, weights=os.path.join(os.sep, "nowhere"))
    with pytest.raises(
        ValueError, match=r"hf://evil/y.*not fetched unasked"
    ):  # beside the one that was named
        rebuild_backbone({"name": "hf-hub:org/x", "weights": "hf://evil/y"}, weights="hf://org/x")
    with pytest.raises(ValueError, match="not fetched unasked"):
        rebuild_backbone({"name": "hf-hub:org/x"}, weights=os.path.join(os.sep, "nowhere"))
    assert network == []

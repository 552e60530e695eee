from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from calib.config import (
    SCHEMAS,
    DataConfig,
    EvaluateRun,
    FailureRun,
    PromptRun,
    given,
    handed_on,
    load_config,
    split_arguments,
    task_of,
    to_dict,
    to_yaml,
)
from calib.config.names import check_root
from calib.config.schema import READER_OPTIONS
from calib.core import byname
from calib.data import DATASETS
from calib.data.reader_options import OF_ALL_IMAGES


def test_defaults_files_and_arguments_are_merged_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("seed: 5\ndata: {shots: 16, views: 3}\nloss: {smac: {alpha: 0.1}}\n")
    second.write_text("data: {shots: 32}\nloss: {smac: {weight: 2.0}}\n")
    config = load_config([str(first), str(second), "data.views=0", "out=here"], task="prompt")
    assert (config.seed, config.data.shots, config.data.views, config.out) == (5, 32, 0, "here")
    assert config.loss == {"smac": {"alpha": 0.1, "weight": 2.0}}
    assert config.optim == PromptRun().optim


def test_null_shots_means_all_images() -> None:
    assert load_config(["data.shots=null"], task="prompt").data.shots is None


def test_interpolation_is_resolved() -> None:
    config = load_config(["out=runs/${backbone.name}-${seed}", "seed=3"], task="prompt")
    assert config.out == "runs/embedded-3"


@pytest.mark.parametrize("config", [PromptRun(seed=4, loss={"as": {"weight": 0.5}}), EvaluateRun(runs=["a"])])
def test_settings_survive_yaml(tmp_path: Path, config: PromptRun | EvaluateRun) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config([str(path)], task=config.task) == config


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("backbone.nmae=plip", r"Unknown key 'backbone.nmae'. Did you mean 'backbone.name'\?"),
        ("sed=1", r"Unknown key 'sed'. Did you mean 'seed'\?"),
        ("data.shots=many", r"'data.shots' must be a whole number, not 'many'"),
        ("data=cxr3", r"write data.<key>=..., not 'cxr3'"),
        ("--seed=1", r"'seed=value' instead of '--seed=1'"),
        ("[=1", r"'\[=1' cannot be read.*a key is names with dots between them"),
        ("a." * 3000 + "b=1", r"cannot be read.*a key is names with dots between them"),
        ("data.shots=0", r"data.shots must be at least 1, got 0"),
        ("data.val_shots=-1", r"data.val_shots must be at least 0"),
        (
            "data.shots=8.5",
            r"'data.shots=8.5': key 'data.shots' must be a whole number, not '8.5'\.",
        ),
        ("seed=many", r"key 'seed' must be a whole number, not 'many'\."),
        ("trainer.max_epochs=0", r"trainer.max_epochs must be at least 1, got 0"),
        ("trainer.accumulate_grad_batches=some", r"accumulate_grad_batches must be at least 1, got some"),
        ("optim.lr=0", r"optim.lr must be above 0"),
        ("optim.name=sdg", r"Unknown value of optim.name 'sdg'. Did you mean 'sgd'\?"),
        ("log.wandb=onlin", r"Did you mean 'online'\?"),
        ("prompt.class_position=back", r"Unknown value of prompt.class_position 'back'"),
        ("out=${nothing}", r"cannot be resolved.*nothing"),
        ("task=promt", r"Unknown task 'promt'. Did you mean 'prompt'\?"),
        ("task=evaluate", r"is for task 'evaluate', this command runs 'prompt'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config([argument], task="prompt")


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("shots=16", "'data.shots'"),
        ("shot=16", "'data.shots'"),
        ("lr=0.1", "'optim.lr'"),
        ("epochs=3", "'trainer.max_epochs'"),
        ("columns.image=scan", "'data.options.columns'"),
        ("data.columns.image=scan", "'data.options.columns'"),
        ("data.colums=x", "'data.options.columns'"),
        ("data.n_ctx=4", "'prompt.n_ctx'"),
        ("bakbone.name=plip", "'backbone'"),
        ("backbone.nmae=plip", "'backbone.name'"),  # not data.name, which is spelt as near
        ("name=plip", "'backbone.name' or 'data.name' or 'optim.name'"),
    ],
)
def test_a_key_in_the_wrong_place_is_answered_with_the_right_one(argument: str, meant: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"Did you mean {meant}? Known: ")):
        load_config([argument], task="prompt")


def test_a_key_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'zzz'\. Known: backbone, baselines, calibrate, data,"):
        load_config(["zzz=1"], task="prompt")


def test_the_backbones_files_are_named_alike_in_every_task() -> None:
    for task in SCHEMAS.keys() - {"report", "segment"}:  # which have no backbone
        config = load_config(["backbone.weights=w", "backbone.tokenizer=t"], task=task)
        assert (config.backbone.weights, config.backbone.tokenizer) == ("w", "t")
    with pytest.raises(ValueError, match=r"Unknown key 'weights'\. Did you mean 'backbone\.weights'"):
        load_config(["weights=w"], task="evaluate")


def test_the_options_of_all_readers_are_known_and_explained() -> None:
    found = {option for spec in DATASETS.values() for option in byname.settings(spec.load)}
    assert sorted((found - {"class_names"}) | set(OF_ALL_IMAGES)) == list(READER_OPTIONS)
    said = " ".join((DataConfig.__doc__ or "").split()).partition("options: ")[2]
    assert all(re.search(rf"\b{option}\b", said) for option in READER_OPTIONS)


def test_a_list_is_asked_for_as_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"'baselines': it is a list; write baselines=\[A,B\]"):
        load_config(["baselines=coop"], task="prompt")


def test_settings_of_the_data_are_not_options_of_the_reader() -> None:
    with pytest.raises(ValueError, match=r"data.options.root is written data.root=images"):
        load_config(["data.options.root=images"], task="prompt")


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no settings file 'missing.yaml'"):
        load_config(["missing.yaml"], task="prompt")
    broken, listed, word = tmp_path / "broken.yaml", tmp_path / "list.yaml", tmp_path / "word.yaml"
    broken.write_text("a: [1,\n")
    word.write_text("hello\n")
    with pytest.raises(ValueError, match=r"word.yaml must hold keys and values .*, not a single value\."):
        load_config([str(word)], task="prompt")
    listed.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"broken.yaml is not valid YAML"):
        load_config([str(broken)], task="prompt")
    with pytest.raises(ValueError, match=r"list.yaml must hold keys and values"):
        load_config([str(listed)], task="prompt")


def test_an_argument_may_be_longer_than_any_path() -> None:
    """Of a list of forty class names the system said that the file name is too long."""
    names = f"data.class_names=[{','.join(f'class number {i}' for i in range(40))}]"
    assert split_arguments(["runs/a", names, "y" * 300]) == ([names], ["runs/a", "y" * 300])
    with handed_on(["y" * 300]) as words:
        assert words == ["y" * 300]
    with pytest.raises(FileNotFoundError, match="There is no settings file 'yyy"):
        load_config(["y" * 300], task="prompt")
    with pytest.raises(FileNotFoundError, match=r"There is no folder yyy.* \(data\.root\)"):
        check_root(replace(PromptRun().data, name="folder", root="y" * 300))


def test_a_wrong_task_is_said_of_the_file_that_says_it(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("task: evaluate\n")
    (tmp_path / "second.yaml").write_text("seed: 2\n")
    files = [str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]
    with pytest.raises(ValueError, match=r"first\.yaml: Unknown task of train\.py 'evaluate'"):
        task_of(files)
    assert task_of([*files, "task=failure"]) == "failure"


def test_a_default_that_was_asked_for_is_known_to_be(tmp_path: Path) -> None:
    blank = FailureRun().data
    whole = tmp_path / "config.yaml"
    whole.write_text(to_yaml(FailureRun(data=replace(blank, views=3))))  # every default is written out
    config = load_config([str(whole), "data.root=null", "data={shots: 4}"], task="failure")
    assert given(config.data, blank) == {"views", "root", "shots"}
    assert given(replace(config, seed=2).data, blank) == {"views", "root", "shots"}
    assert given(load_config([str(whole)], task="failure").data, blank) == {"views"}
    assert config == load_config([str(whole), "data.shots=4"], task="failure")
    assert to_dict(config)["data"].keys() == to_dict(FailureRun())["data"].keys()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_settings_come_from_a_pipe_which_is_read_once(tmp_path: Path) -> None:
    """As `calib train <(echo 'task: failure')` gives it: asked for its task, then for its settings."""
    for number, text in enumerate(["task: failure\nseed: 2\n", "task: failure\nseed: 3\n"]):
        pipe = str(tmp_path / f"{number}")
        os.mkfifo(pipe)
        writer = threading.Thread(target=Path(pipe).write_text, args=(text,))
        writer.start()
        assert task_of([pipe]) == "failure"
        assert load_config([pipe, "level=0.9"], task="failure").seed == number + 2
        writer.join()
        assert split_arguments(["runs/a", pipe]) == ([pipe], ["runs/a"])
        with handed_on(["folds=4", pipe, "level=0.9"]) as words:  # as other processes are started with
            assert load_config(words, task="failure").seed == number + 2
            assert words[::2] == ["folds=4", "level=0.9"]
        assert not Path(words[1]).exists()
    os.mkfifo(tmp_path / "empty")
    writer = threading.Thread(target=(tmp_path / "empty").write_text, args=("",))
    writer.start()
    with pytest.raises(ValueError, match="empty is empty"):
        load_config([str(tmp_path / "empty")], task="prompt")
    writer.join()
    with pytest.raises(FileNotFoundError, match=r"'/dev/fd/999' .* A pipe belongs to the process"):
        load_config(["/dev/fd/999"], task="prompt")
    with pytest.raises(FileNotFoundError, match=r"no settings file '/dev/null' \(settings are .*\)\.$"):
        load_config(["/dev/null"], task="prompt")

"""Text stays text, whatever YAML 1.1 would make of it; whole numbers stay whole numbers."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from calib.commands.search.grid import expand, sweep_settings
from calib.config import DataConfig, PromptRun, from_dict, load_config, part_from_dict, to_dict, to_yaml
from calib.config.schema import READER_OPTIONS, LogConfig, PromptConfig
from calib.core import byname
from calib.data import DATASETS

WORDS = [
    *("no", "yes", "on", "off", "y", "n", "Y", "NO", "True", "false", "NULL", "null", "Null", "~", "None"),
    *("01", "010", "08", "0", "-1", "+5", "1_000", "1__0", "2020_01", "0x1F", "0o17", "0b11", "1e3", "1E-3"),
    *(".5", "5.", "1.10", "1:30", "1:30.5", "12:00:00", "2024-01-01", "2024-01-01 10:00:00", ".inf", ".NaN"),
    *("nan", "inf", "=", "<<", "-x", "a b", "Crohn's", 'the "best"', "a:b", "n/a", "１２", "病", "#1", "x#y"),
]
IN_ARGUMENTS = ["a #b", "a: b", "? x", "- x", "@x", "%x", "`x`", "!x", "&x y", "*x", "|", ">", "a[1]", "x }"]
NULLS = {"null", "Null", "NULL", "~", "None"}


def texts_of(config: PromptRun) -> list[Any]:
    """Return every text that `everywhere` sets."""
    options = config.data.options
    return [
        *(config.data.class_names or []),
        *config.log.tags,
        *options["skip_splits"],
        *options["columns"].values(),
        options["flag"],
        options["table"]["test"],
        *(config.out, config.data.root, config.data.cache_dir, config.data.template, config.prompt.init),
        *(config.backbone.weights, config.log.project),
    ]


def everywhere(word: str) -> dict[str, Any]:
    """Return settings with a word in every place of text."""
    return {
        "out": word,
        "backbone": {"weights": word},
        "prompt": {"init": word},
        "log": {"tags": [word, word], "project": word},
        "data": {
            **dict.fromkeys(("root", "cache_dir", "template"), word),
            "class_names": [word, "x", word],
            "options": {
                "skip_splits": [word],
                "columns": {"label": word, "group": word},
                "flag": word,
                "table": {"test": word},
            },
        },
    }


def arguments(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return settings as they are typed."""
    words = []
    for key, value in values.items():
        if isinstance(value, dict):
            words += arguments(value, f"{prefix}{key}.")
        else:
            shown = f"[{','.join(value)}]" if isinstance(value, list) else value
            words.append(f"{prefix}{key}={shown}")
    return words


def plain(values: Any, depth: int = 0) -> str:
    """Return settings as YAML without any quotes."""
    if isinstance(values, list):
        return "".join(f"\n{'  ' * depth}- {each}" for each in values)
    if isinstance(values, dict):
        return "".join(f"\n{'  ' * depth}{key}: {plain(each, depth + 1)}" for key, each in values.items())
    return str(values)


def test_every_item_of_a_list_arrives_as_it_was_typed(tmp_path: Path) -> None:
    words = [*dict.fromkeys(WORDS)]
    config = load_config(
        [f"data.class_names=[{','.join(words)}]", f"log.tags=[{', '.join(words)},]"], task="prompt"
    )
    assert (config.data.class_names, config.log.tags) == (words, words)
    file = tmp_path / "s.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config([str(file)], task="prompt") == config
    words.remove("#1")  # a comment in YAML
    file.write_text("data:\n  class_names:" + plain(words, 1), encoding="utf-8")
    assert load_config([str(file)], task="prompt").data.class_names == words
    quoted = [yaml.safe_dump(word, default_style=style).strip() for word in words for style in "'\""]
    config = load_config([f"data.class_names=[{','.join(quoted)}]"], task="prompt")
    assert config.data.class_names == [word for word in words for _ in range(2)]


@pytest.mark.parametrize(
    "word", ["no", "Y", "010", "1:30", "1_000", "1e3", ".5", "0x1F", "2024-01-01", "Crohn's", "#1"]
)
def test_text_arrives_as_it_was_typed_in_arguments_and_files(tmp_path: Path, word: str) -> None:
    as_arguments = load_config(arguments(everywhere(word)), task="prompt")
    assert set(texts_of(as_arguments)) == {word, "x"}
    file = tmp_path / "s.yaml"
    if not word.startswith("#"):  # a comment
        file.write_text(plain(everywhere(word)), encoding="utf-8")
        assert load_config([str(file)], task="prompt") == as_arguments
    file.write_text(to_yaml(as_arguments), encoding="utf-8")
    assert load_config([str(file)], task="prompt") == as_arguments
    assert from_dict(to_dict(as_arguments), task="prompt", source="x") == as_arguments


@pytest.mark.parametrize("word", IN_ARGUMENTS)
def test_an_argument_is_no_yaml_and_has_no_comments(tmp_path: Path, word: str) -> None:
    config = load_config(arguments(everywhere(word)), task="prompt")
    assert set(texts_of(config)) == {word, "x"}
    (tmp_path / "s.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config([str(tmp_path / "s.yaml")], task="prompt") == config


@pytest.mark.parametrize(
    "word", ["no", "010", "null", "None", "~", "", "it's", " x ", "[a]", "{}", "a\tb", "a\nb"]
)
def test_quotes_make_text_of_anything(tmp_path: Path, word: str) -> None:
    quoted = yaml.safe_dump(word, default_style='"').strip()
    config = load_config([f"out={quoted}", f"data.class_names=[{quoted},b]"], task="prompt")
    assert (config.out, config.data.class_names) == (word, [word, "b"])
    before = PromptRun(
        out=word,
        data=DataConfig(class_names=[word]),
        log=LogConfig(tags=[word]),
        prompt=PromptConfig(init=word),
    )
    (tmp_path / "s.yaml").write_text(to_yaml(before), encoding="utf-8")
    assert load_config([str(tmp_path / "s.yaml")], task="prompt") == before


@pytest.mark.parametrize("word", sorted(NULLS))
def test_null_is_nothing_where_a_setting_is_optional_and_a_word_in_a_list(tmp_path: Path, word: str) -> None:
    given = [f"out={word}", f"prompt.init={word}", f"data.shots={word}", f"data.options.columns.id={word}"]
    config = load_config([*given, f"data.class_names=[{word},b]"], task="prompt")
    assert (config.out, config.prompt.init, config.data.shots) == (None, None, None)
    assert (config.data.options, config.data.class_names) == ({"columns": {"id": None}}, [word, "b"])
    with pytest.raises(ValueError, match=r"'data.batch_size' must be a whole number, and is empty \(null\)"):
        load_config([f"data.batch_size={word}"], task="prompt")
    with pytest.raises(ValueError, match=r"'data.cache_dir' must be text, and is empty \(null\)"):
        load_config([f"data.cache_dir={word}"], task="prompt")
    if word != "None":  # in a file that is a word; agents of W&B write arguments
        (tmp_path / "s.yaml").write_text(f"out: {word}\ndata: {{class_names: [{word}, b]}}\n")
        read = load_config([str(tmp_path / "s.yaml")], task="prompt")
        assert (read.out, read.data.class_names) == (None, [word, "b"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("010", 10), ("08", 8), ("+5", 5), ("1_000", 1000), ("8.0", 8), ("0x10", 16), ("'7'", 7)],
)
def test_whole_numbers_are_decimal(tmp_path: Path, text: str, value: int) -> None:
    (tmp_path / "s.yaml").write_text(f"seed: {text}\ndata: {{shots: {text}}}")
    for given in ([f"seed={text}", f"data.shots={text}"], [str(tmp_path / "s.yaml")]):
        config = load_config(given, task="prompt")
        assert (config.seed, config.data.shots) == (value, value)
        assert type(config.seed) is int


@pytest.mark.parametrize(
    "text", ["1:30", "1e1", "2.5", "true", "yes", "seven", "1 0", "１", "0o17", "1__0", "_1", "[1]"]
)
def test_what_is_no_whole_number_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(f"seed: {text}\n", encoding="utf-8")
    for given, source in (([f"seed={text}"], "argument 'seed="), ([str(tmp_path / "s.yaml")], r"s\.yaml: ")):
        with pytest.raises(ValueError, match=rf"{source}.*'seed'.*a whole number"):
            load_config(given, task="prompt")


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("optim.lr=1e-3", "lr", 0.001),
        ("optim.lr=010", "lr", 10.0),
        ("optim.lr=.5", "lr", 0.5),
        ("optim.lr=5.", "lr", 5.0),
        ("optim.lr=1_000.5", "lr", 1000.5),
    ],
)
def test_numbers(given: str, key: str, value: float) -> None:
    assert getattr(load_config([given], task="prompt").optim, key) == value


@pytest.mark.parametrize("text", ["1:30", "0.2%", "true", "0,2", "", "1e"])
def test_what_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"'optim.lr' must be a number"):
        load_config([f"optim.lr={text}"], task="prompt")


def test_flags_take_the_usual_words_and_no_other_number() -> None:
    for text, value in [("no", False), ("Y", True), ("ON", True), ("0", False), ("False", False)]:
        assert load_config([f"resume={text}"], task="prompt").resume is value
    for text in ("2", "maybe", "1.0", "-1"):
        with pytest.raises(ValueError, match=r"'resume' must be true or false, not"):
            load_config([f"resume={text}"], task="prompt")


def test_where_no_type_is_known_numbers_are_decimal_and_times_text() -> None:
    given = ["trainer.max_epochs=010", "trainer.max_time=1:00:00:00", "trainer.deterministic=on"]
    given += ["trainer.x=None", "trainer.devices=[0, 01]", "loss.ce.weight=1e-1"]
    config = load_config(given, task="prompt")
    assert config.trainer == {
        "max_epochs": 10, "max_time": "1:00:00:00", "deterministic": True, "x": None, "devices": [0, 1]
    }  # fmt: skip
    assert config.loss == {"ce": {"weight": 0.1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {class_names: {0: no, 1: on}}", r"'data.class_names': a mapping stands where a list"),
        ("data: {class_names: [[a, b], c]}", r"'data.class_names': a list stands where text"),
        ("data: {class_names: [a: b, c]}", r"'data.class_names': a mapping stands where text"),
        ("data:\n  class_names:\n  - a\n  -\n", r"'data.class_names' must be text"),
        ("data: {template: {}}", r"'data.template': a mapping stands where text"),
        ("task: [null, a]", r"'task': a list stands where text"),
        ("task: !!omap [a: 1]", r"line 1: could not determine a constructor for the tag"),
        ("out: ???", r"'out' must be text, not '\?\?\?'"),
        ("data: {options: {allow_outside: maybe}}", r"'data.options.allow_outside' must be true or false"),
        ("data: {options: {columns: [a]}}", r"'data.options.columns': a list stands where a mapping"),
        ("data: {options: {grey16_max: 4k}}", r"'data.options.grey16_max' must be a whole number, not '4k'"),
        ("? [a]\n: b", r"line 1: a key must be text"),
        ("loss: {no: 1, no: 2}", r"line 1: found duplicate key no"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"s\.yaml.*{message}"):
        load_config([str(tmp_path / "s.yaml")], task="prompt")


def test_keys_are_text_and_mappings_can_be_taken_over(tmp_path: Path) -> None:
    text = "loss: {smac: &s {weight: 2}, ce: {<<: *s, weight: 010}}\ndata: {options: {columns: {id: n}}}"
    (tmp_path / "s.yaml").write_text(text)
    config = load_config([str(tmp_path / "s.yaml")], task="prompt")
    assert config.loss == {"smac": {"weight": 2}, "ce": {"weight": 10}}
    assert config.data.options == {"columns": {"id": "n"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": [False, True]}, r"'class_names' must be text, not False"),
        ({"class_names": [None, "a"]}, r"'class_names' must be text, not None"),
        ({"root": 7}, r"'root' must be text or null|'root' must be text, not 7"),
        ({"options": {"columns": {"label": False}}}, r"'options.columns.label' must be text, not False"),
    ],
)
def test_an_export_whose_text_is_no_text_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"export: .*(?:{message})"):
        part_from_dict(DataConfig, values, source="export")


def test_a_sweep_reads_its_own_settings_and_its_values_alike() -> None:
    settings, rest = sweep_settings(["out=010", "samples=010", "preset=coop,ls"])
    assert (settings.out, settings.samples, rest) == ("010", 10, ["preset=coop,ls"])
    points = expand(["data.class_names=[no,Crohn's],['yes, sir',b]", "prompt.init=on,off"])
    assert [(config.data.class_names, config.prompt.init) for _, config in points] == [
        (["no", "Crohn's"], "on"),
        (["no", "Crohn's"], "off"),
        (["yes, sir", "b"], "on"),
        (["yes, sir", "b"], "off"),
    ]


def test_the_types_of_the_options_are_those_that_the_readers_take() -> None:
    ours: dict[Any, set[Any]] = {}
    for option, hint in READER_OPTIONS.items():
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        ours[option] = {typing.get_origin(part) or part for part in parts} - {type(None)}
    for spec in DATASETS.values():
        hints = typing.get_type_hints(spec.load)
        for option in set(byname.settings(spec.load)) - {"class_names"}:
            hint = hints[option]
            union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.10: the latter
            parts = typing.get_args(hint) if union else (hint,)
            kinds = {typing.get_origin(part) or part for part in parts} - {type(None)}
            known = {Mapping: dict, Sequence: list}
            assert {known.get(kind, kind) for kind in kinds} == ours[option], (spec.name, option)


@pytest.mark.parametrize(
    ("text", "nested"),
    [("optim.lr: 1", "optim: {lr: ...}"), ("data.options.flag: x", "data: {options: {flag: ...}}")],
)
def test_a_key_with_dots_in_a_file_is_answered_with_how_it_is_written(
    tmp_path: Path, text: str, nested: str
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match="without dots") as caught:
        load_config([str(tmp_path / "s.yaml")], task="prompt")
    assert str(caught.value).endswith(f"is written without dots, {nested}.")


@pytest.mark.parametrize("text", ["inf", ".inf", "1e400", "-inf", "nan"])
def test_a_number_without_end_is_refused(text: str) -> None:
    for key in ("optim.lr", "optim.weight_decay"):
        with pytest.raises(ValueError, match=rf"{key} must be"):
            load_config([f"{key}={text}"], task="prompt")


def test_what_cannot_be_resolved_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("preset: ${data}\n")
    with pytest.raises(ValueError, match=r"cannot be resolved: .*read from .*s\.yaml"):
        load_config([str(tmp_path / "s.yaml")], task="prompt")

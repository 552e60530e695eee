"""Files of settings and exports travel: they may not read the environment, run code, or exhaust memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.config import (
    DataConfig,
    PromptRun,
    from_dict,
    load_config,
    part_from_dict,
    task_of,
    to_dict,
    to_yaml,
)
from calib.config.untrusted import check_values
from calib.core.text import printable, redacted

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "theirs.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out: ${oc.env:HF_TOKEN}", r"theirs.yaml: key 'out'.*would call a function.*environment"),
        ("loss: {x: ['${oc.decode:1}']}", r"key 'loss.x'.*would call a function"),
        ("out: ${oc.env:${data.name}}", "would call a function"),
        ("out: a${oc.create:1}b", "would call a function"),
        (BOMB, r"theirs.yaml holds more than 200,000 values when its aliases"),
        ("loss: &a {x: *a}", r"theirs.yaml holds more than 200,000 values"),
        (
            "out: !!python/object/apply:os.system [echo]",
            r"theirs.yaml is not valid YAML.*could not determine",
        ),
        ("[" * 20_000, r"theirs.yaml is not valid YAML"),
        ("seed: 1\nseed: 2", r"theirs.yaml is not valid YAML.*duplicate key"),
        ("out: " + "x" * (1 << 20), r"theirs.yaml is not a file of settings: it has more than 1,048,576"),
        ("", r"theirs.yaml is empty"),
        ("# nothing\n", r"theirs.yaml is empty"),
        ("\x00", r"theirs.yaml is not valid YAML"),
        ("data: {root: 'https://me:hunter22@host/x'}", r"'data.root' holds a password"),
        ("data: {root: 'https://host/x?token=abcdef'}", r"'data.root' holds a password or an access token"),
        ("backbone: {weights: hf_abcdefghijklmnopqrstuvwx}", "'backbone.weights' holds a password"),
        ("seed: " + "9" * 400, r"seed must be below 4294967296.*read from .*theirs.yaml"),
        ("data: {shots: -1}", r"data.shots must be at least 1.*read from .*theirs.yaml"),
    ],
)
def test_harmful_settings_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_config([written(tmp_path, text)], task="prompt")
    assert "hunter22" not in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_references_that_double_each_time_are_refused(tmp_path: Path) -> None:
    lines = [f"  a{n}: '${{loss.a{n + 1}}}${{loss.a{n + 1}}}'" for n in range(40)]
    text = "\n".join(["loss:", *lines, "  a40: x"])
    with pytest.raises(ValueError, match="refers to other settings 80 times; at most 10"):
        load_config([written(tmp_path, text)], task="prompt")


def test_references_to_other_settings_and_aliases_in_reason_still_work(tmp_path: Path) -> None:
    text = "seed: 3\nout: runs/${data.name}-${seed}:x\ndata: {class_names: &n [a, b]}\nlog: {tags: *n}\n"
    config = load_config([written(tmp_path, text)], task="prompt")
    assert (config.out, config.log.tags) == ("runs/cxr3-3:x", ["a", "b"])


def test_a_secret_of_the_environment_is_refused_and_never_echoed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    with pytest.raises(ValueError, match=r"argument '\*\*\*'|key 'log.project' holds a password") as caught:
        load_config(["log.project=0123456789abcdef"], task="prompt")
    assert "0123456789abcdef" not in str(caught.value)


def test_the_environment_is_not_in_what_a_run_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    config = load_config(["out=runs/x"], task="prompt")
    assert "secret-of" not in to_yaml(config) + str(to_dict(config))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://0123456789abcdef@host", "https://***@host"),
        ("git://git@host/x", "git://git@host/x"),  # a user name alone is no secret
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&***&b=2"),
        ("runs/hf_small", "runs/hf_small"),
        ("hf_" + "a" * 24, "***"),
        ("1f498f7bd6a85ef5f204c592b41ac881eab61005", "1f498f7bd6a85ef5f204c592b41ac881eab61005"),  # a commit
    ],
)
def test_passwords_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_terminal_commands_are_spelt_out() -> None:
    assert printable("tumour\x1b]0;x\x07 été 腫瘍 👩‍⚕️\n") == "tumour\\x1b]0;x\\x07 été 腫瘍 👩‍⚕️\n"


def test_a_function_is_one_where_it_would_be_called() -> None:
    """An odd number of backslashes makes a dollar sign text, but not inside of another reference."""
    check_values({"template": r"\${oc.env:HOME}"}, "mine.yaml")
    for text in (r"\\${oc.env:HOME}", r"${data.\${oc.env:HOME}}", "${oc.env:HOME}"):
        with pytest.raises(ValueError, match="would call a function"):
            check_values({"template": text}, "mine.yaml")


def test_a_dollar_sign_that_was_meant_stays_one(tmp_path: Path) -> None:
    for text in ("${seed}", r"\${seed}", r"a\\${b", "${oc.env:X}", "$", "}"):
        before = PromptRun(data=DataConfig(template="{}", root=f"x{text}y"))
        assert from_dict(to_dict(before), task="prompt", source="x") == before if ":" not in text else True
        if text not in (r"a\\${b", "${oc.env:X}"):
            assert load_config([written(tmp_path, to_yaml(before))], task="prompt") == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "x"}, r"export: Unknown key 'nmae'"),
        ({"shots": "many"}, r"export: key 'shots' must be a whole number, not 'many'"),
        ([1], "export: expected settings by name"),
        ({"options": [1]}, "export: "),
        ({"class_names": {"a": 1}}, "export: "),
        ({"options": "x"}, "export: "),
        ({"root": "https://me:hunter22@host"}, "export: key 'root' holds a password"),
        ({1: 2}, "export: Unknown key"),
    ],
)
def test_settings_in_exports_are_checked_like_those_in_files(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_from_dict(DataConfig, values, source="export")
    assert part_from_dict(DataConfig, {"name": "x", "options": {"flag": "y"}}, source="e").options == {
        "flag": "y"
    }


def test_the_task_in_a_damaged_file_is_named_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"theirs.yaml: Unknown task of train.py None"):
        task_of([written(tmp_path, "task:\nseed: 1")])


def test_a_mapping_where_a_list_belongs_is_refused_by_name(tmp_path: Path) -> None:
    for text in ("baselines: {a: 1}", "log: {tags: {a: 1}}", "data: {options: [1]}", "loss: [1]"):
        with pytest.raises(ValueError, match=r"theirs\.yaml"):
            load_config([written(tmp_path, text)], task="prompt")


SECRET = [  # what services begin theirs with, put together here so that no scanner takes them for real ones
    "ghp_" + "A1b2" * 9,
    "gho_" + "A1b2" * 9,
    "github_pat_" + "11ABC" * 8,
    "glpat-" + "SECRETSECRETSECRETxx",
    "sk-ant-" + "api03-SECRETSECRETSECRET",
    "sk-proj-" + "SECRETSECRETSECRET",
    "sk-" + "A1b2" * 12,
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "A1b2c" * 7,
    "xoxb-" + "123456789012-abc",
    "npm_" + "A1b2" * 9,
    "eyJhbGciOiJIUzI1NiJ9." + "eyJTRUNSRVQiOjF9.SECRETjwt",
    "https://host/x#access_" + "token=abc",
    "https://host/x?X-Amz-" + "Credential=AKIA",
    "https://host/x?a=1&client_" + "secret=abc",
    "https://host/x;pass" + "word=abc",
    "Bearer " + "A1b2" * 5,
    "-----BEGIN RSA PRIVATE " + "KEY-----",
]


@pytest.mark.parametrize("text", SECRET)
def test_what_looks_like_a_token_is_refused_and_never_echoed(text: str) -> None:
    for place in ({"log": {"project": text}}, {"data": {"root": f"x {text}"}}, {"log": {"tags": [text]}}):
        with pytest.raises(ValueError, match="holds a password or an access token") as caught:
            from_dict(place, task="prompt", source="theirs")
        assert text not in str(caught.value)
    assert text not in redacted(f"before {text} after")


@pytest.mark.parametrize(
    "key",
    ["api_key", "apikey", "hf_token", "token", "password", "client_secret", "SECRET_ACCESS_KEY", "passwd"],
)
def test_what_stands_under_the_name_of_a_secret_is_refused(key: str) -> None:
    for place in ({"data": {"options": {key: "x1"}}}, {"trainer": {key: "x1"}}):
        with pytest.raises(ValueError, match=rf"{key}' holds a password") as caught:
            from_dict(place, task="prompt", source="theirs")
        assert "x1" not in str(caught.value)
    for argument in (f"data.options={{{key}: x1}}", f"data.options.{key}=x1", f'trainer.{key}="x1"'):
        with pytest.raises(ValueError, match=rf"{key}' holds a password") as caught:
            load_config([argument], task="prompt")
        assert "x1" not in str(caught.value)


def test_a_null_byte_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text('out: "a\\0b"')
    with pytest.raises(ValueError, match="key 'out' holds a null byte"):
        load_config([str(tmp_path / "s.yaml")], task="prompt")


@pytest.mark.parametrize(
    "name",
    ["MYSQL_PASSWORD", "PGPASSWORD", "AZURE_STORAGE_KEY", "SLACK_TOKEN", "my_secret", "NPM_AUTH_TOKEN"],
)
def test_what_variables_of_passwords_hold_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "opensesame1")
    with pytest.raises(ValueError, match="holds a password") as caught:
        load_config(["log.tags=[opensesame1]"], task="prompt")
    assert "opensesame1" not in str(caught.value)
    monkeypatch.setenv(name, "/home/me/.ssh/id_rsa")  # where a key lies is no secret
    assert load_config(["data.root=/home/me/.ssh/id_rsa"], task="prompt").data.root


@pytest.mark.parametrize(
    "text",
    [
        "runs/sk-learn-baseline-calibprompt-run",
        "task-sk-0123",
        "a tokenizer, tokens, keys",
        "https://host/x?tokens=3&monkey=1",
        "eyJust.a.file",
        "An image of a Bearer of good news",
        "AKIArun",
        "glpat",
        "1f498f7bd6a85ef5f204c592b41ac881eab61005",
    ],
)
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert redacted(text) == text


def said_by(read: Any) -> str | None:
    """Return the message with which a reading is refused. None: it is not."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "text",
    [
        "task: [null, a]",
        "task: !!omap [a: 1]",
        "task: {a: 1}",
        "task: !!set {a, b}",
        "task: 1.5",
        "preset: [a]",
        "preset: !!omap [a: 1]",
        "baselines: !!set {a}",
        "baselines: [[a]]",
        "baselines: [null]",
        "data: !!omap [name: cxr3]",
        "data: {name: [a]}",
        "data: {class_names: !!pairs [a: 1]}",
        "data: {options: !!omap [a: 1]}",
        "loss: !!omap [ce: 1]",
        "loss: {1: {weight: 1}}",
        "loss: {null: 1}",
        "trainer: !!set {a}",
        "trainer: {1: 2}",
        "out: !!binary aGVsbG8=",
        "out: [a]",
        "? [a, b]\n: c",
        "1: 2",
        "null: 1",
        "log: {tags: !!omap [a: 1]}",
    ],
)
def test_every_kind_of_yaml_value_is_read_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    said = [said_by(lambda: task_of([path])), said_by(lambda: load_config([path], task="prompt"))]
    messages = [message for message in said if message is not None]
    assert all("theirs.yaml" in message and "\n" not in message for message in messages), messages

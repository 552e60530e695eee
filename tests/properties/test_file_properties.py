"""Whatever a file of ours is given to hold comes back: names in any script, odd numbers, any settings."""

from __future__ import annotations

import json
import math
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from calib.config import (
    DataConfig,
    EvaluateRun,
    FailureRun,
    PromptRun,
    from_dict,
    load_config,
    to_dict,
    to_yaml,
)
from calib.core.text import safe_text
from calib.data.predictions import Predictions
from calib.io.files import read_json, write_json
from calib.io.strictjson import parse_json
from calib.io.tensors import load_tensors, save_tensors
from calib.prompts.export import Prompt
from calib.report.tables import aligned

# Any text but halves of characters, which no file holds: quotes, line ends, emoji, right-to-left, controls.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAMES = st.lists(TEXT, min_size=2, max_size=4, unique=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ABOUT = {"name": "toy", "weights": {"digest": "a" * 64}, "preprocessing": {}}


def in_folder(save, load, name: str):
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return load(Path(folder) / name)


@given(NAMES, st.floats(-20, 20), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1), st.booleans())
def test_a_prompt_comes_back(
    names: list[str], scale: float, temperature: float, seed: int, specific: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(names), 2, 3) if specific else (2, 3)
    before = Prompt(
        text_features=normalize(torch.randn(len(names), 5, generator=generator), dim=1),
        class_names=names,
        logit_scale=scale,
        temperature=temperature,
        backbone=ABOUT,
        context=torch.randn(shape, generator=generator),
        prompt={"init": names[0]},
        training={"seed": seed, "method": names[1], "config": {names[0]: names}},
    )
    after = in_folder(before.save, Prompt.load, "prompt.safetensors")
    for name in ("class_names", "logit_scale", "temperature", "backbone", "prompt", "training"):
        assert getattr(after, name) == getattr(before, name)
    assert torch.equal(after.text_features, before.text_features)
    assert torch.equal(after.context, before.context)
    back = after.in_order(names[::-1]).in_order(names)
    assert torch.equal(back.text_features, before.text_features)


@given(NAMES, st.lists(TEXT, min_size=3, max_size=3))
def test_predictions_come_back(classes: list[str], names: list[str]) -> None:
    before = Predictions(
        logits=torch.arange(3.0 * len(classes)).reshape(3, -1),
        labels=torch.tensor([0, 1, 0]),
        image_features=torch.eye(3, 4),
        ids=names,
        names=names,
        class_names=classes,
        groups=names[::-1],
        about={"x": classes},
    )
    after = in_folder(before.save, Predictions.load, "p.safetensors")
    assert after.same_images(before)
    assert (after.names, after.class_names, after.groups) == (names, classes, names[::-1])
    assert torch.equal(after.logits, before.logits)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_json_and_records_come_back(value: dict) -> None:
    assume("calib_crc32" not in value)
    assert in_folder(lambda path: write_json(path, value), read_json, "a.json") == value
    assert parse_json(json.dumps(value), source="x") == value
    record = {**value, "kind": "toy"}
    tensors = {"x": torch.tensor([1.5, -0.0]), "y": torch.tensor(True)}
    kept, again = in_folder(
        lambda path: save_tensors(path, tensors, record), lambda path: load_tensors(path, kind="toy"), "t"
    )
    assert again == record
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)


# Letters that YAML can hold in any style; others are refused by the reader when a file has them.
YAML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Co", "Cn")), max_size=10)
PLAIN = YAML_TEXT.filter(lambda text: "://" not in text)
SETTINGS = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=6),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | NUMBERS | PLAIN,
    max_size=3,
)


@given(
    task=st.sampled_from([PromptRun, FailureRun, EvaluateRun]),
    seed=st.integers(0, 2**32 - 1),
    out=st.none() | PLAIN,
    root=st.none()
    | PLAIN
    | st.sampled_from(["${seed}", r"\${x}", "a${b}c", "1", "true", "null", "1e3", "0x1"]),
    names=st.none() | st.lists(PLAIN, max_size=3),
    columns=st.dictionaries(PLAIN, st.none() | PLAIN, max_size=3),
    inner=SETTINGS,
    shots=st.none() | st.integers(1, 10**6),
)
def test_settings_come_back_from_yaml_and_from_exports(
    task, seed, out, root, names, columns, inner, shots
) -> None:
    options = {"columns": columns, "no_schema_knows": inner}
    data = DataConfig(root=root, class_names=names, shots=shots, template=out, options=options)
    before = replace(task(), seed=seed, out=out, data=data)
    after = in_folder(
        lambda path: path.write_text(to_yaml(before), encoding="utf-8"),
        lambda path: load_config([str(path)], task=before.task),
        "config.yaml",
    )
    assert after == before
    assert from_dict(to_dict(before), task=before.task, source="export") == before


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_no_name_changes_the_shape_of_a_table(rows: list[tuple[str, str]]) -> None:
    lines = aligned(["name", "value"], rows).split("\n")
    assert len(lines) == len(rows) + 2
    for line in lines:
        bare = line.replace("\\\\", "").replace("\\|", "")
        assert bare.count("|") == 3
        assert "<" not in line
        assert not {unicodedata.category(letter) for letter in line} & {"Cc", "Cs", "Zl", "Zp"}


@given(TEXT)
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    cell = safe_text(text)
    try:
        number = math.isfinite(float(cell)) or True
    except ValueError:
        number = False
    assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))

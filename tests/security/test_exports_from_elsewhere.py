"""Exports, predictions and tables from elsewhere that are well-formed and still wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from fuzz.subjects import _prompt, exports

from calib.data.predictions import Predictions
from calib.data.readers import table as tables
from calib.data.readers.embedded import _check_packaged
from calib.io.tensors import load_tensors, save_tensors
from calib.prompts.export import Prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": []}, "class_names must be different names"),
        ({"class_names": ["a", "a", "b"]}, "class_names must be different names"),
        ({"logit_scale": 1e308}, "logit_scale must be a number from -20 to 12, not 1e"),
        ({"logit_scale": 10**400}, "is not valid JSON|logit_scale must be a number"),
        ({"logit_scale": True}, "logit_scale must be a number"),
        ({"temperature": 1e-300}, "temperature must be a positive number from 1e-06"),
        ({"training": None}, "training must be a mapping, not None"),
        ({"prompt": []}, "prompt must be a mapping"),
        ({"training": {"seed": "x"}}, "training.seed must be a whole number, not 'x'"),
        ({"training": {"method": 3}}, "training.method must be a text, not 3"),
        ({"training": {"objective": {"ce": 1}}}, "training.objective.ce must be a mapping"),
    ],
)
def test_prompts_that_could_not_be_used_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _prompt(tmp_path)
    path = tmp_path / "prompt.safetensors"
    tensors, record = load_tensors(path, kind="prompt")
    save_tensors(path, tensors, record | change)
    with pytest.raises(ValueError, match=message) as caught:
        Prompt.load(path)
    assert "prompt.safetensors" in str(caught.value)


def test_a_context_per_class_has_as_many_as_there_are_classes(tmp_path: Path) -> None:
    _prompt(tmp_path)
    path = tmp_path / "prompt.safetensors"
    tensors, record = load_tensors(path, kind="prompt")
    for shape in ((2, 4, 6), (6,)):
        save_tensors(path, tensors | {"context": torch.zeros(shape)}, record)
        with pytest.raises(ValueError, match=r"prompt\.safetensors: tensor 'context' must have shape"):
            Prompt.load(path)


def test_predictions_with_labels_of_no_class_are_refused(tmp_path: Path) -> None:
    exports(tmp_path)
    path = tmp_path / "predictions.safetensors"
    tensors, record = load_tensors(path, kind="predictions")
    for labels in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, -1]), torch.ones(4, dtype=torch.bool)):
        save_tensors(path, tensors | {"labels": labels}, record)
        with pytest.raises(ValueError, match=r"predictions\.safetensors: Labels must be int64.*from 0 to 2"):
            Predictions.load(path)
    save_tensors(path, tensors, record | {"about": None})
    with pytest.raises(ValueError, match="about must be a mapping"):
        Predictions.load(path)


def test_a_parquet_table_that_repeats_its_rows_without_end_is_refused(tmp_path: Path) -> None:
    rows = 10_000_001
    one = pyarrow.array(["x.png"]).dictionary_encode()
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.nulls(rows, pyarrow.int32()).fill_null(0), one.dictionary
    )
    pyarrow.parquet.write_table(pyarrow.table({"path": column}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as Parquet .*10,000,001 rows"):
        tables.load_table(tmp_path / "t.parquet")


def test_packaged_features_other_than_the_packaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"train\.safetensors is not the packaged file.*Install calib again"):
        _check_packaged(path, "cxr3/train.safetensors")

"""Files of doubts and outcomes: every way to say them, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from calib.data.judged import read_judged


def table(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_doubt_beside_an_outcome(tmp_path: Path) -> None:
    found = read_judged(table(tmp_path, "doubt,failure,patient\n0.1,no,a\n7,YES,a\n-2,1,b\n"))
    assert found.doubt.tolist() == [0.1, 7, -2]
    assert found.failure.tolist() == [False, True, True]
    assert found.groups == ["a", "a", "b"]
    assert (found.source, bool(found.labelled.all()), found.labels) == ("doubt", True, [])


def test_a_confidence_beside_a_label_and_a_prediction(tmp_path: Path) -> None:
    text = "confidence,prediction,label\n0.9,no finding,no_finding\n0.75,pneumonia,no finding\n0.6,covid,\n"
    found = read_judged(table(tmp_path, text))
    assert found.doubt.tolist() == pytest.approx([0.1, 0.25, 0.4])
    assert found.labelled.tolist() == [True, True, False]
    assert found.failure.tolist() == [False, True, False]
    assert found.labels == ["no_finding", "no finding"]


def test_outputs_of_classes_beside_labels_of_some_rows(tmp_path: Path) -> None:
    text = "p(a),p(b),label\n0.9,0.1,b\n0.3,0.7,\n0.25,0.75,b\n"
    found = read_judged(table(tmp_path, text))
    assert found.source == "classes"
    assert found.doubt.tolist() == pytest.approx([0.1, 0.3, 0.25])
    assert found.labelled.tolist() == [True, False, True]
    assert found.failure.tolist() == [True, False, False]
    assert (found.class_names, found.labels) == (["a", "b"], ["b", "b"])


def test_what_calib_predict_wrote_is_read_by_the_doubt_that_is_asked_for(tmp_path: Path) -> None:
    text = (
        "file,prediction,confidence,p(a),p(b),uncertainty,unlike,note,label\n"
        "1.png,a,0.900000,0.900000,0.100000,0.300000,no,,a\n"
        "2.png,b,0.800000,0.200000,0.800000,0.400000,yes,,a\n"
    )
    path = table(tmp_path, text)
    assert read_judged(path).doubt.tolist() == [0.3, torch.inf]  # unlike is never accepted
    assert read_judged(path, doubt="confidence").doubt.tolist() == [0.1, torch.inf]
    assert read_judged(path, allowed=("confidence", "classes")).source == "confidence"
    assert read_judged(path, doubt="classes").failure.tolist() == [False, True]
    with pytest.raises(ValueError, match="--doubt must be confidence or classes here, not 'uncertainty'"):
        read_judged(path, doubt="uncertainty", allowed=("confidence", "classes"))


def test_without_outcomes_nothing_of_them_is_looked_at(tmp_path: Path) -> None:
    found = read_judged(table(tmp_path, "confidence,label\n0.9,?\n"), outcomes=False)
    assert found.doubt.tolist() == pytest.approx([0.1])
    assert not bool(found.labelled.any())


def test_arrays_of_doubts_or_of_outputs(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(
        path, confidence=np.array([0.5, 0.75], dtype=np.float32), correct=np.array([1, 0]), groups=[4, 4]
    )
    found = read_judged(path)
    assert found.doubt.tolist() == [0.5, 0.25]
    assert (found.failure.tolist(), found.groups) == ([False, True], ["4", "4"])
    np.savez(path, doubt=np.array([0.5, 0.75]), failure=np.array([True, False]))
    assert read_judged(path).failure.tolist() == [True, False]
    np.savez(path, probs=np.array([[0.5, 0.5], [0.25, 0.75]]), labels=np.array([1, 1]))
    found = read_judged(path)
    assert (found.source, found.failure.tolist()) == ("classes", [True, False])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("doubt\n0.1\n", "does not say which predictions were wrong: it needs a column correct or failure"),
        ("doubt,correct\n0.1,\n", "scores without outcomes: no row is labelled"),
        ("doubt,correct\n0.1,maybe\n", "line 2: expected yes or no"),
        ("doubt,correct\nnan,yes\n", "line 2, column 'doubt': expected a finite number"),
        ("confidence,correct\n1.5,yes\n", "line 2: confidence must be from 0 to 1, not 1.5"),
        ("score,correct\n1.5,yes\n", "has no doubts: it needs doubt or uncertainty or confidence or outputs"),
        ("doubt,label\n0.1,a\n", "has labels, and nothing that says what was predicted"),
        ("doubt,label,prediction\n0.1,0,benign\n", "no label is called as any prediction is"),
        ("doubt,label,prediction\n0.1,a,a\n0.2,b,\n", "line 3 has a label and no prediction"),
        ("doubt,p(a),p(b),label,prediction\n0.1,0.9,0.1,a,nan\n", "line 2 has a label and no prediction"),
        ("doubt,correct,patient,group\n0.1,1,a,b\n", "Say which: --group group"),
        ("p(a),p(b),label\n0.9,0.1,c\n", "Unknown class 'c'"),
        ("doubt,correct\n", "has no rows"),
    ],
)
def test_what_says_no_doubts_or_no_outcomes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_judged(table(tmp_path, text))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"doubt": np.array([0.5])}, "does not say which predictions were wrong: it needs the array failure"),
        ({"doubt": np.array([0.5]), "failure": np.array([2])}, r"failure must be \(1,\) true or false"),
        ({"doubt": np.array([0.5]), "failure": np.array([0, 1])}, r"failure must be \(1,\) true or false"),
        ({"doubt": np.array([[0.5]]), "failure": np.array([0])}, r"doubt must be \(N,\) floats"),
        ({"doubt": np.array([np.nan]), "failure": np.array([0])}, "row 0: doubt must be a finite number"),
        ({"failure": np.array([0])}, "has no doubts"),
        ({"doubt": np.array([0.5]), "failure": np.array([0]), "groups": np.array([0.5])}, "groups must be 1"),
    ],
)
def test_arrays_that_are_none_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_judged(tmp_path / "a.npz")


def test_whole_numbers_are_the_same_however_a_program_writes_them(tmp_path: Path) -> None:
    """A column with gaps is one of floats in pandas: 1.0 was another class than 1."""
    text = "doubt,label,prediction\n0.1,1.0,1\n0.2,0,0\n0.3,2.0,1\n0.4,,2\n"
    assert read_judged(table(tmp_path, text)).failure.tolist() == [False, False, True, False]
    columns = {"doubt": [0.1, 0.2, 0.3], "label": [1, 0, None], "prediction": [1.0, 1.0, None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = read_judged(tmp_path / "a.parquet")
    assert (found.failure.tolist(), found.labelled.tolist()) == ([False, True, False], [True, True, False])


def test_numbers_for_yes_and_no_may_be_missing(tmp_path: Path) -> None:
    columns = {"confidence": [0.9, 0.8, 0.7], "correct": [1.0, float("nan"), 0.0]}  # as pandas writes them
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = read_judged(tmp_path / "a.parquet")
    assert (found.labelled.tolist(), found.failure.tolist()) == ([True, False, True], [False, False, True])


@pytest.mark.parametrize("empty", [None, float("nan"), "", " ", "NaN"])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_labelled_rows_without_a_patient_are_not_one_patient(tmp_path: Path, empty: Any, suffix: str) -> None:
    def write(name: str, patients: list[Any], correct: list[Any]) -> Path:
        path = tmp_path / f"{name}.{suffix}"
        columns = {"confidence": [0.9, 0.8, 0.7], "correct": correct, "patient": patients}
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            rows = zip(*columns.values(), strict=True)
            lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
            path.write_text("\n".join([",".join(columns), *lines, ""]))
        return path

    numeric = isinstance(empty, float)
    names: list[Any] = [1.0, empty, 2.0] if numeric else ["a", empty, "b"]
    with pytest.raises(ValueError, match=r"a\.(csv, line 3|parquet, row 2) has no patient\. Fill it in"):
        read_judged(write("a", names, ["yes", "no", "yes"]))
    found = read_judged(write("b", names, ["yes", None, "no"]))  # that row is not labelled
    assert found.groups == [str(names[0]), "", str(names[2])]

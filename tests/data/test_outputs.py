"""Outputs of any model: what their numbers are is said by names, and what is neither is refused."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from calib.data.mapping import OutputMapping
from calib.data.output_tables import label_indices
from calib.data.outputs import in_order, logits_of, read_outputs
from calib.data.predictions import Predictions
from calib.data.set_file import strata_of
from calib.io.files import read_json, write_json
from calib.posthoc import TemperatureScaling

PROBS = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.6, 0.3, 0.1]]
NAMES = ["stroma", "smooth_muscle", "tumour"]
LABELS = ["stroma", "smooth muscle", "tumour", "tumour"]


def table(path: Path, header: list[str], rows: list[list[Any]], mark: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=mark).writerows([header, *rows])
    return path


def probs_csv(folder: Path, name: str = "a.csv", prefix: str = "p", **changes: Any) -> Path:
    header = ["id", *(f"{prefix}({each})" for each in changes.get("names", NAMES)), "label", "patient"]
    values = changes.get("values", PROBS)
    rows = [
        [f"im{i}", *row, label, f"p{i // 2}"]
        for i, (row, label) in enumerate(zip(values, LABELS, strict=True))
    ]
    return table(folder / name, header, rows, "\t" if name.endswith("tsv") else ",")


def test_the_same_outputs_in_every_form(tmp_path: Path) -> None:
    probs = torch.tensor(PROBS, dtype=torch.float64)
    labels, groups = np.array([0, 1, 2, 2]), ["p0", "p0", "p1", "p1"]
    np.savez(
        tmp_path / "a.npz", probs=probs.numpy(), labels=labels, class_names=NAMES, groups=groups, more=[1]
    )
    np.savez(
        tmp_path / "l.npz", logits=5 + probs.log().numpy(), labels=LABELS, class_names=NAMES, groups=groups
    )
    lists = {"class_names": json.dumps(NAMES), "groups": json.dumps(groups)}
    save_file(
        {"probs": probs, "labels": torch.from_numpy(labels)}, tmp_path / "a.safetensors", metadata=lists
    )
    columns = {f"p({name})": probs[:, c].tolist() for c, name in enumerate(NAMES)}
    arrow = pyarrow.table({"label": LABELS, **columns, "patient": groups})
    pyarrow.parquet.write_table(arrow, tmp_path / "a.parquet")
    plain = [[*row, label, group] for row, label, group in zip(PROBS, LABELS, groups, strict=True)]
    table(tmp_path / "plain.csv", [*NAMES, "truth", "who"], plain)
    found = [
        read_outputs(probs_csv(tmp_path)),
        read_outputs(probs_csv(tmp_path, "a.tsv")),
        read_outputs(probs_csv(tmp_path, "l.csv", prefix="logit", values=(3 + probs.log()).tolist())),
        *(read_outputs(tmp_path / name) for name in ("a.npz", "l.npz", "a.safetensors", "a.parquet")),
        read_outputs(tmp_path / "plain.csv", kind="probs", class_names=NAMES, label="truth", group="who"),
    ]
    for each in found:
        assert torch.allclose(each.logits.softmax(dim=1), probs), each.path
        assert each.class_names == NAMES
        assert each.labels.tolist() == [0, 1, 2, 2]
        assert each.groups == groups
    assert [each.kind for each in found] == [
        "probs",
        "probs",
        "logits",
        "probs",
        "logits",
        "probs",
        "probs",
        "probs",
    ]
    np.savez(tmp_path / "bare.npz", probs=probs.numpy(), labels=labels)
    assert read_outputs(tmp_path / "bare.npz").class_names == ["class 0", "class 1", "class 2"]


def test_predictions_of_a_run_are_outputs(tmp_path: Path) -> None:
    given = Predictions(
        logits=torch.tensor([[4.0, 0.0], [1.0, 2.0]]),
        labels=torch.tensor([0, 1]),
        image_features=torch.eye(2),
        ids=["a", "b"],
        names=["a.png", "b.png"],
        class_names=["benign", "malignant"],
        groups=["p", "q"],
    )
    given.save(tmp_path / "predictions.safetensors")
    found = read_outputs(tmp_path / "predictions.safetensors", class_names=["malignant", "benign"])
    assert found.logits.tolist() == [[0.0, 4.0], [2.0, 1.0]]
    assert found.labels.tolist() == [1, 0]
    assert (found.groups, found.ids) == (["p", "q"], ["a", "b"])


def test_classes_are_brought_to_an_order_by_name(tmp_path: Path) -> None:
    wanted = ["tumour", "stroma", "smooth muscle"]
    of_table = read_outputs(probs_csv(tmp_path), class_names=wanted)
    np.savez(tmp_path / "a.npz", probs=np.array(PROBS), labels=[0, 1, 2, 2], class_names=NAMES)
    of_arrays = in_order(read_outputs(tmp_path / "a.npz"), wanted)
    for found in (of_table, of_arrays):
        assert found.class_names == wanted
        assert torch.allclose(found.logits.exp()[0], torch.tensor([0.1, 0.7, 0.2]).double())
        assert found.labels.tolist() == [1, 2, 0, 0]
    for others in (["tumour", "stroma", "fat"], ["tumour", "stroma"], [*wanted, "fat"]):
        with pytest.raises(
            ValueError, match=r"a\.csv has the classes stroma, smooth_muscle, tumour, and asked"
        ):
            read_outputs(tmp_path / "a.csv", class_names=others)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([3.0, 1.0, 0.2], r"line 3: these are no probabilities: they sum to 4\.2, not to 1.*--kind logits"),
        ([1.2, -0.1, -0.1], "line 3: these are no probabilities: one is below 0"),
        ([0.5, 0.2, 0.2], r"sum to 0\.9"),
        (["nan", 0.5, 0.5], r"line 3, column 'p\(stroma\)': expected a finite number, got 'nan'"),
        (["inf", 0.5, 0.5], "finite number"),
        (["", 0.5, 0.5], "got ''"),
        (["many", 0.5, 0.5], "got 'many'"),
    ],
)
def test_what_is_no_probability_is_refused_with_its_line(tmp_path: Path, values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_outputs(probs_csv(tmp_path, values=[PROBS[0], values, *PROBS[2:]]))


def test_rows_printed_with_few_digits_are_probabilities(tmp_path: Path) -> None:
    rounded = [[0.333, 0.333, 0.3335], *PROBS[1:]]
    found = read_outputs(probs_csv(tmp_path, values=rounded)).logits.softmax(dim=1)
    assert found.sum(dim=1).tolist() == pytest.approx([1] * 4)
    certain = read_outputs(probs_csv(tmp_path, values=[[1, 0, 0], *PROBS[1:]])).logits
    assert bool(certain.isfinite().all())
    assert certain.softmax(dim=1)[0].tolist() == pytest.approx([1, 0, 0], abs=2e-6)


def test_what_numbers_are_is_never_guessed(tmp_path: Path) -> None:
    plain = table(
        tmp_path / "plain.csv", [*NAMES, "label"], [[*r, n] for r, n in zip(PROBS, LABELS, strict=True)]
    )
    both = [f"{kind}({name})" for kind in ("p", "logit") for name in NAMES]
    table(tmp_path / "both.csv", [*both, "label"], [[*PROBS[0], 1, 2, 3, "tumour"]])
    cases = (
        (plain, {}, r"no columns p\(CLASS\).*--classes NAME,NAME"),
        (plain, {"kind": "probs"}, "--classes"),
        (plain, {"class_names": NAMES}, "--kind probs or --kind logits"),
        (plain, {"kind": "probs", "class_names": ["fat", "tumour"]}, "Unknown column 'fat'"),
        (plain, {"kind": "logits", "class_names": ["tumour", "tumour"]}, "the class names must differ"),
        (tmp_path / "both.csv", {}, r"p\(CLASS\) and logit\(CLASS\): say --kind"),
        (
            plain,
            {"kind": "probs", "class_names": NAMES, "label": "truth"},
            "no column 'truth'.*--label COLUMN",
        ),
        (plain, {"kind": "probs", "class_names": NAMES, "group": "who"}, "no column 'who'.*--group COLUMN"),
    )
    for path, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            read_outputs(path, **settings)
    assert read_outputs(tmp_path / "both.csv", kind="logits").logits[0].tolist() == [1, 2, 3]
    values = np.array(PROBS)
    np.savez(tmp_path / "both.npz", probs=values, logits=values, labels=[0, 1, 2, 2])
    np.savez(tmp_path / "none.npz", scores=values, labels=[0, 1, 2, 2])
    np.savez(tmp_path / "bare.npz", probs=values)
    for name, message in (
        ("both.npz", "both probs and logits: say --kind"),
        ("none.npz", "no array probs or logits; it has labels, scores"),
        ("bare.npz", "no array labels"),
    ):
        with pytest.raises(ValueError, match=message):
            read_outputs(tmp_path / name)
    assert read_outputs(tmp_path / "bare.npz", labelled=False).labels is None


def test_labels_are_names_or_whole_numbers(tmp_path: Path) -> None:
    def labels(values: list[Any]) -> list[int]:
        header = ["label", *(f"p({name})" for name in NAMES)]
        rows = [[value, *row] for value, row in zip(values, PROBS, strict=True)]
        return read_outputs(table(tmp_path / "l.csv", header, rows)).labels.tolist()

    assert labels([0, "2", 1, 2.0]) == [0, 2, 1, 2]
    for values, message in (
        ([0, 1, 2, 3], "line 5: Unknown class '3'"),
        (["tumor", *LABELS[1:]], "line 2: Unknown class 'tumor'. Did you mean 'tumour'"),
        (["", *LABELS[1:]], "line 2 has no label"),
        ([0.5, 1, 2, 2], r"line 2: .*0\.5"),
        (["9" * 400, 1, 2, 2], "line 2: Unknown class '999"),
    ):
        with pytest.raises(ValueError, match=message):
            labels(values)


def test_strata_that_are_not_said_are_no_stratum(tmp_path: Path) -> None:
    columns = {f"p({name})": [row[c] for row in PROBS] for c, name in enumerate(NAMES)}
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({**columns, "site": [1.0, math.nan, 2.0, 1.0]}), path)
    outputs = read_outputs(path, labelled=False)
    with pytest.raises(ValueError, match=r"row 2: the column 'site' is empty \(1 such rows\)"):
        strata_of(outputs, "site")


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    header = ["label", "p(a)", "p(b)"]
    for name, head, rows, message in (
        ("short.csv", header, [["a", 1]], "line 2 has 2 values, and the first line 3"),
        ("empty.csv", header, [], "has no rows"),
        ("twice.csv", [*header, "p(a)"], [["a", 1, 0, 1]], r"two columns 'p\(a\)'"),
        ("same.csv", ["label", "p(a b)", "p(a_b)"], [["a b", 1, 0]], "class names must differ"),
        ("one.csv", ["label", "p(a)"], [["a", 1]], "at least 2"),
        ("groups.csv", [*header, "group", "patient"], [["a", 1, 0, 1, 1]], "Say which: --group group"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_outputs(table(tmp_path / name, head, rows))
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.safetensors").write_bytes(b"{}")
    (tmp_path / "a.csv").write_bytes(b"label,\xff\n")
    np.savez(tmp_path / "objects.npz", probs=np.array([{}], dtype=object))
    np.savez(tmp_path / "nan.npz", probs=np.array([[math.nan, 1.0]]), labels=[0])
    for name in ("a.npz", "a.parquet", "a.safetensors", "a.csv", "objects.npz", "nan.npz"):
        with pytest.raises(ValueError, match=name):
            read_outputs(tmp_path / name)
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ValueError, match=r"a\.xlsx: outputs are read from"):
        read_outputs(tmp_path / "a.xlsx")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_outputs(tmp_path / "nowhere.csv")


def mapping() -> OutputMapping:
    calibrator = TemperatureScaling().fit(torch.tensor([[4.0, 0.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    return OutputMapping(list(NAMES), calibrator, {"rows": 4})


def test_a_mapping_comes_back_and_is_refused_where_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "calibrator.json"
    mapping().save(path)
    again = OutputMapping.load(path)
    assert (again.class_names, again.about) == (NAMES, {"rows": 4})
    assert again.calibrator.parameters == mapping().calibrator.parameters
    path.write_text(path.read_text(encoding="utf-8").replace("tumour", "tumor"), encoding="utf-8")
    with pytest.raises(ValueError, match="changed after it was written"):
        OutputMapping.load(path)
    mapping().save(path)
    record = read_json(path)
    for change, message in (
        ({"kind": "prompt"}, "not a file of a calibrator"),
        ({"version": 2}, "version"),
        ({"more": 1}, "keys"),
        ({"class_names": ["a", "b"]}, "3 classes, and there are 2 names"),
        ({"class_names": ["a", "a", "b"]}, "must differ"),
        ({"class_names": "abc"}, "list of strings"),
        ({"calibrator": {}}, "keys"),
    ):
        write_json(path, {**record, **change})
        with pytest.raises(ValueError, match=message):
            OutputMapping.load(path)
    write_json(path, [])
    with pytest.raises(ValueError, match="not a file of a calibrator"):
        OutputMapping.load(path)


def test_a_table_is_written_again_as_it_was(tmp_path: Path) -> None:
    header = ["file", "prediction", "confidence", *(f"logit({name})" for name in reversed(NAMES)), "note"]
    rows = [["a.png", "old", 0.1, 1.0, 2.0, 3.0, "=1+1"], ["b.png", "old", 0.2, 5.0, 0.0, 0.0, "\x1b[2J"]]
    given = read_outputs(table(tmp_path / "new.csv", header, rows), class_names=NAMES, labelled=False)
    probs = mapping().apply(given, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        head, *body = csv.reader(file)
    assert head == ["file", "prediction", "confidence", "p(tumour)", "p(smooth_muscle)", "p(stroma)", "note"]
    assert [row[0] for row in body] == ["a.png", "b.png"]
    assert [row[1] for row in body] == ["stroma", "tumour"]
    assert [row[6] for row in body] == ["'=1+1", "\\x1b[2J"]
    for row, expected in zip(body, probs.tolist(), strict=True):
        assert [float(cell) for cell in row[3:6]] == pytest.approx(expected[::-1], rel=1e-8)
        assert float(row[2]) == pytest.approx(max(expected), rel=1e-8)
    again = read_outputs(tmp_path / "out.csv", class_names=NAMES, labelled=False)
    assert torch.allclose(again.logits.softmax(dim=1), probs, atol=1e-8)


def test_parquet_and_arrays_keep_their_form(tmp_path: Path) -> None:
    columns = {f"p({name})": [row[c] for row in PROBS] for c, name in enumerate(NAMES)}
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2, 3, 4], **columns}), tmp_path / "a.parquet")
    given = read_outputs(tmp_path / "a.parquet", class_names=NAMES, labelled=False)
    probs = mapping().apply(given, tmp_path / "b.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "b.parquet").to_pydict()
    assert read["n"] == [1, 2, 3, 4]
    assert read["p(tumour)"] == probs[:, 2].tolist()
    np.savez(tmp_path / "a.npz", probs=np.array(PROBS), ids=["a", "b", "c", "d"], class_names=NAMES)
    given = read_outputs(tmp_path / "a.npz", class_names=NAMES, labelled=False)
    mapping().apply(given, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as arrays:
        assert sorted(arrays) == ["class_names", "ids", "probs"]
        assert np.array_equal(arrays["probs"], probs.numpy())
    for out in ("b.csv", "b.json"):
        with pytest.raises(ValueError, match=f"--out .*{out} must end in .npz"):
            mapping().apply(given, tmp_path / out)
    with pytest.raises(ValueError, match="must be read with the class names of the mapping"):
        mapping().apply(
            read_outputs(tmp_path / "a.npz", labelled=False, class_names=NAMES[::-1]), tmp_path / "c.npz"
        )


def test_probabilities_rounded_to_0_are_read_as_half_of_the_last_digit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = torch.tensor([[0.25, 0.75, 0.0], [0.99, 0.01, 0.0]]).double().repeat(10, 1)
    found = logits_of(values, "probs", [f"a.csv, line {row}" for row in range(2, 22)]).exp()
    assert found[0].tolist() == pytest.approx([0.25 / 1.005, 0.75 / 1.005, 0.005 / 1.005])
    assert "a.csv, line 2: 20 of 60 probabilities are 0" in caplog.text
    exact = torch.tensor([[0.123456789, 1 - 0.123456789, 0.0]]).double()
    assert float(logits_of(exact, "probs", ["row"])[0, 2].exp()) == pytest.approx(5e-7, rel=1e-3)
    rounded = torch.tensor([[0.5, 0.499]]).double()  # off by 0.001
    assert float(logits_of(rounded, "probs", ["row"]).exp().sum()) == pytest.approx(1)


def test_labelled_rows_without_a_patient_are_refused_and_new_ones_are_not(tmp_path: Path) -> None:
    columns = {"p(a)": [0.7, 0.2, 0.5], "p(b)": [0.3, 0.8, 0.5], "label": ["a", "b", "a"]}
    numbers = pyarrow.array([3.0, math.nan, None])
    for name, patients in (("words", ["x", None, None]), ("numbers", numbers)):
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({**columns, "patient": patients}), path)
        with pytest.raises(ValueError, match="row 2 has no patient"):
            read_outputs(path)
        assert (read_outputs(path, labelled=False).groups or [])[1:] == ["", ""]
    rows = [[*row, group] for row, group in zip(zip(*columns.values(), strict=True), "x  ", strict=True)]
    path = table(tmp_path / "a.csv", [*columns, "who"], rows)
    with pytest.raises(ValueError, match="line 3 has no who"):
        read_outputs(path, group="who")


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([True, False], ["benign", "malignant"], [1, 0]),  # what Parquet holds of yes and no
        (["true", "FALSE"], ["benign", "malignant"], [1, 0]),
        ([True, False], ["True", "False"], [0, 1]),  # names come first
        (["1.0", "0"], ["benign", "malignant"], [1, 0]),
    ],
)
def test_labels_that_are_indices_are_read_as_elsewhere(labels: Any, classes: Any, expected: Any) -> None:
    assert label_indices(labels, ["row 1", "row 2"], classes).tolist() == expected
    with pytest.raises(ValueError, match=r"row 2: Unknown class '-1'"):
        label_indices([1, -1], ["row 1", "row 2"], classes)

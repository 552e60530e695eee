import os
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.data import TaskData, load_data

ROWS = """file,label,split,patient
a/0.png,benign,train,p1
a/1.png,low_grade,train,p2
a/2.png,benign,test,p3
a/3.png,low_grade,val,p4
"""


@pytest.fixture
def make_table(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes labels.csv beside four images."""

    def make(text: str = ROWS, name: str = "labels.csv") -> Path:
        for number in range(4):
            write_image(tmp_path / "set" / "a" / f"{number}.png", number)
        (tmp_path / "set" / name).write_text(text, encoding="utf-8")
        return tmp_path / "set"

    return make


MakeTable = Callable[..., Path]


def summary(task: TaskData) -> list[tuple[str, list[str], list[int], list[str] | None]]:
    return [
        (split, table.names, table.labels.tolist(), table.groups) for split, table in task.splits().items()
    ]


EXPECTED = [
    ("train", ["a/0.png", "a/1.png"], [0, 1], ["p1", "p2"]),
    ("val", ["a/3.png"], [1], ["p4"]),
    ("test", ["a/2.png"], [0], ["p3"]),
]


def test_a_csv_table_by_folder_and_by_file(make_table: MakeTable) -> None:
    root = make_table("\ufeff" + ROWS)
    by_folder, by_file = load_data("table", root), load_data("table", root / "labels.csv")
    assert summary(by_folder) == summary(by_file) == EXPECTED
    assert by_folder.class_names == ["benign", "low grade"]
    assert by_folder.train.open(1).size == (7, 5)  # type: ignore[union-attr]


def test_parquet_and_tsv_read_the_same(make_table: MakeTable) -> None:
    import pyarrow
    import pyarrow.parquet

    root = make_table(ROWS.replace(",", "\t"), "labels.tsv")
    assert summary(load_data("table", root)) == EXPECTED
    lines = [line.split(",") for line in ROWS.splitlines()]
    columns = dict(zip(lines[0], map(list, zip(*lines[1:], strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    assert summary(load_data("table", root, table="labels.parquet")) == EXPECTED
    with pytest.raises(
        ValueError, match=r"has labels\.parquet, labels\.tsv .*say which with data\.options\.table=NAME"
    ):
        load_data("table", root)


def test_columns_can_be_named_and_left_out(make_table: MakeTable) -> None:
    text = "image_path,diagnosis,split,patient,id\na/0.png,x,train,p1,s7\na/1.png,y,test,p1,s8\n"
    task = load_data(
        "table", make_table(text), columns={"file": "image_path", "label": "diagnosis", "group": None}
    )
    assert summary(task) == [("train", ["s7"], [0], None), ("test", ["s8"], [1], None)]


def test_an_id_that_is_not_one_per_image_is_explained(make_table: MakeTable) -> None:
    root = make_table(ROWS.replace("patient", "id").replace("p2", "p1"))
    with pytest.raises(ValueError, match=r"column 'id' .* but p1 occurs more .*columns\.group=id\."):
        load_data("table", root)
    assert load_data("table", root, columns={"id": None, "group": "id"}).train.groups == ["p1", "p1"]


def test_other_separators_are_recognised(make_table: MakeTable) -> None:
    root = make_table(ROWS.replace(",", ";"))
    with pytest.raises(ValueError, match=r'single column.*"data\.options\.delimiter=;"'):
        load_data("table", root)
    assert summary(load_data("table", root, delimiter=";")) == EXPECTED
    (root / "labels.csv").write_text(ROWS.replace(",", "\t"))
    with pytest.raises(ValueError, match=r'"data\.options\.delimiter=tab"'):
        load_data("table", root)
    assert summary(load_data("table", root, delimiter="tab")) == EXPECTED
    assert summary(load_data("table", root, delimiter="\\t")) == EXPECTED
    with pytest.raises(ValueError, match=r"data\.options\.delimiter must be one character .* not 'ab'"):
        load_data("table", root, delimiter="ab")


def test_what_spreadsheets_add_is_put_up_with(make_table: MakeTable) -> None:
    lines = [f"{line},," for line in ROWS.replace("file,label", "file, label ").splitlines()]
    text = "\r\n".join([*lines[:2], "", *lines[2:], ",,,,,", ""])  # empty columns, empty rows
    assert summary(load_data("table", make_table("\ufeff" + text))) == EXPECTED


def test_lines_are_those_of_the_file(make_table: MakeTable) -> None:
    text = ROWS.replace("patient", "notes").replace("p1", '"two\nlines"')
    with pytest.raises(ValueError, match=r"labels\.csv, line 8: column 'label' is empty"):
        load_data("table", make_table(text + "\na/9.png,,test,x\n"))


def test_backslashes_are_those_of_windows_unless_a_file_has_them(
    make_table: MakeTable, write_image: Callable[..., Path]
) -> None:
    root = make_table(ROWS.replace("a/0.png", "a\\0.png").replace("a/1.png", "odd\\1.png"))
    write_image(root / "odd\\1.png", 9)
    task = load_data("table", root)
    assert task.train.names == ["a\\0.png", "odd\\1.png"]  # as written
    assert [task.train.open(row).size for row in (0, 1)] == [(7, 5), (7, 5)]  # type: ignore[union-attr]


@pytest.mark.parametrize("again", ["./a/0.png", "a\\0.png", "a//0.png"])
def test_an_image_listed_twice_is_found_however_it_is_written(make_table: MakeTable, again: str) -> None:
    root = make_table(ROWS.replace("a/1.png", again))
    with pytest.raises(ValueError, match=r"1 images are listed more than once in 'train'"):
        load_data("table", root)


def test_one_table_per_split(make_table: MakeTable) -> None:
    root = make_table("path,class\na/0.png,x\na/1.png,y\n", "train.csv")
    (root / "other.csv").write_text("path;class\na/2.png;y\n")
    (root / "test.csv").write_text("path,class\na/2.png,y\n")
    task = load_data("table", root, table={"train": "train.csv", "test": "test.csv"})
    assert summary(task) == [
        ("train", ["a/0.png", "a/1.png"], [0, 1], None),
        ("test", ["a/2.png"], [1], None),
    ]
    with pytest.raises(ValueError, match=r"Unknown key of data\.options\.table 'dev'"):
        load_data("table", root, table={"train": "train.csv", "dev": "test.csv"})


def test_integer_labels_need_names(make_table: MakeTable) -> None:
    root = make_table("file,label,split\na/0.png,10,train\na/1.png,2,test\n")
    with pytest.raises(
        ValueError,
        match=r"labels are integers \(10, 2\): give their names in label order, \"data\.class_names=",
    ):
        load_data("table", root)
    names = [f"class {label}" for label in range(11)]
    task = load_data("table", root, class_names=names)
    assert [table.labels.tolist() for table in (task.train, task.test)] == [[10], [2]]
    with pytest.raises(ValueError, match=r"line 2: label 10 has no name; data\.class_names goes up to 9"):
        load_data("table", root, class_names=names[:10])
    (root / "labels.csv").write_text("file,label,split\na/0.png,1.0,train\na/1.png,0.0,test\n")
    assert load_data("table", root, class_names=["x", "y"]).train.labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"labels are integers \(0\.0, 1\.0\): give their names"):
        load_data("table", root)
    (root / "labels.csv").write_text("file,label,split\na/0.png,10,train\na/1.png,2,test\n")
    mapped = load_data("table", root, class_names={"2": "two", "10": "ten"})
    assert (mapped.class_names, mapped.train.labels.tolist()) == (["two", "ten"], [1])


def test_a_class_name_list_orders_text_labels(make_table: MakeTable) -> None:
    task = load_data("table", make_table(), class_names=["low_grade", "benign"])
    assert task.train.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"Unknown label 'low_grade'\. Did you mean 'lowgrade'"):
        load_data("table", make_table(), class_names=["lowgrade", "benign"])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.png", r"has '\.\.' in it"),
        ("a/../../secret.png", r"has '\.\.' in it"),
        ("..\\s.png", r"has '\.\.' in it"),
        ("/etc/secret.png", "is absolute and leads out of"),
        ("C:\\secret.png", "is an absolute path of another system"),
    ],
)
def test_paths_must_not_escape_the_root(
    make_table: MakeTable, write_image: Callable[..., Path], path: str, reason: str
) -> None:
    root = make_table(ROWS.replace("a/1.png", path))
    write_image(root.parent / "secret.png")
    with pytest.raises(ValueError, match=rf"labels\.csv, line 3: the path '.*' {reason}"):
        load_data("table", root)


def test_an_absolute_path_into_the_folder_is_the_same_as_a_relative_one(
    make_table: MakeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_table(ROWS.replace("a/1.png", str(tmp_path / "set/a/1.png")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(root)
    for given in (root, "set", "set/labels.csv", "link", "../" + tmp_path.name + "/set"):
        task = load_data("table", given)
        assert summary(task) == EXPECTED
        assert task.train.open(1).size == (7, 5)  # type: ignore[union-attr]
    make_table(ROWS.replace("a/1.png", str(tmp_path / "set/a/0.png")))
    with pytest.raises(ValueError, match=r"1 images are listed more than once in 'train': a/0\.png"):
        load_data("table", root)


def test_columns_take_any_of_the_usual_names(make_table: MakeTable) -> None:
    root = make_table("where,dx,split,who\na/0.png,x,train,p1\na/1.png,y,test,p2\n")
    task = load_data("table", root, columns={"path": "where", "class": "dx", "patient": "who"})
    assert summary(task) == [("train", ["a/0.png"], [0], ["p1"]), ("test", ["a/1.png"], [1], ["p2"])]
    with pytest.raises(ValueError, match=r"data\.options\.columns says twice which column is the group"):
        load_data("table", root, columns={"path": "where", "patient": "who", "group": "dx"})


@pytest.mark.parametrize(
    ("header", "warned"),
    [
        *((name, True) for name in ("PatientID", "patientid", "Patient ID", "subject", "slide_name", "CASE")),
        *((name, False) for name in ("patient_id", "patient_age", "group", "showcase_url", "hospital")),
    ],
)
def test_a_column_that_looks_like_patients_and_is_not_used_is_pointed_out(
    make_table: MakeTable, caplog: pytest.LogCaptureFixture, header: str, warned: bool
) -> None:
    make_table(f"path,class,{header}\na/0.png,x,p\na/1.png,y,p\n", "train.csv")
    root = make_table(f"path,class,{header}\na/2.png,x,q\na/3.png,y,q\n", "test.csv")
    tables = {"train": "train.csv", "test": "test.csv"}
    load_data("table", root, table=tables)
    message = f"column {header} is not used; if it names patients"
    assert [message in record.getMessage() for record in caplog.records] == ([True] if warned else [])
    if warned:
        assert f"data.options.columns.group={header}" in caplog.text
        for group in (None, header):
            caplog.clear()
            load_data("table", root, table=tables, columns={"group": group})
            assert not caplog.records


def test_paths_outside_are_read_when_allowed(make_table: MakeTable, write_image: Callable[..., Path]) -> None:
    outside = write_image(make_table().parent / "elsewhere.png")
    root = make_table(ROWS.replace("a/1.png", str(outside)).replace("a/2.png", "../elsewhere.png"))
    assert load_data("table", root, allow_outside=True).train.open(1).size == (7, 5)  # type: ignore[union-attr]


def test_missing_images_are_counted_and_the_first_named(make_table: MakeTable) -> None:
    rows = "".join(f"b/{number}.png,benign,train,p\n" for number in range(7))
    with pytest.raises(ValueError, match=r"7 of the 11 images .*: b/0\.png, b/1\.png, .*b/4\.png and 2 more"):
        load_data("table", make_table(ROWS + rows))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "label,",
            "disease,",
            r"no column for the label \(one of: label, class\).*data\.options\.columns\.label=NAME",
        ),
        (
            "file,label",
            "x,label",
            r"no column for the file .*Say which it is: data\.options\.columns\.file=x\.",
        ),
        ("split,patient", "fold,patient", r"has no split column \(columns: file, label, fold, patient\)"),
        ("file,label", "file,file", r"more than one column 'file'"),
        ("patient\n", "group\n", None),
        (
            "label,split,patient",
            "label,split,path",
            r"columns file and path may each be the file.*data\.options\.columns\.file=file",
        ),
        (
            "train,p2",
            "pretrain,p2",
            r"line 3: the split is 'pretrain'; allowed: train, val, test.*data\.options\.skip_splits",
        ),
        ("train,p2", "train", r"line 3: expected 4 values"),
        ("train,p2", "train,p2,extra", r"line 3: expected 4 values"),
        ("train,p2", "train,", r"line 3: column 'patient' is empty"),
        ("a/1.png", "a/1.nii", r"line 3: 'a/1\.nii' does not end like an image"),
        ("a/1.png", "a/0.png", r"1 images are listed more than once in 'train': a/0\.png"),
        (ROWS, "", r"labels\.csv is empty: its first line names no columns"),
        (ROWS.partition("\n")[2], "", r"The table .* has no rows of train, val or test"),
        ("a/1.png,low_grade", "a/1.png,", r"line 3: column 'label' is empty\."),
        ("train,p2", "train,nan", r"line 3: column 'patient' is empty \(nan\)"),
        (
            "a/1.png",
            "a\0/1.png",
            r"labels.csv, line 3: column .file. holds a null byte|cannot be read",
        ),  # by Python's version
        ("p2", '"p2', r"labels\.csv cannot be read as a UTF-8 table"),
        ("train", "Train", r"line 2: the split is 'Train'; .* Write 'train' instead\. Others"),
        ("val", "validation", r"line 5: the split is 'validation'; .* Write 'val' instead\."),
        ("file,label", "File,label", r"Say which it is: data\.options\.columns\.file=File\."),
    ],
)
def test_wrong_tables_are_explained(make_table: MakeTable, old: str, new: str, message: str | None) -> None:
    assert old in ROWS
    root = make_table(ROWS.replace(old, new, 1))
    if message is None:
        assert load_data("table", root).train.groups == ["p1", "p2"]
        return
    with pytest.raises(ValueError, match=message):
        load_data("table", root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_in_place_of_a_table_is_called_so(make_table: MakeTable) -> None:
    root = make_table()
    os.mkfifo(root / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv is a named pipe, not a table: .*\(data\.root\)"):
        load_data("table", root / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv is a named pipe, not a table: .*data\.options\.table"):
        load_data("table", root, table="pipe.csv")
    with pytest.raises(FileNotFoundError, match="There is no folder or table"):
        load_data("table", root / "nowhere.csv")


def test_a_split_without_rows_is_named_where_it_is_needed(make_table: MakeTable) -> None:
    root = make_table(ROWS.replace("test", "val"))
    assert len(load_data("table", root).val or []) == 2
    with pytest.raises(ValueError, match=r"No row of the table .* belongs to the split 'test'"):
        load_data("table", root, needs=("train", "test"))


def test_rows_of_other_splits_are_left_out_on_request(make_table: MakeTable) -> None:
    root = make_table(ROWS.replace("train,p2", "pretrain,p2"))
    task = load_data("table", root, skip_splits=["pretrain"])
    assert task.train.names == ["a/0.png"]


def test_unknown_column_keys_and_names_are_explained(make_table: MakeTable) -> None:
    root = make_table()
    with pytest.raises(
        ValueError, match=r"Unknown key of data\.options\.columns 'lable'\. Did you mean 'label'"
    ):
        load_data("table", root, columns={"lable": "label"})
    with pytest.raises(
        ValueError,
        match=r"no column 'dx' \(data\.options\.columns\.label=dx\)\. It has: file, label, split, patient",
    ):
        load_data("table", root, columns={"label": "dx"})


def test_missing_and_unreadable_tables_are_named(make_table: MakeTable, tmp_path: Path) -> None:
    root = make_table()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_data("table", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        load_data("table", root, table="other.csv")
    (root / "labels.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"labels\.parquet cannot be read as Parquet"):
        load_data("table", root, table="labels.parquet")
    (root / "labels.csv").write_bytes(b"file,label,split\n\xff\xfe,x,train\n")
    with pytest.raises(ValueError, match=r"labels\.csv cannot be read as a UTF-8 table"):
        load_data("table", root, table="labels.csv")


def test_a_parquet_table_that_gives_a_column_two_names_is_damaged(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    columns = {"path": ["a.png"], "label": ["x"], "split": ["train"], "patient": ["p"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x07patient", b"\x07patIent", 1))
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as Parquet .*patIent.*damaged"):
        load_data("table", path)

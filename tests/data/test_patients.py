"""Whose an image is: patterns of paths, tables, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calib.data.patients import check_patients, patients_of


@pytest.mark.parametrize(
    ("pattern", "files", "patients"),
    [
        ("{patient}/*", ["a/p1/1.png", "b/p2/1.png"], ["p1", "p2"]),
        ("{patient}/**/*", ["p1/left/1.png", "p1/2.png"], None),  # ambiguous ends: each its nearest start
        ("scans/{patient}/**/*", ["scans/p1/left/1.png", "scans/p1/2.png"], ["p1", "p1"]),
        ("{patient}_*", ["a/p1_2_left.png", "p1_3.png", "p2_1.png"], ["p1", "p1", "p2"]),
        ("{patient}_?", ["p1_2.png"], ["p1"]),  # the ending may be left out
        ("day(1)/{patient}.*", ["day(1)/p.1.png"], ["p"]),
        ("folder", ["a/p1/1.png", "a/p2/1.png"], ["p1", "p2"]),
        ("none", ["1.png"], None),
    ],
)
def test_the_patient_in_a_path(
    pattern: str, files: list[str], patients: list[str] | None, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = patients_of([Path(file) for file in files], pattern)
    if patients is not None or pattern == "none":
        assert found == patients
    else:
        assert found is not None
        assert len(found) == len(files)


def test_what_a_pattern_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\{patient\}_\*' fits 1 of 2 images, and not: a/2\.png"):
        patients_of([Path("p_1.png"), Path("a/2.png")], "{patient}_*")
    with pytest.raises(ValueError, match="stands in a pattern once"):
        check_patients("{patient}/{patient}_*", None)


def test_a_table_says_whose_an_image_is_by_the_end_of_its_path(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("file,patient\nday1/1.png,A\nday2/1.png,B\nlone.png,C\n")
    files = [tmp_path / "day1" / "1.png", Path("/elsewhere/day2/1.png"), Path("/elsewhere/lone.png")]
    assert patients_of(files, str(table)) == ["A", "B", "C"]
    with pytest.raises(ValueError, match=r"lacks 1 of 1 images: /day3/1\.png"):  # never by its name alone
        patients_of([Path("/day3/1.png")], str(table))
    table.write_text("file,patient\n1.png,A\n")  # of one of the two, and nobody knows of which
    with pytest.raises(
        ValueError, match=r"lists 1\.png for fewer images than are called so: .*day1/1\.png, "
    ):
        patients_of([Path("/day2/1.png"), Path("/day1/1.png")], str(table))
    beside = [tmp_path / "1.png", tmp_path / "more" / "1.png"]  # it is the one beside the table
    with pytest.raises(ValueError, match="Write their whole paths there"):
        patients_of(beside, str(table))
    assert patients_of([beside[0], beside[0]], str(table)) == ["A", "A"]
    table.write_text("file,patient\n1.png,A\n1.png,A\n")
    assert patients_of(beside, str(table)) == ["A", "A"]
    table.write_text("path,who\n1.png,A\n1.png,B\n")
    with pytest.raises(ValueError, match=r"no column group or patient or patient_id.*--group COLUMN"):
        patients_of([Path("1.png")], str(table))
    with pytest.raises(ValueError, match=r"says of 1\.png that it is of A, B"):
        patients_of([Path("1.png")], str(table), column="who")


def test_what_says_nothing_is_refused_at_the_door(tmp_path: Path) -> None:
    check_patients("{patient}/*", None)
    with pytest.raises(ValueError, match=r"--patients must be a table .* not 'column'"):
        check_patients("column", None)
    with pytest.raises(ValueError, match="--group names a column of the table"):
        check_patients("folder", "who")
    os.makedirs(tmp_path / "a")
    (tmp_path / "a" / "cases.csv").touch()
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*a/cases\.csv'\?"):
        check_patients(str(tmp_path / "a" / "case.csv"), None)

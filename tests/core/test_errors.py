"""What was probably meant: names, and paths that do not exist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calib.core.errors import meant_path, meant_run


@pytest.fixture
def places(tmp_path: Path, monkeypatch) -> Path:
    """Return a folder with runs, a table and settings, in which the user stands."""
    for name in ("runs/mine-s1", "runs/failure-mine", "scans/day"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("Cases.csv", "mine.yaml", "runs/mine-s1/prompt.safetensors", ".hidden.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("runs/mine-s2", "runs/mine-s1"),
        ("rnus/mine-s1", "runs/mine-s1"),
        ("rnus/mine-s1/promt.safetensors", "runs/mine-s1/prompt.safetensors"),
        ("mine-s1", "runs/mine-s1"),  # a name alone: of a run
        ("failure-mne", "runs/failure-mine"),
        ("cases.csv", "Cases.csv"),
        ("mine.yml", "mine.yaml"),
        ("scans/../rns/mine-s1", "scans/../runs/mine-s1"),
        ("runs/mine-s1/other/prompt.safetensors", None),
        ("hidden.csv", None),
        ("elsewhere/at/all", None),
        ("", None),
    ],
)
def test_a_path_that_is_like_one_that_exists(places: Path, typed: str, meant: str | None) -> None:
    assert meant_path(typed) == ("" if meant is None else f" Did you mean '{meant}'?")
    whole = places / typed
    if meant is not None and not meant.startswith(f"runs/{typed[:3]}"):
        assert str(places) in meant_path(whole) or not whole.exists()


def test_nothing_is_said_where_nothing_can_be_looked_at(places: Path) -> None:
    assert meant_path("mine.yaml/inside") == ""
    assert meant_path("x" * 5000) == ""
    assert meant_path("/nonexistent-root/x") == ""


def test_the_runs_that_there_are_where_none_is_like_the_one_that_was_named(places: Path) -> None:
    assert meant_run("elsewhere") == ""
    for age, name in enumerate(("mine-s1", "failure-mine")):
        file = places / "runs" / name / "metrics.json"
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    (places / "runs" / "begun").mkdir()
    listed = " Runs there are: runs/mine-s1, runs/failure-mine."
    assert meant_run("runs/other") == meant_run("elsewhere") == meant_run("runs") == listed
    assert meant_run("runs/mine-s2") == " Did you mean 'runs/mine-s1'?"

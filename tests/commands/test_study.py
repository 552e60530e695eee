"""A study.db that was damaged, changed or copied from another search: one line that names it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests_shared import PLAIN, SHORT

from calib.commands.search.space import Search, search_of
from calib.commands.search.study import StudyError
from calib.commands.search.tune import claim, report, tune, work
from calib.io.files import read_json
from calib.runs.prepare import SharedInputs

SPACE = [*SHORT[1:], *PLAIN, "trainer.max_epochs=1", "optim.lr=1e-3..1e-2:log", "preset=coop,ls"]
SPACE += ["prune=false"]


def search_in(folder: Path, *changes: str) -> Search:
    return search_of([*SPACE, *changes, "trials=2", "seed=1", f"out={folder}"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "t"
    tune(search_in(folder))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "t")
    return tmp_path / "t"


SHARED: dict[str, SharedInputs] = {}  # the backbone and the data, loaded once for all of these searches


def again(folder: Path) -> dict[str, Any]:
    """Do what `tune` does with a folder and its study."""
    search = search_in(folder)
    claim(folder, search)
    work(search, folder, SHARED)
    return report(search, folder)


def refused(folder: Path) -> str:
    with pytest.raises(StudyError, match=r"t/study\.db.*Put back a copy of it, or delete it") as caught:
        again(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        "update trial_values set value='x'",
        "update trial_values set value=null",
        "update trial_values set value=1e308",
        "update trial_values set value=value+0.001",
        "delete from trial_values",
        "update trial_params set param_value=99",
        "update trial_params set param_value='x'",
        "update trial_params set distribution_json='{'",
        "delete from trial_params",
        "update trials set state='BOGUS'",
        "update trials set state='FAIL'",
        "update trial_user_attributes set value_json='{'",
        "update trial_user_attributes set value_json='[]'",
        """update trial_user_attributes set value_json='{"optim.lr": "9"}'""",
        "update study_user_attributes set value_json='\"abc\"'",
        "update studies set study_name='other'",
        "drop table trial_params",
        "drop table studies",
        "drop table trial_values",
        "drop table trials",
    ],
)
def test_a_changed_study_is_refused_by_name(folder: Path, command: str) -> None:
    with sqlite3.connect(folder / "study.db") as database:
        database.execute(command)
    database.close()
    refused(folder)


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"SQLite format 3\0" + b"\0" * 84, b"\0" * 4096])
def test_what_is_no_study_is_refused_by_name(folder: Path, content: bytes) -> None:
    (folder / "study.db").write_bytes(content)
    refused(folder)


def test_a_damaged_study_is_refused_by_name_or_gives_the_same_table(folder: Path, finished: Path) -> None:
    path, whole = folder / "study.db", (finished / "study.db").read_bytes()
    table = (finished / "table.md").read_text()
    outcomes, messages = set(), []
    for number in range(12):
        draw = random.Random(number)
        data = bytearray(whole)
        for _ in range(60):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(bytes(data) if number % 3 else whole[: draw.randrange(len(whole))])
        try:
            again(folder)
        except StudyError as error:
            outcomes.add("refused")
            messages.append(str(error))
        else:
            outcomes.add("same" if (folder / "table.md").read_text() == table else "another table")
    assert "refused" in outcomes
    assert outcomes <= {"refused", "same"}
    assert all(str(path) in message for message in messages)


def test_the_study_of_another_search_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tune(search_in(other, "by=ece"))
    shutil.copy(other / "study.db", folder / "study.db")
    assert "holds the trials of another search than search.json beside it" in refused(folder)


def test_the_prompt_of_another_trial_is_refused_by_name(folder: Path) -> None:
    first, second = sorted(folder.glob("trial-*"))[:2]
    shutil.copy(second / "prompt.safetensors", first / "prompt.safetensors")
    with pytest.raises(ValueError, match=rf"{first.name}/prompt\.safetensors belongs to another run"):
        tune(search_in(folder))


def test_without_its_study_a_search_reads_its_runs_again(folder: Path, finished: Path) -> None:
    (folder / "study.db").unlink()
    again(folder)
    assert read_json(folder / "tune.json") == read_json(finished / "tune.json")


def test_a_study_of_a_version_that_did_not_say_its_search_is_read(folder: Path) -> None:
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("delete from study_user_attributes")
    database.close()
    assert again(folder)["finished"] == 2

"""Names read from a module's source are those of the table, and the table is asked once it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.core import tables
from calib.core.byname import REQUIRED
from calib.core.tables import names_in, settings_in

TOY = """
from toy_functions import other as mine
raise RuntimeError("imported")
ROWS: dict = {"smac": smac, "mine": mine, "made": partial(smac)}
def smac(logits, *, alpha=0.05, sides=("a", -1), kind=make(), must): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_module_is_not_imported_to_know_its_names(folder: Path) -> None:
    (folder / "toy_plain.py").write_text(TOY)
    (folder / "toy_functions").mkdir()
    (folder / "toy_functions" / "__init__.py").write_text("def other(*, beta=2): ...")
    assert names_in("toy_plain", "ROWS") == ["smac", "mine", "made"]
    found = settings_in("toy_plain", "ROWS", "smac")
    assert found == {"alpha": 0.05, "sides": ("a", -1), "kind": None, "must": REQUIRED}
    assert settings_in("toy_plain", "ROWS", "mine") == {"beta": 2}
    with pytest.raises(RuntimeError, match="imported"):  # this row says nothing without its module
        settings_in("toy_plain", "ROWS", "made")


def test_a_table_that_is_computed_or_was_added_to_is_asked_itself(folder: Path) -> None:
    (folder / "toy_made.py").write_text("ROWS = {**{letter: letter.upper for letter in 'ab'}}\n")
    assert names_in("toy_made", "ROWS") == ["a", "b"]
    (folder / "toy_grown.py").write_text("ROWS = {'a': len}\n")
    assert names_in("toy_grown", "ROWS") == ["a"]

    def mine(*, gamma: float = 3.0) -> None: ...

    import toy_grown

    toy_grown.ROWS["mine"] = mine
    assert names_in("toy_grown", "ROWS") == ["a", "mine"]
    assert settings_in("toy_grown", "ROWS", "mine") == {"gamma": 3.0}

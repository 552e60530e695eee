"""Lightning as commands import it: torchmetrics is told that some packages are absent, and only meanwhile."""

from __future__ import annotations

import pytest
from lightning_utilities.core import imports
from lightning_utilities.core.imports import RequirementCache

from calib.processes import lean


def there(name: str) -> tuple[bool, bool]:
    return bool(RequirementCache(name)), bool(imports.package_available(name))


def test_packages_are_absent_within_the_block_only() -> None:
    versioned = RequirementCache("transformers>=4.4.0")
    with lean._passed_over():
        assert {there(name) for name in lean.UNUSED} == {(False, False)}
        assert there("torch") == (True, True)
        assert not versioned
    assert {there(name) for name in lean.UNUSED} == {(True, True)}
    assert versioned


def test_an_error_within_the_block_leaves_nothing_changed() -> None:
    with pytest.raises(ImportError, match="the reason"), lean._passed_over():
        raise ImportError("the reason")
    assert there("scipy") == (True, True)


def test_a_release_that_asks_otherwise_is_imported_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(imports, "package_available")
    with lean._passed_over():
        assert RequirementCache("scipy")


def test_what_was_imported_stays_as_it_is() -> None:
    import lightning

    lean.import_lightning()
    assert lightning.Trainer

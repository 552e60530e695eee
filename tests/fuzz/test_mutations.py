"""Thousands of spoilt files of every kind: each is read as it was, is refused by name, or is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.campaign import GROUPS, REFUSED, run_group, table

EACH = 44  # mutations per kind of file; with another seed, and more, in the slow test


def faults(group: str, folder: Path, each: int, seed: int = 0) -> tuple[int, list[str]]:
    results = run_group(group, folder, each, seed)
    print(table(results))
    for result in results:
        assert result.made == each
    return len(results), [f"{result.kind}: {fault}" for result in results for fault in result.faults]


@pytest.mark.parametrize("group", GROUPS)
def test_spoilt_files_are_read_as_they_were_or_refused(group: str, tmp_path: Path) -> None:
    count, found = faults(group, tmp_path, EACH)
    assert count == KINDS_OF[group]
    assert not found, "\n".join(found)


KINDS_OF = {
    "exports": 11,
    "features": 3,
    "embeddings": 3,
    "tables": 6,
    "outputs": 8,
    "runs": 5,
    "images": 6,
    "weights": 3,
    "data sets": 4,
    "questions": 4,
    "re-signed": 11,
}


def test_the_campaign_is_large_enough() -> None:
    assert KINDS_OF.keys() == GROUPS.keys()
    assert EACH * sum(KINDS_OF.values()) >= 2000


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_five_times_as_many_with_another_seed(group: str, tmp_path: Path) -> None:
    _, found = faults(group, tmp_path, 5 * EACH, seed=1)
    assert not found, "\n".join(found)


def test_the_harness_finds_what_it_looks_for(tmp_path: Path) -> None:
    """A reader without checks has faults of every kind."""
    from fuzz.campaign import attack
    from fuzz.mutations import BYTES
    from fuzz.subjects import Subject

    path = tmp_path / "numbers.txt"
    path.write_text(" ".join(map(str, range(100))))
    numbers = Subject("numbers", path, lambda path: [int(n) for n in path.read_text().split()], BYTES)
    result = attack(numbers, 200, [])
    text = " ".join(result.faults)
    assert "read as something else" in text
    assert "does not name the file" in text
    assert result.outcomes[REFUSED] > 0


def test_the_harness_sees_code_the_network_and_what_is_written_elsewhere(tmp_path: Path) -> None:
    import pickle

    from fuzz.watching import CODE, NETWORK, OUTSIDE, _hook, watched

    (tmp_path / "in").mkdir()
    with watched(tmp_path / "in") as seen:
        (tmp_path / "in" / "a").write_text("x")
        assert seen == []
        (tmp_path / "b").write_text("x")
        (tmp_path / "c").mkdir()
        with pytest.raises(OSError, match="no network here"):  # those of the tests refuse it before this one
            _hook("socket.getaddrinfo", ("example.org", 443))
        pickle.loads(b"cos\ngetcwd\n(tR.")
        kinds = [kind for kind, _ in seen]
    assert kinds[:3] == [OUTSIDE, OUTSIDE, NETWORK]
    assert set(kinds[3:]) == {CODE}

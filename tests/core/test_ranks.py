"""What the first process decides for all, as seen in one process; with two, see tests/processes."""

from __future__ import annotations

import pickle

import pytest

from calib.core import ranks


def test_what_the_first_decides_cannot_ask_all_to_decide() -> None:
    """With two processes the second would wait for ever; so it is refused in one as well."""

    @ranks.by_first
    def inner() -> int:
        return 1

    with pytest.raises(RuntimeError, match="cannot ask all processes"):
        ranks.decided(lambda: inner() + 1)
    assert inner() == 1  # and the refusal is over


def test_an_error_that_cannot_be_told_to_others_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be pickled, and the other processes waited for it until the job was ended."""
    sent: list[object] = []
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(
        ranks.distributed,
        "broadcast_object_list",
        lambda told, src: sent.append(pickle.dumps(told) and told[1]),
    )

    class OwnError(Exception):
        def __init__(self, message: str, more: object) -> None:
            super().__init__(message)
            self.more = more

    def wrong() -> None:
        raise OwnError("the data", lambda: None)

    with pytest.raises(OwnError, match="the data"):  # in the first process as it was raised
        ranks.decided(wrong)
    assert isinstance(sent[0], RuntimeError)
    assert str(sent[0]) == "OwnError: the data"


def test_an_error_of_the_first_is_raised_as_it_is() -> None:
    def wrong() -> None:
        raise ValueError("the data")

    with pytest.raises(ValueError, match="the data"):
        ranks.decided(wrong)
    assert ranks.by_first(len)([1, 2]) == 2

"""What the first process decides for all, as seen in one process; with two, see tests/processes."""

from __future__ import annotations

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


def test_an_error_of_the_first_is_raised_as_it_is() -> None:
    def wrong() -> None:
        raise ValueError("the data")

    with pytest.raises(ValueError, match="the data"):
        ranks.decided(wrong)
    assert ranks.by_first(len)([1, 2]) == 2

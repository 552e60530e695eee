"""Problems of one pass: all are told at the end of a block, and none is told twice."""

from __future__ import annotations

import pytest

from calib.core.problems import collected, note, noted, together


def meet(*problems: ValueError | OSError, first: int = -1) -> None:
    for number, problem in enumerate(problems):
        with noted():
            note(problem, first=number == first)


def test_without_a_block_the_first_problem_is_raised_as_it_is() -> None:
    first = ValueError("a")
    with pytest.raises(ValueError, match="a") as caught:
        meet(first, ValueError("b"))
    assert caught.value is first


def test_one_problem_stays_what_it_is_and_several_are_a_list() -> None:
    gone = FileNotFoundError("gone")
    with pytest.raises(FileNotFoundError, match=r"^gone$") as caught, together():
        raise gone
    assert caught.value is gone
    several = r"^3 problems, the most basic first:\n- first\n- a\n  b\n- c$"
    with pytest.raises(ValueError, match=several), together():  # the same words are the same problem
        meet(ValueError("a\nb"), ValueError("first"), OSError("c"), ValueError("a\nb"), first=1)


def test_problems_of_one_kind_are_counted() -> None:
    with collected() as problems:
        for line in range(5):
            with noted(f"line {line}"):
                raise ValueError(f"line {line}: empty")
        note(ValueError("another"))
    assert list(map(str, problems)) == ["line 0: empty And 4 more like this.", "another"]


def test_what_is_no_problem_of_the_data_is_raised_at_once_and_ends_the_block() -> None:
    with pytest.raises(KeyError), together():
        {}[note(ValueError("a"))]  # a fault of the program
    with pytest.raises(ValueError, match="b"):
        meet(ValueError("b"))

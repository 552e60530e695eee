"""Problems of one pass told together: what is noted inside a block is raised at its end, not one a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

Problem = ValueError | OSError


@dataclass
class _Noted:
    problem: Problem
    like: str
    more: int = 0

    def told(self) -> Problem:
        """Return the problem, with the number of others of its kind."""
        if not self.more:
            return self.problem
        return ValueError(f"{self.problem} And {self.more} more like this.")


_BLOCK: ContextVar[list[_Noted] | None] = ContextVar("problems of one pass", default=None)


def note(problem: Problem, *, like: str = "", first: bool = False) -> None:
    """Keep a problem for the end of the block it is in, so that others are found; without a block, raise it.

    What comes after it goes on with something that causes no problem of its own, and is never used: the block
    raises in the end. A problem in words that were kept already is the same one.

    Args:
        problem: What is wrong, and what to do.
        like: What kind of problem it is, where there may be thousands: the first is told, the others counted.
        first: Whether it is more basic than what was found before it.

    Raises:
        ValueError: The problem, where no block of `together` or `collected` is open.
    """
    block = _BLOCK.get()
    if block is None:
        raise problem
    for each in block:
        if str(each.problem) == str(problem):
            return
        if like and each.like == like:
            each.more += 1
            return
    block.insert(0 if first else len(block), _Noted(problem, like))


@contextlib.contextmanager
def noted(at: str = "") -> Iterator[None]:
    """Note what a block raises, and go on behind it; without a block around it, it is raised as ever.

    Args:
        at: Where a message says that the problem is: those that differ only in this are of one kind.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        note(error, like=str(error).removeprefix(at) if at else "")


@contextlib.contextmanager
def collected() -> Iterator[list[Problem]]:
    """Collect what is noted or raised inside, in the order in which it was found; nothing is raised.

    Yields:
        A list that is filled when the block has ended.

    Example:
        >>> with collected() as problems:
        ...     note(ValueError("The split is missing."))
        ...     raise ValueError("Nothing can be read.")
        >>> [str(each) for each in problems]
        ['The split is missing.', 'Nothing can be read.']
    """
    problems: list[Problem] = []
    block: list[_Noted] = []
    token = _BLOCK.set(block)
    try:
        with noted():
            yield problems
    finally:
        _BLOCK.reset(token)
        problems += [each.told() for each in block]


@contextlib.contextmanager
def together() -> Iterator[None]:
    r"""Raise all that is noted or raised inside at the end of the block: one as it is, several as a list.

    Raises:
        ValueError: Something was noted.

    Example:
        >>> with together():
        ...     note(ValueError("There is no split train."))
        ...     note(ValueError("a.gif is not read."), like="gif")
        ...     note(ValueError("b.gif is not read."), like="gif")
        Traceback (most recent call last):
        ValueError: 2 problems, the most basic first:
        - There is no split train.
        - a.gif is not read. And 1 more like this.
    """
    with collected() as problems:
        yield
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = "".join("\n- " + str(each).replace("\n", "\n  ") for each in problems)
        raise ValueError(f"{len(problems)} problems, the most basic first:{listed}")

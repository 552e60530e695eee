"""Images prepared side by side are those that one thread prepares, and one that fails is named."""

from __future__ import annotations

import threading
import time
import warnings
from typing import Any

import pytest
import torch

from calib.core.quiet import quiet
from calib.data import ImageTable, encode_table
from calib.data.ahead import read_side_by_side


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Slow:
    """Items of which the first of every few takes longest; says who made them, and what is asked at once."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.fails, self.by, self.asked = fails, set[int](), list[int]()

    def __getitem__(self, key: int) -> int:
        self.by.add(threading.get_ident())
        self.asked.append(key)
        if key % 4 == 0:
            time.sleep(0.005)
        if key in self.fails:
            raise ValueError(f"item {key}")
        return 10 * key


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_items_come_in_their_order_by_so_many_threads(threads: int, at_once: int) -> None:
    source = Slow()
    found = read_side_by_side(source, range(13), at_once=at_once)
    assert next(found) == 0
    assert len(source.asked) == min(at_once, 13)  # no more are held
    assert list(found) == [10 * key for key in range(1, 13)]
    assert len(source.by) <= min(threads, at_once)
    assert len(source.by) > 1 or min(threads, at_once) == 1
    assert list(read_side_by_side(source, [], at_once=at_once)) == []


def test_the_first_failure_is_raised_whoever_meets_it(threads: int) -> None:
    found = read_side_by_side(Slow(fails=(4, 5)), range(8), at_once=8)
    assert [next(found) for _ in range(4)] == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="item 4"):
        next(found)


def test_no_thread_is_left_when_nobody_goes_on(threads: int) -> None:
    before = threading.active_count()
    found = read_side_by_side(Slow(), range(8), at_once=4)
    next(found)
    found.close()
    assert threading.active_count() == before


def test_features_are_those_of_one_thread(
    backbone: Any, table: ImageTable, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = encode_table(backbone, table, views=2, batch_size=4)
    torch.set_num_threads(1)
    alone = encode_table(backbone, table, views=2, batch_size=4)
    torch.testing.assert_close(found.image_features, alone.image_features, rtol=0, atol=1e-6)
    assert found.ids == alone.ids


def test_threads_leave_warnings_as_they_were() -> None:
    before, gone, out = list(warnings.filters), threading.Event(), []

    def other() -> None:
        with quiet(UserWarning):
            out.append(gone.is_set())

    with quiet():
        thread = threading.Thread(target=other)
        thread.start()
        warnings.warn("nobody reads this", stacklevel=1)
        with quiet(UserWarning):  # also inside itself
            warnings.warn("nor this", stacklevel=1)
        gone.set()
    thread.join()
    assert out == [True]  # it had to wait
    assert list(warnings.filters) == before

"""What is kept is found again, and only for the same unchanged tensors."""

from __future__ import annotations

import copy
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from calib.backbones.fast.keeping import Kept


@pytest.fixture
def make():
    return itertools.count().__next__


def test_the_same_tensors_find_what_was_made(make):
    kept, sources = Kept(), [torch.zeros(2), torch.ones(3)]
    assert [kept.get(sources, make) for _ in range(3)] == [0, 0, 0]
    assert kept.get(sources, make, also="more") == 1


def test_other_and_changed_tensors_do_not(make):
    kept, source = Kept(limit=9), torch.zeros(2)
    assert kept.get([source], make) == 0
    assert kept.get([source.clone()], make) == 1
    source += 1
    assert kept.get([source], make) == 2
    source.data = torch.zeros(2)
    assert kept.get([source], make) == 3
    assert kept.get([source], make) == 3


def test_a_freed_tensor_is_not_mistaken_for_its_successor(make):
    kept = Kept(limit=100)
    assert [kept.get([torch.full((1000,), float(i))], make) for i in range(20)] == list(range(20))


def test_the_one_used_longest_ago_goes_first(make):
    kept, (a, b, c) = Kept(limit=2), torch.zeros(3, 1)
    assert [kept.get([tensor], make) for tensor in (a, b, a, c, a, b)] == [0, 1, 0, 2, 0, 3]


def test_results_can_be_used_in_training_and_inference_tensors_are_not_kept(make):
    kept, source = Kept(), torch.zeros(2)
    with torch.inference_mode():
        assert not kept.get([source], lambda: source + 1).is_inference()
        fleeting = torch.zeros(2)
    assert [kept.get([fleeting], make) for _ in range(2)] == [0, 1]


def test_of_threads_that_ask_at_once_one_makes_it():
    kept, source, made = Kept(), torch.zeros(2), []

    def slowly() -> int:
        time.sleep(0.005)
        made.append(kept.get([source], lambda: "within", also="its own"))  # the same thread may ask again
        return len(made)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: kept.get([source], slowly), range(3))) == [1, 1, 1]


def test_a_copy_is_empty(make):
    kept, source = Kept(limit=3), torch.zeros(2)
    kept.get([source], make)
    other = copy.deepcopy(kept)
    assert other.limit == 3
    assert other.get([source], make) == 1

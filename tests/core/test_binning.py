"""Which bin a value belongs to, and what the bins add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.core.binning import bin_edges, bin_indices, bin_statistics, equal_mass_indices, sum_by_bin

shares = st.lists(st.floats(0, 1), min_size=1, max_size=40)
levels = st.lists(st.sampled_from([0.0, 0.25, 0.3, 0.7, 1.0]), min_size=1, max_size=30)


def test_values_on_edges_open_the_next_bin_and_the_ends_are_closed():
    values = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    assert bin_indices(values, 4).tolist() == [0, 1, 2, 3, 3]
    assert bin_indices(values, 4, closed="right").tolist() == [0, 0, 1, 2, 3]


def test_the_inner_bins_are_those_of_numpy_digitize():
    values = np.concatenate([np.linspace(0, 1, 101), np.random.default_rng(0).random(500)])
    for n_bins in (1, 3, 7, 10, 15, 20):
        edges = np.linspace(0, 1, n_bins + 1)[1:-1]
        ours = bin_indices(torch.from_numpy(values), n_bins).numpy()
        np.testing.assert_array_equal(ours, np.digitize(values, edges))


def test_hand_case_with_an_empty_bin():
    stats = bin_statistics(torch.tensor([0.1, 0.2, 0.9, 1.0]), torch.tensor([True, False, True, True]), 3)
    assert stats.counts.tolist() == [2, 0, 2]
    torch.testing.assert_close(stats.value_sums, torch.tensor([0.3, 0.0, 1.9], dtype=torch.float64))
    assert stats.target_sums.tolist() == [1, 0, 2]
    assert all(column.dtype == torch.float64 for column in stats)


def test_leading_dimensions_are_binned_on_their_own():
    generator = torch.Generator().manual_seed(0)
    values, targets = torch.rand(2, 3, 7, generator=generator), torch.rand(2, 3, 7, generator=generator)
    together = bin_statistics(values, targets, 5)
    assert together.counts.shape == (2, 3, 5)
    alone = bin_statistics(values[1, 2], targets[1, 2], 5)
    for whole, part in zip(together, alone, strict=True):
        assert torch.equal(whole[1, 2], part)


def test_explicit_edges_and_their_outer_ends():
    edges = torch.tensor([-1.0, 0.5, 2.0])
    stats = bin_statistics(torch.tensor([-1.0, 0.4, 0.5, 2.0]), torch.ones(4), edges=edges)
    assert stats.counts.tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"\[-1, 2\]; 1 do not, the first is 2.5"):
        bin_indices(torch.tensor([2.5]), edges=edges)


def test_sums_have_the_gradient_of_a_sum():
    values = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    weights = torch.tensor([2.0, -3.0], dtype=torch.float64)
    (bin_statistics(values, targets, 2).value_sums * weights).sum().backward()
    assert values.grad.tolist() == [2.0, 2.0, -3.0]
    torch.autograd.gradcheck(lambda v: bin_statistics(v, targets, 2).value_sums, (values,))


@given(shares, st.integers(1, 12))
def test_batches_add_up_to_the_whole(values, n_bins):
    whole = torch.tensor(values, dtype=torch.float64)
    targets = whole > 0.5
    cut = len(values) // 2
    parts = [
        bin_statistics(whole[span], targets[span], n_bins)
        for span in (slice(0, cut), slice(cut, None))
        if len(whole[span])
    ]
    for pooled, column in zip(bin_statistics(whole, targets, n_bins), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(pooled, sum(column), rtol=0, atol=1e-12)


@given(shares, st.integers(1, 12))
def test_every_value_lies_between_the_edges_of_its_bin(values, n_bins):
    values = torch.tensor(values, dtype=torch.float64)
    edges, index = bin_edges(n_bins), bin_indices(values, n_bins)
    assert bool((values >= edges[index]).all())
    assert bool(((values < edges[index + 1]) | (values == 1)).all())


@given(st.integers(1, 50), st.integers(1, 12), st.randoms(use_true_random=False))
def test_equal_mass_bins_without_ties_differ_by_at_most_one_sample(n, n_bins, random):
    values = torch.tensor(random.sample(range(1000), n)) / 1000
    sizes = torch.bincount(equal_mass_indices(values, n_bins), minlength=n_bins)
    assert len(sizes) == n_bins
    assert int(sizes.max() - sizes.min()) <= 1


@given(levels, st.integers(1, 12), st.randoms(use_true_random=False))
def test_equal_mass_bins_keep_ties_together_in_any_order(values, n_bins, random):
    shuffled = random.sample(values, len(values))
    bins = dict(zip(values, equal_mass_indices(torch.tensor(values), n_bins).tolist(), strict=True))
    assert [bins[v] for v in shuffled] == equal_mass_indices(torch.tensor(shuffled), n_bins).tolist()
    in_order = [bins[v] for v in sorted(bins)]
    assert in_order == sorted(in_order)


def test_ties_go_where_their_middle_rank_lies():
    assert equal_mass_indices(torch.tensor([0.6, 1.0, 1.0, 1.0]), 2).tolist() == [0, 1, 1, 1]
    assert equal_mass_indices(torch.tensor([0.6, 0.6, 0.6, 1.0]), 2).tolist() == [0, 0, 0, 1]
    assert equal_mass_indices(torch.tensor([0.6, 0.6, 0.7, 0.7, 0.7, 0.8]), 3).tolist() == [0, 0, 1, 1, 1, 2]


def test_sum_by_bin_counts_what_it_is_told():
    stats = sum_by_bin(torch.tensor([2, 0, 2]), torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1, 0, 1]), 3)
    assert [column.tolist() for column in stats] == [[1, 0, 2], [0.25, 0, 0.75], [0, 0, 2]]


@pytest.mark.parametrize("bad", [float("nan"), -1e-9, 1.0000001, float("inf")])
def test_values_that_are_no_share_raise(bad):
    values = torch.tensor([0.5, bad], dtype=torch.float64)
    with pytest.raises(ValueError, match="1 do not"):
        bin_statistics(values, torch.ones(2), 4)


def test_ill_defined_bins_raise():
    values = torch.tensor([0.5])
    with pytest.raises(ValueError, match="n_bins must be a whole number"):
        bin_indices(values, 0)
    with pytest.raises(ValueError, match="n_bins must be a whole number"):
        bin_indices(values, 2.5)
    with pytest.raises(ValueError, match="either n_bins or edges"):
        bin_indices(values)
    with pytest.raises(ValueError, match="either n_bins or edges"):
        bin_indices(values, 2, edges=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="increasing"):
        bin_indices(values, edges=torch.tensor([0.0, 0.5, 0.5, 1.0]))
    with pytest.raises(ValueError, match="'left' or 'right'"):
        bin_indices(values, 2, closed="both")
    with pytest.raises(ValueError, match="Nothing to bin"):
        bin_indices(torch.empty(0), 2)
    with pytest.raises(ValueError, match="same shape"):
        bin_statistics(torch.tensor([0.5, 0.5]), torch.ones(1), 2)

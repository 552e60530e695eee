"""The benchmark of the text towers measures what it says."""

from __future__ import annotations

import measuring
import pytest
import text_tower
import torch


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(text_tower, "PEAK_SIZE", 32)
    monkeypatch.setattr(measuring, "TURN", 0.02)  # seconds
    return text_tower


@pytest.mark.parametrize(
    ("kind", "ways"),
    [
        ("clip", ["official", "trimmed", "plain", "packed"]),
        ("biomedclip", ["official", "trimmed", "plain", "packed"]),
        ("medclip", ["official", "plain", "packed"]),
    ],
)
def test_all_ways_are_timed_and_agree(benchmark, small, kind, ways, monkeypatch):
    backbone = small(kind)
    monkeypatch.setattr(benchmark, "prompts", lambda backbone, n_classes, n_ctx: rows(backbone, n_classes))
    found = benchmark.measure(backbone, 3, 2, rounds=2, n_ctx=4)
    assert [row.way for row in found] == ways
    for row in found:
        assert row.feature_error < 1e-6
        assert row.gradient_error < 1e-5
        assert row.seconds > 0
    assert found[0].times_faster == 1


def rows(backbone, n_classes):
    names = ["covid", "lung opacity", "a normal lung"][:n_classes]
    pieces = [[backbone.filler_id] * 4 + backbone.piece_ids(f"{name}.") for name in names]
    positions = (torch.arange(4) + backbone.start_length).expand(n_classes, -1)
    return torch.stack([backbone.assemble(row) for row in pieces]), positions


def test_more_classes_than_fit_are_multiplied(benchmark, small, monkeypatch):
    monkeypatch.setattr(benchmark, "LARGEST", 2)
    seconds = {"official": (4.0, 2.0), "trimmed": (2.0, 1.0), "plain": (1.0, 0.5), "packed": (0.5, 0.25)}
    products = {"plain product": (1.0, 1.0), "packed product": (1.0, 1.0)}
    monkeypatch.setattr(benchmark, "in_turns", lambda ways, rounds: {**seconds, **products})
    found = {row.way: row for row in benchmark.measure(small("clip"), 6, 1, rounds=1, n_ctx=4)}
    assert found["official"].seconds == 12.0
    assert found["trimmed"].times_faster == 2
    assert found["packed"].times_faster == 24


def test_operations_of_the_rows_that_count(benchmark, small):
    backbone = small("clip")
    tokens, positions = rows(backbone, 3)
    lengths = (tokens.argmax(dim=1) + 1).tolist()
    n_rows = 5 + sum(length - 5 for length in lengths)  # start and context are there once
    width, layers = 24, 3
    block = (3 + 1 + 4 + 4) * width**2
    last = 2 * width**2 * n_rows + (block - 2 * width**2) * 3
    expected = 4 * ((layers - 1) * block * n_rows + last)  # a multiplication and an addition, there and back
    assert benchmark.least_operations(backbone, tokens, positions) == expected


def test_random_prompts_have_the_lengths_of_the_tissue_names(benchmark, small):
    backbone = small("clip")
    tokens, positions = benchmark.prompts(backbone, 11, 4)
    assert (tokens != 0).sum(dim=1).tolist() == [4 + 2 + 1 + n for n in (3, 1, 1, 4, 2, 2, 5, 5, 8, 3, 1)]
    named, _ = benchmark.prompts(backbone, 9, 4)
    assert (named != 0).sum(dim=1).tolist() == [4 + 2 + 1 + n for n in benchmark.PIECES]
    assert positions[3].tolist() == [1, 2, 3, 4]

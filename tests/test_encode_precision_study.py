"""The study of encoding in bfloat16 measures what it says."""

from __future__ import annotations

import encode_precision_study as study
import measuring
import pytest
import torch
from torch.nn.functional import normalize

from calib.backbones import create_backbone
from calib.data import load_data


def test_a_tower_is_timed_in_both_precisions(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TURN", 1e-9)
    monkeypatch.setattr(study, "BATCH", 2)
    backbones = {each: small("clip", encode_precision=each) for each in study.ENCODE_PRECISIONS}
    name, fast, faster, ratio, mean, largest, feature = study.tower_row("clip", backbones, 1)
    assert name == "clip"
    assert float(ratio) == pytest.approx(float(faster) / float(fast), rel=0.1)
    assert 0 < float(mean) <= float(largest) < 2e-3
    assert 0 < float(feature) < 0.1


def test_rows_that_are_apart() -> None:
    ours = normalize(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), dim=1)
    theirs = normalize(torch.tensor([[1.0, 0.0], [4.0, 3.0]]), dim=1)
    assert study.apart(ours, theirs) == ["2.0e-02", "4.0e-02", "2.0e-01"]  # cosines 1 and 24/25


@pytest.mark.slow
def test_what_follows_is_counted_in_each_precision(
    image_folder, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tiny.partition("=")[2]
    both = {each: create_backbone(name, encode_precision=each) for each in study.ENCODE_PRECISIONS}
    monkeypatch.setattr(study, "both", lambda name, folder: both)
    task = load_data("folder", image_folder)
    features, rows = study.task_rows("circles", task, [1, 2], shots=2, epochs=1)
    assert features[:2] == ["circles", "9"]
    kinds = [(row[1].split(",")[0], row[2]) for row in rows]
    assert kinds == [
        (m, p)
        for m, ps in (("zero-shot", ("fp32", "bf16")), ("prompt", ("fp32", "mixed", "bf16")))
        for p in ps
    ]
    for row in rows:
        assert 0 <= float(row[3]) <= 100
        assert float(row[6]) >= 0
    assert [row[6] for row in rows if row[2] == "fp32"] == ["0.00", "0.00"]
    assert [row[7] for row in rows if row[2] == "fp32"] == ["0.0e+00", "0.0e+00"]


def test_reading_is_timed_by_one_thread_and_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TURN", 1e-9)
    before = torch.get_num_threads()
    table = study.reading_table(1, sizes=(32,), n_images=2)
    assert len(table.splitlines()) == 2 + 2
    assert torch.get_num_threads() == before

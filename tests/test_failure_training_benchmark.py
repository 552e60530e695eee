"""The benchmark of a failure head's training, with a few images and one counted epoch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "failure_training.py"


def test_both_loops_train_and_are_timed(capsys, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("failure_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "peak_memory", lambda name, given: {"Lightning": 7.0}.get(name, 5.0))
    seen = {}
    take_turns = benchmark.take_turns

    def spy(plain, head, data, batch_size, epochs):
        before = [p.clone() for p in plain.head.parameters()]
        times = take_turns(plain, head, data, batch_size, epochs)
        seen["counts"] = [len(values) for values in times.values()]
        seen["moved"] = [
            any((p != q).any() for p, q in zip(trained.parameters(), before, strict=True))
            for trained in (plain.head, head)
        ]
        return times

    monkeypatch.setattr(benchmark, "take_turns", spy)
    sizes = ["--images=70", "--classes=3", "--width=8", "--batch-size=32", "--epochs=2"]
    assert benchmark.main(sizes) == 0
    printed = capsys.readouterr().out
    assert seen == {"counts": [2, 2], "moved": [True, True]}
    assert "width 8, 70 images, 3 classes, batches of 32" in printed
    plain, lightning = (
        next(line for line in printed.splitlines() if name in line) for name in benchmark.LOOPS
    )
    assert plain.split("|")[5:7] == ["          1.00 ", "              5 "]
    assert lightning.endswith("              7 |")

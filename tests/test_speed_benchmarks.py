"""The benchmarks against the released loop: what they compare computes the same; what they draw is there."""

from __future__ import annotations

from pathlib import Path

import measuring
import pytest
import run
import scaling
import torch
import whole_runs
from official_loop import OfficialLoop
from PIL import Image

from calib.backbones.fast.kernels import SETTING

HERE = measuring.Machine("Zen 9", 2, 1e11, 2e11)
NAMES = ["covid", "lung opacity", "a normal lung"]


@pytest.fixture(scope="module")
def loops(small) -> tuple[OfficialLoop, OfficialLoop]:
    return OfficialLoop(small("clip"), NAMES), OfficialLoop(small("clip"), NAMES)


def test_the_released_step_is_the_project_s_step(loops, tmp_path: Path) -> None:
    released, ours = loops
    files = [path for paths in scaling.write_images(tmp_path, 4).values() for path in paths]
    labels = torch.tensor([0, 1, 2, 1])
    before = released.learner.context.detach().clone()
    for view in range(2):
        loss = released.train_step(files, labels, view)
        backbone = ours.backbone
        views = [backbone.preprocess.augment(Image.open(f), view + i) for i, f in enumerate(files)]
        scaled = backbone.logit_scale.exp() * backbone.encode_image(torch.stack(views))
        texts = ours.learner(backbone)
        other = ours.descend(scaled @ texts.T, scaled @ ours.zero_shot.T, texts, labels)
        assert other.item() == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(released.learner.context, ours.learner.context, atol=1e-6, rtol=1e-5)
    assert not torch.equal(before, released.learner.context)
    assert released.test_batch(files).shape == (4, 3)


def test_a_released_run_is_its_steps_and_its_test_batches() -> None:
    steps = whole_runs.Steps(train=2.0, test=10.0, ours=0.1, same_kernel=0.2)
    assert steps.run(72, 1000) == 50 * 4 * 2.0 + 10 * 10.0  # 72 images: 4 batches of 16, the rest is dropped
    table = " ".join(whole_runs.step_table(steps, HERE, 10**10).split())  # 0.1 s of 200 GFLOP/s are 20 G
    assert "| 20.0 | 50% |" in table
    assert "| 10.0 | 50% |" in table  # 0.2 s of 100
    assert table.endswith("Zen 9, 2 threads: matrix products 100 GFLOP/s, packed 200.")


def test_an_epoch_with_folds_counts_their_fewer_steps(small, monkeypatch) -> None:
    times = {1: 1.0, 2: 1.5, 3: 2.0, 4: 2.5, 5: 3.0}
    assert run._folds_of(1, times, 9) == ("", "")
    assert run._folds_of(3, times, 9) == ("3", "1.90")  # 72 shots, 5 steps; 48, 3 steps: (3 * 2.5 + 2) / 5
    assert run._folds_of(4, times, 9) == ("4", "2.60")  # 54 shots, 4 steps: (4 * 3 + 1) / 5
    monkeypatch.setattr(measuring, "TURN", 1e-9)
    table = run.folds_table(small("clip"), NAMES, 1, HERE)
    assert len(table.splitlines()) == 2 + 5 + 2


def test_shares_of_the_peak_and_the_processor(small) -> None:
    assert HERE.share(None, 1.0) == ""
    assert (HERE.share(1e11, 1.0), HERE.share(1e11, 1.0, plain=True)) == ("50%", "100%")
    assert measuring.processor()
    backbone = small("clip")  # 64 pixels, patches of 32: 4 and a class token; width 64, 2 blocks; D 16
    block = 64 * 64 * 12
    assert whole_runs.image_operations(backbone) == 2 * (5 * 2 * block + 4 * 64 * 3 * 32 * 32 + 64 * 16)


def test_clocks_and_kernels(monkeypatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(measuring, "TURN", 0.01)
    seen = []
    ways = {"a": measuring.on_kernel("plain", lambda: seen.append(measuring.os.environ[SETTING]))}
    times = measuring.in_turns({**ways, "b": lambda: measuring.time.sleep(0.02)}, rounds=3)
    assert set(seen) == {"plain"}
    assert len(seen) > 3  # short calls are repeated within a turn
    assert SETTING not in measuring.os.environ
    assert times["b"].wall >= 0.02 > times["b"].cpu
    others = measuring.Neighbours()
    others._look = lambda: (others._start[0] + 2.0, others._start[1] + 3.0, others._start[2] + 1.0)
    others._known = True
    assert str(others) == "Other processes used 1.00 cores meanwhile."


@pytest.mark.slow
def test_every_axis_is_measured_and_drawn(small, tmp_path: Path, monkeypatch) -> None:
    backbone = small("clip")
    monkeypatch.setattr(scaling.text_tower, "NAMES", tuple(NAMES))
    monkeypatch.setattr(
        scaling, "memory_points", lambda sizes: [scaling.Point("peak memory", 3, None, 7.4, "x")]
    )
    monkeypatch.setattr(
        scaling, "set_points", lambda *_: [scaling.Point("prompts side by side", 4, None, 0.03)]
    )
    monkeypatch.setattr(
        scaling, "class_points", lambda *_, **__: [scaling.Point("classes", 9, 1.0, 0.05, operations=8e9)]
    )
    points = scaling.measure(backbone, quick=True, released_step=2.0, released_test=10.0)
    tables = scaling.tables(points, HERE)
    assert "| 9 | 1.0 s | 50 ms | 20.0 | 80% |" in " ".join(tables.split())
    assert tables.count(str(HERE)) == 4  # below every axis but memory
    shots = [point for point in points if point.axis == "shots"]
    assert [point.released for point in shots] == [50 * 1 * 2.0, 50 * 1 * 2.0, 50 * 3 * 2.0]
    assert all(point.ours > 0 for point in shots)
    scaling.plot(points, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_growth_alone_needs_no_released_loop(small, monkeypatch) -> None:
    monkeypatch.setattr(scaling.text_tower, "NAMES", tuple(NAMES))
    monkeypatch.setattr(scaling.text_tower, "prompts", lambda backbone, n, n_ctx: rows_of(backbone, n))
    monkeypatch.setattr(measuring, "TURN", 1e-9)
    backbone = small("clip")
    points = scaling.class_points(backbone, (2, 3), 1, alone=True) + scaling.set_points(backbone, (1, 2), 1)
    assert [(point.axis, point.size, point.released) for point in points] == [
        ("classes", 2, None),
        ("classes", 3, None),
        ("prompts side by side", 1, None),
        ("prompts side by side", 2, None),
    ]
    assert all(point.ours > 0 for point in points)
    shown = scaling.tables([*points, scaling.Point("peak memory", 9, None, 7.4, "x")], HERE)
    assert shown.count("text step per prompt") == 2
    alone = scaling.tables([scaling.Point("peak memory", 9, None, 7.4, "x")], None)
    assert "| x       |      9 |" in alone
    assert alone in shown


def rows_of(backbone, n_classes):
    learner = scaling.PromptLearner(backbone, NAMES[:n_classes], n_ctx=4)
    return learner.tokens, learner.positions

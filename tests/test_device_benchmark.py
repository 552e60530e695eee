"""The benchmark of a graphics card, run on the CPU through the same lines; what it says without a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measuring
import on_device
import pytest
import run
import torch

from calib.cli import main

CPU = torch.device("cpu")
HERE = measuring.Card("Card 9", "driver 1", 8 * 2**30, 1e13, 1e14)
SIZE = on_device.Size(rounds=1, product=32, prompts=(1, 2), batches=(2,), files=9, epochs=1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TURN", 1e-9)


@pytest.fixture
def tiny_plip(small: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a small model under PLIP's name."""
    backbone = small("clip")
    monkeypatch.setattr(on_device, "create_backbone", lambda *_, **__: small("clip"))
    names = ("covid", "lung opacity", "a normal lung")
    monkeypatch.setattr(on_device, "NAMES", names)
    monkeypatch.setattr(on_device.text_tower, "NAMES", names)
    monkeypatch.setitem(on_device.text_tower.N_CTX, "plip", 4)
    return backbone


def test_shares_are_of_the_peak_of_the_precision() -> None:
    assert str(HERE) == (
        "Card 9, 8 GiB, driver 1: matrix products 10 TFLOP/s in fp32 (no TF32), 100 TFLOP/s in bf16."
    )
    assert HERE.share(1e12, 1.0) == HERE.share(1e12, 1.0, plain=True) == "10%"
    assert HERE.share(1e12, 1.0, precision="bf16") == "1%"
    assert HERE.share(None, 1.0) == ""
    found = on_device.card_of(CPU, 32, rounds=1)
    assert found.name == measuring.processor()
    assert min(found.fp32, found.bf16) > 0


def test_a_card_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (run, on_device):
        with pytest.raises(SystemExit) as stop:
            command.main(["--device", "cuda", "--quick"])
        assert stop.value.code == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "--device cuda: PyTorch" in said
        assert "sees 0 CUDA devices here. Take --device cpu, or see `calib doctor`" in said
    for name in ("tpu", "mps", "card"):
        with pytest.raises(ValueError, match="must be cpu, cuda or cuda:NUMBER"):
            on_device.device_of(name)
    assert on_device.device_of("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert on_device.device_of("cuda") == torch.device("cuda", 0)
    assert on_device.device_of("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="--device cuda:2"):
        on_device.device_of("cuda:2")


def test_steps_are_measured_and_never_wait(tiny_plip: Any) -> None:
    table = on_device.step_table(tiny_plip, SIZE, HERE).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:6]]
    assert [row[:2] for row in rows] == [["1", "fp32"], ["1", "bf16"], ["2", "fp32"], ["2", "bf16"]]
    assert [row[6] for row in rows] == ["0"] * 4
    assert table[-1] == str(HERE)


def test_a_step_takes_a_step(tiny_plip: Any) -> None:
    module = on_device.stack_of(tiny_plip, 2)
    before = [each.learner.context.detach().clone() for each in module.prompts]
    on_device.step_of(module, "fp32")()
    for prompt, old in zip(module.prompts, before, strict=True):
        assert not torch.equal(prompt.learner.context, old)


@pytest.mark.slow
def test_agreement_and_encoding_are_measured(tiny_plip: Any, tmp_path: Path) -> None:
    assert on_device.agreement(tiny_plip).count("0e+00") == 3  # the CPU against itself
    found = on_device.encoding_table(tiny_plip, SIZE, HERE)
    assert [line.split("|")[1].strip() for line in found.splitlines()[2:4]] == ["fp32", "bf16"]
    files = on_device.make_images(tmp_path, 9)["test"]
    assert len(on_device.file_table(tiny_plip, files, 4).splitlines()) == 4


def test_a_run_that_is_refused_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def train(out: Path, settings: list[str]) -> tuple[float, str]:
        calls.append(settings)
        if "trainer.devices=1" in settings:
            out.mkdir(parents=True)
            (out / "metrics.json").write_text("{}")
        return 2.0, "calib train: trainer.devices=2 cannot be used here"

    logits = type("Found", (), {"logits": torch.zeros(2, 2)})
    monkeypatch.setattr(on_device, "train", train)
    monkeypatch.setattr(on_device.Predictions, "load", lambda _: logits)
    rows = on_device.process_table(CPU, tmp_path, 3).splitlines()[2:]
    assert "2.0 s" in rows[0]
    assert "refused" in rows[1]
    assert "trainer.devices=2 cannot be used here" in rows[1]
    assert "trainer.max_epochs=3" in calls[1]
    assert "trainer.accelerator=cpu" in calls[1]


@pytest.mark.slow
def test_all_tables_of_the_cpu(
    tiny_plip: Any, tiny: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From the command on, with small models; the first run is one of its own, as all are."""
    own = on_device.train

    def with_tiny(out: Path, settings: list[str]) -> tuple[float, str]:
        given = [tiny, *(each for each in settings if not each.startswith("backbone."))]
        if out.name == "first":
            return own(out, given)
        if "trainer.devices=2" in given:  # see tests/processes
            return 0.1, "calib train: refused"
        assert main(["train", *given, f"out={out}"]) == 0
        return 0.1, ""

    monkeypatch.setattr(on_device, "train", with_tiny)
    monkeypatch.setattr(on_device.logging, "disable", lambda *_: None)  # later tests read the log
    monkeypatch.setattr(on_device, "QUICK", SIZE)
    out = tmp_path / "device.md"
    assert on_device.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    text = out.read_text()
    for head in ("prompts in a step", "encoding files", "processes", "training step, views cached"):
        assert head in text
    assert text.count("refused") == 2
    assert all(part in capsys.readouterr().out for part in text.strip().split("\n\n")[:1])

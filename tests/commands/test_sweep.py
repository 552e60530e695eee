from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from tests_shared import PLAIN, SHORT

from calib.cli import main
from calib.commands.search.grid import Point, sweep_of
from calib.commands.search.stacks import sharing_key
from calib.commands.search.sweep import sweep
from calib.commands.search.table import evidence, sweep_table
from calib.commands.train import train
from calib.config import DataConfig, PromptRun, load_config
from calib.config.schema import setting
from calib.io.files import read_json
from calib.prompts.export import Prompt
from calib.runs.marks import ForeignFileError

VARIED = ["preset=coop,calibprompt", "optim.lr=0.002,0.01", "seed=1,2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sweep") / "s"
    return folder, sweep(sweep_of([*SHORT, *PLAIN, *VARIED, f"out={folder}", "stack=5"]))


def test_every_run_equals_the_same_run_alone(swept, tmp_path: Path) -> None:
    folder, results = swept
    assert (results["trained"], results["failed"]) == (8, {})
    for preset, lr, seed in (("coop", 0.002, 1), ("calibprompt", 0.01, 2)):
        out = tmp_path / f"{preset}"
        changes = [f"preset={preset}", f"optim.lr={lr}", f"seed={seed}", "baselines=[]", f"out={out}"]
        train(load_config([*SHORT, *PLAIN, *changes], task="prompt"))
        here = folder / f"preset-{preset}_optim.lr-{lr}_seed-{seed}"
        alone, beside = (Prompt.load(f / "prompt.safetensors") for f in (out, here))
        assert alone.context is not None
        assert beside.context is not None
        assert torch.allclose(alone.context, beside.context, atol=1e-5)
        assert torch.allclose(alone.text_features, beside.text_features, atol=1e-5)
        assert beside.training["split"] == alone.training["split"]
        assert read_json(out / "split.json") == read_json(here / "split.json")
        assert load_config([str(here / "config.yaml")], task="prompt").optim.lr == lr
        one, other = (read_json(f / "metrics.json")["test"] for f in (out, here))
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)
        logs = [(f / "logs" / "metrics.csv").read_text().splitlines() for f in (out, here)]
        assert set(logs[0][0].split(",")) == set(logs[1][0].split(","))
        assert len(logs[1]) == 1 + 3  # header, epochs


def test_it_leaves_runs_a_table_and_nothing_else(swept) -> None:
    folder, results = swept
    names = {path.name for path in folder.iterdir()}
    assert names - {"table.md", "sweep.json", ".lock"} == {
        f"preset-{p}_optim.lr-{lr}_seed-{s}"
        for p in ("coop", "calibprompt")
        for lr in ("0.002", "0.01")
        for s in (1, 2)
    }
    written = read_json(folder / "sweep.json")
    assert written["best"] == results["best"]
    assert len(written["runs"]) == 8
    assert results["table"].count("\n| preset=") == 4
    assert (folder / "table.md").read_text().strip() == results["table"]


def test_the_order_is_that_of_the_validation_metric(swept) -> None:
    written = read_json(swept[0] / "sweep.json")
    means: dict[str, list[float]] = {}
    for run in written["runs"]:
        key = f"preset={run['preset']} optim.lr={run['optim.lr']}"
        means.setdefault(key, []).append(run["val"]["nll"])
    best = min(means, key=lambda key: sum(means[key]))
    assert written["best"] == best
    first_row = swept[1]["table"].splitlines()[2]
    assert first_row.startswith(f"| {best} ")


def test_settings_are_compared_on_images_that_all_of_them_have() -> None:
    """Some were ranked by their validation images beside others by their left-out shots."""
    runs = [
        {"test": {}, "val": {"nll": 0.2}, "shots": {"nll": 0.9}},
        {"test": {}, "shots": {"nll": 0.5}},
    ]
    results = [(Point({"data.val_shots": str(n)}), 1, values) for n, values in zip("40", runs, strict=True)]
    table, best = sweep_table(results, by="nll")
    assert best == "data.val_shots=0"
    assert "shots NLL" in table
    assert (
        sweep_table([*results, (Point({"x": "1"}), 1, {"test": {}, "val": {"nll": 0.1}})], by="nll")[1]
        is None
    )


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"a": [0.4], "b": [0.5]}, "No evidence for a difference from preset=b (one seed: no spread known)."),
        ({"a": [0.4, 0.4, 0.4], "b": [0.5, 0.51, 0.52], "c": [1, 1, 1]}, "It differs from preset=b by more"),
        (
            {"a": [0.4, 0.4, 0.4], "b": [0.3, 0.6, 0.4], "c": [1, 1, 1]},
            "No evidence for a difference from preset=b (",
        ),
        ({"a": [0.4, 0.4], "b": [0.4, 0.4]}, "No evidence for a difference from preset=b (NLL +0.000"),
        (
            {"a": [0.4, 0.5], "b": [0.5, 0.5], "c": [0.9, 0.5]},
            "No evidence for a difference from preset=b nor from 1 more",
        ),
        ({"a": [0.4, 0.5]}, None),
    ],
)
def test_a_winner_that_seeds_explain_is_called_a_tie(
    scores: dict[str, list[float]], said: str | None
) -> None:
    results = [
        (Point({"preset": name}), seed, {"val": {"nll": value}})
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    found = evidence(results, by="nll")
    assert found is None if said is None else (found or "").startswith(said)


def test_the_interval_of_a_tie_is_that_of_students_t() -> None:
    differences = [0.1, 0.02, 0.05, -0.01]
    results = [
        (Point({"preset": name}), seed, {"val": {"accuracy": 0.8 - less * differences[seed]}})
        for name, less in (("a", 0), ("b", 1))
        for seed in range(4)
    ]
    interval = ttest_1samp(-np.array(differences), 0).confidence_interval(0.95)
    low, high = (f"{100 * end:+.1f}" for end in interval)
    assert f"-4.0, 95 % interval {low} to {high}; 4 seeds" in (evidence(results, by="accuracy") or "")


@pytest.mark.slow
def test_a_finished_sweep_is_read_back_and_can_grow(swept) -> None:
    folder, results = swept
    again = sweep(sweep_of([*SHORT, *PLAIN, *VARIED, f"out={folder}"]))
    assert (again["trained"], again["table"]) == (0, results["table"])
    export = folder / "preset-coop_optim.lr-0.01_seed-2" / "prompt.safetensors"
    before = Prompt.load(export)
    export.unlink()
    assert sweep(sweep_of([*SHORT, *PLAIN, *VARIED, f"out={folder}"]))["trained"] == 1
    assert torch.allclose(Prompt.load(export).text_features, before.text_features, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_stack_goes_on(swept, tmp_path: Path, monkeypatch, caplog) -> None:
    wanted = sweep_of([*SHORT, *PLAIN, *VARIED, f"out={tmp_path / 's'}"])
    from calib.prompts.stack import PromptStackModule

    original = PromptStackModule.on_train_epoch_start

    def stopped(self) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        original(self)

    monkeypatch.setattr(PromptStackModule, "on_train_epoch_start", stopped)
    with pytest.raises(RuntimeError, match="power cut"):
        sweep(wanted)
    monkeypatch.undo()
    with caplog.at_level("INFO", logger="calib"):
        results = sweep(wanted)
    assert "Going on after epoch 2" in caplog.text
    name = "preset-calibprompt_optim.lr-0.01_seed-2"
    whole, resumed = (Prompt.load(f / name / "prompt.safetensors") for f in (swept[0], tmp_path / "s"))
    assert torch.allclose(whole.text_features, resumed.text_features, atol=1e-5)
    rows = (tmp_path / "s" / name / "logs" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    assert results["trained"] == 8


def test_a_run_that_fails_is_named_and_stops_no_other(tmp_path: Path, capsys) -> None:
    out = tmp_path / "s"
    arguments = [*SHORT, *PLAIN, "optim.lr=0.002,1e38", "optim.warmup_epochs=0", f"out={out}"]
    assert main(["sweep", *arguments]) == 1
    printed = capsys.readouterr().out
    assert "Failed: optim.lr-1e38: Training stopped in epoch" in printed
    assert "Best on the validation shots: optim.lr=0.002" in printed
    assert "No evidence" not in printed  # there is no other
    assert (out / "optim.lr-0.002" / "prompt.safetensors").is_file()
    assert not (out / "optim.lr-1e38").exists()


@pytest.mark.slow
def test_different_shots_and_batch_sizes_are_trained_side_by_side_too(tmp_path: Path, caplog) -> None:
    varied = ["data.shots=2,8", "data.batch_size=5,16", "seed=2", "trainer.accumulate_grad_batches=2"]
    with caplog.at_level("INFO", logger="calib"):
        results = sweep(sweep_of([*SHORT, *PLAIN, *varied, f"out={tmp_path / 's'}"]))
    assert results["trained"] == 4
    assert "Training 4 prompts side by side on 6 or 24 images" in caplog.text
    for shots, batch_size in ((2, 5), (8, 16)):  # 2 batches of an epoch, of up to 5
        own = [f"data.shots={shots}", f"data.batch_size={batch_size}", *varied[2:], "baselines=[]"]
        alone = tmp_path / f"alone-{shots}"
        train(load_config([*SHORT, *PLAIN, *own, f"out={alone}"], task="prompt"))
        beside = tmp_path / "s" / f"data.shots-{shots}_data.batch_size-{batch_size}"
        contexts = [Prompt.load(f / "prompt.safetensors").context for f in (alone, beside)]
        assert torch.allclose(*contexts, atol=1e-5)
        steps = [
            [row.split(",")[:2] for row in (f / "logs" / "metrics.csv").read_text().splitlines()]
            for f in (alone, beside)
        ]
        assert steps[0] == steps[1]


def test_the_runs_of_a_sweep_can_be_evaluated(swept, tmp_path: Path, capsys) -> None:
    pattern = str(swept[0] / "preset-*lr-0.002*")
    assert main(["evaluate", pattern, "baseline=coop", "n_resamples=50", f"out={tmp_path / 'e'}"]) == 0
    assert "Minus coop, paired by seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["by=ecce"], "Unknown value of by 'ecce'. Did you mean 'ece'"),
        (["stack=0"], "stack must be at least 1, got 0"),
        (["samples=many"], "samples=many"),
        (["preset=coop,smak"], "Unknown loss preset 'smak'"),
        (["data.cache=false"], "leave out data.cache=false"),
        (["data.shots=8,500"], "Class 0 .'no finding'. has 85 different images"),
        (["task=failure"], "task 'failure'"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(arguments, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(sweep_of([*arguments, *SHORT, *PLAIN, f"out={tmp_path / 's'}"]))
    assert not (tmp_path / "s").exists()


def test_the_folder_of_a_run_is_not_taken(runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the folder of a run"):
        sweep(sweep_of(["seed=1,2", f"out={runs[1]}"]))


def test_without_validation_shots_nothing_is_chosen(tmp_path: Path) -> None:
    arguments = [PLAIN[0], "data.val_shots=0", "preset=coop,ls", f"out={tmp_path / 's'}"]
    results = sweep(sweep_of([*SHORT, *arguments]))
    assert results["best"] is None
    assert results["table"].splitlines()[2].split("|")[3].strip() == "n/a"


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["trainer.max_steps=5", "trainer.limit_train_batches=0.5"])
def test_runs_that_end_by_batches_share_no_stack_with_longer_ones(setting, tmp_path: Path, caplog) -> None:
    """In a stack the longest prompt's batches count: shorter ones would be trained on others of theirs."""
    with caplog.at_level("INFO", logger="calib"):
        sweep(sweep_of([*SHORT, *PLAIN, "data.shots=8,16", setting, f"out={tmp_path / 's'}"]))
    assert caplog.text.count("Training 1 prompts side by side") == 2
    own = ["data.shots=16", setting, "baselines=[]", f"out={tmp_path / 'alone'}"]
    train(load_config([*SHORT, *PLAIN, *own], task="prompt"))
    folders = (tmp_path / "alone", tmp_path / "s" / "data.shots-16")
    contexts = [Prompt.load(f / "prompt.safetensors").context for f in folders]
    assert torch.allclose(*contexts, atol=1e-5)
    curves = [(f / "logs" / "metrics.csv").read_text().splitlines() for f in folders]
    assert [row.split(",")[:2] for row in curves[0]] == [row.split(",")[:2] for row in curves[1]]


@dataclass
class CorruptedData(DataConfig):
    corruption: str = setting("none", affects="encoding")
    seen: bool = setting(False, affects="report")


@dataclass
class CorruptedRun(PromptRun):
    data: CorruptedData = field(default_factory=CorruptedData)


def test_a_new_setting_of_the_images_divides_what_a_sweep_shares() -> None:
    plain, blurred = CorruptedRun(), CorruptedRun(data=CorruptedData(corruption="blur"))
    assert sharing_key(blurred) != sharing_key(plain)
    assert sharing_key(CorruptedRun(seed=2, data=CorruptedData(seen=True, shots=16))) == sharing_key(plain)


def test_a_run_of_a_sweep_with_a_file_of_another_run_is_refused(swept, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    shutil.copytree(swept[0], folder)
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())[:2]
    for name in ("metrics.json", "prompt.safetensors", "predictions.safetensors"):
        own = (first / name).read_bytes()
        shutil.copy(second / name, first / name)
        with pytest.raises(ForeignFileError, match=rf"{first.name}/{name} belongs to another run"):
            sweep(sweep_of([*SHORT, *PLAIN, *VARIED, f"out={folder}"]))
        (first / name).write_bytes(own)

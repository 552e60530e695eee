"""`calib calibrate`: from labelled outputs to a mapping, and from a mapping to calibrated outputs."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_shared import PLAIN, SHORT
from toy_outputs import outputs

import calib
from calib import cli
from calib.commands.calibrate import in_class_order
from calib.commands.calibrate_arguments import calibrate_arguments
from calib.commands.calibrate_words import chance_ece, weighted_ece
from calib.commands.evaluate import evaluate
from calib.commands.train import train
from calib.config import load_config
from calib.data.mapping import OutputMapping
from calib.metrics import expected_calibration_error, null_ece
from calib.posthoc import CALIBRATORS, make_calibrator
from calib.runs.validation import validation_predictions

NAMES = ["no finding", "pneumonia", "covid"]


def write(path: Path, n: int = 200, seed: int = 0, sharpness: float = 3.0, *, labelled: bool = True) -> Path:
    logits, labels = outputs(n, seed, sharpness)
    probs = logits.double().softmax(dim=1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *(f"p({name})" for name in NAMES), *(["label"] if labelled else [])])
        for i, row in enumerate(probs.tolist()):
            writer.writerow([f"{i}.png", *row, *([NAMES[labels[i]]] if labelled else [])])
    return path


def run(*arguments: object) -> int:
    return cli.main(["calibrate", *map(str, arguments)])


def test_the_winner_is_written_and_applied(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    write(tmp_path / "new.csv", 50, seed=9, labelled=False)
    assert run("val.csv", "--candidates", "temperature,svs,isotonic") == 0
    printed = capsys.readouterr().out
    assert "200 labelled rows (no finding" in printed
    assert all(f"| {name} " in printed for name in ("none", "temperature", "svs", "isotonic"))
    mapping = OutputMapping.load("calibrator.json")
    assert mapping.class_names == NAMES
    name = mapping.calibrator.name
    assert f"{name} has the lowest cross-validated NLL" in printed
    assert [
        line.split("|")[-2].strip() for line in printed.splitlines() if line.startswith(f"| {name} ")
    ] == ["x"]
    assert mapping.about["cross_validated_nll"][name] < mapping.about["cross_validated_nll"]["none"]
    assert run("calibrator.json", "--apply", "new.csv", "--out", "out.csv") == 0
    assert "50 rows, calibrated by" in capsys.readouterr().out
    with open("out.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", *(f"p({name})" for name in NAMES)]
    logits, _ = outputs(50, 9)
    expected = mapping.calibrator(logits.double().softmax(dim=1).log())
    assert np.allclose(np.array([[float(cell) for cell in row[1:]] for row in rows]), expected, atol=1e-8)
    assert [row[0] for row in rows] == [f"{i}.png" for i in range(50)]


def test_nothing_is_written_where_none_wins(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv", 60, seed=1, sharpness=1.0)
    assert run("val.csv", "--margin", "2") == 0
    assert "leave the outputs as they are" in capsys.readouterr().out
    assert not (tmp_path / "calibrator.json").exists()
    assert run("val.csv", "--method", "matrix", "--out", "mine.json") == 0
    printed = capsys.readouterr().out
    assert "matrix was asked for; cross-validation says that it does not lower the NLL" in printed
    assert OutputMapping.load("mine.json").calibrator.name == "matrix"
    assert run("val.csv", "--margin", "2", "--out", "mine.json") == 0
    assert "mine.json is of an earlier fit, and was left as it was" in capsys.readouterr().out


def test_shares_reach_the_fit_and_the_figures(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    shares = "covid=0.1,pneumonia=0.3,no finding=0.6"
    assert run("val.csv", "--method", "svs", "--shares", shares) == 0
    printed = capsys.readouterr().out
    assert "rows weighted by the shares" in printed
    mapping = OutputMapping.load("calibrator.json")
    assert mapping.about["shares"] == pytest.approx({"no finding": 0.6, "pneumonia": 0.3, "covid": 0.1})
    logits, labels = outputs(200)
    logits = logits.double().softmax(dim=1).log()
    expected = make_calibrator("svs").fit(logits, labels, shares=[0.6, 0.3, 0.1])
    assert torch.allclose(mapping.calibrator(logits), expected(logits), atol=1e-6)
    for wrong, message in (
        ("covid=0.1,pneumonia=0.3,no findings=0.6", "Unknown class 'no findings'. Did you mean 'no finding'"),
        ("covid=0.4,pneumonia=0.6", "every class once; missing: no finding"),
        ("covid=0.1,pneumonia=0.3,no finding=0.5", "sum to 1 .* sum to 0.9"),
        ("covid=0.1,covid=0.9", "expected CLASS=SHARE"),
        ("covid", "expected CLASS=SHARE"),
        ("covid=x", "expected CLASS=SHARE"),
        ("covid=-1", "expected CLASS=SHARE"),
    ):
        assert run("val.csv", "--shares", wrong) == 1
        assert re.search(message, capsys.readouterr().err)


def test_balanced_scarce_and_missing_classes_are_pointed_out(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    probs = np.full((12, 4), 0.25)
    np.savez("balanced.npz", probs=probs, labels=[0, 1, 2, 3] * 3)
    np.savez("missing.npz", probs=probs, labels=[0, 1, 2, 2] * 3)
    assert run("balanced.npz", "--method", "svs") == 0
    printed = capsys.readouterr().out
    assert "equally many rows of every class" in printed
    assert "Fewer than 10 rows: class 0, class 1, class 2, class 3" in printed
    assert run("missing.npz", "--method", "svs", "--out", "missing.json") == 0
    assert "A class without rows is learned to be rare" in capsys.readouterr().out


def test_what_cannot_be_done_is_said_before_any_work(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    for arguments, message in (
        (
            ["val.csv", "--method", "temprature"],
            "Unknown calibrator 'temprature'. Did you mean 'temperature'",
        ),
        (["val.csv", "--candidates", "svs,smss"], "Unknown calibrator 'smss'. Did you mean 'sms'"),
        (["val.csv", "--candidates", "svs", "--method", "svs"], "give one of them"),
        (["val.csv", "--weights", "w"], "--weights is for runs"),
        (["runs/mine", "--on", "val.csv", "--tokenizer", "t"], "not for --on FILE"),
        (["val.csv", "--kind", "prob"], "Did you mean 'probs'"),
        (["val.csv", "--folds", "1"], "--folds must be at least 2"),
        (["val.csv", "--margin", "nan"], "--margin must be"),
        (["val.csv", "--classes", "a,,b"], "none of them empty"),
        (["val.csv", "--apply", "val.csv"], "--apply takes a calibrator"),
        (["val.csv", "--on", "val.csv"], "--on is for runs"),
        (["val.csv", "--out", "val.csv"], "it is one of the files to read"),
        (["val.csv", "--out", "mine.csv"], "must end in .json"),
        (["val.csv", "--out", "mine.safetensors"], "a run folder, and val.csv is none"),
        (["val.csv", "--out", "notes.json"], "notes.json is not a file of a calibrator"),
        (["notes.json"], "applied with --apply FILE --out FILE"),
        (["notes.json", "--apply", "val.csv"], "--apply needs --out"),
        (
            ["notes.json", "--apply", "val.csv", "--out", "b.csv", "--method", "svs"],
            "--method: nothing is fitted",
        ),
        (["nowhere.csv"], "There is no file nowhere.csv"),
        (["nowhere"], "nowhere"),
    ):
        assert run(*arguments) == 1, arguments
        assert message in capsys.readouterr().err, arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.json", "val.csv"]


def test_labelled_rows_are_compared_before_and_after(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    write(tmp_path / "new.csv", 50, seed=9)
    assert run("val.csv", "--method", "temperature") == 0
    capsys.readouterr()
    apply = ("calibrator.json", "--out", "out.csv", "--apply")
    assert run(*apply, "new.csv") == 0
    printed = capsys.readouterr().out
    assert "50 labelled rows of new.csv; ECE with 10 bins" in printed
    logits, labels = outputs(50, 9)
    before = logits.double().softmax(dim=1)
    after = OutputMapping.load("calibrator.json").calibrator(before.log())
    away = []
    for name, probs in (("before", before), ("after", after)):
        confidence, predictions = probs.max(dim=1)
        loss = -probs.gather(1, labels[:, None])[:, 0].log()
        away.append(loss)
        wanted = [
            f"{100 * (predictions == labels).double().mean():.1f}",
            f"{loss.mean():.4f}",
            f"{100 * expected_calibration_error(confidence, predictions == labels):.1f} "
            f"({100 * null_ece(confidence):.1f})",
        ]
        line = next(line for line in printed.splitlines() if line.startswith(f"| {name} "))
        assert [cell.strip() for cell in line.split("|")[2:-1]] == wanted
    moved = away[1] - away[0]
    error = float(moved.std() / 50**0.5)
    assert f"{moved.mean():+.4f} ± {error:.4f} (standard error), less is better." in printed
    assert run(*apply, "val.csv") == 0
    assert "These are the rows it was fitted to" in capsys.readouterr().out
    # a column by another name, half of it empty; then one that holds no classes
    text = Path("new.csv").read_text(encoding="utf-8").splitlines()
    half = [
        text[0].replace("label", "dx"),
        *text[1:26],
        *(line.rpartition(",")[0] + "," for line in text[26:]),
    ]
    Path("half.csv").write_text("\n".join(half), encoding="utf-8")
    assert run(*apply, "half.csv") == 0
    assert "labelled rows" not in capsys.readouterr().out
    assert run(*apply, "half.csv", "--label", "dx") == 0
    assert "25 labelled rows of half.csv" in capsys.readouterr().out
    Path("odd.csv").write_text("\n".join([text[0], text[1] + "x"]), encoding="utf-8")
    assert run(*apply, "odd.csv") == 0
    assert re.search(r"Not compared with the labels: .*Unknown class", capsys.readouterr().out)
    np.savez("new.npz", logits=logits.double().numpy(), labels=labels.numpy(), class_names=NAMES)
    assert run("calibrator.json", "--apply", "new.npz", "--out", "out.npz") == 0
    assert "50 labelled rows of new.npz" in capsys.readouterr().out


def test_what_was_not_seen_and_what_is_noise_is_said(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    logits = 3 * torch.eye(3).repeat(10, 1).numpy()
    np.savez("right.npz", logits=logits, labels=[0, 1, 2] * 10)
    np.savez("wrong.npz", logits=logits, labels=[1, 1, 2] + [0, 1, 2] * 9)
    warning = "No prediction is wrong: what makes one wrong was not seen."
    for name, said in (("right", True), ("wrong", False)):
        assert run(f"{name}.npz", "--method", "temperature_prior", "--out", f"{name}.json") == 0
        assert (warning in capsys.readouterr().out) is said
    write(tmp_path / "val.csv", 60, seed=1, sharpness=1.0)
    assert run("val.csv", "--method", "temperature_prior") == 0
    printed = capsys.readouterr().out
    cell = next(line for line in printed.splitlines() if line.startswith("| temperature_prior"))
    mean, error = map(float, cell.split("|")[3].split("±"))
    assert abs(mean) < error
    assert "within noise (less than one standard error)" in printed


def test_chance_is_that_of_a_calibrated_model_where_the_shares_are() -> None:
    logits, _ = outputs(300)
    probs = logits.double().softmax(dim=1)
    assert chance_ece(probs, torch.zeros(300).long(), torch.ones(300), 10) == float(
        null_ece(probs.max(dim=1).values)
    )
    # of many rows with one confidence, chance is a normal deviate: E |gap| = sqrt(2 / pi) sd
    row, weight = torch.tensor([0.8, 0.2], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    labels = torch.tensor([0, 1] * 500)
    drawn = row / weight / (row / weight).sum()  # what a row's label is among the labelled ones
    gap = torch.tensor([0.2, -0.8]) * weight
    spread = float((drawn * gap**2).sum() ** 0.5) / float((drawn * weight).sum())
    found = chance_ece(row.repeat(1000, 1), labels, weight[labels], 10)
    assert found == pytest.approx((2 / torch.pi) ** 0.5 * spread / 1000**0.5, rel=0.1)


def test_classes_and_candidates_are_those_that_were_named() -> None:
    assert calibrate_arguments(["a.csv"]).shares is None
    assert calibrate_arguments(["a.csv", "--candidates", "all"]).candidates == [*CALIBRATORS]


def test_rows_of_equal_weight_have_the_ece_of_the_metrics() -> None:
    logits, labels = outputs(100)
    probs = logits.double().softmax(dim=1)
    confidence, predictions = probs.max(dim=1)
    plain = float(expected_calibration_error(confidence, predictions == labels, n_bins=10))
    assert weighted_ece(probs, labels, torch.ones(100), 10) == pytest.approx(plain, abs=1e-12)
    twice = torch.cat([torch.arange(100), (labels == 1).nonzero()[:, 0]])
    repeated = float(expected_calibration_error(confidence[twice], (predictions == labels)[twice], n_bins=10))
    weights = torch.ones(100).double() + (labels == 1)
    assert weighted_ece(probs, labels, weights, 10) == pytest.approx(repeated, abs=1e-12)
    assert in_class_order({"c": 0.2, "a_b": 0.8}, ["a b", "c"]).tolist() == [0.8, 0.2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    train(load_config([*SHORT, *PLAIN, "baselines=[]", f"out={folder}"], task="prompt"))
    return folder


def test_a_run_is_calibrated_on_its_validation_images(
    trained: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = validation_predictions(trained)
    assert torch.bincount(found.labels).tolist() == [4, 4, 4]
    assert run(trained, "--method", "temperature_prior") == 0
    assert "12 labelled rows" in capsys.readouterr().out
    mapping = OutputMapping.load("calibrator.json")
    expected = make_calibrator("temperature_prior").fit(found.logits, found.labels)
    assert mapping.calibrator.parameters == expected.parameters
    # the run's test predictions are outputs, and so is a table of other images with another class order
    predictions = trained / "predictions.safetensors"
    assert run("calibrator.json", "--apply", predictions, "--out", "test.npz") == 0
    with np.load("test.npz") as arrays:
        assert arrays["probs"].shape == (545, 3)
    names = mapping.class_names
    with open("other.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["label", *(f"logit({n})" for n in names[::-1])],
                [names[0], 0, 1, 3],
                [names[2], 2, 1, 0],
                [names[1], 5, 0, 0],
            ]
        )
    assert run(trained, "--on", "other.csv", "--method", "temperature_prior", "--out", "other.json") == 0
    assert OutputMapping.load("other.json").class_names == names
    expected = make_calibrator("temperature_prior").fit(
        torch.tensor([[3.0, 1, 0], [0, 1, 2], [0, 0, 5]]), torch.tensor([0, 2, 1])
    )
    assert OutputMapping.load("other.json").calibrator.parameters == expected.parameters
    for words, message in (
        (("--classes", "a,b"), "the classes are those of the run"),
        (("--label", "y", "--kind", "probs"), "--kind, --label: no file is read here"),
    ):
        assert run(trained, *words) == 1
        assert message in capsys.readouterr().err


def test_the_prompt_of_a_run_is_exported_calibrated(
    trained: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen, plain = validation_predictions(trained), calib.load(trained)
    for method in ("vector", "temperature_prior"):
        assert run(trained, "--method", method, "--out", f"{method}.safetensors") == 0
        assert f"with {method} in it" in capsys.readouterr().out
        ours = calib.load(f"{method}.safetensors")
        expected = make_calibrator(method).fit(seen.logits, seen.labels)(seen.logits)
        found = ours.in_order(seen.class_names).logits(seen.image_features).double().softmax(dim=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(ours.text_features, plain.text_features)
    config = load_config(["out=e", "n_resamples=20", f"baseline={plain.training['method']}"], task="evaluate")
    config.runs = [str(trained), "vector.safetensors", "temperature_prior.safetensors"]
    names = [name for name in evaluate(config)["methods"] if "+" in name]
    assert names == ["calibprompt + vector", "calibprompt + temperature_prior"]
    # what is no linear map gets a file of its own, and a calibrated prompt is calibrated again
    assert run("vector.safetensors", "--method", "isotonic", "--out", "x.safetensors") == 0
    assert "isotonic is no linear map of logits" in capsys.readouterr().out
    assert calib.load("x.json").calibrator.name == "isotonic"
    assert not Path("x.safetensors").exists()


def test_a_fit_to_other_outputs_is_not_replaced(trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    write(tmp_path / "other.csv", seed=3)
    assert run("val.csv", "--method", "svs") == 0
    first = Path("calibrator.json").read_bytes()
    assert run("other.csv", "--method", "svs") == 1
    assert "calibrator.json is fitted to other outputs: name another" in capsys.readouterr().err
    assert Path("calibrator.json").read_bytes() == first
    assert run("val.csv", "--method", "temperature") == 0  # the same outputs: that fit is replaced
    assert calib.load("calibrator.json").calibrator.name == "temperature"
    mine = trained / "prompt.safetensors"
    before = mine.read_bytes()
    assert run(trained, "--method", "temperature", "--out", mine) == 1
    assert "a prompt that no outputs have calibrated" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_a_run_without_validation_images_asks_for_others(trained: Path, capsys, monkeypatch) -> None:
    from calib.prompts.export import Prompt

    load = Prompt.load

    def changed(**settings: object) -> None:
        def without(path: Path) -> Prompt:
            prompt = load(path)
            prompt.training["config"]["data"] |= settings.get("data", {})
            prompt.training |= {k: v for k, v in settings.items() if k != "data"}
            return prompt

        monkeypatch.setattr(Prompt, "load", without)

    for settings, message in (
        ({"data": {"val_shots": 0}}, "data.val_shots=0.*--on FILE"),
        ({"split": "0" * 64}, "data have changed.*--on FILE"),
        ({"seed": None}, "does not say which images.*--on FILE"),
    ):
        changed(**settings)
        with pytest.raises(ValueError, match=message):
            validation_predictions(trained)


@pytest.mark.parametrize("option", ["folds", "seed", "margin", "bins", "method"])
def test_what_only_fitting_uses_is_refused_beside_apply(option: str) -> None:
    value = "svs" if option == "method" else "3"
    words = ["calibrator.json", "--apply", "new.csv", "--out", "o.csv", f"--{option}", value]
    with pytest.raises(ValueError, match=rf"^--{option}: nothing is fitted with --apply"):
        calibrate_arguments(words)

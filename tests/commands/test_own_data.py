"""The guide docs/own_data.md: its settings, table and commands, run on a made-up clinic of DICOM files."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, write_dicom

from calib.cli import main
from calib.commands.registry import COMMANDS
from calib.config import load_config

pytest.importorskip("pydicom")

GUIDE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
LABELS = ("clear", "opacity")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]


def scan(path: Path, number: int, label: int, patient: int) -> None:
    """Write a 12-bit picture of two dark fields, with a spot in one of them: a bright one in class 1."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[:96, :96]
    fields = sum(np.exp(-((((x - side) / 15) ** 2 + ((y - 48) / 28) ** 2) ** 2)) for side in (28, 68))
    spot = np.exp(-(((x - draw.integers(22, 34)) / 8) ** 2 + ((y - draw.integers(30, 66)) / 8) ** 2))
    bright = draw.uniform(900, 1800) if label else draw.uniform(0, 400)
    grey = 2600 - 1900 * fields + bright * spot + draw.normal(0, 150, (96, 96))
    pixels = grey.clip(300, 3600).astype(np.uint16)
    write_dicom(path, pixels, patient=f"{SECRETS[1]}-{patient}", BitsStored=12, HighBit=11)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the guide describes it: 60 labelled scans in a table, 50 of a month, 12 new ones."""
    root = tmp_path_factory.mktemp("own_data")
    rows = []
    for number in range(60):
        label, split = number % 2, "train" if number < 32 else "test"
        name = f"scans/{number:04}.dcm"
        scan(root / "clinic" / name, number, label, number // 2)
        rows.append(f"{name},{LABELS[label]},{split}")
    (root / "clinic" / "cases.csv").write_text("\n".join([blocks("csv")[0].splitlines()[0], *rows]) + "\n")
    for number in range(62):
        folder = "month" if number < 50 else "new"
        scan(root / "clinic" / folder / f"{number:04}", 1000 + number, number % 2, 500 + number)
    (root / "mine.yaml").write_text(blocks("yaml")[0])
    return root


def test_the_guide_names_commands_and_settings_that_there_are(tmp_path: Path) -> None:
    assert [words[:2] for words in commands()] == [
        ["calib", each] for each in ("data", "train", "predict", "review", "predict", "report")
    ]
    assert all(words[1] in COMMANDS for words in commands())
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    config = load_config([str(tmp_path / "mine.yaml")], task="prompt")
    assert config.data.options["window"] == [2048.0, 4096.0]
    assert len(config.data.class_names) == len(LABELS)


@pytest.mark.slow
def test_the_guide_leads_to_a_reviewed_and_reported_model(clinic: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(clinic)
    for words in commands():
        if words[1] == "review":
            label_the_month()
        assert main(words[1:]) == 0, words
        print(f"$ {shlex.join(words)}\n{''.join(capsys.readouterr())}")
    assert Path("shots.png").stat().st_size > 5000
    metrics = json.loads(Path("runs/clinic/metrics.json").read_text())
    assert metrics["test"]["n"] == 28
    decided = list(csv.DictReader(Path("decisions.csv").read_text().splitlines()))
    assert len(decided) == 12
    assert {row["decision"] for row in decided} <= {"accept", "review"}
    assert "<html" in Path("runs/clinic/report.html").read_text()[:500]
    for path in [*Path().glob("*.*"), *Path("runs").rglob("*.*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in SECRETS if secret.encode() in content], path


def label_the_month() -> None:
    """Add the column `label`, as a person would."""
    rows = list(csv.DictReader(Path("month.csv").read_text().splitlines()))
    assert len(rows) == 50
    names = ("no opacity", "lung opacity")
    with Path("month_labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerows({**row, "label": names[int(Path(row["file"]).name) % 2]} for row in rows)

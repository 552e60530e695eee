"""A run on DICOM files: trained, judged, reported and predicted with, and nothing of a header in any file."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, write_dicom
from tests_shared import SHORT

from calib.cli import main
from calib.data.predictions import Predictions

pytest.importorskip("pydicom")


def test_no_header_field_reaches_any_file(tmp_path: Path, tiny: str, monkeypatch, capsys, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("clear lung", "opaque lung")):
            for number in range(4):
                pixels = (draw.integers(0, 900, (12, 10)) + 1500 * label).astype(np.uint16)
                write_dicom(
                    tmp_path / "images" / split / name / f"{number}.dcm",
                    pixels,
                    patient=f"{SECRETS[1]}{split}{label}{number}",
                    BitsStored=12,
                    HighBit=11,
                )
    settings = ["data.name=folder", "data.root=images", "data.shots=3", "baselines=[]", tiny, "out=run"]
    assert main(["train", *SHORT, *settings]) == 1
    assert "data.options.window=[" in capsys.readouterr().err
    assert main(["train", *SHORT, *settings, "data.options.window=[1200,2400]"]) == 0
    assert main(["report", "run"]) == 0
    images = "images/test/opaque lung"
    assert main(["predict", "run", images, "--out", "as_trained.csv"]) == 0
    assert main(["predict", "run", images, "--window", "1200,2400", "--out", "same.csv"]) == 0
    assert main(["predict", "run", images, "--window", "1200,9999", "--out", "other.csv"]) == 0
    trained, same, other = (Path(f"{name}.csv").read_text() for name in ("as_trained", "same", "other"))
    assert trained == same != other
    rows = list(csv.DictReader(trained.splitlines()))
    assert len({row["patient"] for row in rows}) == len(rows) == 4
    assert all(re.fullmatch(r"patient-[0-9a-f]{12}", row["patient"]) for row in rows)
    assert main(["predict", "run", images, "--patients", "none", "--out", "same.csv"]) == 0
    assert "patient" not in Path("same.csv").read_text()
    found = Predictions.load("run/predictions.safetensors")
    assert found.groups is not None
    assert all(re.fullmatch(r"patient-[0-9a-f]{12}", group) for group in found.groups)
    said = caplog.text + "".join(capsys.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert len(written) > 10
    for secret in SECRETS:
        assert secret not in said
        assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_a_window_that_is_none_is_wrong_usage(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "run", "x.dcm", "--window", "40"])
    assert "--window: expected CENTRE,WIDTH, e.g. 40,400, not '40'" in capsys.readouterr().err

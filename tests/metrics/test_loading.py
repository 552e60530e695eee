"""`import calib.metrics` is light; the torchmetrics classes come when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import calib.metrics

CODE = """
import sys
import calib.metrics
heavy = {"torchmetrics", "lightning"}
assert not heavy & sys.modules.keys()
calib.metrics.summarize, calib.metrics.interval_statistic, calib.metrics.auroc
assert not heavy & sys.modules.keys()
from calib.metrics import CalibrationError
assert "torchmetrics" in sys.modules
"""


def test_only_the_classes_load_torchmetrics():
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_the_names_are_there_for_completion_and_a_wrong_one_is_not():
    listed = dir(calib.metrics)
    assert {"CalibrationError", "metric_collection", "METRICS", "accuracy"} <= set(listed)
    assert all(getattr(calib.metrics, name) is not None for name in listed if not name.startswith("_"))
    with pytest.raises(AttributeError, match=r"'calib\.metrics' has no attribute 'CalibrationEror'"):
        calib.metrics.CalibrationEror  # noqa: B018

"""The names of `calib.metrics`; what they load stands in `test_imports.py`."""

from __future__ import annotations

import pytest

import calib.metrics


def test_the_names_are_there_for_completion_and_a_wrong_one_is_not():
    listed = dir(calib.metrics)
    assert {"CalibrationError", "metric_collection", "METRICS", "accuracy"} <= set(listed)
    assert all(getattr(calib.metrics, name) is not None for name in listed if not name.startswith("_"))
    with pytest.raises(AttributeError, match=r"'calib\.metrics' has no attribute 'CalibrationEror'"):
        calib.metrics.CalibrationEror  # noqa: B018

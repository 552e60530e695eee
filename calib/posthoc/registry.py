"""The calibrators by name, and how one is made of its name or of its record."""

from __future__ import annotations

from typing import Any

from calib.core.errors import unknown_name
from calib.posthoc.binning import BetaCalibration, HistogramBinning, IsotonicCalibration
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.linear import MatrixScaling, PlattScaling, VectorScaling
from calib.posthoc.records import check_record
from calib.posthoc.scaling import TemperatureMix, TemperatureScaling, TemperatureWithPrior
from calib.posthoc.structured import (
    DirichletCalibration,
    StructuredMatrixScaling,
    StructuredVectorScaling,
)
from calib.posthoc.zero_shot import DistanceAwareCalibration

# What is fitted to labelled outputs, from few parameters to many. The order is that of tables.
CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": TemperatureScaling,
    "temperature_prior": TemperatureWithPrior,
    "ts_mix": TemperatureMix,
    "platt": PlattScaling,
    "beta": BetaCalibration,
    "vector": VectorScaling,
    "svs": StructuredVectorScaling,
    "sms": StructuredMatrixScaling,
    "dirichlet": DirichletCalibration,
    "matrix": MatrixScaling,
    "isotonic": IsotonicCalibration,
    "histogram": HistogramBinning,
}


def make_calibrator(name: str) -> Calibrator:
    """Return the calibrator of that name with its default settings, not fitted.

    Args:
        name: A key of CALIBRATORS.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> make_calibrator("temperature").keeps_argmax, make_calibrator("vector").keeps_argmax
        (True, False)
    """
    if name not in CALIBRATORS:
        raise unknown_name("calibrator", name, CALIBRATORS)
    return CALIBRATORS[name]()


def calibrator_from_record(record: Any) -> Calibrator:
    """Return the calibrator that a record is of, checked; see `Calibrator.from_record`.

    Args:
        record: What was read from a file.

    Raises:
        ValueError: The record is not as `to_record` writes it, or of an unknown calibrator.

    Example:
        >>> import torch
        >>> fitted = make_calibrator("temperature_prior").fit(torch.tensor([[4.0, 0.0]]), torch.tensor([0]))
        >>> calibrator_from_record(fitted.to_record()).parameters == fitted.parameters
        True
    """
    known: dict[str, type[Calibrator]] = {
        **CALIBRATORS,
        DistanceAwareCalibration.name: DistanceAwareCalibration,
    }
    name = check_record(record)["name"]
    if name not in known:
        raise unknown_name("calibrator", name, known)
    return known[name].from_record(record)

"""What makes confidences right: calibrators of any labelled outputs, and calibration from the shots alone."""

from calib.core.rooms import offered
from calib.posthoc.binning import BetaCalibration, HistogramBinning, IsotonicCalibration
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.choice import Candidate, Choice, choose_calibrator
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.decisions import Decisions
from calib.posthoc.familiarity import Familiarity
from calib.posthoc.few_shot_conformal import FullConformal
from calib.posthoc.linear import MatrixScaling, PlattScaling, VectorScaling
from calib.posthoc.registry import CALIBRATORS, calibrator_from_record, make_calibrator
from calib.posthoc.review import ReviewThreshold
from calib.posthoc.review_counts import CurvePoint
from calib.posthoc.scaling import (
    TemperatureMix,
    TemperatureScaling,
    TemperatureWithPrior,
    fit_temperature,
)
from calib.posthoc.set_scores import SETS
from calib.posthoc.shot_parts import ShotCalibration, ShotPriors, Shots
from calib.posthoc.shots import calibrate_from_shots
from calib.posthoc.structured import (
    DirichletCalibration,
    StructuredMatrixScaling,
    StructuredVectorScaling,
)
from calib.posthoc.transductive_sets import TransductiveSets
from calib.posthoc.two_signal import TwoSignalPlatt
from calib.posthoc.zero_shot import DistanceAwareCalibration, sample_adaptive_scaling


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())

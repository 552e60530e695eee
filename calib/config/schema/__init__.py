"""What can be set, with defaults: one dataclass per task of the commands and per group of settings.

What a setting affects, and which values it may have, stand beside its default (see `setting`) and nowhere
else.
"""

from calib.config.schema.evaluate import EvaluateRun, MovedConfig
from calib.config.schema.failure import EmbeddingsConfig, FailureLossConfig, FailureRun, HeadConfig
from calib.config.schema.parts import (
    READER_OPTIONS,
    TRAINER_KEYS,
    BackboneConfig,
    DataConfig,
    LogConfig,
    OptimConfig,
)
from calib.config.schema.prompt import CalibrateConfig, ParityConfig, PromptConfig, PromptRun
from calib.config.schema.report import ReportRun
from calib.config.schema.robustness import RobustnessRun
from calib.config.schema.segment import NetworkConfig, PixelDataConfig, SegmentRun
from calib.config.schema.select import PoolConfig, SelectRun
from calib.config.schema.setting import Affects, Setting, setting, setting_of

SCHEMAS: dict[str, type] = {
    "prompt": PromptRun,
    "failure": FailureRun,
    "evaluate": EvaluateRun,
    "report": ReportRun,
    "segment": SegmentRun,
    "robustness": RobustnessRun,
    "select": SelectRun,
}
TRAINED = ("prompt", "failure", "segment")  # tasks of train.py

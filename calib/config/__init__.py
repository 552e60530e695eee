"""Run settings: dataclasses are the schema, YAML files the values, `key=value` arguments the last word.

`load_config(["configs/prompt.yaml", "data.shots=16"])` merges from left to right over the defaults of
`calib.config.schema`. Unknown keys and wrong types are refused with the nearest known key; nothing is
imported by a dotted path from a YAML file.
"""

from calib.config.given import given
from calib.config.keys import dataclass_of, find_setting, keys_of, leaves
from calib.config.loading import (
    check_config,
    from_dict,
    load_config,
    part_from_dict,
    split_arguments,
    task_of,
    to_dict,
    to_yaml,
)
from calib.config.pipes import handed_on
from calib.config.ranges import check_trainer_bounds
from calib.config.schema import (
    SCHEMAS,
    Affects,
    BackboneConfig,
    DataConfig,
    EvaluateRun,
    FailureLossConfig,
    FailureRun,
    LogConfig,
    PoolConfig,
    PromptConfig,
    PromptRun,
    ReportRun,
    RobustnessRun,
    SegmentRun,
    SelectRun,
    Setting,
    setting_of,
)

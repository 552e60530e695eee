"""Data: readers of image folders, tables and named data sets, few-shot draws, cached features, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.data.encode import cache_features, encode_table
from calib.data.features import FeatureTable
from calib.data.few_shot import FewShotSplit, few_shot_split
from calib.data.overlap import OverlapReport, check_overlap
from calib.data.records import ImageRecord, ImageTable
from calib.data.specs import DATASETS, DatasetSpec, load_data
from calib.data.task import TaskData

if TYPE_CHECKING:
    from calib.data.datamodule import FewShotDataModule

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "FeatureTable",
    "FewShotDataModule",
    "FewShotSplit",
    "ImageRecord",
    "ImageTable",
    "OverlapReport",
    "TaskData",
    "cache_features",
    "check_overlap",
    "encode_table",
    "few_shot_split",
    "load_data",
]


def __getattr__(name: str) -> Any:
    """Return the data module, whose import of Lightning takes seconds, when it is asked for."""
    if name == "FewShotDataModule":
        from calib.data.datamodule import FewShotDataModule

        return FewShotDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

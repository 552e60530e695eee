"""Settings of `calib segment`: images with a class per pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib.config.schema.parts import READER_OPTIONS, TRAINER_KEYS, LogConfig, OptimConfig
from calib.config.schema.setting import SEEDS, Setting, setting

TABLE_OPTIONS = ("allow_outside", "columns", "delimiter", "grey16_max", "skip_splits", "table")


@dataclass
class PixelDataConfig:
    """Which images and masks; see calib.segmentation.tables.load_pixels.

    Attributes:
        root: A folder with train/images and train/masks (likewise val, test; masks are called as their
            images), or with a table, or a table (CSV, TSV, Parquet) with the columns file, mask, split and
            perhaps group.
        classes: Name to the value of its pixels in masks, a list of values, or a colour, the background
            first: 'data.classes={background: 0, nucleus: [1, 2]}'. {}: every value of the training masks is a
                class.
        size: Side in pixels of the square that images are stretched to for the network; they are judged at
            their own size.
        batch_size: Images per training step.
        augment: Turn by quarters and mirror, each epoch anew.
        options: Further settings of the reader: table (which one in the folder), columns (e.g.
            data.options.columns.mask=label_map), delimiter, skip_splits, allow_outside, grey16_max.
    """

    root: str | None = setting(None, affects="draw", place=True)
    classes: dict[str, Any] = setting({}, affects="draw")
    size: int = setting(128, affects="training", at_least=8)
    batch_size: int = setting(8, affects="training", at_least=1)
    augment: bool = setting(True, affects="training")
    options: dict[str, Any] = setting(
        {},
        affects="draw",
        keys={name: Setting(affects="draw", kind=READER_OPTIONS[name]) for name in TABLE_OPTIONS},
    )


@dataclass
class NetworkConfig:
    """The network, one of MONAI's.

    Attributes:
        name: unet or segresnet.
        channels: Width of each level; from one to the next the image is halved. Of segresnet they double.
    """

    name: str = setting("unet", affects="training", one_of=("unet", "segresnet"))
    channels: list[int] = setting([16, 32, 64, 128], affects="training")


@dataclass
class SegmentRun:
    """Settings of `calib segment`: train a small network on images and masks, and say how calibrated it is.

    Attributes:
        task: Always "segment".
        seed: Starts the network, orders and turns the images.
        out: Run folder. None: runs/segment-<data>-<preset>-s<seed>, and six digits if other settings differ
            from their defaults.
        preset: The losses: dice-ce, ce, dice; for calibration dice-ce-ace (mL1-ACE with hard bins),
            dice-ce-ace-soft, ce-ace, dice-ace; or none. mL1-ACE lowers the calibration error of images, and
            may unlearn a rare kind of them: compare with dice-ce (calib segment evaluate).
        loss: Changes to the preset, e.g. loss.ml1_ace.weight=0.3; a weight of 0 drops a loss.
        data: The images and masks.
        network: The network.
        optim: Its optimiser.
        trainer: Handed to lightning.Trainer as it is. trainer.devices=N trains the same on N devices.
        log: Where the curves go.
        calibrate: "temperature": fit one to pixels of the validation images after the training, and keep it
            in the export. "none".
        n_bins: Bins of ACE, ECE and MCE.
        n_resamples: Bootstrap resamples of the intervals, of images or of groups where these are known.
        level: Coverage of the intervals.
        resume: Go on with an interrupted run of the same settings in `out`.
        overwrite: Throw away the run in `out` and train anew.
    """

    task: str = setting("segment", affects="training")
    seed: int = setting(1, affects="draw", at_least=0, below=SEEDS, shown=True)
    out: str | None = setting(None, affects="nothing")
    preset: str = setting("dice-ce", affects="training", shown=True)
    loss: dict[str, dict[str, Any]] = setting({}, affects="training")
    data: PixelDataConfig = field(default_factory=PixelDataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(name="adamw", lr=0.001, weight_decay=1e-4))
    trainer: dict[str, Any] = setting({"max_epochs": 50}, affects="training", keys=TRAINER_KEYS)
    log: LogConfig = field(default_factory=LogConfig)
    calibrate: str = setting("none", affects="training", one_of=("none", "temperature"))
    n_bins: int = setting(20, affects="report", at_least=1)
    n_resamples: int = setting(2000, affects="report", at_least=1)
    level: float = setting(0.95, affects="report", above=0, below=1)
    resume: bool = setting(True, affects="nothing")
    overwrite: bool = setting(False, affects="nothing")

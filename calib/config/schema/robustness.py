"""Settings of `calib robustness`."""

from __future__ import annotations

from dataclasses import dataclass, field

from calib.config.schema.evaluate import MovedConfig
from calib.config.schema.parts import DataConfig
from calib.config.schema.setting import SEEDS, setting


@dataclass
class RobustnessRun:
    """Settings of `calib robustness`: what shifts and corruptions of images do to finished runs.

    Attributes:
        task: Always "robustness".
        runs: Run folders (prompts with their baselines, failure runs) or prompt.safetensors files. On the
            command line, arguments that are such paths.
        out: Folder of the results. None: runs/robustness-<run>, and the column of shift_by.
        data: The data set. `data.name` left out: the runs' own. Corruptions need images (data.root=IMAGES).
        split: Which split is judged: test or val (the data set's own validation split).
        backbone: Where the backbone's files are now.
        corruptions: Which ones: blur, noise, brightness, contrast, jpeg, pixelation, stain, colour, shadow,
            vignetting, motion. None: all, without those of colour where images are grey. []: none.
        severities: From 1 (mild) to 5 (strong); [1,2,3,4,5] takes longer.
        shift_by: A column of the data's table or of `metadata` (site, scanner, stain), or several with commas
            between: images with usual values against others. None: no real shift.
        usual: The usual values of these columns. []: those of the images the run was trained on.
        metadata: A table (CSV, TSV, Parquet) with a column name, file or id of the images and those of
            shift_by. None: the table the data were read from.
        least: Images of a value, below which it is not judged by itself.
        images: Judge at most this many images, drawn by content with whole groups. None: all.
        n_bins: Bins of ECE.
        n_resamples: Bootstrap resamples of the intervals.
        level: Coverage of the intervals.
        seed: Of the bootstrap and of the shuffles of sanity baselines.
    """

    task: str = setting("robustness", affects="report")
    runs: list[str] = setting([], affects="report")
    out: str | None = setting(None, affects="nothing")
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    split: str = setting("test", affects="encoding")
    backbone: MovedConfig = field(default_factory=MovedConfig)
    corruptions: list[str] | None = setting(None, affects="encoding")
    severities: list[int] = setting([1, 3, 5], affects="encoding")
    shift_by: str | None = setting(None, affects="report")
    usual: list[str] = setting([], affects="report")
    metadata: str | None = setting(None, affects="report")
    least: int = setting(20, affects="report", at_least=2)
    images: int | None = setting(None, affects="encoding", at_least=2)
    n_bins: int = setting(10, affects="report", at_least=1)
    n_resamples: int = setting(1000, affects="report", at_least=1)
    level: float = setting(0.95, affects="report", above=0, below=1)
    seed: int = setting(0, affects="report", at_least=0, below=SEEDS)

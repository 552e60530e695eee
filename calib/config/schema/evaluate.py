"""Settings of `evaluate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from calib.config.schema.parts import DataConfig
from calib.config.schema.setting import SEEDS, setting


@dataclass
class MovedConfig:
    """Where the files of a prompt's backbone are, if not where they were at training.

    Attributes:
        weights: The weights. None: where the export says.
        tokenizer: Folder or vocab.txt of a BERT text tower. None: where the export says.
    """

    weights: str | None = setting(None, affects="nothing")
    tokenizer: str | None = setting(None, affects="nothing")


@dataclass
class EvaluateRun:
    """Settings of `evaluate.py`: apply exported prompts to a data set and compare them.

    Attributes:
        task: Always "evaluate".
        runs: Run folders or prompt.safetensors files. On the command line, arguments that are such paths.
        out: Folder of the results. None: runs/evaluation.
        data: The data set. `data.name` left out: each run's own.
        split: Which split to evaluate: test or val (the data set's own validation split).
        backbone: Where the backbone's files are now.
        baseline: The method the others are compared with, by its name in the table. None: no comparison.
        report: Write report.html as well, see `calib report`.
        names: Whether names of files and groups may stand in the report.
        images: Whether thumbnails of single cases stand in it, where the images are at hand.
        n_bins: Bins of ECE and its kin.
        n_resamples: Bootstrap resamples of the intervals.
        level: Coverage of the intervals.
        seed: Of the bootstrap.
        json: What was found is said as JSON on standard output, instead of in sentences; also --json.
    """

    task: str = setting("evaluate", affects="report")
    runs: list[str] = setting([], affects="report")
    out: str | None = setting(None, affects="nothing")
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    split: str = setting("test", affects="encoding")
    backbone: MovedConfig = field(default_factory=MovedConfig)
    baseline: str | None = setting(None, affects="report")
    report: bool = setting(True, affects="report")
    names: bool = setting(True, affects="report")
    images: bool = setting(True, affects="report")
    n_bins: int = setting(10, affects="report", at_least=1)
    n_resamples: int = setting(2000, affects="report", at_least=1)
    level: float = setting(0.95, affects="report", above=0, below=1)
    seed: int = setting(0, affects="report", at_least=0, below=SEEDS)
    json: bool = setting(False, affects="nothing")

"""Settings of `calib report`."""

from __future__ import annotations

from dataclasses import dataclass, field

from calib.config.schema.parts import DataConfig
from calib.config.schema.setting import SEEDS, setting


@dataclass
class ReportRun:
    """Settings of `calib report`: one page on finished runs, and its tables as files.

    Attributes:
        task: Always "report".
        runs: Finished run folders (several seeds, several methods), one failure run, one folder of an
            evaluation, or files predictions.safetensors. On the command line, arguments that are such paths.
        out: The page, FILE.html; tables lie beside it as .json, .csv and .md. None: report.html in the folder
            of the first run.
        title: Its heading. None: the method and the data.
        names: Whether names of files and groups may stand on the page.
        images: Whether thumbnails of single cases stand on it, where the images are at hand.
        slices: A CSV file with a column name (or id) and further columns (site, scanner, sex): a table for
            each. None: no subgroups.
        main: The method that is reported, by its name in the tables. None: the first run's.
        baseline: The method the others are compared with. None: zero-shot where it is there.
        data: Where the images are now, if not where they were (data.root=IMAGES).
        n_bins: Bins of reliability and ECE.
        n_resamples: Bootstrap resamples of the intervals.
        level: Coverage of the intervals.
        seed: Of the bootstrap.
        json: What was found is said as JSON on standard output, instead of in sentences; also --json.
    """

    task: str = setting("report", affects="report")
    runs: list[str] = setting([], affects="report")
    out: str | None = setting(None, affects="nothing")
    title: str | None = setting(None, affects="report")
    names: bool = setting(True, affects="report")
    images: bool = setting(True, affects="report")
    slices: str | None = setting(None, affects="report")
    main: str | None = setting(None, affects="report")
    baseline: str | None = setting(None, affects="report")
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    n_bins: int = setting(10, affects="report", at_least=1)
    n_resamples: int = setting(2000, affects="report", at_least=1)
    level: float = setting(0.95, affects="report", above=0, below=1)
    seed: int = setting(0, affects="report", at_least=0, below=SEEDS)
    json: bool = setting(False, affects="nothing")

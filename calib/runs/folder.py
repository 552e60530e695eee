"""The folder of one run: belongs to one configuration, is continued or refused, never mixed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib.config import FailureRun, PromptRun, SegmentRun, load_config, task_of, to_yaml
from calib.core.errors import FINISHED, unknown_name
from calib.io.files import (
    MARK,
    blocking_file,
    check_sealed_text,
    kept,
    read_json,
    remove_unfinished,
    sealed_text,
    write_json,
    write_text,
)
from calib.io.locks import BusyError, holds_nothing, is_held, locked
from calib.runs.identity import describe_differences
from calib.runs.marks import check_file, checked_mark, data_differences, mark_in, record_in, refuse_foreign

REUSED = "This run was finished before; these are its results. Train anew: overwrite=true.\n"
OTHER = "Give another folder: out=FOLDER."
RUN = ("prompt", "failure")
TRAINED = (*RUN, "segment")


@dataclass(frozen=True)
class RunFile:
    """A file, or a folder of files, that lies in the folder of a run, an evaluation, a sweep or a search.

    Attributes:
        path: Where it lies in the folder.
        by: Who writes it: the tasks of train.py, and evaluate, sweep, tune.
        removed: Whether `overwrite` removes it, with all that lies in the same folder of the run's.
        report: Whether it only shows what the other files hold: where it is missing, it is made of them.
        marked: Whether it is a safetensors file that says which run it belongs to.
        of_test: Whether it is about test images: a run whose data have none lacks it.
    """

    path: str
    by: tuple[str, ...] = RUN
    removed: bool = True
    report: bool = False
    marked: bool = False
    of_test: bool = False


# Every file there is, by its name as an attribute of `RunFolder`. Nobody else spells a path.
FILES: dict[str, RunFile] = {
    "config": RunFile("config.yaml", by=TRAINED),
    "split": RunFile("split.json", by=(*TRAINED, "sweep", "tune")),
    "checkpoint": RunFile("checkpoints/last.ckpt", by=(*TRAINED, "sweep", "tune")),
    "curves": RunFile("logs/metrics.csv", by=TRAINED),
    "baselines": RunFile("baselines", by=("prompt",)),
    "bare": RunFile("bare", by=("prompt",)),
    "folds": RunFile("folds", by=("failure",)),
    "wandb": RunFile("wandb", by=TRAINED),
    "wandb_id": RunFile("wandb/id.txt", by=TRAINED),
    "wandb_rows": RunFile("wandb/rows.jsonl", by=TRAINED),
    "prompt": RunFile("prompt.safetensors", marked=True),
    "failure": RunFile("failure.safetensors", by=("failure",), marked=True),
    "segment": RunFile("segment.safetensors", by=("segment",), marked=True),
    "image_sums": RunFile("image_sums.safetensors", by=("segment",), marked=True, of_test=True),
    "images_table": RunFile("images.csv", by=("segment",), report=True, of_test=True),
    "unit_reliability": RunFile("unit_reliability.png", by=("segment",), report=True, of_test=True),
    "predictions": RunFile("predictions.safetensors", marked=True, of_test=True),
    "uncertainties": RunFile("uncertainties.safetensors", by=("failure",), marked=True),
    "failures": RunFile("failures.csv", by=("failure",)),
    "risk_coverage": RunFile("risk_coverage.png", by=("failure",)),
    "metrics": RunFile(FINISHED, by=(*TRAINED, "evaluate", "robustness")),
    "table": RunFile("table.md", by=(*TRAINED, "evaluate", "robustness", "sweep", "tune"), report=True),
    "reliability": RunFile("reliability.png", by=("prompt", "evaluate"), report=True, of_test=True),
    "report": RunFile("report.html", by=(*RUN, "evaluate")),
    "report_json": RunFile("report.json", by=(*RUN, "evaluate")),
    "report_csv": RunFile("report.csv", by=(*RUN, "evaluate")),
    "report_md": RunFile("report.md", by=(*RUN, "evaluate")),
    "lock": RunFile(".lock", by=(*TRAINED, "evaluate", "robustness", "sweep", "tune"), removed=False),
    "evaluation": RunFile("evaluation.yaml", by=("evaluate",), removed=False),
    "evaluated": RunFile("predictions", by=("evaluate",), removed=False),
    "robustness": RunFile("robustness.yaml", by=("robustness",), removed=False),
    "robustness_csv": RunFile("robustness.csv", by=("robustness",), removed=False),
    "severities": RunFile("severities.png", by=("robustness",), removed=False),
    "sweep": RunFile("sweep.json", by=("sweep",), removed=False),
    "members": RunFile("members.json", by=("sweep", "tune"), removed=False),
    "search": RunFile("search.json", by=("tune",), removed=False),
    "study": RunFile("study.db", by=("tune",), removed=False),
    "trial_locks": RunFile(".locks", by=("tune",), removed=False),
    "tune": RunFile("tune.json", by=("tune",), removed=False),
}


class RunFolder:
    """Paths and state of a run's folder. Every key of `FILES` is an attribute: the path of that file.

    Args:
        path: The folder; made by `claim`.

    Example:
        >>> RunFolder("runs/mine").checkpoint.as_posix()
        'runs/mine/checkpoints/last.ckpt'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __getattr__(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            AttributeError: It is none of `FILES`.
        """
        if name not in FILES:
            raise AttributeError(unknown_name("file of a run folder", name, FILES))
        return self.path / FILES[name].path

    def baseline(self, name: str) -> RunFolder:
        """Return the folder of a method that stands beside the run."""
        return RunFolder(self.baselines / name)

    @property
    def bare_run(self) -> RunFolder:
        """The folder of what the run's prompt does without its calibration."""
        return RunFolder(self.bare)

    @property
    def is_baseline(self) -> bool:
        """Whether it lies among the baselines of another run."""
        return self.path.resolve().parent.name == FILES["baselines"].path

    @property
    def _owner(self) -> RunFolder | None:
        """The run whose mark a folder without a split.json carries: a zero-shot baseline, a bare prompt."""
        path = self.path.resolve()
        if self.is_baseline:
            return RunFolder(path.parent.parent)
        return RunFolder(path.parent) if path.name == FILES["bare"].path else None

    def fold(self, number: int) -> RunFolder:
        """Return the folder of a prompt that is trained without some of the shots."""
        return RunFolder(self.folds / str(number))

    def has_export(self, task: str) -> bool:
        """Return whether the export of a run is there, which is called by the run's task."""
        return bool(getattr(self, task).is_file())

    def lacks_report(self, task: str) -> bool:
        """Return whether a file is missing that shows what a run of this task has found: table, figure."""
        rows = {key: file for key, file in FILES.items() if file.report and task in file.by}
        shown = [key for key, file in rows.items() if self.tested or not file.of_test]
        return not all(getattr(self, key).is_file() for key in shown)

    @property
    def finished(self) -> bool:
        """Whether the run has written its metrics, the last thing a run does, and still has its export."""
        exports = (self.prompt, self.failure, self.segment)
        if not self.metrics.is_file() or not any(path.is_file() for path in exports):
            return False
        return not self.calibrated or self.bare_run.finished

    @property
    def calibrated(self) -> bool:
        """Whether the finished run's prompt is calibrated, so that the bare one lies beside it."""
        written = read_json(self.metrics)
        said = written.get("calibration") if isinstance(written, dict) else None
        return isinstance(said, dict) and said.get("method") != "none"

    def results(self) -> dict[str, Any]:
        """Return the metrics of a finished run; "test" and "val" where there are such images.

        Raises:
            ValueError: metrics.json is damaged or was written by something else, or by another run.
        """
        written = read_json(self.metrics)
        if isinstance(written, dict):
            refuse_foreign(self.metrics, written.pop(MARK, None), self.mark)
        keys = written.keys() if isinstance(written, dict) else set()
        if not {"method", "scores"} & keys or ("test" in keys) != self.tested:
            raise ValueError(
                f"{self.metrics} is not what a run writes. Delete it, and the same command makes it again "
                "from the last checkpoint; or train anew (overwrite=true)."
            )
        return written

    @property
    def mark(self) -> str | None:
        """The mark of the run, see `calib.runs.marks.mark_in`; zero-shot has that of its job."""
        return mark_in(self._own_split)

    @property
    def tested(self) -> bool:
        """Whether the run's data have test images; zero-shot has those of its job."""
        return bool(record_in(self._own_split).get("test", True))  # who wrote nothing of it had some

    @property
    def _own_split(self) -> Path:
        """The split.json of the run; a zero-shot baseline and a bare prompt have that of their job."""
        return self.split if self._owner is None or self.split.is_file() else self._owner.split

    def check_marks(self) -> None:
        """Refuse a folder in which a file of another run lies.

        Raises:
            ForeignFileError: One does; the message names it.
        """
        for path in (getattr(self, name) for name, file in FILES.items() if file.marked):
            check_file(path, self.mark)
        if self.metrics.is_file():
            self.results()

    @contextmanager
    def locked(self, *, patience: float = 0, tidy: bool = True) -> Iterator[None]:
        """Keep other processes out of the folder while this one works in it; a killed process lets go.

        Args:
            patience: Seconds to wait for another process at work in it.
            tidy: Remove the files that a killed process left unfinished. Where others may write without this
                lock, as in a search, they could be theirs.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: It cannot be written.
        """
        try:
            with locked(self.lock, patience=patience), kept(self.path, self.config):
                if tidy:
                    remove_unfinished(self.path)
                    inside = (self.checkpoint.parent, self.curves.parent, self.baselines, self.bare)
                    for inner in (*inside, self.folds):
                        remove_unfinished(inner, deep=True)
                yield
        except BusyError as error:
            raise self._busy(error) from error

    def refuse_if_busy(self) -> None:
        """Refuse the folder while another process is at work in it; sooner than `locked` does.

        Raises:
            ValueError: One is.
        """
        if is_held(self.lock):
            raise self._busy(BusyError(self.lock))

    def check(self, config: PromptRun | FailureRun | SegmentRun) -> None:
        """Refuse the folder where using it would mix or lose results. Changes nothing.

        Raises:
            ValueError: The folder holds another configuration, files that are not a run's, or a run that
                the settings `resume` and `overwrite` say neither to continue nor to replace.
        """
        blocking = blocking_file(self.path)
        if blocking is not None:
            raise ValueError(f"The run folder '{self.path}' cannot be made: '{blocking}' is a file. {OTHER}")
        if config.overwrite or not self.path.exists():
            return
        if not self.config.is_file():
            if not holds_nothing(self.path, but=self.lock):
                raise ValueError(f"The folder '{self.path}' holds files but no run (no config.yaml). {OTHER}")
            return
        differences = self._differences(config)
        if differences:
            listed = "; ".join(differences[:4]) + (
                f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
            )
            raise ValueError(
                f"The run folder '{self.path}' belongs to another configuration: {listed}. "
                "Give another folder (out=FOLDER) or replace it (overwrite=true)."
            )
        if self.split.is_file():
            checked_mark(self.split, config, read_json(self.split))
        if not config.resume:
            state = "a finished" if self.finished else "an unfinished"
            raise ValueError(
                f"The folder '{self.path}' holds {state} run of this configuration. Go on with it "
                f"(resume=true), "
                "replace it (overwrite=true), or give another folder (out=FOLDER)."
            )

    def claim(self, config: PromptRun | FailureRun | SegmentRun, split: dict[str, Any]) -> None:
        """Make the folder and write what it belongs to; `overwrite` first removes an earlier run's files.

        Args:
            config: The run's settings.
            split: The few-shot draw, written to split.json.

        Raises:
            ValueError: The data have changed under an unfinished run.
            WriteError: The folder cannot be written.
        """
        if config.overwrite and self.config.is_file():
            self._clear()
        self.check_data(split)
        mark = checked_mark(self.split, config, split)
        write_text(self.config, sealed_text(to_yaml(replace(config, resume=True, overwrite=False))))
        write_json(self.split, {**split, MARK: mark})

    def check_data(self, split: dict[str, Any]) -> None:
        """Refuse images other than those the folder's run began with; a folder without a run passes.

        Args:
            split: What the run would write to split.json.

        Raises:
            ValueError: The draw, the test images or the backbone's weights differ; the message says in what.
        """
        if not self.split.is_file():
            return
        old = read_json(self.split)
        changed = data_differences(self.path, old, split)
        if changed:
            more = " There are test images now: `calib evaluate` judges the finished run on them."
            raise ValueError(
                f"The data have changed since the run in '{self.path}' began (split.json differs in: "
                f"{', '.join(changed)}). Replace it (overwrite=true) or give another folder (out=FOLDER)."
                f"{more if split.get('test') and not self.tested else ''}"
            )

    def _busy(self, error: BusyError) -> ValueError:
        return ValueError(
            f"Another process is at work in the folder '{self.path}'. Wait for it, or give another "
            f"folder (out=FOLDER).{error.hint}"
        )

    def _differences(self, config: PromptRun | FailureRun | SegmentRun) -> list[str]:
        check_sealed_text(self.config)
        task = task_of([str(self.config)])
        if task != config.task:
            return [f"task is {task!r} there and {config.task!r} here"]
        return describe_differences(load_config([str(self.config)], task=task), config)

    def _clear(self) -> None:
        first, last = FILES["metrics"].path, FILES["config"].path
        owned = dict.fromkeys(Path(file.path).parts[0] for file in FILES.values() if file.removed)
        # A run without metrics is not finished, and while there is a config.yaml, a removal that was
        # interrupted is noticed and gone on with.
        for name in sorted(owned, key=lambda name: (name == last) - (name == first)):
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

"""W&B beside a training that never waits for it: a thread of its own does the talking, and may fail.

W&B runs in other processes and over a network. Here it is handed copies, in order, through a queue;
whatever it raises, or that it hangs, is said once, and training goes on with the CSV file.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from calib.config import FailureRun, PromptRun, SegmentRun, to_dict
from calib.core.errors import first_line
from calib.io.files import write_text
from calib.processes.signals import asked_to_stop
from calib.runs.folder import RunFolder
from calib.runs.identity import flat
from calib.runs.results import Results

STEP = "trainer/global_step"  # the horizontal axis, named as Lightning's own logger names it
BEGIN_SECONDS = 60  # how long W&B may take to begin a run online
FINISH_SECONDS = 120  # and to send what is left of it at the end
STOPPED_SECONDS = 10  # for both, where a signal asked this process to stop
OFFLINE_SECONDS = 60  # for both, where nothing is sent
log = logging.getLogger(__name__)


class WandbLogger(Logger):
    """A Lightning logger for W&B that stops nothing.

    A run that goes on after an interruption has the same W&B id: online it is continued, offline its new
    directory begins with the earlier rows, so that it is complete by itself.

    Args:
        config: The run's settings; logged under their dotted keys, and nothing else is.
        folder: Its folder: W&B's files lie in `wandb` there, with `id.txt` and `rows.jsonl`.
        patience: Seconds to wait at the end for what was not sent. None: as the constants above say.
    """

    # Ways of logging that have failed in this process. W&B's service belongs to the process, so the next of
    # many runs need not find out again, each after a minute.
    failed: ClassVar[set[str]] = set()

    def __init__(
        self, config: PromptRun | FailureRun | SegmentRun, folder: RunFolder, *, patience: float | None = None
    ) -> None:
        super().__init__()
        asked = "offline" if config.log.wandb == "offline" or _offline_by_environment() else "online"
        self._modes = [mode for mode in dict.fromkeys((asked, "offline")) if mode not in self.failed]
        self._patience = patience
        self._config, self._folder = config, folder
        self._calls: queue.SimpleQueue[Callable[[Any], Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._mode: str | None = None
        self._closed = not self._modes
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the run in W&B: its folder's, for a baseline with that of the run it stands beside."""
        path = self._folder.path.resolve()
        return f"{path.parents[1].name}/{path.name}" if self._folder.is_baseline else path.name

    @property
    def version(self) -> str:
        """The W&B id of the run, kept in its folder."""
        return _run_id(self._folder)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are logged when the run begins."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand one row to W&B."""
        row = {**metrics, **({} if step is None else {STEP: step})}
        if step is not None and not self._closed:
            self._keep(row, step)
        self._put(lambda run: run.log(row))

    @rank_zero_only
    def log_results(self, read: Callable[[], Results]) -> None:
        """Hand a finished run's table, figures and export to W&B.

        Args:
            read: Returns them; not called where W&B is not used.
        """
        if self._closed:
            return
        try:
            results = read()
            figures = {name: _picture(figure) for name, figure in results.figures.items()}  # not in a thread
        except Exception as error:  # the run itself has been written, and stands
            self._give_up(_said(error))
        else:
            self._put(lambda run: _log_results(run, results, figures, _artifact_name(self.name)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a run that failed; one that succeeded is ended by `finish`, after its evaluation."""
        if status not in ("success", "finished"):
            self.finish(exit_code=1)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Wait a while for W&B to keep or send everything, and end the run."""
        if self._thread is None or self._closed:
            return
        self._put(lambda run: run.finish(exit_code=exit_code))
        self._calls.put(None)
        seconds = OFFLINE_SECONDS if self._modes == ["offline"] else BEGIN_SECONDS + FINISH_SECONDS + 30
        if asked_to_stop():  # the machine is about to be taken away
            seconds = min(seconds, STOPPED_SECONDS)
        self._thread.join(seconds if self._patience is None else self._patience)
        if self._thread.is_alive():
            self._give_up("it does not answer")
            _end_service()
        self._closed = True

    def _put(self, call: Callable[[Any], Any], *, only: str | None = None) -> None:
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wandb-logger", daemon=True)
            self._thread.start()
        self._calls.put(call if only is None else lambda run: call(run) if self._mode == only else None)

    def _keep(self, row: Mapping[str, float], step: int) -> None:
        """Write a row beside W&B's files, for the offline run that may have to begin with it."""
        path = self._folder.wandb_rows
        try:
            if self._thread is None:
                earlier = _rows_before(path, step)  # written anew: a line that was cut off has no end
                write_text(path, "".join(f"{json.dumps(each)}\n" for each in earlier))
                self._put(lambda run: [run.log(each) for each in earlier], only="offline")
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except (OSError, TypeError, ValueError) as error:
            self._give_up(f"{path} cannot be written: {first_line(error)}")

    def _work(self) -> None:
        try:
            run = self._begin()
            while (call := self._calls.get()) is not None:
                call(run)
        except BaseException as error:  # W&B's errors share no base class, and some are not Exceptions
            self._give_up(_said(error))
            if isinstance(error, OSError):  # the service is gone, or the way to it
                _end_service()

    def _begin(self) -> Any:
        """Return a W&B run: online if asked for and possible, else offline."""
        if self._modes[0] == "offline":
            return self._init("offline")
        try:
            return self._init("online")
        except BaseException as error:  # as in `_work`
            self.failed.add("online")
            if "offline" not in self._modes:
                raise
            log.warning(
                "W&B cannot be used online (%s). Training goes on; this process logs offline instead. "
                "To send it later: wandb sync %s",
                _said(error),
                self._folder.wandb,
            )
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb  # takes half a second, and most runs do without

        if mode == "online" and not _has_key(wandb):
            raise PermissionError("no API key; run `wandb login` first")
        settings = {"console": "off", "silent": mode == "offline", "init_timeout": BEGIN_SECONDS}
        if "finish_timeout" in wandb.Settings.model_fields:  # not in older versions
            settings["finish_timeout"] = FINISH_SECONDS
        run = wandb.init(
            project=self._config.log.project,
            name=self.name,
            id=self.version,
            dir=str(self._folder.path),
            tags=list(self._config.log.tags),
            config=flat(to_dict(self._config)),
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # a run of its own, even where an earlier one never ended
            settings=wandb.Settings(**settings),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        self._mode = mode
        if mode == "offline":
            log.info("W&B logs offline; send it with: wandb sync %s", Path(run.dir).parent)
        return run

    def _give_up(self, reason: str) -> None:
        with self._lock:  # either thread may notice
            if self._closed:
                return
            self.failed.add(self._mode or self._modes[-1])
            log.warning(
                "W&B has failed (%s). Training goes on without it; the curves are in %s.",
                reason,
                self._folder.curves.parent,
            )
            self._closed = True
            self._calls.put(None)  # the thread ends


def wanted(config: PromptRun | FailureRun | SegmentRun, folder: RunFolder) -> bool:
    """Return whether a run is logged to W&B.

    A baseline is not where a W&B agent started the process: the agent's one run belongs to the run it asked
    for.
    """
    if config.log.wandb == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
        return False
    return not (folder.is_baseline and "WANDB_SWEEP_ID" in os.environ)


def _offline_by_environment() -> bool:
    return os.environ.get("WANDB_MODE") in ("offline", "dryrun")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _has_key(wandb: Any) -> bool:
    """Return whether W&B can log in without asking anybody."""
    if "prompt" not in inspect.signature(wandb.login).parameters:
        return True  # older versions: they ask, or raise where nobody can answer
    return bool(wandb.login(prompt=False))


def _run_id(folder: RunFolder) -> str:
    """Return the W&B id of a run: what an agent says, else what its folder says, else a new one."""
    path = folder.wandb_id
    given = None if folder.is_baseline else os.environ.get("WANDB_RUN_ID")
    kept = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    # Not from Python's random numbers: those belong to the training.
    run_id = given or kept or os.urandom(6).hex()
    if run_id != kept:
        write_text(path, f"{run_id}\n")
    return run_id


def _rows_before(path: Path, step: int) -> list[dict[str, float]]:
    """Return the rows below `step` that earlier parts of a run handed to W&B, each once."""
    rows: dict[tuple[int, str], dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):  # the last line of a killed process may be cut off
            row = json.loads(line)
            rows[row[STEP], " ".join(sorted(row))] = row
    return [row for (at, _), row in sorted(rows.items()) if at < step]


def _picture(figure: Any) -> Any:
    """Return a figure, or a PNG file, as a PIL image."""
    from PIL import Image

    if isinstance(figure, Path):
        return Image.open(figure).convert("RGB")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer).convert("RGB")


def _log_results(run: Any, results: Results, figures: Mapping[str, Any], name: str) -> None:
    import wandb

    images = {name: wandb.Image(picture) for name, picture in figures.items()}
    table = wandb.Table(columns=list(results.columns), data=[list(row) for row in results.rows])
    run.log({**({results.name: table} if results.rows else {}), **images})
    artifact = wandb.Artifact(name, type=results.kind, metadata=results.about)
    for path in results.export:
        artifact.add_file(str(path.resolve()), policy="immutable")  # found from anywhere, and not copied
    run.log_artifact(artifact)


def _artifact_name(name: str) -> str:
    """Return a name that W&B accepts.

    Example:
        >>> _artifact_name("mine/coop")
        'mine.coop'
    """
    return re.sub(r"[^\w.-]+", "-", name.replace("/", "."))[-120:]


def _end_service() -> None:
    """End the W&B service that this process started: at its own end W&B would wait for it without a limit."""

    def end() -> None:
        with suppress(BaseException):  # these are W&B's own names, and may change
            wandb_setup.singleton()._connection._proc._process.kill()
        with suppress(BaseException):  # the next run may begin with a new one
            wandb_setup.teardown()

    from wandb.sdk import wandb_setup

    thread = threading.Thread(target=end, name="wandb-end", daemon=True)
    thread.start()
    thread.join(10)

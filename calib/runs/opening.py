"""Opening the folders of a job: they are looked at, locked and claimed by the first process, for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

from calib.config import FailureRun, PromptRun, SegmentRun
from calib.core import ranks
from calib.runs.folder import RunFolder

log = logging.getLogger(__name__)
Settings = TypeVar("Settings", bound=PromptRun | FailureRun | SegmentRun)


class Job(Generic[Settings]):
    """The folder of a run, and those of the baselines beside it. Made by `opened`.

    Args:
        config: The run's settings.
        folder: Its folder.
        beside: Name to settings of its baselines, in the order in which they are trained. None: the method
            has no settings of its own, and its results are written anew before anything is trained.
        stack: Holds the lock.

    Attributes:
        finished: Whether nothing is to be trained: all results are there, and may stay.
    """

    def __init__(
        self,
        config: Settings,
        folder: RunFolder,
        beside: Mapping[str, Settings | None],
        stack: ExitStack,
    ) -> None:
        self._config, self._folder, self._stack = config, folder, stack
        self._beside = [(settings, folder.baseline(name)) for name, settings in beside.items()]
        self._record: dict[str, Any] = {}
        self._unfinished: list[int] = []
        self.finished = self._look()

    def lock(self) -> None:
        """Keep other processes out of the run's folder from here to the end of the block.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: It cannot be written.
        """
        self._stack.enter_context(ranks.held(self._folder.locked))

    def claim(self, record: dict[str, Any]) -> None:
        """Lock the run's folder and make it this run's own; `overwrite` removes what was there.

        Args:
            record: What split.json is to say about the data.

        Raises:
            ValueError: Another process is at work in the folder or has begun another run there meanwhile, or
                the data have changed under an unfinished run.
            WriteError: The folder cannot be written.
        """
        self.lock()
        self._record = record
        self._unfinished = self._begin()

    def turns(self) -> Iterator[tuple[Settings, RunFolder]]:
        """Yield settings and folder of each run that is not finished, claimed; the job's own comes last."""
        runs = self._runs()
        for number in self._unfinished:
            config, folder = runs[number]
            config = replace(config, overwrite=False)  # what was there is removed
            self._claim_one(config, folder)
            yield config, folder

    @ranks.by_first
    def lacks_report(self) -> bool:
        """Return whether a process was killed between the results of the run and its table or figure."""
        return self._folder.lacks_report(self._config.task)

    def _runs(self) -> list[tuple[Settings, RunFolder]]:
        own = [(config, folder) for config, folder in self._beside if config is not None]
        return [*own, (self._config, self._folder)]

    @ranks.by_first
    def _look(self) -> bool:
        self._check()
        everything = [*self._beside, (self._config, self._folder)]
        finished = all(self._is_finished(config, folder) for config, folder in everything)
        if not finished:
            self._folder.refuse_if_busy()  # before minutes of encoding
        return finished

    @ranks.by_first
    def _begin(self) -> list[int]:
        self._check()  # another process may have begun or finished a run here meanwhile
        self._folder.claim(self._config, self._record)
        for _, folder in self._beside:  # one table is about one set of images
            folder.check_data(self._record)
        runs = enumerate(self._runs())
        return [number for number, (config, folder) in runs if not self._is_finished(config, folder)]

    @ranks.by_first
    def _claim_one(self, config: Settings, folder: RunFolder) -> None:
        folder.claim(config, self._record)

    def _check(self) -> None:
        *others, own = self._runs()
        for config, folder in (own, *others):
            folder.check(config)

    def _is_finished(self, config: Settings | None, folder: RunFolder) -> bool:
        if self._config.overwrite or not folder.finished:
            return False
        if config is not None and not folder.has_export(config.task):
            return False
        folder.check_marks()
        if folder.calibrated:
            folder.bare_run.check_marks()
        return True


@contextmanager
def opened(
    config: Settings, folder: RunFolder, beside: Mapping[str, Settings | None] | None = None
) -> Iterator[Job[Settings]]:
    """Open the folder of a run: nothing is written yet, and what may not be used is refused.

    All processes of a command go through the block together. A folder that is busy is refused here, before
    anything is encoded; it is locked by `Job.claim`, when it is known what the run belongs to.

    Args:
        config: The run's settings.
        folder: Its folder.
        beside: Name to settings of the baselines in it; see `Job`.

    Raises:
        ValueError: A folder holds another configuration, files that are not a run's or a run that may neither
            be continued nor replaced, or another process is at work in it.
    """
    with ExitStack() as stack:
        yield Job(config, folder, beside or {}, stack)


def check_same_data(folder: RunFolder, record: Callable[[], dict[str, Any]]) -> None:
    """Refuse to show a finished run's results if its data have changed since; images that are gone are said.

    Args:
        folder: The run's folder.
        record: Returns what split.json would say now.

    Raises:
        ValueError: The data have changed.
    """
    try:
        now = record()
    except FileNotFoundError as error:
        log.warning("The data could not be compared with those of the run: %s", error)
    else:
        folder.check_data(now)

"""The study of a search: trials in SQLite, one owner each, none lost when its owner dies.

A worker holds a lock on the trial it works on, and the system frees it however the process ends. A trial that
is running without an owner was therefore interrupted: the next worker that looks for work takes it up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from calib.commands.search.space import Choice, Search, Span
from calib.commands.search.table import best_is_least
from calib.core.errors import first_line
from calib.core.hashing import json_digest
from calib.io.files import finite
from calib.io.locks import BusyError, is_held, locked
from calib.runs.folder import RunFolder

NAME = "calib"
PATIENCE = 100  # seconds to wait while others write
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
WARM_UP = 4  # no trial is stopped in the first quarter of its epochs: they are the warm-up and say little
SEARCH = "search"  # of a study: the digest of the search whose trials it holds
log = logging.getLogger(__name__)
AGAIN = (
    "Put back a copy of it, or delete it: the same command then searches again, and reads finished runs from "
    "their folders."
)


class StudyError(ValueError):
    """The study of a search cannot be used; the message names its file."""


@dataclass
class Claimed:
    """A trial that this process works on.

    Attributes:
        trial: Optuna's handle.
        changes: Dotted key to value, as given to the runs.
        reported: Epochs whose value the study has already, from before an interruption.
        used: What the trial is used in, so that an error names the file of the study.
    """

    trial: optuna.Trial
    changes: dict[str, str]
    reported: set[int] = field(default_factory=set)
    used: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def number(self) -> int:
        """Its number, from 0."""
        return int(self.trial.number)


class Study:
    """The trials of a search.

    Args:
        folder: The search's folder, which is there.
        search: What is varied.
        epochs: Of a run; for the epochs in which nothing is stopped.

    Raises:
        StudyError: study.db is damaged or that of another search; so raises every method that uses it.
    """

    def __init__(self, folder: Path, search: Search, *, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self._search, self._settings = folder, search, search.settings
        self._file = file = RunFolder(folder).study
        with self._alone(), self._used():
            if not file.is_file():
                self._create(file)
        with self._used():
            self._study = optuna.load_study(study_name=NAME, storage=_storage(file))
            mine, theirs = _digest(search), self._study.user_attrs.get(SEARCH)
        if theirs not in (None, mine):
            raise StudyError(
                f"{file} holds the trials of another search than {RunFolder(folder).search.name} beside it. "
                f"Was it copied here? {AGAIN}"
            )
        warm_up = max(1, epochs // WARM_UP)
        median = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warm_up)
        self._study.pruner = median if self._settings.prune else optuna.pruners.NopPruner()

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as they are now, checked."""
        with self._used():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                self._check(trial)
        return trials

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that are over."""
        return [trial for trial in self.trials() if trial.state in ENDED]

    def owned(self) -> int:
        """Return how many trials another process works on now."""
        with self._alone():
            running = [trial.number for trial in self.trials() if trial.state not in ENDED]
            return sum(is_held(self._lock_of(number)) for number in running)

    @contextmanager
    def next(self) -> Iterator[Claimed | None]:
        """Give the caller a trial of its own, an interrupted one first; None: there is nothing left to do."""
        with ExitStack() as owned:
            yield self._claim(owned)

    def tell(self, claimed: Claimed, value: float | None = None, *, why: str | None = None) -> None:
        """End a trial: with its value, or stopped before its end (`why`), which counts as a bad one.

        A setting that cannot be trained is told like one that was stopped, so that the search avoids it.
        """
        state = TrialState.COMPLETE if value is not None else TrialState.PRUNED
        with self._used():
            if why is not None:
                claimed.trial.set_user_attr("why", why)
            self._study.tell(claimed.trial, value, state=state)

    def twin(self, claimed: Claimed) -> FrozenTrial | None:
        """Return an earlier trial with the same settings that is over."""
        same = (t for t in self.ended() if t.user_attrs.get("changes") == claimed.changes)
        return next(same, None)

    def _claim(self, owned: ExitStack) -> Claimed | None:
        """Return a trial whose lock is held until `owned` is closed."""
        with self._alone():
            trials = self.trials()
            for frozen in trials:
                if frozen.state not in ENDED and self._own(frozen.number, owned):
                    log.info("Trial %d was interrupted and is taken up.", frozen.number)
                    with self._used():
                        trial = optuna.Trial(self._study, frozen._trial_id)
                        reported = set(frozen.intermediate_values)
                        return Claimed(trial, self._drawn(trial), reported, self._used)
            if len(trials) >= self._settings.trials:
                return None
            with self._used():
                trial = self._study.ask()
                self._own(trial.number, owned)
                return Claimed(trial, self._drawn(trial), used=self._used)

    def _seed(self, number: int, key: str) -> None:
        """Make what is drawn depend on the trial's number, the key and the earlier trials alone.

        Not on who draws when, nor on what was drawn before it: a process may be killed between two keys.
        """
        seed = int(json_digest([self._settings.sample_seed, number, key])[:8], 16)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)

    def _drawn(self, trial: optuna.Trial) -> dict[str, str]:
        """Return a value for every key: those it has already, and new ones."""
        changes = {}
        for key, one in self._search.space.items():
            self._seed(trial.number, key)
            if isinstance(one, Choice):
                changes[key] = str(trial.suggest_categorical(key, one.values))
            elif one.whole:
                changes[key] = one.text(trial.suggest_int(key, int(one.low), int(one.high), log=one.log))
            else:
                changes[key] = one.text(trial.suggest_float(key, one.low, one.high, log=one.log))
        trial.set_user_attr("changes", changes)
        return changes

    def _check(self, trial: FrozenTrial) -> None:
        """Refuse a trial whose parts contradict each other, as after a change from outside."""
        values = trial.values or []
        number = all(isinstance(value, float) and math.isfinite(value) for value in values)
        allowed = {TrialState.COMPLETE: {1}, TrialState.PRUNED: {0, 1}}.get(trial.state, {0})
        if not number or len(values) not in allowed:
            raise StudyError(f"{self._file}: trial {trial.number} has the value {values!r}. {AGAIN}")
        said = trial.user_attrs.get("changes")
        if said is None and trial.state not in ENDED:
            return  # its process was killed before it had drawn all of them
        drawn = {key: _text(one, trial.params.get(key)) for key, one in self._search.space.items()}
        if said != drawn:
            raise StudyError(f"{self._file}: trial {trial.number} is {said!r}, and drew {drawn}. {AGAIN}")

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Say what goes wrong with the file as one error that names it, whatever library it comes from."""
        try:
            yield
        except (StudyError, OSError):
            raise
        except Exception as error:  # of SQLAlchemy, sqlite3, optuna and json, which share no class
            raise StudyError(self._damaged(error)) from error

    def _damaged(self, error: Exception) -> str:
        why = first_line(error.__cause__ or error)
        return f"{self._file}, the study of the search, cannot be used: it may be damaged ({why}). {AGAIN}"

    def _own(self, number: int, owned: ExitStack) -> bool:
        """Take a trial's lock, unless another process works on it, and return whether it could be taken."""
        try:
            owned.enter_context(locked(self._lock_of(number)))
        except BusyError:
            return False
        return True

    def _lock_of(self, number: int) -> Path:
        return RunFolder(self.folder).trial_locks / f"{number}.lock"

    def _alone(self) -> AbstractContextManager[None]:
        return RunFolder(self.folder).locked(patience=PATIENCE, tidy=False)

    def _create(self, path: Path) -> None:
        """Make the study whole or not at all."""
        part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
        storage = _storage(part)
        directions = optuna.study.StudyDirection
        direction = directions.MINIMIZE if best_is_least(self._settings.by) else directions.MAXIMIZE
        study = optuna.create_study(study_name=NAME, storage=storage, direction=direction)
        study.set_user_attr(SEARCH, _digest(self._search))
        storage.remove_session()
        storage.engine.dispose()
        part.replace(path)
        for leftover in path.parent.glob(f".{path.name}.*.part*"):
            with suppress(OSError):
                leftover.unlink()


def _digest(search: Search) -> str:
    return json_digest(finite(search.identity()))


def _text(one: Choice | Span, value: Any) -> str | None:
    """Return a drawn value as it is given to a run. None: nothing was drawn."""
    return None if value is None else str(value) if isinstance(one, Choice) else one.text(value)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    url = f"sqlite:///{path.resolve()}"
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})

"""SIGTERM and SIGUSR1, by which clusters take a machine back: stop soon, lose nothing, and say so."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)
LAUNCHER = "CALIB_LAUNCHER"  # in the environment: the id of the process that started this one for a job
PARENT = "CALIB_PARENT"  # in the environment of a process whose parent puts the job back into the queue
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(BaseException):
    """The process was asked to stop.

    Attributes:
        name: The signal's name.
        status: The exit status: 128 and the signal's number, as shells say it (SIGTERM 143, SIGUSR1 138).
    """

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.status = 128 + number
        super().__init__(self.name)


class _Watch:
    """What the handlers know. There is one per process, as there is one handler per signal and process."""

    def __init__(self) -> None:
        self.process: int | None = None  # None: the handlers are not ours
        self.asked: int | None = None
        self.waits = False
        self.raised = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked worker that reads images: the whole group was signalled
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.asked is None:
            self.asked = number
        # A second signal must not disturb the clearing up after the first.
        if not self.waits and not self.raised:
            self.raised = True
            raise Preempted(self.asked)


_watch = _Watch()


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Turn SIGTERM and SIGUSR1 into `Preempted` while the block runs, at once unless `deferred` says later.

    Code in C may swallow what a handler raises (scipy's Sobol tables stayed half filled, and a run went on
    with wrong numbers): then it is raised again, where Python goes on. Likewise Ctrl-C.

    For the command line. In other threads than the main one, and on systems without signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or _watch.process is not None:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _watch.process, _watch.asked, _watch.raised = os.getpid(), None, False
    take_over()
    report, sys.unraisablehook = sys.unraisablehook, _not_lost
    try:
        yield
    except Exception as error:  # of any type: an import that was interrupted breaks what comes after it
        worker = "DataLoader worker" in str(error)  # it got the signal, too
        if _watch.asked is not None and (_watch.raised or worker):
            raise Preempted(_watch.asked) from error
        raise
    finally:
        sys.unraisablehook = report
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _watch.process = None


def _not_lost(lost: sys.UnraisableHookArgs) -> None:
    """Raise a stop again that was swallowed; of other errors that are swallowed, say so as Python does."""
    number = _watch.asked if isinstance(lost.exc_value, Preempted) else None
    if number is not None:
        _watch.raised = False
    elif isinstance(lost.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        sys.__unraisablehook__(lost)
        return
    # By another thread, a moment later: raised in here it would be swallowed, too. So nothing waits in here,
    # not even for the thread to begin.
    _thread.start_new_thread(_stop_soon, (number,))


def _stop_soon(number: int) -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), number)


def take_over() -> None:
    """Put our handlers back where Lightning has put its own, if there were any of ours.

    Lightning's stop a run without a checkpoint, and broadcast from inside the handler.
    """
    if _watch.process == os.getpid() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _watch.handle)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait until the block looks for it with `asked_to_stop`, or ends.

    Raises:
        Preempted: There was a signal, and the block has ended.
    """
    _watch.waits = True
    try:
        yield
    finally:
        _watch.waits = False
    if _watch.process == os.getpid() and _watch.asked is not None:
        _watch.raised = True
        raise Preempted(_watch.asked)


def asked_to_stop() -> int:
    """Return the number of the signal that asked this process to stop; 0 if none did."""
    return (_watch.asked or 0) if _watch.process == os.getpid() else 0


def requeue(stop: Preempted) -> None:
    """Put this SLURM job back into the queue if SIGUSR1 (`#SBATCH --signal=USR1@90`) stopped it.

    As Lightning does where its own handlers are at work. SIGTERM is left alone: the user cancelled the job,
    or SLURM preempts it and queues it again by itself.
    """
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    first = os.environ.get("SLURM_PROCID", "0") == "0" and PARENT not in os.environ
    if stop.name != "SIGUSR1" or job is None or not first:
        return
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    program = shutil.which("scontrol")
    if program is None:
        log.warning("This SLURM job was not queued again: there is no scontrol here.")
        return
    done = subprocess.run([program, "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        log.info("SLURM job %s is in the queue again.", job)
    else:
        log.warning("SLURM job %s could not be queued again: %s", job, done.stderr.strip())

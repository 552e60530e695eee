"""Starting a command in several processes on this machine, with torch's elastic agent, as torchrun does."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import calib
from calib.processes.signals import LAUNCHER, SIGNALS, Preempted
from calib.processes.workers import usable_cores

MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # what a launcher per machine is told
FORWARDED = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"


def launch(command: str, argv: Sequence[str], *, devices: int, nodes: int = 1) -> int:
    """Run `calib COMMAND ARGV` in one process per device and return the exit status of all together.

    When one of them fails, the others are ended. Signals are passed on to all. What ended the job is said
    here: a process that is ended because another one failed knows of a signal only.

    Args:
        command: A command of calib.
        argv: Its arguments.
        devices: Processes on this machine.
        nodes: Machines; the same command is started on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.

    Raises:
        ValueError: There are several machines, and nothing says where they meet.
        Preempted: The job was asked to stop, and has.
    """
    with tempfile.TemporaryDirectory() as folder, _environment(devices), _silent_agent():
        config = _config(devices, nodes, folder)
        try:
            elastic_launch(config, sys.executable)("-m", "calib.cli", command, *argv)
        except ChildFailedError as error:
            return _status(command, error, devices * nodes)
        except SignalException as stop:
            return _stopped(128 + int(stop.sigval))
    return 0


def _config(devices: int, nodes: int, folder: str) -> LaunchConfig:
    meeting = {name: os.environ.get(name) for name in MEETING}
    if nodes > 1 and None in meeting.values():
        missing = ", ".join(name for name, value in meeting.items() if value is None)
        raise ValueError(
            f"trainer.num_nodes={nodes}: start this command on every machine with {missing} set, or with "
            "torchrun or srun, which say where the machines meet."
        )
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        logs_specs=DefaultLogsSpecs(log_dir=folder),  # nothing is logged, but it makes folders
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=FORWARDED,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
    )
    if nodes > 1:
        config.run_id, config.local_addr, config.rdzv_backend = "calib", None, "static"
        config.rdzv_endpoint = f"{meeting['MASTER_ADDR']}:{meeting['MASTER_PORT']}"
        config.rdzv_configs["rank"] = int(meeting["NODE_RANK"] or 0)
    return config


@contextlib.contextmanager
def _environment(devices: int) -> Iterator[None]:
    """Set what the processes are started with: a share of the cores each, and this package."""
    root = str(Path(calib.__file__).parents[1])
    path = os.environ.get("PYTHONPATH", "")
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // devices)))
    os.environ[LAUNCHER] = str(os.getpid())
    if root != sysconfig.get_paths()["purelib"]:  # not installed, or in place
        os.environ["PYTHONPATH"] = os.pathsep.join([root, path] if path else [root])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _silent_agent() -> Iterator[None]:
    """Keep the agent's own log from the screen: a process that fails has said why."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]
    before = {name: logging.getLogger(name).disabled for name in names}
    for name in names:
        logging.getLogger(name).disabled = True
    try:
        yield
    finally:
        for name, disabled in before.items():
            logging.getLogger(name).disabled = disabled


def _status(command: str, error: ChildFailedError, world_size: int) -> int:
    """Return the exit status of the process that failed first, and say what ended it if it could not."""
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return _stopped(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    hint = " (perhaps memory ran out)" if name == "SIGKILL" else ""
    sys.stderr.write(
        f"calib {command}: process {rank} of {world_size} was ended by {name}{hint}, and the job with it. "
        "The same command goes on from the last finished epoch.\n"
    )
    return 1


def _stopped(status: int) -> int:
    """Return the exit status of processes; where a signal asked them to stop, raise what says so."""
    if status - 128 in SIGNALS and os.environ.get(MEETING[2], "0") == "0":  # of several machines the first
        raise Preempted(status - 128)
    return status

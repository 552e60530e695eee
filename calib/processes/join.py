"""The processes of one command: started here, by torchrun or by srun; errors are said once, by one of them.

Every process runs the whole command from its start, so that reading and encoding images is shared as training
is. What they tell each other goes through `calib.core.ranks`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from calib.core import ranks
from calib.processes.devices import devices_of
from calib.processes.heartbeat import watched
from calib.processes.signals import LAUNCHER, Preempted
from calib.processes.workers import usable_cores

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment

WAIT = timedelta(days=7)  # the others wait while the first process evaluates; a process that ends is noticed
LOST = ("gloo", "connection", "nccl", "socket")  # words in the errors of a process whose partner is gone
STARTED = (
    "TORCHELASTIC_",
    "SLURM_",
    "LSB_",
    "JSM_",
)  # so begin what launchers set


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its command.

    Attributes:
        environment: What started them.
        rank: Its number.
        local_rank: Its number on this machine.
        world_size: How many there are.
        nodes: On how many machines.
    """

    environment: ClusterEnvironment
    rank: int
    local_rank: int
    world_size: int
    nodes: int

    @property
    def devices(self) -> int:
        """Processes per machine."""
        return self.world_size // self.nodes


def place_here() -> Place | None:
    """Return where this process stands among those that torchrun or a cluster started; None: it is alone.

    Raises:
        ValueError: The cluster's tasks were started in a way that says too little.
    """
    if not any(name.startswith(STARTED) for name in os.environ) and find_spec("mpi4py") is None:
        return None
    from lightning.fabric.plugins.environments import (  # takes seconds to import
        LSFEnvironment,
        MPIEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if not kind.detect():
            continue
        if kind is SLURMEnvironment and "SLURM_STEP_ID" not in os.environ:
            return None  # the script of a job: srun has started nothing yet
        try:
            found = kind()
        except RuntimeError as error:  # srun --ntasks instead of --ntasks-per-node
            raise ValueError(str(error)) from error
        world_size = int(found.world_size())
        if world_size == 1:
            return None
        here = os.environ.get("LOCAL_WORLD_SIZE")  # of torchrun
        nodes = world_size // int(here) if here else int(os.environ.get("SLURM_NNODES", 1))
        return Place(found, int(found.global_rank()), int(found.local_rank()), world_size, nodes)
    return None


def asked_devices(trainer: Mapping[str, Any]) -> int:
    """Return how many devices of this machine trainer settings ask for, "auto" and -1 counted.

    Raises:
        ValueError: They are not here.
    """
    return len(devices_of(trainer))


def pick_device(trainer: Mapping[str, Any]) -> torch.device:
    """Return the device that this process trains on with these trainer settings.

    Raises:
        ValueError: There is no such device here.
    """
    place = place_here() if ranks.world_size() > 1 else None
    if place is None:
        return devices_of({**trainer, "devices": trainer.get("devices", 1)})[0]
    devices = devices_of({**trainer, "devices": trainer.get("devices", place.devices)})
    return devices[place.local_rank]


def trainer_settings(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `lightning.Trainer` that make it train in all processes of this command."""
    place = place_here() if ranks.world_size() > 1 else None
    if place is None:
        return {}
    return {"devices": trainer.get("devices", place.devices), "num_nodes": place.nodes}


def in_processes(
    command: str,
    argv: Sequence[str],
    trainer: Mapping[str, Any],
    main: Callable[[], int],
    *,
    check: Callable[[], None],
) -> int:
    """Run a command in the processes it was started in or its settings ask for; return its exit status.

    Args:
        command: Its name.
        argv: Its arguments; a process that is started for it reads them itself.
        trainer: Its trainer settings.
        main: Does it, in this process.
        check: Raises what `main` would about the trainer settings; called before other processes are started.

    Raises:
        ValueError: The settings ask for another number of processes than were started, or for devices that
            are not here.
    """
    place = place_here()
    if place is not None:
        _check_number(place, trainer)
        return _as_one_of(place, trainer, main)
    devices, nodes = asked_devices(trainer), trainer.get("num_nodes", 1)
    if (devices, nodes) == (1, 1):
        return main()
    check()
    cores = usable_cores()
    if devices > max(2, cores) and devices_of(trainer)[0].type == "cpu":
        raise ValueError(
            f"trainer.devices={devices} would start as many processes on {cores} cores. On a CPU a process "
            f"needs a core: at most trainer.devices={max(2, cores)}."
        )
    from calib.processes.launch import launch  # takes a second to import

    return launch(command, argv, devices=devices, nodes=nodes)


def check_started(trainer: Mapping[str, Any]) -> None:
    """Refuse settings that ask for several processes where there is one.

    Raises:
        ValueError: They do.
    """
    if ranks.world_size() == 1 and asked_devices(trainer) * int(trainer.get("num_nodes", 1)) > 1:
        raise ValueError(
            "Several devices need several processes, which commands start: `calib train` or train.py with "
            "trainer.devices, torchrun, srun. From Python, and in sweeps: trainer.devices=1."
        )


def _check_number(place: Place, trainer: Mapping[str, Any]) -> None:
    devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", place.nodes)
    count = place.devices if devices in ("auto", -1, "-1") else asked_devices(trainer)
    if (count, nodes) != (place.devices, place.nodes):
        raise ValueError(
            f"trainer.devices={devices} trainer.num_nodes={nodes} ask for {count * nodes} processes, but "
            f"{place.world_size} were started ({place.devices} on each of {place.nodes} machines). Leave "
            "both settings out, or start as many."
        )


def _as_one_of(place: Place, trainer: Mapping[str, Any], main: Callable[[], int]) -> int:
    """Join the others, run the command, and leave them; an error is raised by the first one that meets it."""
    try:
        return _joined(place, trainer, main)
    except Preempted as stop:  # also while it is found out why another process is gone
        if place.rank == 0:
            raise
        return stop.status


def _joined(place: Place, trainer: Mapping[str, Any], main: Callable[[], int]) -> int:
    end_with_launcher()
    environment = place.environment
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = (
        environment.main_address,
        str(environment.main_port),
    )
    meeting = distributed.rendezvous("env://", place.rank, place.world_size, timeout=timedelta(minutes=5))
    store, _, _ = next(iter(meeting))
    try:
        gpu = _on_gpu(place, trainer)
    except ValueError as error:  # all of them meet it, and one says it
        if _is_news(error, store):
            raise
        return 1
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu is not None else "gloo",
        store=distributed.PrefixStore("calib", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=WAIT,
        device_id=gpu,
    )
    meets = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        with watched(*meets, place.rank, place.world_size, keeper=None if _launched_store() else 0):
            with _speaking(place.rank == 0):
                status = main()
            ranks.meet()
    except (KeyboardInterrupt, Preempted) as stop:
        if place.rank == 0 and not _has_failed(store, if_lost=False):  # torchrun stops those left, too
            raise
        return stop.status if isinstance(stop, Preempted) else 130
    except Exception as error:  # whatever it is, one of the processes says it
        if _is_news(error, store):
            raise
        return 1
    distributed.destroy_process_group()
    return status


def _launched_store() -> bool:
    """Return whether what started the processes keeps the store they meet in, as torch's rendezvous asks."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _on_gpu(place: Place, trainer: Mapping[str, Any]) -> torch.device | None:
    device = devices_of({**trainer, "devices": trainer.get("devices", place.devices)})[place.local_rank]
    return device if device.type == "cuda" else None


def _is_news(error: Exception, store: Any) -> bool:
    """Return whether no other process has said this error, or a reason for it.

    Raises:
        ConnectionError: Another process is gone and has said nothing.
    """
    if isinstance(error, distributed.DistError | RuntimeError) and any(
        word in str(error).lower() for word in LOST
    ):
        try:
            for _ in range(10):
                if _has_failed(store, if_lost=True):
                    return False
                time.sleep(0.2)
        except Preempted:  # torchrun stops those that are left; the one that is gone is the reason
            if LAUNCHER in os.environ:  # who says it
                raise
        raise ConnectionError(
            "Another process of this job has ended without a word: it was killed, perhaps as memory ran out, "
            "or its machine is gone. The same command goes on from the last finished epoch."
        ) from None
    said = hashlib.sha256(f"{type(error).__name__}: {error}".encode()).hexdigest()
    try:
        store.set("failed", "1")
        return store.add(said, 1) == 1
    except distributed.DistError:  # the store went with the launcher, which is ending this process
        return False


def _has_failed(store: Any, *, if_lost: bool) -> bool:
    """Return whether a process has said why the job ends; `if_lost` where the store is gone."""
    try:
        return bool(store.check(["failed"]))
    except distributed.DistError:
        return if_lost


@contextlib.contextmanager
def _speaking(speaks: bool) -> Iterator[None]:
    """Run a block; where others speak, without what it prints, remarks and warnings."""
    if speaks:
        yield
        return
    logging.getLogger("calib").setLevel(logging.ERROR)
    logging.captureWarnings(False)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def end_with_launcher() -> None:
    """End this process when the one that started it is gone: nobody would notice what becomes of it."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or not hasattr(os, "getppid"):
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(1)
        sys.stderr.write("The process that started this one is gone; it ends, too.\n")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""A process that hangs ends its job with the reason; one that works, however slowly, is waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from torch import distributed

from calib.processes.heartbeat import SETTING, Heart, Store, silence_allowed

# Two processes, the second forked from the first once everything is imported.
PROCESSES = """
import os, sys, time
from calib.processes.heartbeat import watched
child = os.fork()
rank = int(child == 0)
with watched("localhost", int(sys.argv[1]), rank, 2, keeper=None):
    if child:
        print(child, flush=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # busy in Python, without a word to the others
        pass
"""


def test_a_silent_process_is_noticed_and_a_slow_one_is_not() -> None:
    store = distributed.HashStore()
    first, second = (Heart(store, rank, 2, patience=3) for rank in range(2))
    second.beat()
    assert not first.beat()
    for _ in range(5):  # a beat for every two of the other's
        assert not first.beat()
        second.beat()
        assert not first.beat()
    assert [first.beat() for _ in range(3)] == [False, False, True]
    second.beat()
    assert not first.beat()  # it has only been slow


def test_a_job_that_is_stopped_as_a_whole_goes_on() -> None:
    """Time passes and nobody beats: nobody has been silent in beats of its own."""
    store = distributed.HashStore()
    hearts = [Heart(store, rank, 3, patience=2) for rank in range(3)]
    assert [heart.watched for heart in hearts] == [1, 2, 0]
    for _ in range(4):
        assert not any([heart.beat() for heart in hearts][1:])


def test_a_store_that_no_longer_answers_is_noticed_and_one_that_is_closed_is_not_missed() -> None:
    store = Store(patience=3)
    for _ in range(3):
        store.answered()
        assert [store.look() for _ in range(3)] == [False, False, False]  # the first look saw an answer
    assert store.look()
    store.gone = True
    assert not store.look()


@pytest.mark.parametrize(("said", "seconds"), [("30", 30.0), ("0", 0.0), (None, 600.0)])
def test_the_bound_is_set_by_the_environment(said: str | None, seconds: float, monkeypatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    if said is not None:
        monkeypatch.setenv(SETTING, said)
    assert silence_allowed() == seconds


@pytest.mark.parametrize("said", ["soon", "-1", "nan", "inf", ""])
def test_a_bound_that_is_no_number_is_refused(said: str, monkeypatch) -> None:
    monkeypatch.setenv(SETTING, said)
    with pytest.raises(ValueError, match="CALIB_SILENCE must be a number of seconds"):
        silence_allowed()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_stopped_process_ends_its_neighbour_with_the_reason() -> None:
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, SETTING: "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESSES, str(store.port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    first = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    second = int(first.stdout.readline())
    try:
        store.wait(["heartbeat/beats of 0", "heartbeat/beats of 1"])
        os.kill(second, signal.SIGSTOP)
        assert first.wait(timeout=100) == 1
        assert first.stderr.readline().startswith(
            "Process 1 of 2 has hung for 2 s (CALIB_SILENCE): it was stopped, or"
        )
    finally:
        os.kill(second, signal.SIGKILL)
        first.kill()
        first.communicate()


KEEPING = """
import sys, time
from datetime import timedelta
from torch import distributed
from calib.processes.heartbeat import watched
port, rank = int(sys.argv[1]), int(sys.argv[2])
kept = distributed.TCPStore("localhost", port, is_master=rank == 0, wait_for_workers=False)
with watched("localhost", port, rank, 3, keeper=0):
    kept.set(f"in {rank}", "1")
    kept.wait(["in 0", "in 1", "in 2"])
    time.sleep(2)
    print("in", flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_stopped_process_that_keeps_the_store_ends_all_others_and_one_says_so() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, SETTING: "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KEEPING, str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(3)]  # type: ignore[call-overload]
    try:
        assert [process.stdout.readline() for process in started] == ["in\n"] * 3
        started[0].send_signal(signal.SIGSTOP)
        said = [process.communicate(timeout=60)[1] for process in started[1:]]
        assert [process.returncode for process in started[1:]] == [1, 1]
        assert said[0] == ""
        assert said[1].startswith("Process 0 of 3 has hung for 2 s (CALIB_SILENCE): it was stopped, or")
    finally:
        for process in started:
            process.kill()
            process.communicate()

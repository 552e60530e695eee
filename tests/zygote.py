"""Starts real jobs quickly: a process that has imported everything forks one for every command it is told.

Reads lines of JSON {"cwd", "log", "arguments"} and answers each with the pid, then with the exit status,
which is negative for a signal. What runs in the fork is the command line's own function.
"""

from __future__ import annotations

import json
import os
import sys

import lightning
import matplotlib.pyplot
import open_clip

import calib.commands.failure.run
import calib.commands.search.sweep
import calib.commands.search.tune
import calib.commands.train
from calib.cli import run

PRELOADED = (lightning, matplotlib, open_clip, calib)


def work(job: dict) -> None:
    """Be the process of a command, with its output in a file; never returns."""
    os.chdir(job["cwd"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    status = 70
    try:
        status = run(job["arguments"][0], job["arguments"][1:])
        sys.stdout.flush()
    finally:
        os._exit(status)


def main() -> None:
    """Serve until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            work(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

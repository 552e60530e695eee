"""Real jobs without the seconds that imports take: forked from one process that has imported everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Forked:
    """A command at work in a process forked from the zygote, with its output in `log` of its folder.

    Args:
        zygote: The fixture.
        cwd: Its folder.
        arguments: The command and its arguments.
    """

    def __init__(self, zygote: subprocess.Popen, cwd: Path, arguments: list[str]) -> None:
        self.zygote = zygote
        job = {"cwd": str(cwd), "log": str(cwd / "log"), "arguments": arguments}
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps(job) + "\n")
        zygote.stdin.flush()
        self.pid = int(self._line())

    def ended(self) -> bool:
        """Return whether it has."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:  # the zygote has waited for it
            return True
        return False

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        return int(self._line())

    def _line(self) -> str:
        assert self.zygote.stdout is not None
        return self.zygote.stdout.readline()


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen]:
    """Return the process that forks the others, one at a time."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "zygote.py")],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # as the command line says before it imports torch
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait()

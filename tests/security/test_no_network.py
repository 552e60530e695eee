"""The main job, alone in a process in which every use of the network is an error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests_shared import SHORT

PROGRAM = """
import sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        sys.stderr.write(f"NETWORK {event} {arguments}\\n")
        raise OSError("no network here")

sys.addaudithook(guard)
from calib.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow  # as a process of its own, without the settings of tests that keep libraries quiet
def test_the_main_job_asks_nothing_of_the_network(tmp_path: Path) -> None:
    allowed = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    arguments = ["train", *SHORT, "trainer.max_epochs=1", "baselines=[]", f"out={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=allowed,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert (tmp_path / "run" / "prompt.safetensors").is_file()


def test_no_test_reaches_the_network() -> None:
    for address in (("192.0.2.1", 80), ("192.0.2.1", 443)):
        with pytest.raises(OSError, match="Tests have no network"), socket.socket() as one:
            one.connect(address)
    with pytest.raises(OSError, match="Tests have no network"):
        socket.getaddrinfo("example.org", 443)


def test_the_guard_sees_the_network() -> None:
    program = PROGRAM.partition("from calib")[0] + "import socket\nsocket.create_connection(('localhost', 9))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "NETWORK socket.getaddrinfo" in done.stderr
    assert done.returncode != 0

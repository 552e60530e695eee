"""Bad storage: a full disk, a read-only folder, renames and flushes that fail, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.core.errors import WriteError
from calib.io.files import atomic_path, remove_unfinished, write_text
from calib.io.locks import BusyError, holds_nothing, is_held, locked


def failing(function: Callable, code: int, times: int) -> Callable:
    """Return the function as it is on a bad day: its first calls raise the error."""
    calls = []

    def on_a_bad_day(*arguments, **settings):
        calls.append(arguments)
        if len(calls) <= times:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **settings)

    return on_a_bad_day


@pytest.mark.parametrize(
    ("where", "code", "says"),
    [
        ("tempfile.mkstemp", errno.EROFS, "Read-only file system. Choose a folder that you may write to."),
        ("tempfile.mkstemp", errno.EACCES, "Permission denied. Choose a folder that you may write to."),
        ("tempfile.mkstemp", errno.ENOSPC, "No space left on device. Make room there"),
        ("os.fsync", errno.EDQUOT, "Disk quota exceeded. Make room there"),
        ("os.fsync", errno.EIO, "Input/output error. Look after the storage"),
        ("os.replace", errno.EXDEV, "Invalid cross-device link. Look after the storage"),
        ("os.replace", errno.ESTALE, "Stale file handle. Look after the storage"),
    ],
)
def test_the_old_file_is_kept_nothing_is_left_and_one_line_says_why(
    where: str, code: int, says: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("calib.io.files.PAUSES", (0.0, 0.0))
    target = tmp_path / "metrics.json"
    write_text(target, "old")
    module, name = where.split(".")
    monkeypatch.setattr(where, failing(getattr(sys.modules[module], name), code, times=9))
    with pytest.raises(WriteError) as raised:
        write_text(target, "new")
    monkeypatch.undo()
    message = str(raised.value)
    assert message.startswith(f"{target} could not be written: {says}")
    assert message.endswith("The file that was there is untouched.")
    assert "\n" not in message
    assert raised.value.errno == code
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]
    write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EBUSY, errno.EIO])
def test_a_rename_that_fails_once_is_tried_again(code: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.replace", failing(os.replace, code, times=1))
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_rename_whose_answer_was_lost_counts_as_done(tmp_path: Path, monkeypatch) -> None:
    write_text(tmp_path / "a", "old")
    replace = os.replace

    def lost(part: Path, path: Path) -> None:
        replace(part, path)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("os.replace", lost)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path: Path, monkeypatch) -> None:
    fsync = os.fsync

    def fussy(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr("os.fsync", fussy)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))[1]
    )
    monkeypatch.setattr("os.replace", lambda part, path: (done.append("rename"), replace(part, path))[1])
    write_text(tmp_path / "a", "x")
    assert done[0].endswith(".part")
    assert done[1:] == ["rename", str(tmp_path)]


def test_a_file_that_outgrows_the_limit_leaves_the_old_one(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: `write` fails halfway, in a process of its own."""
    write_text(tmp_path / "a", "old")
    limit = (20_000, resource.RLIM_INFINITY)
    code = f"from calib.io.files import write_text; write_text({str(tmp_path / 'a')!r}, 'x' * 50_000)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        check=False,
    )
    assert "a could not be written: File too large. Raise the limit on the size of files" in done.stderr
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from calib.io.files import atomic_path
        with atomic_path({str(tmp_path / "deep" / "a.json")!r}) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "deep").iterdir()
    assert left.suffix == ".part"
    others = [tmp_path / "deep" / name for name in ("film.part", ".hidden", "a.json")]
    for other in others:
        other.write_text("mine")
    remove_unfinished(tmp_path)
    remove_unfinished(tmp_path / "deep", "b*")
    assert left.exists()
    remove_unfinished(tmp_path, deep=True)
    remove_unfinished(tmp_path / "nowhere")
    assert sorted((tmp_path / "deep").iterdir()) == sorted(others)


def test_an_error_in_the_middle_is_not_hidden_by_the_clearing_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.unlink", failing(Path.unlink, errno.ESTALE, times=9))
    with pytest.raises(RuntimeError, match="the reason"), atomic_path(tmp_path / "a"):
        raise RuntimeError("the reason")


HOLD = """
import sys, time
from calib.io.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_of_another_process_is_noticed_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    assert not is_held(path)
    assert not path.exists()
    process = holder(path)
    assert is_held(path)
    with pytest.raises(BusyError), locked(path):
        pass
    process.kill()
    process.wait()
    assert not is_held(path)
    with locked(path):
        pass


def test_a_waiting_process_says_so_and_takes_over(tmp_path: Path, caplog) -> None:
    process = holder(tmp_path / "a.lock")
    ending = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    began = time.monotonic()
    with caplog.at_level("INFO", logger="calib"), locked(tmp_path / "a.lock", waiting="Waiting for it."):
        assert time.monotonic() - began > 0.2
    assert "Waiting for it." in caplog.text
    process.wait()
    ending.wait()


def test_patience_has_an_end(tmp_path: Path) -> None:
    process = holder(tmp_path / "a.lock")
    began = time.monotonic()
    with pytest.raises(BusyError), locked(tmp_path / "a.lock", patience=0.3):
        pass
    assert time.monotonic() - began >= 0.3
    ending = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {process.pid}"])
    with locked(tmp_path / "a.lock", patience=60):
        assert ending.wait() == 0
    process.wait()


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_served_by_a_file_that_lies_there(
    code: int, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, code, times=99))
    path = tmp_path / "a.lock"
    with locked(path), pytest.raises(BusyError) as raised, locked(path):
        pass
    with locked(path):
        path.unlink(missing_ok=True)  # some systems leave none
        ours = path.with_name("a.lock.held").exists()
        assert ours or code == errno.ENOSYS  # which filelock itself takes care of, from 3.24 on
        assert is_held(path) == ours
    assert not is_held(path)
    if ours:
        assert caplog.text.count("has no file locks") == 1
        assert raised.value.hint == f" If there is none any more, delete {path}.held."
    with locked(path):  # released
        pass


def test_a_fault_of_the_storage_is_no_file_system_without_locks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, errno.EIO, times=99))
    with pytest.raises(WriteError, match=r"a\.lock could not be written"), locked(tmp_path / "a.lock"):
        pass
    assert not (tmp_path / "a.lock.held").exists()


def test_a_folder_with_a_lock_and_half_a_file_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "run.lock"
    assert holds_nothing(lock.parent, but=lock)
    lock.parent.mkdir()
    for name in ("run.lock", "run.lock.held", ".config.yaml.x1.part"):
        (lock.parent / name).touch()
    assert holds_nothing(lock.parent, but=lock)
    (lock.parent / "x1.part").touch()  # somebody's own
    assert not holds_nothing(lock.parent, but=lock)


def test_a_lock_that_cannot_be_made_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    says = r"file/a\.lock could not be written: .*A file stands where"
    with pytest.raises(WriteError, match=says), locked(tmp_path / "file" / "a.lock"):
        pass


def test_errors_of_files_and_locks_reach_the_other_processes_of_a_job(tmp_path: Path) -> None:
    """What the first process meets is raised in all, after a way as bytes."""
    path = tmp_path / "a.json"
    path.write_text("{}")
    error = WriteError(path, OSError(errno.ENOSPC, "No space left on device"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errno, type(again)) == (str(error), errno.ENOSPC, WriteError)
    busy = BusyError(tmp_path / "x.lock.held")
    assert pickle.loads(pickle.dumps(busy)).hint == busy.hint

"""The `calib` command: the same functions as the scripts, as subcommands."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO, cast

import calib
from calib.commands.exit_codes import DONE, FAILED, INTERRUPTED, UNREAD, USAGE, exit_codes_table
from calib.commands.registry import COMMANDS, Command
from calib.commands.shown import show_warnings
from calib.config import handed_on
from calib.config.help import settings_help
from calib.config.names import check_root
from calib.core.errors import UsageError, WriteError, unknown_name
from calib.core.text import printable, redacted
from calib.processes.lean import import_lightning
from calib.processes.signals import LAUNCHER, Preempted, preemptible, requeue
from calib.processes.threads import prepare_threads

HELP = ("-h", "--help")
MEANT = {"failure": "train task=failure", "why": "predict RUN IMAGES --failure FAILURE_RUN", "help": "--help"}
LESS_MEMORY = "Close other programs, or take less at once (data.encode_batch_size, stack, --batch-size)."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status, one of `calib.commands.exit_codes.EXIT_CODES`.

    Args:
        argv: The arguments. None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="calib",
        description=(calib.__doc__ or "").splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:10} {row.summary}" for name, row in COMMANDS.items())
        + f"\n\nexit statuses:\n{exit_codes_table()}",
    )
    parser.add_argument("--version", action="version", version=f"calib {calib.__version__}")
    parser.add_argument("command", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see calib COMMAND --help")
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments:
        return _on_screen("", lambda _: _shown(parser))
    if not arguments[0].startswith("-") and arguments[0] in COMMANDS:
        return run(arguments[0], arguments[1:])

    def answer(_: _Screen) -> int:
        given = parser.parse_args(arguments)
        meant = MEANT.get(given.command)
        parser.error(
            str(unknown_name("command", given.command, COMMANDS, meant=None if meant is None else [meant]))
        )

    return _on_screen("", answer)


def _shown(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return USAGE


def run(command: str, argv: Sequence[str]) -> int:
    """Run one command, its expected errors as one line on standard error, and return the exit status.

    Args:
        command: A key of `COMMANDS`.
        argv: Its arguments.
    """
    return _on_screen(command, lambda screen: _answer(command, COMMANDS[command], argv, screen))


def _on_screen(command: str, answer: Callable[[_Screen], int]) -> int:
    """Return the exit status of an answer, or what is to be said where standard output is lost on the way."""
    screen, status = _Screen(sys.stdout), DONE
    with contextlib.redirect_stdout(cast(TextIO, screen)):
        try:
            try:
                status = answer(screen)
            except SystemExit:  # of argparse: help, or wrong usage; it passes over an error of its own
                sys.stdout.flush()
                if screen.lost is None:
                    raise
                return _without_screen(command, screen.lost)
            sys.stdout.flush()  # what cannot be shown is said here, not by the interpreter at its end
        except OSError as error:
            if error is not screen.lost:
                raise
            lost = _without_screen(command, error)
            return status or lost
    return status


class _Screen:
    """Standard output that knows whether an error is its own.

    Attributes:
        lost: Why something could not be shown. None: everything could.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Show a text; where standard output was closed before the start, nobody wants to see it."""
        return len(text) if self._stream is None else self._tried(self._stream.write, text)

    def flush(self) -> None:
        """Show what waits to be shown."""
        if self._stream is not None:
            self._tried(self._stream.flush)

    def _tried(self, act: Callable[..., Any], *given: str) -> Any:
        try:
            return act(*given)
        except OSError as error:
            self.lost = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream or sys.stderr, name)


def _answer(command: str, row: Command, argv: Sequence[str], screen: _Screen) -> int:
    row = row.form(argv)
    try:
        if row.usage and set(HELP) & set(argv):
            sys.stdout.write(_help(row.chosen([word for word in argv if word not in HELP])))
            return DONE
        with preemptible():  # also while it is told that it was stopped: a second signal changes nothing
            try:
                return _run(command, row, argv)
            except Preempted as stop:
                if LAUNCHER not in os.environ:  # else the process that started this one says why the job ends
                    said = f"stopped by {stop.name}.{row.after.told(row.after.stop, command, argv)}"
                    sys.stderr.write(f"calib {command}: {printable(redacted(said))}\n")
                    requeue(stop)
                return stop.status
    except WriteError as error:
        sys.stderr.write(f"calib {command}: {printable(redacted(str(error)))}{row.after.write_error}\n")
        return FAILED
    except (ValueError, FloatingPointError, OSError) as error:
        if error is screen.lost:
            raise  # which `_on_screen` answers
        sys.stderr.write(f"calib {command}: {printable(redacted(str(error)))}\n")
        return USAGE if isinstance(error, UsageError) else FAILED
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        sys.stderr.write(
            f"calib {command}: there is not enough memory. {LESS_MEMORY}"
            f"{printable(redacted(row.after.told(row.after.interruption, command, argv)))}\n"
        )
        return FAILED
    except KeyboardInterrupt as stop:
        where = f" {stop}" if str(stop) else ""  # what of a run is saved
        said = f"interrupted{where}.{row.after.told(row.after.interruption, command, argv)}"
        sys.stderr.write(f"\ncalib {command}: {printable(redacted(said))}\n")
        return INTERRUPTED


def _out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, that of a GPU as well; torch is not imported."""
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "not enough memory" in said
        or "Cannot allocate memory" in said
    )


def _without_screen(command: str, reason: OSError) -> int:
    """Say that standard output is lost, drop what waits to be shown there, and return the exit status.

    Who closes a pipe, as `head` and a pager do, has seen enough: nothing is said.
    """
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if isinstance(reason, BrokenPipeError):
        return UNREAD
    sys.stderr.write(
        f"calib {command}: standard output is full ({reason.strerror}), so that results cannot be shown. "
        "Files were written all the same. Send the output elsewhere, e.g. > FILE.\n"
    )
    return FAILED


def _help(row: Command) -> str:
    """Return usage, examples and every setting with its default."""
    return f"{row.usage}\nSettings and their defaults (task {row.task}):\n\n{settings_help(row.task)}\n"


def _run(name: str, row: Command, argv: Sequence[str]) -> int:
    prepare_threads()
    row = row.chosen(argv)
    given = row.read(argv)
    if row.shared:
        check_root(getattr(given, "data", None))
    if row.trains:
        import_lightning()
    if not row.shared:
        main = row.function()
        show_warnings()
        return main(given)
    from calib.processes.join import in_processes

    show_warnings()
    trainer = getattr(given, "trainer", {})
    # What it takes is imported where it runs: not in a process that only starts others.
    with handed_on(argv) as words:
        return in_processes(
            name, words, trainer, lambda: row.function()(given), check=lambda: _check_trainer(trainer)
        )


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    from calib.runs.trainer import check_trainer  # takes seconds to import

    check_trainer(trainer)


if __name__ == "__main__":
    sys.exit(main())

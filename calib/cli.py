"""The `calib` command: the same functions as the scripts, as subcommands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import calib
from calib.config import task_of

COMMANDS = {
    "train": "learn a calibrated prompt, or with task=failure to predict its failures: calib train "
    "[CONFIG.yaml ...] [key=value ...]",
    "evaluate": "compare exported prompts: calib evaluate RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value "
    "...]",
    "predict": "classify images with an exported prompt: calib predict PROMPT IMAGE_OR_FOLDER ... "
    "[--failure FAILURE] [--out FILE.csv]",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        argv: The arguments. None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="calib",
        description=calib.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"calib {calib.__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="command", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see calib COMMAND --help")
    given = parser.parse_args(argv)
    return run(given.command, given.arguments)


def run(command: str, argv: Sequence[str]) -> int:
    """Run one command, its expected errors as one line on standard error, and return the exit status.

    Args:
        command: A key of `COMMANDS`.
        argv: Its arguments.
    """
    if argv and argv[0] in ("-h", "--help") and command != "predict":
        sys.stdout.write(
            f"{COMMANDS[command]}\n\nEvery setting, with its default, is explained in calib/config.py.\n"
        )
        return 0
    try:
        return _command(command, argv)(argv)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.stderr.write(f"calib {command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\ncalib {command}: interrupted. The same command goes on from the last finished epoch.\n"
        )
        return 130


def _command(name: str, argv: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """Return the command's function; torch and the rest are imported only now."""
    # Threads wait without spinning: otherwise a second process on the machine slows a step many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if name == "train" and task_of(argv) == "failure":
        from calib.jobs.failure import main as command
    elif name == "train":
        from calib.jobs.train import main as command
    elif name == "evaluate":
        from calib.jobs.evaluate import main as command
    else:
        from calib.jobs.predict import main as command
    _quiet()
    return command


def _quiet() -> None:
    """Show warnings and errors, but not the libraries' remarks on what the user did not choose."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("calib").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for remark in (
        "isinstance.treespec, LeafSpec",
        "module.s. in eval mode at the start of training",  # the frozen backbone, on purpose
        "does not have many workers",
        "Checkpoint directory",
    ):
        warnings.filterwarnings("ignore", message=f".*{remark}.*")


if __name__ == "__main__":
    sys.exit(main())

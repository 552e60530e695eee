"""The `calib` command: the same functions as the scripts, as subcommands."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import calib
from calib.commands.predict_arguments import predict_arguments
from calib.commands.search.grid import expand, sweep_settings
from calib.commands.search.space import search_of, tune_settings
from calib.config import load_config, split_arguments, task_of
from calib.config.help import settings_help
from calib.core.errors import WriteError
from calib.core.text import printable, redacted
from calib.processes.signals import Preempted, preemptible, requeue
from calib.processes.threads import prepare_threads

Main: TypeAlias = Callable[[Sequence[str]], int]

AFTER_INTERRUPTION = dict.fromkeys(
    ("train", "sweep", "tune"), " The same command goes on from the last finished epoch."
)
AFTER_STOP = dict.fromkeys(("train", "sweep", "tune"), " The same command goes on from what is saved.")
AFTER_WRITE_ERROR = dict.fromkeys(
    ("train", "sweep", "tune"),
    " Then the same command goes on (out=FOLDER is where results go, data.cache_dir=FOLDER image features).",
)

COMMANDS = {
    "train": "learn a calibrated prompt, or with task=failure to predict its failures",
    "sweep": "train many settings and seeds side by side, in one table",
    "tune": "search the best settings by a validation metric: calib tune key=low..high trials=40",
    "evaluate": "compare exported prompts on their own test images or on others",
    "cache": "list, check and prune cached image features: calib cache [FOLDER] [--prune DAYS]",
    "predict": "classify images with an exported prompt",
}
HELP = {
    "train": """calib train [CONFIG.yaml ...] [key=value ...]
python train.py [CONFIG.yaml ...] [key=value ...]

Learns a prompt from a few images per class and shows it beside zero-shot and a CE-only prompt. YAML files
are merged from left to right over the defaults below, then the key=value changes in order. An interrupted
run goes on with the same command.

  calib train
  calib train data.name=folder data.root=IMAGES data.shots=16 seed=2
  calib train preset=calibprompt-ls loss.smac.alpha=0.1 "baselines=[coop,ls]" out=runs/mine
  calib train configs/failure.yaml prompt=runs/mine
  calib train task=failure --help      (explains the settings of failure prediction)
""",
    "failure": """calib train task=failure [CONFIG.yaml ...] [key=value ...]
python train.py configs/failure.yaml [key=value ...]

Learns which predictions of a prompt, of zero-shot, or of any model whose embeddings are in a file, are wrong,
and compares the head with simpler scores on the test images.

  calib train configs/failure.yaml prompt=runs/mine
  calib train configs/failure.yaml data.name=lc25000
  calib train configs/failure.yaml embeddings.train=train.npz embeddings.test=test.npz
""",
    "sweep": """calib sweep [CONFIG.yaml ...] key=v1,v2 seed=1..5 [key=value ...]

Trains every combination of the listed values on the same backbone and data, many prompts side by side in
one process, each as if it were trained alone with its own folder. One table: mean and standard deviation
over seeds, in the order of a validation metric; test metrics stand beside it. An interrupted sweep goes on
with the same command. Its own settings: out=FOLDER, by=nll|brier|ece|accuracy (validation metric),
samples=N (combinations drawn at random, sample_seed=0), stack=16 (prompts side by side at most).

  calib sweep preset=coop,calibprompt,calibprompt-ls seed=1..5 out=runs/presets
  calib sweep loss.smac.alpha=0.01,0.05,0.2 loss.as.weight=0,0.01,0.1 optim.lr=0.001,0.002 samples=8 seed=1..3
""",
    "tune": """calib tune [CONFIG.yaml ...] key=low..high key=low..high:log key=a,b seed=1..3 trials=40

Searches settings with Optuna (pip install 'calib[tune]'). low..high is a range: of whole numbers if both ends
are written so (4..16), else of any (0.0..0.1); :log makes every factor of ten as likely; a,b,c is a list to
choose from; seed=1..3 are trained side by side in every trial. What is improved is the mean over seeds of a
metric of the validation shots; test metrics stand in the table and decide nothing. A trial worse than the
median of the earlier ones at the same epoch is stopped. Every finished trial leaves ordinary run folders. The
same command goes on after any interruption, trials that were running included, and several of them may work
on one folder at once.

Its own settings: trials=20 (altogether), by=nll|brier|ece|accuracy, out=FOLDER, workers=1 (processes: one per
GPU, or sharing the cores), prune=true, sample_seed=0.

  calib tune optim.lr=1e-4..1e-2:log loss.smac.alpha=0.01..0.3:log seed=1..3 trials=40 out=runs/tuned
  calib tune preset=coop,calibprompt prompt.n_ctx=4..16 data.val_shots=16 by=brier workers=2
""",
    "evaluate": """calib evaluate RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value ...]
python evaluate.py RUN_OR_PROMPT ... [CONFIG.yaml ...] [key=value ...]

Applies exported prompts (run folders, prompt.safetensors files, patterns of either) to their own test images
or to any data set with the same classes; over several seeds with mean, standard deviation and, against a
baseline, paired intervals.

  calib evaluate runs/demo-s1 runs/demo-s2 runs/demo-s3 baseline=coop out=runs/demo
  calib evaluate "runs/demo-s*" data.name=folder data.root=OTHER_IMAGES
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, 143 stopped by SIGTERM, 138 by SIGUSR1.

    Args:
        argv: The arguments. None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="calib",
        description=(calib.__doc__ or "").splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"calib {calib.__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="command", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see calib COMMAND --help")
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments:
        parser.print_help()
        return 2
    given = parser.parse_args(arguments)
    return run(given.command, given.arguments)


def run(command: str, argv: Sequence[str]) -> int:
    """Run one command, its expected errors as one line on standard error, and return the exit status.

    Args:
        command: A key of `COMMANDS`.
        argv: Its arguments.
    """
    try:
        if command in HELP and {"-h", "--help"} & set(argv):
            sys.stdout.write(_help(command, [a for a in argv if a not in ("-h", "--help")]))
            return 0
        with preemptible():  # also while it is told that it was stopped: a second signal changes nothing
            try:
                return _command(command, argv)(argv)
            except Preempted as stop:
                sys.stderr.write(f"calib {command}: stopped by {stop.name}.{AFTER_STOP.get(command, '')}\n")
                requeue(stop)
                return stop.status
    except WriteError as error:
        after = AFTER_WRITE_ERROR.get(command, "")
        sys.stderr.write(f"calib {command}: {printable(redacted(str(error)))}{after}\n")
        return 1
    except (ValueError, FloatingPointError, OSError) as error:
        sys.stderr.write(f"calib {command}: {printable(redacted(str(error)))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\ncalib {command}: interrupted.{AFTER_INTERRUPTION.get(command, '')}\n")
        return 130


def _help(command: str, argv: Sequence[str]) -> str:
    """Return usage, examples and every setting with its default."""
    task = "evaluate"
    if command != "evaluate":
        task = task_of(argv) if command == "train" else "prompt"
    usage = HELP["failure"] if task == "failure" else HELP[command]
    return f"{usage}\nSettings and their defaults (task {task}):\n\n{settings_help(task)}\n"


def _command(name: str, argv: Sequence[str]) -> Main:
    """Return the command's function; torch and the rest are imported after the settings are read."""
    prepare_threads()
    if name == "train":
        task = task_of(argv)
        trainer = load_config(argv, task=task).trainer  # a typo is answered at once
        command = _in_processes(name, _train_failure if task == "failure" else _train, trainer)
    elif name == "sweep":
        settings, rest = sweep_settings(argv)
        expand(rest, samples=settings.samples, seed=settings.sample_seed)
        from calib.commands.search.sweep import main as command
    elif name == "tune":
        search_of(tune_settings(argv)[1])
        from calib.commands.search.tune import main as command
    elif name == "evaluate":
        load_config(split_arguments(argv)[0], task="evaluate")
        command = _in_processes(name, _evaluate, {})
    elif name == "cache":
        from calib.commands.cache import main as command
    else:
        predict_arguments(argv)
        from calib.commands.predict import main as command
    _quiet()
    return command


# Imported where they run: not in a process that only starts others.
def _train(argv: Sequence[str]) -> int:
    from calib.commands.train import main

    return main(argv)


def _train_failure(argv: Sequence[str]) -> int:
    from calib.commands.failure.run import main

    return main(argv)


def _evaluate(argv: Sequence[str]) -> int:
    from calib.commands.evaluate import main

    return main(argv)


def _in_processes(name: str, command: Main, trainer: dict[str, Any]) -> Main:
    from calib.processes.join import in_processes
    from calib.runs.trainer import check_trainer

    check_trainer(trainer)
    return lambda argv: in_processes(name, argv, trainer, command)


class _SafeFormatter(logging.Formatter):
    """Lines of the log without terminal commands and passwords, which file names and addresses may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(redacted(super().format(record)))


def _quiet() -> None:
    """Show warnings and errors, but not the libraries' remarks on what the user did not choose."""
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("calib").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for remark in (
        "isinstance.treespec, LeafSpec",
        "module.s. in eval mode at the start of training",  # the frozen backbone, on purpose
        "does not have many workers",
        "Checkpoint directory",
        "It is recommended to use .*sync_dist",  # every process logs the numbers of all
        "find_unused_parameters=True was specified",
        ".broadcast_buffers. is deprecated",  # its successor is not in older versions
    ):
        warnings.filterwarnings("ignore", message=f".*{remark}.*")


if __name__ == "__main__":
    sys.exit(main())

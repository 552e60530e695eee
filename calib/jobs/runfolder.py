"""The folder of one run: belongs to one configuration, is continued or refused, never mixed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from calib.config import FailureRun, PromptRun, load_config, task_of, to_dict, to_yaml
from calib.files import atomic_path, read_json, write_json, write_text

# Settings that do not change what is learned: a run may be continued with other values of these.
FREE = (
    "out",
    "resume",
    "overwrite",
    "baselines",
    "log",
    "data.cache_dir",
    "data.encode_batch_size",
    "trainer.enable_progress_bar",
)
OWNED = (
    "config.yaml",
    "split.json",
    "metrics.json",
    "table.md",
    "prompt.safetensors",
    "failure.safetensors",
    "predictions.safetensors",
    "uncertainties.safetensors",
    "failures.csv",
    "reliability.png",
    "risk_coverage.png",
    "folds",
    "checkpoints",
    "logs",
    "baselines",
    "wandb",
)


class RunFolder:
    """Paths and state of a run's folder.

    Args:
        path: The folder; made by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.split = self.path / "split.json"
        self.metrics = self.path / "metrics.json"
        self.prompt = self.path / "prompt.safetensors"
        self.failure = self.path / "failure.safetensors"
        self.predictions = self.path / "predictions.safetensors"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.baselines = self.path / "baselines"
        self.folds = self.path / "folds"

    @property
    def finished(self) -> bool:
        """Whether the run has written its metrics, which is the last thing a run does."""
        return self.metrics.is_file()

    def check(self, config: PromptRun | FailureRun) -> None:
        """Refuse the folder where using it would mix or lose results. Changes nothing.

        Raises:
            ValueError: The folder holds another configuration, files that are not a run's, or a run that
                the settings `resume` and `overwrite` say neither to continue nor to replace.
        """
        if config.overwrite or not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"The run folder '{self.path}' is a file. Give another one: out=FOLDER.")
        if not self.config.is_file():
            if any(self.path.iterdir()):
                raise ValueError(
                    f"The folder '{self.path}' holds files but no run (no config.yaml). Give another: "
                    f"out=FOLDER."
                )
            return
        differences = self._differences(config)
        if differences:
            listed = "; ".join(differences[:4]) + (
                f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
            )
            raise ValueError(
                f"The run folder '{self.path}' belongs to another configuration: {listed}. "
                "Give another folder (out=FOLDER) or replace it (overwrite=true)."
            )
        if not config.resume:
            state = "a finished" if self.finished else "an unfinished"
            raise ValueError(
                f"The folder '{self.path}' holds {state} run of this configuration. Go on with it "
                f"(resume=true), "
                "replace it (overwrite=true), or give another folder (out=FOLDER)."
            )

    def claim(self, config: PromptRun | FailureRun, split: dict[str, Any]) -> None:
        """Make the folder and write what it belongs to; `overwrite` first removes an earlier run's files.

        Args:
            config: The run's settings.
            split: The few-shot draw, written to split.json.

        Raises:
            ValueError: The data have changed under an unfinished run, or the folder cannot be written.
        """
        if config.overwrite and self.config.is_file():
            self._clear()
        try:
            if self.split.is_file() and (old := read_json(self.split)) != split:
                changed = sorted(key for key in split if old.get(key) != split[key])
                raise ValueError(
                    f"The data have changed since the run in '{self.path}' began (split.json differs in: "
                    f"{', '.join(changed)}). Replace it (overwrite=true) or give another folder (out=FOLDER)."
                )
            write_text(self.config, to_yaml(replace(config, resume=True, overwrite=False)))
            write_json(self.split, split)
        except OSError as error:
            raise ValueError(
                f"The run folder '{self.path}' cannot be written: {error.strerror or error}."
            ) from error

    def _differences(self, config: PromptRun | FailureRun) -> list[str]:
        task = task_of([str(self.config)])
        if task != config.task:
            return [f"task is {task!r} there and {config.task!r} here"]
        return describe_differences(load_config([str(self.config)], task=task), config)

    def _clear(self) -> None:
        for name in OWNED:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def describe_differences(old: PromptRun | FailureRun, new: PromptRun | FailureRun) -> list[str]:
    """Return one phrase per setting that differs between two configurations and matters for the result.

    Example:
        >>> describe_differences(PromptRun(seed=1), PromptRun(seed=2))
        ['seed is 1 there and 2 here']
    """
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    keys = sorted(before.keys() | after.keys())
    kept = [key for key in keys if not any(key == free or key.startswith(f"{free}.") for free in FREE)]
    return [
        f"{key} is {before.get(key)!r} there and {after.get(key)!r} here"
        for key in kept
        if before.get(key) != after.get(key)
    ]


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, atomically."""
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=150)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

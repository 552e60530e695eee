"""Values that no run can have, and settings that exclude each other."""

from __future__ import annotations

from typing import Any

from calib.config.schema import EvaluateRun, FailureRun, PromptRun
from calib.core.errors import unknown_name


def check_ranges(config: Any) -> None:
    """Refuse a run's settings that are out of range or exclude each other.

    Raises:
        ValueError: Such a setting; the message names it.
    """
    data = config.data
    for name in ("name", "root", "template", "class_names"):
        if name in data.options:
            raise ValueError(f"data.options.{name} is written data.{name}={data.options[name]}.")
    limits: list[tuple[str, float | None, float]] = [
        ("data.shots", data.shots, 1),
        ("data.val_shots", data.val_shots, 0),
        ("data.batch_size", data.batch_size, 1),
        ("data.views", data.views, 0),
        ("data.encode_batch_size", data.encode_batch_size, 1),
        ("seed", config.seed, 0),
    ]
    if isinstance(config, PromptRun | EvaluateRun):
        limits.append(("n_bins", config.n_bins, 1))
    if isinstance(config, FailureRun | EvaluateRun):
        limits.append(("n_resamples", config.n_resamples, 1))
        if not 0 < config.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {config.level}.")
    if isinstance(config, PromptRun | FailureRun):
        limits.append(("optim.warmup_epochs", config.optim.warmup_epochs, 0))
        _check_positive({"optim.lr": config.optim.lr})
        _check_option("log.wandb", config.log.wandb, ["disabled", "offline", "online"])
        _check_option("optim.name", config.optim.name, ["sgd", "adamw"])
        _check_option("backbone.preprocessing", config.backbone.preprocessing, ["own", "calibprompt"])
    if isinstance(config, PromptRun):
        limits.append(("prompt.n_ctx", config.prompt.n_ctx, 1))
        _check_positive({"prompt.init_std": config.prompt.init_std})
        _check_option("prompt.class_position", config.prompt.class_position, ["end", "middle", "front"])
    if isinstance(config, FailureRun):
        limits.append(("folds", config.folds, 2))
        _check_option("fit_on", config.fit_on, ["auto", "outside", "cross_fitted"])
        _check_source(config)
    for key, number, least in limits:
        if number is not None and number < least:
            raise ValueError(f"{key} must be at least {least}, got {number}.")
    if config.seed >= 2**32:  # what numpy and Lightning take
        raise ValueError(f"seed must be below {2**32}, got {config.seed}.")


def _check_positive(values: dict[str, float]) -> None:
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{key} must be above 0, got {value}.")


def _check_option(key: str, option: str, allowed: list[str]) -> None:
    if option not in allowed:
        raise unknown_name(f"value of {key}", option, allowed)


def _check_source(config: FailureRun) -> None:
    files = config.embeddings
    if files.train is not None and config.prompt is not None:
        raise ValueError("Predictions come from `prompt` or from `embeddings.train`, not from both.")
    if files.test is not None and files.train is None:
        raise ValueError("embeddings.test was given without embeddings.train.")
    if files.captions and files.train is None:
        raise ValueError("embeddings.captions=true was given without embeddings.train.")
    if files.captions and config.data.shots is not None:
        raise ValueError("data.shots counts images per class, and captions have none: leave it out.")
    if files.captions and config.data.batch_size < 2:
        raise ValueError("With captions data.batch_size is the number of candidates: at least 2.")

"""Run settings: dataclasses are the schema, YAML files the values, `key=value` arguments the last word.

`load_config(["configs/prompt.yaml", "data.shots=16"])` merges from left to right over the defaults below.
Unknown keys and wrong types are refused with the nearest known key; nothing is imported by a dotted path from
a YAML file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from calib.errors import first_line, unknown_name
from calib.safe_text import redacted
from calib.untrusted_settings import SettingsError, check_values, check_yaml


@dataclass
class BackboneConfig:
    """Which frozen model, and from where.

    Attributes:
        name: embedded, clip, plip, quiltnet, biomedclip, medclip, open_clip:<model>, local-dir:<folder> or
            hf-hub:<id>.
        weights: File, folder or hub id of the weights; "random" for a random model (for trying things out).
            None: the packaged weights of `embedded`.
        tokenizer: Folder or vocab.txt of a BERT text tower. None: beside the weights.
        revision: Commit or tag when `weights` is a hub id.
        preprocessing: "own" (what the model was trained with) or "calibprompt" (what the paper fed it).
        quick_gelu: Overrides the activation of a CLIP model. None: as published.
    """

    name: str = "embedded"
    weights: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    preprocessing: str = "own"
    quick_gelu: bool | None = None


@dataclass
class DataConfig:
    """Which images, and how many of them.

    Attributes:
        name: A data set's name (cxr3, lc25000, kather, ...), or folder, table, hf, medmnist for your own.
        root: Folder or file of the images. None: the packaged features of the two embedded tasks.
        shots: Training images per class. None: all.
        val_shots: Validation images per class, taken from the rest of the training split.
        batch_size: Images per training step.
        views: Augmented views encoded per training image; 0 trains on the plain image.
        cache: Encode each image once and keep the features; false encodes afresh at every step, as the
            paper's code.
        cache_dir: Folder of the feature cache.
        encode_batch_size: Images encoded at once.
        drop_last: Leave out the last, smaller batch of an epoch, as the paper's code.
        template: Zero-shot text with {} for the class name. None: the data set's own.
        class_names: Names in label order. None: the data set's own.
        options: Further settings of the data set's reader, e.g. data.options.columns.label=diagnosis. For
            table: table, columns, delimiter, skip_splits, allow_outside. For hf: dataset, config, revision,
            columns, splits. For medmnist: flag. For rsna18: keep_leaks. For all images: grey16_max.
    """

    name: str = "cxr3"
    root: str | None = None
    shots: int | None = 8
    val_shots: int = 4
    batch_size: int = 16
    views: int = 8
    cache: bool = True
    cache_dir: str = ".calib_cache"
    encode_batch_size: int = 16
    drop_last: bool = False
    template: str | None = None
    class_names: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class PromptConfig:
    """The learned context.

    Attributes:
        n_ctx: Context tokens.
        class_specific: One context per class instead of one for all.
        init: Words to start from. None: random, N(0, init_std).
        init_std: Standard deviation of the random start.
        class_position: Where the class name stands: end, middle or front.
    """

    n_ctx: int = 16
    class_specific: bool = False
    init: str | None = None
    init_std: float = 0.02
    class_position: str = "end"


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule.

    Attributes:
        name: sgd or adamw.
        lr: Learning rate after the warm-up.
        momentum: Of sgd.
        weight_decay: Of both.
        warmup_epochs: Epochs at `warmup_lr` before the cosine begins.
        warmup_lr: The constant learning rate of the warm-up.
    """

    name: str = "sgd"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5


@dataclass
class LogConfig:
    """Where the curves go. A CSV file is always written to the run folder.

    Attributes:
        wandb: disabled, offline (kept in the run folder, for `wandb sync`) or online (offline if that fails).
        project: W&B project.
        tags: W&B tags.
    """

    wandb: str = "disabled"
    project: str = "calib"
    tags: list[str] = field(default_factory=list)


@dataclass
class ParityConfig:
    """Behaviour of the CalibPrompt release that we changed, switched back by name to reproduce its numbers.

    Attributes:
        double_embedding: BiomedCLIP: add positions and LayerNorm twice to the fixed tokens of a prompt.
        truncate: MedCLIP: cut prompts at 25 tokens without a word.
        metrics: Also report ECE and MCE as the release defines them (`ece_official`, `mce_official`).
    """

    double_embedding: bool = False
    truncate: bool = False
    metrics: bool = False


@dataclass
class PromptRun:
    """Settings of `train.py`: learn a prompt, compare it with zero-shot and with baselines, export it.

    Attributes:
        task: Always "prompt".
        seed: Draws the shots, starts the context, orders the batches.
        out: Run folder. None: runs/<backbone>-<data>-<preset>-<shots>shot-s<seed>, and six digits if other
            settings differ from their defaults.
        preset: Named objective (calibprompt, calibprompt-ls, coop, ...); "none" starts from nothing.
        loss: Changes to the preset, e.g. {smac: {alpha: 0.1}, as: {weight: 0}}.
        baselines: Presets trained beside it on the same shots.
        trainer: Handed to lightning.Trainer as it is. trainer.devices=N trains the same on N devices. With
            trainer.accumulate_grad_batches, losses that are statistics of a batch (smac, mdca, dca, mmce) are
            those of each accumulated batch; losses stay in float32 under trainer.precision=bf16-mixed.
        n_bins: Bins of ECE and its kin.
        resume: Go on with an interrupted run of the same settings in `out`.
        overwrite: Throw away the run in `out` and train anew.
    """

    task: str = "prompt"
    seed: int = 1
    out: str | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    preset: str = "calibprompt"
    loss: dict[str, Any] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=lambda: ["coop"])
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: dict[str, Any] = field(default_factory=lambda: {"max_epochs": 50})
    log: LogConfig = field(default_factory=LogConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    n_bins: int = 10
    resume: bool = True
    overwrite: bool = False


@dataclass
class EmbeddingsConfig:
    """Features made by other code, to judge a model of which there is nothing else: see calib.embeddings.

    Attributes:
        train: The file (safetensors or npz) the head is trained on. None: images are used, see `data`.
        test: The file results are reported on. None: the rows of `train` whose `split` is "test".
        normalize: Bring features to unit norm; false refuses those that are not.
        captions: The files hold pairs of images and captions instead of classes. The candidates of an image
            are the captions of its batch of `data.batch_size`.
    """

    train: str | None = None
    test: str | None = None
    normalize: bool = False
    captions: bool = False


@dataclass
class HeadConfig:
    """The failure head; see calib.vilu.ViLU.

    Attributes:
        residual: Start at the model's own confidence and learn what to add to it.
        keep_frozen: Keep the attention's projections at the identity.
        use_attention: Attend over the class texts. With use_predicted_caption=false this off is LVU.
        concat: Put the attention's result beside the image feature instead of adding it.
        use_predicted_caption: Give the text of the predicted class as well.
        hidden: Widths of the MLP's hidden layers.
        activation: relu or leaky_relu.
        n_iter_freeze_proj: Steps before the projections are let go, where keep_frozen is false.
        official_decay: Let weight decay shrink frozen projections, as the release's code.
        learn_mcp: Learn scale and offset of the confidence in the residual form.
    """

    residual: bool = True
    keep_frozen: bool = True
    use_attention: bool = True
    concat: bool = True
    use_predicted_caption: bool = True
    hidden: list[int] = field(default_factory=lambda: [512, 256, 128])
    activation: str = "relu"
    n_iter_freeze_proj: int = 200
    official_decay: bool = False
    learn_mcp: bool = True


@dataclass
class FailureLossConfig:
    """The loss of the failure head; see calib.losses.failure.

    Attributes:
        name: bce or tcp.
        weighting: Of the wrong predictions: static, adaptive (as the release) or balanced.
        weight: The static weight.
        max_weight: Bound of the balanced weight.
        entropy: Share of the entropy in the target of tcp.
    """

    name: str = "bce"
    weighting: str = "static"
    weight: float = 1.0
    max_weight: float = 100.0
    entropy: float = 0.0


@dataclass
class FailureRun:
    """Settings of `train.py task=failure`: learn which predictions are wrong, compare with simple scores.

    The predictions come from a prompt, from zero-shot (no prompt), or from a file of embeddings.

    Attributes:
        task: Always "failure".
        seed: Draws the images, starts the head, orders the batches.
        out: Run folder. None: runs/failure-<what is judged>-<shots>-s<seed>, and six digits if other settings
            differ from their defaults.
        prompt: Run folder or prompt.safetensors of the prompt to judge. None: zero-shot with the template.
        embeddings: Features from a file instead of images; needs neither backbone nor data.
        backbone: The frozen model of zero-shot. With a prompt it is the prompt's own; `weights` and
            `tokenizer` then say where these are now.
        data: The images. `data.name` left out: the prompt's own data set, or cxr3. `data.shots`: images per
            class the head is trained on (null = all there are), `data.views`: augmented views beside each.
        fit_on: Which images the head learns from: "outside" the prompt's shots; "cross_fitted": the prompt's
            shots, each judged by a prompt trained without it; "auto": outside, and where a class has too few
            images there, its cross-fitted shots as well.
        folds: Parts of the shots for "cross_fitted".
        head: The head.
        loss: Its loss.
        optim: Its optimiser. The learning rate rises in a straight line from `warmup_lr` to `lr` during
            `warmup_epochs`, under a cosine that spans the run.
        trainer: Handed to lightning.Trainer as it is. trainer.devices=N trains the same on N devices. With
            trainer.accumulate_grad_batches, adaptive and balanced weights are those of each accumulated
            batch; the loss stays in float32 under trainer.precision=bf16-mixed.
        log: Where the curves go.
        scores: Scores reported beside the head, by name. Empty: all. "mcp" is always there.
        n_resamples: Bootstrap resamples of the intervals.
        level: Coverage of the intervals.
        resume: Go on with an interrupted run of the same settings in `out`.
        overwrite: Throw away the run in `out` and train anew.
    """

    task: str = "failure"
    seed: int = 1
    out: str | None = None
    prompt: str | None = None
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(name="", shots=None, val_shots=4, batch_size=128, views=8)
    )
    fit_on: str = "auto"
    folds: int = 5
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: FailureLossConfig = field(default_factory=FailureLossConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            name="adamw", lr=0.001, weight_decay=0.1, warmup_epochs=5, warmup_lr=1e-4
        )
    )
    trainer: dict[str, Any] = field(default_factory=lambda: {"max_epochs": 50})
    log: LogConfig = field(default_factory=LogConfig)
    scores: list[str] = field(default_factory=list)
    n_resamples: int = 2000
    level: float = 0.95
    resume: bool = True
    overwrite: bool = False


@dataclass
class MovedConfig:
    """Where the files of a prompt's backbone are, if not where they were at training.

    Attributes:
        weights: The weights. None: where the export says.
        tokenizer: Folder or vocab.txt of a BERT text tower. None: where the export says.
    """

    weights: str | None = None
    tokenizer: str | None = None


@dataclass
class EvaluateRun:
    """Settings of `evaluate.py`: apply exported prompts to a data set and compare them.

    Attributes:
        task: Always "evaluate".
        runs: Run folders or prompt.safetensors files. On the command line, arguments that are such paths.
        out: Folder of the results. None: runs/evaluation.
        data: The data set. `data.name` left out: each run's own.
        split: Which split to evaluate: test or val (the data set's own validation split).
        backbone: Where the backbone's files are now.
        baseline: The method the others are compared with, by its name in the table. None: no comparison.
        n_bins: Bins of ECE and its kin.
        n_resamples: Bootstrap resamples of the intervals.
        level: Coverage of the intervals.
        seed: Of the bootstrap.
    """

    task: str = "evaluate"
    runs: list[str] = field(default_factory=list)
    out: str | None = None
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    split: str = "test"
    backbone: MovedConfig = field(default_factory=MovedConfig)
    baseline: str | None = None
    n_bins: int = 10
    n_resamples: int = 2000
    level: float = 0.95
    seed: int = 0


# The settings inside the dictionary data.options, of all readers together.
READER_OPTIONS = (
    "allow_outside",
    "columns",
    "config",
    "dataset",
    "delimiter",
    "flag",
    "grey16_max",
    "keep_leaks",
    "revision",
    "skip_splits",
    "splits",
    "table",
)
Part = typing.TypeVar("Part")
NEAR = 0.6  # spelling this similar may be a slip, from 0 to 1

SCHEMAS: dict[str, type] = {"prompt": PromptRun, "failure": FailureRun, "evaluate": EvaluateRun}
TRAINED = ("prompt", "failure")  # tasks of train.py


def task_of(argv: Sequence[str]) -> str:
    """Return the task that YAML files and `key=value` arguments ask for; "prompt" where none says.

    Args:
        argv: As in `load_config`.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: The task is unknown or not one that is trained.

    Example:
        >>> task_of(["task=failure", "seed=2"]), task_of(["seed=2"])
        ('failure', 'prompt')
    """
    task, source = TRAINED[0], ""
    for argument in [a for a in argv if not _is_change(a)] + [a for a in argv if _is_change(a)]:
        if not _is_change(argument):
            task, source = _read_yaml(str(argument)).get("task", task), f"{argument}: "
        elif argument.split("=")[0] == "task":
            task, source = argument.split("=", 1)[1], ""
    if task not in TRAINED:
        raise ValueError(f"{source}{unknown_name('task of train.py', task, TRAINED)}")
    return task


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings (YAML files, `key=value`) and the other arguments, such as paths of runs.

    What exists as a file or folder is a path even if it holds a "=".

    Example:
        >>> split_arguments(["runs/a", "seed=2", "more.yaml"])
        (['seed=2', 'more.yaml'], ['runs/a'])
    """
    settings = [
        a
        for a in argv
        if a.endswith((".yaml", ".yml")) or a.startswith("-") or ("=" in a and not Path(a).exists())
    ]
    return settings, [a for a in argv if a not in settings]


def load_config(argv: Sequence[str], *, task: str) -> Any:
    """Return the settings that YAML files and `key=value` arguments describe, as the dataclass of the task.

    Args:
        argv: YAML files (arguments without "=") merged from left to right, then `key=value` changes in order.
        task: "prompt", "failure" or "evaluate"; a file that says another task is refused.

    Returns:
        A `PromptRun`, `FailureRun` or `EvaluateRun`, interpolations resolved.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: An unknown key, a value of the wrong type, a flag, or YAML that cannot be read.

    Example:
        >>> load_config(["data.shots=16", "loss.smac.alpha=0.1"], task="prompt").loss
        {'smac': {'alpha': 0.1}}
    """
    schema = SCHEMAS[task]
    merged = OmegaConf.structured(schema)
    files = [argument for argument in argv if not _is_change(argument)]
    changes = [argument for argument in argv if _is_change(argument)]
    for file in files:
        merged = _merge(merged, _read_yaml(file), schema, source=str(file), task=task)
    for change in changes:
        merged = _merge(
            merged, _read_change(change), schema, source=f"argument '{redacted(change)}'", task=task
        )
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"The settings cannot be resolved: {first_line(error)}") from error
    try:
        _check_ranges(config)
    except ValueError as error:
        if not files:
            raise
        raise ValueError(f"{error} (Settings were read from {', '.join(map(str, files))}.)") from error
    return config


def from_dict(values: dict[str, Any], *, task: str, source: str) -> Any:
    """Return the settings that `to_dict` wrote, e.g. those in an exported prompt.

    Args:
        values: Settings by name; those left out keep their defaults.
        task: As in `load_config`.
        source: Where they come from, for messages.

    Raises:
        ValueError: An unknown key or a value of the wrong type.
    """
    schema = SCHEMAS[task]
    new = OmegaConf.create(_literal(values))
    config = OmegaConf.to_object(_merge(OmegaConf.structured(schema), new, schema, source=source, task=task))
    _check_ranges(config)
    return config


def part_from_dict(schema: type[Part], values: Any, *, source: str) -> Part:
    """Return a part of the settings, such as those of the data, that an exported prompt holds.

    Args:
        schema: The part's class, e.g. `DataConfig`.
        values: Its settings by name; those left out keep their defaults.
        source: Where they come from, for messages.

    Raises:
        ValueError: They are no settings, or one of them is unknown or of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source}: expected settings by name, not {values!r}.")
    check_values(values, source)
    _check_keys(values, schema, known=keys_of(schema), source=source)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(_literal(values)))
        return typing.cast(Part, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ValueError(f"{source}: {first_line(error)}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain dicts, lists and numbers."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """Return a settings dataclass as YAML text that `load_config` reads back to the same settings."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(to_dict(config))))


def _literal(value: Any) -> Any:
    """Return settings in which a "${" that was written to be one (escaped) stays one when read again."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _is_change(argument: str) -> bool:
    if argument.startswith("-"):
        name = argument.lstrip("-").split("=")[0] or "key"
        raise ValueError(f"Settings are written without dashes: '{name}=value' instead of '{argument}'.")
    return "=" in argument


def _read_yaml(file: str) -> DictConfig:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"There is no settings file '{file}' (settings are changed as key=value).")
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text, file)
        loaded = OmegaConf.create(text)
    except SettingsError:
        raise
    except Exception as error:  # yaml's and omegaconf's errors share no base class
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = f"line {mark.line + 1}: {problem}" if mark and problem else first_line(error)
        raise ValueError(f"{file} is not valid YAML: {reason}") from error
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"{file} must hold keys and values (a mapping), not a list.")
    return loaded


def _read_change(change: str) -> DictConfig:
    try:
        read = OmegaConf.from_dotlist([change])
    except Exception as error:
        raise ValueError(f"Argument '{redacted(change)}' cannot be read: {first_line(error)}") from error
    return OmegaConf.create(_with_nulls(OmegaConf.to_container(read, resolve=False)))


def _with_nulls(value: Any) -> Any:
    """Return a value with null for None: W&B's agent writes arguments as Python prints them."""
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    return None if value == "None" else value


def _merge(base: DictConfig, new: DictConfig, schema: type, *, source: str, task: str) -> DictConfig:
    said = new.get("task") if "task" in new else task
    if said != task:
        if said in SCHEMAS:
            raise ValueError(f"{source} is for task '{said}', this command runs '{task}'.")
        raise ValueError(f"{source}: {unknown_name('task', said, SCHEMAS)}")
    values = OmegaConf.to_container(new, resolve=False)
    check_values(values, source)
    _check_keys(values, schema, known=keys_of(schema), source=source)
    try:
        return typing.cast(DictConfig, OmegaConf.merge(base, new))
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None)
        reason = first_line(error)
        if "is not a ListConfig" in reason:
            reason = f"it is a list; write {key}=[A,B]."
        raise ValueError(f"{source}: {f'key {key!r}: ' if key else ''}{reason}") from error


def _check_keys(values: Any, schema: type, *, known: Sequence[str], source: str, prefix: str = "") -> None:
    fields = typing.get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            likely = _likely(name, [*known, *(prefix + field for field in fields)])
            error = unknown_name("key", key, fields, prefix=prefix, meant=likely)
            raise ValueError(f"{source}: {error}")
        inner = dataclass_of(fields[key])
        if inner is None:
            continue
        if not isinstance(value, dict):
            raise ValueError(
                f"{source}: '{name}' holds several settings; write {name}.<key>=..., not {value!r}."
            )
        _check_keys(value, inner, known=known, source=source, prefix=f"{name}.")


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """Return the dotted keys of all settings, with those inside dictionaries as far as they are known here.

    Args:
        schema: A settings class.
        prefix: What stands before each key.

    Example:
        >>> keys_of(LogConfig, "log.")
        ['log.wandb', 'log.project', 'log.tags']
    """
    keys = []
    hints = typing.get_type_hints(schema)
    for each in dataclasses.fields(schema):
        name, inner = f"{prefix}{each.name}", dataclass_of(hints[each.name])
        default = each.default_factory() if callable(each.default_factory) else None
        keys += [name] if inner is None else keys_of(inner, f"{name}.")
        keys += [f"{name}.{key}" for key in default] if isinstance(default, dict) else []
    if schema is DataConfig:
        keys += [f"{prefix}options.{option}" for option in READER_OPTIONS]
    return keys


def _likely(name: str, known: Sequence[str]) -> list[str]:
    """Return the known keys whose last part is spelt most like that of a name, those beside it first."""
    beside, _, last = name.rpartition(".")
    scores: dict[tuple[float, bool], list[str]] = {}
    for key in dict.fromkeys(known):
        place, _, end = key.rpartition(".")
        similarity = difflib.SequenceMatcher(None, last, end).ratio()
        scores.setdefault((similarity, place == beside), []).append(key)
    best = max(scores)
    return scores[best] if best[0] >= NEAR else []


def dataclass_of(hint: Any) -> type | None:
    """Return the dataclass in a type hint such as `OptimConfig | None`; None: there is none."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)  # type: ignore[return-value]


def _check_ranges(config: Any) -> None:
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

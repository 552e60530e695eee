"""What can be set, with defaults: one dataclass per task of the commands and per group of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    """Features made by other code, for a model of which nothing else is there; see calib.data.embeddings.

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
    """The failure head; see calib.failure.vilu.ViLU.

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

SCHEMAS: dict[str, type] = {"prompt": PromptRun, "failure": FailureRun, "evaluate": EvaluateRun}
TRAINED = ("prompt", "failure")  # tasks of train.py

"""Settings of `train.py task=failure`: which predictions are wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib.config.schema.parts import TRAINER_KEYS, BackboneConfig, DataConfig, LogConfig, OptimConfig
from calib.config.schema.setting import SEEDS, setting


@dataclass
class EmbeddingsConfig:
    """Features made by other code, for a model of which nothing else is there; see calib.data.embeddings.

    Attributes:
        train: The file (safetensors or npz) the head is trained on. None: images are used, see `data`. Its
            arrays: image_features (N, D) and text_features (C, D) of unit norm, labels (N,), logit_scale (the
            log) or scale; if there are any, class_names, predictions, split, groups, ids, names.
        test: The file results are reported on. None: the rows of `train` whose `split` is "test".
        normalize: Bring features to unit norm; false refuses those that are not.
        captions: The files hold pairs of images and captions instead of classes. The candidates of an image
            are the captions of its batch of `data.batch_size`.
    """

    train: str | None = setting(None, affects="encoding", place=True)
    test: str | None = setting(None, affects="encoding", place=True)
    normalize: bool = setting(False, affects="encoding")
    captions: bool = setting(False, affects="encoding")


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

    residual: bool = setting(True, affects="training")
    keep_frozen: bool = setting(True, affects="training")
    use_attention: bool = setting(True, affects="training")
    concat: bool = setting(True, affects="training")
    use_predicted_caption: bool = setting(True, affects="training")
    hidden: list[int] = setting([512, 256, 128], affects="training")
    activation: str = setting("relu", affects="training", one_of=("relu", "leaky_relu"))
    n_iter_freeze_proj: int = setting(200, affects="training", at_least=0)
    official_decay: bool = setting(False, affects="training")
    learn_mcp: bool = setting(True, affects="training")


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

    name: str = setting("bce", affects="training")
    weighting: str = setting("static", affects="training")
    weight: float = setting(1.0, affects="training", at_least=0)
    max_weight: float = setting(100.0, affects="training", at_least=1)
    entropy: float = setting(0.0, affects="training", at_least=0)


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
        doubt: What the uncertainty in the export is: "stack", the probability of being wrong by several
            scores and the head together; "head", the head's own score; or a single score by its name, made a
            probability.
        folds: Parts of the images that are left out in turn: of the shots for "cross_fitted", and of what the
            head learns from for the stack.
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

    task: str = setting("failure", affects="training")
    seed: int = setting(1, affects="draw", at_least=0, below=SEEDS, shown=True)
    out: str | None = setting(None, affects="nothing")
    prompt: str | None = setting(None, affects="encoding", of_prompt=True, place=True)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(name="", shots=None, val_shots=4, batch_size=128, views=8)
    )
    fit_on: str = setting("auto", affects="draw", one_of=("auto", "outside", "cross_fitted"))
    doubt: str = setting("stack", affects="training")
    folds: int = setting(5, affects="training", at_least=2)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: FailureLossConfig = field(default_factory=FailureLossConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            name="adamw", lr=0.001, weight_decay=0.1, warmup_epochs=5, warmup_lr=1e-4
        )
    )
    trainer: dict[str, Any] = setting({"max_epochs": 50}, affects="training", keys=TRAINER_KEYS)
    log: LogConfig = field(default_factory=LogConfig)
    scores: list[str] = setting([], affects="report")
    n_resamples: int = setting(2000, affects="report", at_least=1)
    level: float = setting(0.95, affects="report", above=0, below=1)
    resume: bool = setting(True, affects="nothing")
    overwrite: bool = setting(False, affects="nothing")

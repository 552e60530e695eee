"""Settings of `train.py`: a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib.config.schema.parts import TRAINER_KEYS, BackboneConfig, DataConfig, LogConfig, OptimConfig
from calib.config.schema.setting import SEEDS, Setting, setting


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

    n_ctx: int = setting(16, affects="training", at_least=1, told=True)
    class_specific: bool = setting(False, affects="training")
    init: str | None = setting(None, affects="training")
    init_std: float = setting(0.02, affects="training", above=0)
    class_position: str = setting("end", affects="training", one_of=("end", "middle", "front"))


@dataclass
class CalibrateConfig:
    """What makes the prompt's confidences right, from the shots alone; see calib.posthoc.shots.

    Attributes:
        method: "experts": the prompt beside zero-shot and a linear discriminant of the same shots. "scale":
            one factor for the logits, which changes no prediction (a prevalence does). "auto": experts,
            unless the left-out shots speak clearly against it. "none": the prompt alone, as the paper.
        folds: Parts of the shots. For each a further prompt is trained without it, side by side.
        prevalence: How frequent the classes are where the prompt will be used, all of them, in quotes:
            'calibrate.prevalence={no finding: 0.6, pneumonia: 0.3, COVID-19: 0.1}'. null: as frequent as
            among the shots.
        scale_median: Median of the factor of "scale" before any shot is seen, where 1 gives the prompt's
            logits the spread of those of zero-shot, calibrated by the shots.
        scale_sd: Standard deviation of its log.
        medians: Medians of the weights of "experts" before any shot is seen, in the same unit.
        expert_sd: Standard deviation of their logs.
        shrinkage: Share of the scaled identity in the covariance of the discriminant.
    """

    method: str = setting("auto", affects="training", one_of=("auto", "none", "scale", "experts"), told=True)
    folds: int = setting(3, affects="training", at_least=2)
    prevalence: dict[str, float] | None = setting(None, affects="training")
    scale_median: float = setting(0.7, affects="training", above=0)
    scale_sd: float = setting(0.7, affects="training", above=0)
    medians: dict[str, float] = setting(
        {"prompt": 0.3, "images": 0.55, "zero_shot": 0.4},
        affects="training",
        keys={
            name: Setting(affects="training", above=0, kind=float)
            for name in ("prompt", "images", "zero_shot")
        },
    )
    expert_sd: float = setting(0.8, affects="training", above=0)
    shrinkage: float = setting(0.8, affects="training", above=0, below=1)


@dataclass
class ParityConfig:
    """Behaviour of the CalibPrompt release that we changed, switched back by name to reproduce its numbers.

    Attributes:
        double_embedding: BiomedCLIP: add positions and LayerNorm twice to the fixed tokens of a prompt.
        truncate: MedCLIP: cut prompts at 25 tokens without a word.
        metrics: Also report ECE and MCE as the release defines them (`ece_official`, `mce_official`).
    """

    double_embedding: bool = setting(False, affects="encoding")
    truncate: bool = setting(False, affects="training")
    metrics: bool = setting(False, affects="report", told=True)


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
        calibrate: What makes the confidences of the trained prompt right; baselines stay as they are.
        baselines: Presets trained beside it on the same shots.
        trainer: Handed to lightning.Trainer as it is. trainer.devices=N trains the same on N devices. With
            trainer.accumulate_grad_batches, losses that are statistics of a batch (smac, mdca, dca, mmce) are
            those of each accumulated batch; losses stay in float32 under trainer.precision=bf16-mixed.
        n_bins: Bins of ECE and its kin.
        resume: Go on with an interrupted run of the same settings in `out`.
        overwrite: Throw away the run in `out` and train anew.
    """

    task: str = setting("prompt", affects="training", told=True)
    seed: int = setting(1, affects="own", at_least=0, below=SEEDS, shown=True, told=True)
    out: str | None = setting(None, affects="nothing")
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    preset: str = setting("calibprompt", affects="own", shown=True, told=True)
    loss: dict[str, Any] = setting({}, affects="own", told=True)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    baselines: list[str] = setting(["coop"], affects="nothing")
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: dict[str, Any] = setting({"max_epochs": 50}, affects="training", keys=TRAINER_KEYS)
    log: LogConfig = field(default_factory=LogConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    n_bins: int = setting(10, affects="report", at_least=1, told=True)
    resume: bool = setting(True, affects="nothing")
    overwrite: bool = setting(False, affects="nothing")

"""Settings of `train.py`: a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib.config.schema.parts import TRAINER_KEYS, BackboneConfig, DataConfig, LogConfig, OptimConfig
from calib.config.schema.setting import SEEDS, setting


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
    baselines: list[str] = setting(["coop"], affects="nothing")
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: dict[str, Any] = setting({"max_epochs": 50}, affects="training", keys=TRAINER_KEYS)
    log: LogConfig = field(default_factory=LogConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    n_bins: int = setting(10, affects="report", at_least=1, told=True)
    resume: bool = setting(True, affects="nothing")
    overwrite: bool = setting(False, affects="nothing")

"""Groups of settings that several tasks share: backbone, data, optimiser, trainer, log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calib.config.schema.setting import Setting, setting

# The settings inside the dictionary data.options, of all readers together, with the types that they take.
READER_OPTIONS: dict[str, Any] = {
    "allow_outside": bool,
    "columns": dict[str, str | None],
    "config": str | None,
    "dataset": str | None,
    "delimiter": str | None,
    "flag": str | None,
    "frame": int | str | None,
    "grey16_max": int | None,
    "keep_leaks": bool,
    "patients": bool,
    "revision": str | None,
    "skip_splits": list[str],
    "skip_unreadable": bool,
    "splits": dict[str, str] | None,
    "table": str | dict[str, str] | None,
    "window": list[float] | None,
}

# Keys of the dictionary `trainer`, which is handed to Lightning: those that do not affect the training, those
# by which a run ends or validates by batches, and those with bounds that Lightning does not know.
TRAINER_KEYS = {
    "accelerator": Setting(affects="encoding"),
    "accumulate_grad_batches": Setting(affects="training", at_least=1),
    "check_val_every_n_epoch": Setting(affects="training", at_least=1),
    "devices": Setting(affects="nothing"),  # any number computes the same
    "enable_progress_bar": Setting(affects="nothing"),
    "limit_train_batches": Setting(affects="training", by_batches=True),
    "limit_val_batches": Setting(affects="training", by_batches=True),
    "max_epochs": Setting(affects="training", at_least=1),
    "max_steps": Setting(affects="training", by_batches=True),
    "max_time": Setting(affects="training", by_batches=True),
    "num_nodes": Setting(affects="nothing", at_least=1),
    "overfit_batches": Setting(affects="training", by_batches=True),
    "strategy": Setting(affects="nothing"),
    "val_check_interval": Setting(affects="training", by_batches=True),
}


@dataclass
class BackboneConfig:
    """Which frozen model, and from where.

    Attributes:
        name: embedded, clip, plip, quiltnet, biomedclip, medclip, open_clip:<model>, local-dir:<folder> or
            hf-hub:<id>.
        weights: File, folder or hub id of the weights; "random" for a random model (for trying things out).
            None: the packaged weights of `embedded`.
        tokenizer: Folder, vocab.txt or tokenizer.json of a text tower with a vocabulary of its own (BERT,
            SigLIP, ...). None: beside the weights.
        revision: Commit or tag when `weights` is a hub id.
        preprocessing: "own" (what the model was trained with) or "calibprompt" (what the paper fed it).
        quick_gelu: Overrides the activation of a CLIP model. None: as published.
        encode_precision: fp32, or bf16: images are encoded in bfloat16, two to four times faster where the
            processor knows it (`calib doctor` says so), with slightly other features. What is trained on them
            is bound to it; prompts are trained in float32 all the same.
    """

    name: str = setting("embedded", affects="encoding", shown=True, told=True, of_prompt=True)
    weights: str | None = setting(None, affects="encoding", told=True, of_prompt=True)
    tokenizer: str | None = setting(None, affects="encoding", told=True, of_prompt=True)
    revision: str | None = setting(None, affects="encoding", told=True, of_prompt=True)
    preprocessing: str = setting(
        "own", affects="encoding", one_of=("own", "calibprompt"), told=True, of_prompt=True
    )
    quick_gelu: bool | None = setting(None, affects="encoding", told=True, of_prompt=True)
    encode_precision: str = setting("fp32", affects="encoding", one_of=("fp32", "bf16"), of_prompt=True)


@dataclass
class DataConfig:
    """Which images, and how many of them.

    Attributes:
        name: A data set's name (cxr3, lc25000, kather, ...), or folder, table, hf, medmnist for your own;
            pool for images without labels, of which shots_from lists those that were labelled.
        root: Folder or file of the images. None: the packaged features of the two embedded tasks.
        shots: Training images per class. None: all.
        shots_from: The list of calib select with its labels: exactly its images are the shots, in place of
            `shots` per class.
        val_shots: Validation images per class, taken from the rest of the training split, for curves and for
            choosing settings; calibration needs none.
        at_most: shots and val_shots are upper limits: a class with fewer images gives what it has, training
            first, and a line says so. false: such a class is refused.
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
            columns, splits. For medmnist: flag. For rsna18: keep_leaks. For all images: grey16_max,
            skip_unreadable (train without images that cannot be read). For DICOM: window=[centre,width],
            frame (a number, or middle), patients=false (no groups by the patient ids of the headers).
    """

    name: str = setting("cxr3", affects="encoding", shown=True, told=True)
    root: str | None = setting(None, affects="encoding", told=True, of_prompt=True, place=True)
    shots: int | None = setting(8, affects="draw", at_least=1, sets_length=True, shown=True, told=True)
    shots_from: str | None = setting(None, affects="draw", place=True)
    val_shots: int = setting(0, affects="draw", at_least=0)
    at_most: bool = setting(False, affects="draw")
    batch_size: int = setting(16, affects="training", at_least=1, sets_length=True)
    views: int = setting(8, affects="training", at_least=0)
    cache: bool = setting(True, affects="training")
    cache_dir: str = setting(".calib_cache", affects="nothing")
    encode_batch_size: int = setting(16, affects="nothing", at_least=1, below=2**16)
    drop_last: bool = setting(False, affects="training")
    template: str | None = setting(None, affects="encoding", told=True, of_prompt=True)
    class_names: list[str] | None = setting(None, affects="encoding", told=True, of_prompt=True)
    options: dict[str, Any] = setting(
        {},
        affects="encoding",
        told=True,
        of_prompt=True,
        keys={
            name: Setting(affects="encoding", told=True, of_prompt=True, kind=kind)
            for name, kind in READER_OPTIONS.items()
        },
    )


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

    name: str = setting("sgd", affects="training", one_of=("sgd", "adamw"))
    lr: float = setting(0.002, affects="own", above=0)
    momentum: float = setting(0.9, affects="own", at_least=0, below=1)
    weight_decay: float = setting(5e-4, affects="own", at_least=0)
    warmup_epochs: int = setting(1, affects="own", at_least=0)
    warmup_lr: float = setting(1e-5, affects="own", at_least=0)


@dataclass
class LogConfig:
    """Where the curves go. A CSV file is always written to the run folder.

    Attributes:
        wandb: disabled, offline (kept in the run folder, for `wandb sync`) or online (offline if that fails).
        project: W&B project.
        tags: W&B tags.
    """

    wandb: str = setting("disabled", affects="nothing", one_of=("disabled", "offline", "online"))
    project: str = setting("calib", affects="nothing")
    tags: list[str] = setting([], affects="nothing")

"""Settings of `calib select`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calib.config.schema.parts import READER_OPTIONS, BackboneConfig
from calib.config.schema.setting import SEEDS, Setting, setting


@dataclass
class PoolConfig:
    """The images to choose from.

    Attributes:
        name: pool (images without labels), or a data set's name: then its training split, whose labels are
            not looked at.
        root: Folder of the images, searched in depth, or a table of them with a column file and, if known,
            patient. On the command line, the argument that is a path.
        class_names: What labels may be, in label order. null: not known yet; a data set's own.
        template: Sentence with {} for the class name, by which zero-shot doubts. null: the data set's own.
        cache_dir: Folder of the feature cache.
        encode_batch_size: Images encoded at once.
        options: Further settings of a data set's reader, as of calib train; for all images grey16_max and
            skip_unreadable.
    """

    name: str = setting("pool", affects="encoding")
    root: str | None = setting(None, affects="encoding", place=True)
    class_names: list[str] | None = setting(None, affects="encoding")
    template: str | None = setting(None, affects="encoding")
    cache_dir: str = setting(".calib_cache", affects="nothing")
    encode_batch_size: int = setting(16, affects="nothing", at_least=1, below=2**16)
    options: dict[str, Any] = setting(
        {},
        affects="encoding",
        keys={name: Setting(affects="encoding", kind=kind) for name, kind in READER_OPTIONS.items()},
    )


@dataclass
class SelectRun:
    """Settings of `calib select`: which images to label.

    Attributes:
        task: Always "select".
        budget: How many images to choose. It has to be said.
        strategy: random, k_centre, typicality, entropy, margin, dual, aligned or epig.
        settings: Those of the strategy. typicality: neighbours=20. dual and aligned: doubt_share=0.5,
            clusters=16. epig: head_sd=10, draws=128, targets=256.
        labels: A list of an earlier round with its labels filled in, to go on from: its images are not chosen
            again. null: nothing is labelled yet.
        prompt: Run folder or prompt.safetensors whose doubts count. null: those of zero-shot.
        source: For aligned: images of the domain the model is at home in, a data set's name or a folder.
        per_group: Images that one patient may give, earlier rounds included. null: any number.
        near: Images this much alike or more count as copies, of which one is chosen: the cosine of their
            features around the mean of the pool. 1: only copies with the same features.
        seed: Of what is drawn.
        out: Folder of the results.
        backbone: The frozen model. With a prompt it is the prompt's own; weights and tokenizer then say where
            these are now.
        data: The images.
    """

    task: str = setting("select", affects="report")
    budget: int | None = setting(None, affects="draw", at_least=1)
    strategy: str = setting("random", affects="draw")
    settings: dict[str, Any] = setting({}, affects="draw")
    labels: str | None = setting(None, affects="draw", place=True)
    prompt: str | None = setting(None, affects="draw", place=True)
    source: str | None = setting(None, affects="draw", place=True)
    per_group: int | None = setting(1, affects="draw", at_least=1)
    near: float = setting(0.95, affects="draw", above=0)
    seed: int = setting(1, affects="draw", at_least=0, below=SEEDS)
    out: str = setting("chosen", affects="nothing")
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: PoolConfig = field(default_factory=PoolConfig)

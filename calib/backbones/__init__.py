"""Frozen vision-language models behind one interface. Importing this package builds and loads nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from calib.backbones.base import Backbone
from calib.backbones.options import BackboneOptions
from calib.backbones.preprocessing import Preprocessing
from calib.backbones.same import FP32, check_encode_precision
from calib.core.errors import unknown_name


def _lazy(module: str, function: str) -> Callable[..., Backbone]:
    """Return a function that imports its module when called: open_clip and transformers take seconds."""

    def build(*args: object) -> Backbone:
        return cast(Backbone, getattr(import_module(f"calib.backbones.{module}"), function)(*args))

    return build


BACKBONES: dict[str, Callable[[BackboneOptions], Backbone]] = {
    "embedded": _lazy("named", "embedded"),
    "clip": _lazy("named", "clip"),
    "plip": _lazy("named", "plip"),
    "quiltnet": _lazy("named", "quiltnet"),
    "biomedclip": _lazy("named", "biomedclip"),
    "medclip": _lazy("medclip", "medclip"),
}

# Names of the form "prefix:rest" -> a function of (rest, options).
FORMS: dict[str, Callable[[str, BackboneOptions], Backbone]] = {
    "open_clip:<model>": _lazy("named", "open_clip_model"),
    "local-dir:<folder>": _lazy("named", "local_dir"),
    "hf-hub:<org/name>": _lazy("named", "hf_hub"),
}

HUB_NAME = "hf-hub:"

# What `Backbone.build` holds, and of which type.
BUILD: dict[str, type] = {
    **dict.fromkeys(("name", "weights", "tokenizer", "revision", "preprocessing", "encode_precision"), str),
    "quick_gelu": bool,
}


def create_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    preprocessing: str | Preprocessing = "own",
    quick_gelu: bool | None = None,
    seed: int = 0,
    parity: Mapping[str, bool] | None = None,
    encode_precision: str = FP32,
) -> Backbone:
    """Return a frozen backbone, built offline unless a hub id is named.

    Args:
        name: One of `BACKBONES`, or "open_clip:<model name>", "local-dir:<folder>", "hf-hub:<org/name>".
        weights: A file, a folder, a hub id ("hf://org/name"), or "random". None takes packaged weights
            ("embedded", "local-dir:", "hf-hub:"); the other backbones have none and say where to get them.
        tokenizer: Vocabulary of a text tower other than CLIP's: vocab.txt, tokenizer.json, their folder (with
            tokenizer_config.json for SigLIP, RoBERTa and the like), or a hub id ("hf://org/name"). None looks
            beside the weights.
        revision: Commit, tag or branch of a hub id. None takes the newest.
        preprocessing: "own" is what the model was trained with; "calibprompt" is CLIP's for every model;
            "clip" and "medclip" are those models' own; or a `Preprocessing`.
        quick_gelu: Activation of CLIP towers. None takes the published one: QuickGELU for clip, plip and
            quiltnet.
        seed: For weights "random". Torch's global random state is not touched.
        parity: Official quirks to switch on, e.g. {"official_double_embedding": True} for biomedclip.
        encode_precision: "bf16" lets the image tower compute in bfloat16: faster on a processor that knows
            it, with slightly other features; what is trained on them is bound to it. Text stays float32.

    Raises:
        ValueError: A name or setting is unknown, or the weights do not fit.
        FileNotFoundError: Weights or vocabulary are not where they should be.

    Example:
        >>> backbone = create_backbone("plipp")
        Traceback (most recent call last):
        ValueError: Unknown backbone 'plipp'. Did you mean 'plip'? Known: biomedclip, ...
    """
    options = BackboneOptions(
        weights=weights,
        tokenizer=tokenizer,
        revision=revision,
        preprocessing=preprocessing,
        quick_gelu=quick_gelu,
        seed=seed,
        parity=dict(parity or {}),
        encode_precision=encode_precision,
    )
    check_encode_precision(encode_precision)  # before weights are read
    backbone = _builder(name)(options)
    if isinstance(preprocessing, str):
        backbone.build = {
            "name": name,
            "weights": None if weights is None else str(weights),
            "tokenizer": None if tokenizer is None else str(tokenizer),
            "revision": revision,
            "preprocessing": preprocessing,
            "quick_gelu": quick_gelu,
            **({} if encode_precision == FP32 else {"encode_precision": encode_precision}),
        }
    return backbone


def rebuild_backbone(
    build: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    parity: Mapping[str, bool] | None = None,
    made_with: str | None = None,
) -> Backbone:
    """Return the backbone that an export describes.

    Args:
        build: `Backbone.build` of the backbone it was made with; from a file, so nothing of it is believed.
        weights: Where the weights are now. None: where `build` says.
        tokenizer: Likewise for the tokenizer.
        parity: As in `create_backbone`.
        made_with: What `Backbone.describe()` said of its weights. None: nobody knows.

    Raises:
        ValueError: An entry is unknown or of the wrong type, weights that were not random would be, one names
            something on the hub that the caller does not, or as `create_backbone`.
        FileNotFoundError: Weights or vocabulary are not there.
    """
    from calib.backbones.weights.reading import on_hub  # takes torch, which the names alone do not need

    source = "the prompt's description of its backbone"
    for key, value in build.items():
        if key not in BUILD:
            raise ValueError(f"{source}: {unknown_name('key', key, BUILD)}")
        if value is not None and not isinstance(value, BUILD[key]):
            raise ValueError(f"{source}: {key} must be {BUILD[key].__name__} or null, not {value!r}.")
    if not build.get("name"):
        raise ValueError(f"{source} lacks its name.")
    given = {"preprocessing": "own", **{key: value for key, value in build.items() if value is not None}}
    _check_hub(given, weights, tokenizer)
    moved = {"weights": weights or given.get("weights"), "tokenizer": tokenizer or given.get("tokenizer")}
    if given["name"].startswith(HUB_NAME):
        moved["weights"] = given.get("weights")  # the user's word named the model
    elif weights is not None and not on_hub(weights):
        given.pop("revision", None)  # of what was on the hub, and lies in a file now
    _check_random(moved["weights"], made_with, str(given["name"]))
    return create_backbone(**{**given, **moved}, parity=parity)


def _check_hub(build: Mapping[str, Any], weights: str | Path | None, tokenizer: str | Path | None) -> None:
    """Refuse to ask the hub for what only the description names, and not the user."""
    from calib.backbones.weights.reading import HUB, on_hub

    name, said_weights, said_tokenizer = str(build["name"]), build.get("weights"), build.get("tokenizer")
    asks: list[tuple[str, str]] = []
    if name.startswith(HUB_NAME):  # what the user names has to be this very model; nothing else is fetched
        named = str(weights or "").removeprefix(HUB)
        models = [name.removeprefix(HUB_NAME)]
        if said_weights is not None and on_hub(said_weights):
            models.append(str(said_weights).removeprefix(HUB))
        asks += [("weights", f"{HUB}{model}") for model in models if model != named]
    elif said_weights is not None and on_hub(said_weights) and weights is None:
        asks.append(("weights", str(said_weights)))
    if str(said_tokenizer or "").startswith(HUB) and tokenizer is None:
        asks.append(("tokenizer", str(said_tokenizer)))
    for key, said in asks:
        word, setting = shlex.quote(said), ".".join(("backbone", key))
        raise ValueError(
            f"The {key} of the prompt's backbone would come from the Hugging Face hub ({said}), and what a "
            f"file says is not fetched unasked. If it is what you want, name it: --{key} {word} (calib "
            f"predict), {setting}={word} (evaluate.py, train.py), or restore_backbone({key}={said!r})."
        )


def _check_random(weights: str | Path | None, made_with: str | None, name: str) -> None:
    """Refuse random weights for what was made with others, before they are drawn: it takes half a minute."""
    from calib.backbones.weights.reading import RANDOM

    if str(weights) == RANDOM and made_with is not None and not made_with.startswith(f"{RANDOM} ("):
        raise ValueError(
            f"This prompt was made with the weights {made_with!r}, and {name} with random weights would be "
            "another backbone. Name the file it was made with: --weights FILE (calib predict), "
            "backbone.weights=FILE (evaluate.py, train.py), or in Python give it to restore_backbone."
        )


def _builder(name: str) -> Callable[[BackboneOptions], Backbone]:
    prefix, _, rest = name.partition(":")
    for form, build in FORMS.items():
        if rest and form.startswith(f"{prefix}:"):
            return partial(build, rest)
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, *FORMS])
    return BACKBONES[name]

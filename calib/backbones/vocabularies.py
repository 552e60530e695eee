"""The tokenizer and the numbers of a text tower, from files: never from a hub that nobody named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.backbones.architectures import TEXT_TOWERS
from calib.backbones.bpe import clean_text
from calib.backbones.folder_tokenizers import TOKENIZER_CONFIG, folder_tokenizer, wrap_open_clip
from calib.backbones.options import BackboneOptions
from calib.backbones.tokenization import (
    PromptTokenizer,
    bert_tokenizer,
    clip_tokenizer,
)
from calib.backbones.weights.reading import WeightFile
from calib.core.errors import first_line
from calib.io.files import read_mapping

WHITESPACE = "whitespace"  # how open_clip calls `clean_text`, which it does where nothing else is said


def tower_tokenizer(
    text: Mapping[str, Any],
    source: Path | None,
    options: BackboneOptions,
    name: str,
) -> PromptTokenizer:
    """Return the tokenizer of an open_clip text tower.

    Args:
        text: `text_cfg` of an open_clip configuration.
        source: What `tokenizer_source` found for it.
        options: What the user said.
        name: The backbone, for messages.

    Raises:
        ValueError: The files are no tokenizer, or one that prompts cannot be built with.
    """
    length = int(text.get("context_length", 77))
    settings = dict(text.get("tokenizer_kwargs") or {})
    if source is None:
        return wrap_open_clip(_simple(settings, length), length) if settings else clip_tokenizer(length)
    tower = text.get("hf_model_name")
    clean = _clean(settings.get("clean", WHITESPACE))
    if tower in TEXT_TOWERS:
        return bert_tokenizer(source, length, clean=clean)
    folder = source if os.path.isdir(source) else source.parent
    described = os.path.isfile(folder / TOKENIZER_CONFIG)
    if (tower and options.tokenizer is not None) or not described:
        try:
            return bert_tokenizer(source, length, clean=clean, with_end=not settings.get("strip_sep_token"))
        except ValueError as error:
            if not described:
                raise ValueError(
                    f"{error} {name} reads text with the vocabulary of {_published(text)}: put the "
                    f"{TOKENIZER_CONFIG} of a tokenizer beside it, which says how texts are padded."
                ) from error
    plain = (
        folder_tokenizer(folder, length)
        if described and not (settings or text.get("tokenizer_mode"))
        else None
    )
    return plain or wrap_open_clip(_of_folder(folder, text, settings, length), length)


def _simple(settings: Mapping[str, Any], length: int) -> Any:
    """Return open_clip's tokenizer with settings of a text tower; open_clip takes seconds to import."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=length, **settings)


def _clean(name: str) -> Callable[[str], str]:
    """Return the function that open_clip has under this name for what is done to a text first."""
    if name == WHITESPACE:
        return clean_text
    from open_clip.tokenizer import get_clean_fn

    clean: Callable[[str], str] = get_clean_fn(name)
    return clean


def _of_folder(folder: Path, text: Mapping[str, Any], settings: dict[str, Any], length: int) -> Any:
    """Return open_clip's tokenizer over the files of a folder."""
    import open_clip

    try:
        return open_clip.tokenizer.HFTokenizer(
            str(folder),
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=True,
            **settings,
        )
    except Exception as error:  # what transformers raises for incomplete files depends on the tokenizer
        raise ValueError(
            f"{folder} cannot be read as a tokenizer ({first_line(error)}). It should hold tokenizer.json "
            f"and {TOKENIZER_CONFIG} of {_published(text)} (backbone.tokenizer)."
        ) from error


def _published(text: Mapping[str, Any]) -> str:
    return str(text.get("hf_tokenizer_name") or text.get("hf_model_name") or "")


def tokenizer_source(
    text: Mapping[str, Any],
    options: BackboneOptions,
    found: WeightFile | None,
    name: str,
    folder: Path | None,
) -> Path | None:
    """Return the file or folder with a text tower's vocabulary; None for CLIP's, which comes with open_clip.

    Args:
        text: `text_cfg` of an open_clip configuration.
        options: What the user said.
        found: The weight file, None for random weights.
        name: The backbone, for messages.
        folder: The folder of the model, if it is one.

    Raises:
        FileNotFoundError: There is no vocabulary.
        ValueError: One was given, and the tower needs none.
    """
    published = _published(text)
    if published:
        if options.tokenizer is None and folder is not None and os.path.isfile(folder / TOKENIZER_CONFIG):
            return folder
        return options.find_tokenizer(name, found, published, folder)
    if options.tokenizer is not None:
        raise ValueError(
            f"backbone.tokenizer={options.tokenizer} does not apply to {name}: its vocabulary comes with "
            "open_clip."
        )
    return None


def tower_numbers(text: Mapping[str, Any], folders: Sequence[Path], name: str) -> Mapping[str, Any] | None:
    """Return the numbers of a Hugging Face text tower; None for a tower of open_clip, which has its own.

    Args:
        text: `text_cfg` of an open_clip configuration.
        folders: Where its `config.json` may lie.
        name: The backbone, for the message.

    Raises:
        FileNotFoundError: They are in none of the folders.
    """
    tower = text.get("hf_model_name")
    if not tower or tower in TEXT_TOWERS:
        return TEXT_TOWERS.get(tower or "")
    for folder in folders:
        path = folder / "config.json"
        numbers = read_mapping(path) if os.path.isfile(path) else {}
        if "model_type" in numbers and "vision_config" not in numbers:
            return numbers
    looked = ", ".join(dict.fromkeys(map(str, folders))) or "nowhere: no folder was given"
    raise FileNotFoundError(
        f"{name} has the text tower of {tower}, whose config.json says its size; looked for it in {looked}. "
        "Put it beside the weights, or into the folder of backbone.tokenizer."
    )

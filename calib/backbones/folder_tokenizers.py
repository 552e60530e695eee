"""Tokenizers of folders: by tokenizer.json alone where it says everything, else as open_clip reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.backbones.bpe import clean_text
from calib.backbones.tokenization import PromptTokenizer, WordPieces, from_simple, vocabulary_digest
from calib.io.files import read_mapping

TOKENIZER_CONFIG = "tokenizer_config.json"
MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")
# What else a configuration may hold without a change to how a text is read, and with which values.
PLAIN: dict[str, tuple[Any, ...] | None] = {
    "tokenizer_class": ("PreTrainedTokenizerFast",),  # transformers' name for: nothing but the file
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "clean_up_tokenization_spaces": (False,),
    "model_max_length": None,
}
MORE = ("special_tokens_map.json", "added_tokens.json")  # files in which transformers finds more tokens


def folder_tokenizer(folder: Path, context_length: int) -> PromptTokenizer | None:
    """Return the tokenizer of a folder; None where transformers would add to what its tokenizer.json says.

    It is the one that open_clip makes of the folder by transformers, which take seconds to import.
    Texts are cleaned first (`clean_text`), as open_clip's HFTokenizer does.

    Args:
        folder: Holds a tokenizer.json and a tokenizer_config.json.
        context_length: Tokens per text.
    """
    path = folder / "tokenizer.json"
    if not os.path.isfile(path) or any(os.path.lexists(folder / name) for name in MORE):
        return None
    config = read_mapping(folder / TOKENIZER_CONFIG)
    marks = {key: config[key] for key in MARKS if key in config}
    if not _is_plain(config) or "pad_token" not in marks:
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(path))
    except Exception:  # the Rust side raises a bare Exception; transformers is left to say what is wrong
        return None
    special = {token.content: id for id, token in backend.get_added_tokens_decoder().items() if token.special}
    if not set(marks.values()) <= set(special):
        return None
    backend.no_truncation()
    backend.no_padding()
    encode = WordPieces(backend, clean_text)
    row, pad_id = list(backend.encode("x").ids), special[marks["pad_token"]]
    return from_row(
        "HFTokenizer",
        encode,
        [*row, pad_id],
        pad_id=pad_id,
        context_length=context_length,
        n_words=backend.get_vocab_size(with_added_tokens=False),
        digest=vocabulary_digest(backend.get_vocab(with_added_tokens=True)),
        unknown_id=special[marks["unk_token"]] if "unk_token" in marks else None,
    )


def _is_plain(config: Mapping[str, Any]) -> bool:
    for key, value in config.items():
        if key in MARKS:
            if not isinstance(value, str):
                return False
        elif key not in PLAIN:
            return False
        else:
            allowed = PLAIN[key]
            if allowed is not None and value not in allowed:
                return False
    return config.get("tokenizer_class") in (PLAIN["tokenizer_class"] or ())


@dataclass(frozen=True)
class _HubEncoder:
    tokenizer: Any

    def __call__(self, text: str) -> list[int]:
        text = self.tokenizer.clean_fn(text) if hasattr(self.tokenizer, "clean_fn") else text
        return list(self.tokenizer.tokenizer(text, add_special_tokens=False).input_ids)


def wrap_open_clip(tokenizer: Any, context_length: int) -> PromptTokenizer:
    """Return any open_clip tokenizer in this shape; its marks are read off a tokenised word.

    Args:
        tokenizer: What `open_clip.get_tokenizer` returned.
        context_length: Tokens per text.

    Raises:
        ValueError: Its rows are not marks, pieces, marks, padding.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        return from_simple(tokenizer, context_length)
    encode = _HubEncoder(tokenizer)
    row = tokenizer(["x"], context_length=context_length)[0].tolist()
    return from_row(
        type(tokenizer).__name__,
        encode,
        row,
        pad_id=int(tokenizer.tokenizer.pad_token_id),
        context_length=context_length,
        n_words=tokenizer.tokenizer.vocab_size,
        digest=vocabulary_digest(tokenizer.tokenizer.get_vocab()),
        unknown_id=tokenizer.tokenizer.unk_token_id,
    )


def from_row(
    kind: str,
    encode: Callable[[str], list[int]],
    row: Sequence[int],
    *,
    pad_id: int,
    context_length: int,
    n_words: int,
    digest: str,
    unknown_id: int | None,
) -> PromptTokenizer:
    """Return a tokenizer whose marks are read off its row of the word "x".

    Args:
        kind: See `PromptTokenizer`.
        encode: See `PromptTokenizer`.
        row: Marks, ids of "x", marks, padding.
        pad_id: See `PromptTokenizer`.
        context_length: See `PromptTokenizer`.
        n_words: Number of ids without marks.
        digest: See `PromptTokenizer`.
        unknown_id: See `PromptTokenizer`.

    Raises:
        ValueError: The row has another shape.
    """
    bare = encode("x")
    at = next((i for i in range(len(row)) if bare and [*row[i : i + len(bare)]] == bare), None)
    if at is None or row[-1] != pad_id:
        raise ValueError(f"Prompts cannot be built with {kind}: its rows have an unknown shape.")
    end = list(row[at + len(bare) :])
    while end and end[-1] == pad_id:
        end.pop()
    return PromptTokenizer(
        kind=kind,
        encode=encode,
        start=tuple(row[:at]),
        end=tuple(end),
        pad_id=pad_id,
        context_length=context_length,
        vocab_size=max(n_words, max(*row, pad_id) + 1),  # marks may lie behind words
        digest=digest,
        unknown_id=unknown_id,
    )

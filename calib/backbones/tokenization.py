"""Texts to token ids, padded to the full context length; nothing is cut off silently."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.backbones.bpe import ClipBpe, vocabulary_file
from calib.io.files import read_mapping

BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer taken apart, so that prompts can be put together from pieces.

    A row is `start + pieces + end`, then `pad_id` up to `context_length`.

    Args:
        kind: What it is, for `describe()`, e.g. "clip-bpe".
        encode: Bare text to ids, without marks and padding.
        start: Ids before the pieces, e.g. start of text or [CLS].
        end: Ids after the pieces, e.g. end of text or [SEP].
        pad_id: Id that fills the rest of the row.
        context_length: Length L of every row.
        vocab_size: Number of ids; every id is smaller.
        digest: sha256 of the vocabulary, None where it comes with the library.
        unknown_id: Id of every word that the vocabulary has not. None: it can spell any word.
    """

    kind: str
    encode: Callable[[str], list[int]] = field(repr=False)
    start: tuple[int, ...]
    end: tuple[int, ...]
    pad_id: int
    context_length: int
    vocab_size: int
    digest: str | None = None
    unknown_id: int | None = None

    @property
    def max_pieces(self) -> int:
        """Return how many ids fit between the marks."""
        return self.context_length - len(self.start) - len(self.end)

    @property
    def filler_id(self) -> int:
        """Return the id that keeps a place for a context token: that of "x", as in the official code.

        Its embedding is always replaced; it only has to be an ordinary token, not one of the marks.
        """
        return self.encode("x")[0]

    def assemble(self, pieces: Sequence[int]) -> Tensor:
        """Return the padded row for bare ids.

        Args:
            pieces: At most `max_pieces` ids.

        Returns:
            (L,) int64.

        Raises:
            ValueError: Too many pieces.
        """
        if len(pieces) > self.max_pieces:
            raise ValueError(
                f"{len(pieces)} tokens do not fit: the text tower reads {self.context_length} tokens, "
                f"{self.max_pieces} of them between its start and end marks."
            )
        row = [*self.start, *pieces, *self.end]
        return torch.tensor(row + [self.pad_id] * (self.context_length - len(row)))

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Return the padded rows of texts.

        Args:
            texts: One or more texts.
            truncate: True cuts long texts to `max_pieces` ids, as the official MedCLIP code does without
                saying so.

        Returns:
            (C, L) int64.

        Raises:
            ValueError: `texts` is a single string or empty, or a text does not fit and `truncate` is False.
        """
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"Expected a list of one or more texts, got {texts!r}.")
        return torch.stack([self._row(text, truncate) for text in texts])

    def _row(self, text: str, truncate: bool) -> Tensor:
        pieces = self.encode(text)
        if len(pieces) > self.max_pieces and not truncate:
            taken = self.context_length - self.max_pieces
            raise ValueError(
                f"The text {text!r} has {len(pieces) + taken} tokens with its start and end marks, "
                f"but the text tower reads {self.context_length}. Shorten it."
            )
        return self.assemble(pieces[: self.max_pieces])

    def describe(self) -> dict[str, Any]:
        """Return kind, vocabulary size and digest as plain JSON values."""
        return {"kind": self.kind, "vocab_size": self.vocab_size, "digest": self.digest}


@lru_cache(maxsize=1)
def _clip_bpe() -> Any:
    path = vocabulary_file()
    if path is not None:
        return ClipBpe(path)
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def clip_tokenizer(context_length: int = 77) -> PromptTokenizer:
    """Return CLIP's lower-casing byte pair encoding; its vocabulary comes with open_clip.

    Args:
        context_length: Tokens per text.

    Example:
        >>> clip_tokenizer().encode("An H&E image of debris.")
        [550, 327, 261, 324, 2867, 539, 19208, 269]
    """
    return from_simple(_clip_bpe(), context_length)


def from_simple(bpe: Any, context_length: int) -> PromptTokenizer:
    """Return CLIP's byte pair encoding, ours or open_clip's, in this shape."""
    return PromptTokenizer(
        kind="clip-bpe",
        encode=bpe.encode,
        start=(bpe.sot_token_id,),
        end=(bpe.eot_token_id,),
        pad_id=0,
        context_length=context_length,
        vocab_size=bpe.vocab_size,
    )


@dataclass(frozen=True)
class WordPieces:
    """Bare text to word pieces; a class and not a closure, so that a backbone can be pickled.

    Args:
        backend: A tokenizer of the library `tokenizers`.
        clean: Applied to each text first. None applies nothing.
    """

    backend: Any
    clean: Callable[[str], str] | None

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text, without marks."""
        text = self.clean(text) if self.clean else text
        return list(self.backend.encode(text, add_special_tokens=False).ids)


def bert_tokenizer(
    source: str | Path,
    context_length: int,
    *,
    clean: Callable[[str], str] | None = None,
    with_end: bool = True,
) -> PromptTokenizer:
    """Return the WordPiece tokenizer of a `vocab.txt` or `tokenizer.json`, read without any network call.

    Args:
        source: One of the two files, or a folder that holds one (`tokenizer.json` wins). A `vocab.txt` is
            read lower-casing, unless a `tokenizer_config.json` beside it says `"do_lower_case": false`.
        context_length: Tokens per text.
        clean: Applied to each text first. None applies nothing.
        with_end: Whether [SEP] ends a text; some models leave it out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The vocabulary lacks one of [PAD], [UNK], [CLS], [SEP], or the file is not a tokenizer.
    """
    path = _tokenizer_file(Path(source))
    backend = _read_json_tokenizer(path) if path.suffix == ".json" else _read_vocab(path)
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    _require_marks(vocab, path)
    return PromptTokenizer(
        kind="wordpiece",
        encode=WordPieces(backend, clean),
        start=(vocab["[CLS]"],),
        end=(vocab["[SEP]"],) if with_end else (),
        pad_id=vocab["[PAD]"],
        context_length=context_length,
        vocab_size=max(vocab.values()) + 1,
        digest=vocabulary_digest(vocab),
        unknown_id=vocab["[UNK]"],
    )


def find_tokenizer_file(folder: Path) -> Path | None:
    """Return the `tokenizer.json` or `vocab.txt` in a folder, or None."""
    return next(
        (path for name in ("tokenizer.json", "vocab.txt") if os.path.isfile(path := folder / name)), None
    )


def vocabulary_digest(vocab: Mapping[str, int]) -> str:
    """Return the sha256 of words and their ids, in the order of the words."""
    return hashlib.sha256(json.dumps(sorted(vocab.items())).encode()).hexdigest()


def _tokenizer_file(source: Path) -> Path:
    if os.path.isfile(source):
        return source
    found = find_tokenizer_file(source)
    if found is None:
        raise FileNotFoundError(
            f"No tokenizer at {source}: expected a vocab.txt, a tokenizer.json, or a folder that holds one "
            "(backbone.tokenizer)."
        )
    return found


def _read_json_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json file: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_vocab(path: Path) -> Any:
    from tokenizers import BertWordPieceTokenizer

    try:
        with path.open(encoding="utf-8") as lines:
            vocab = {line.rstrip("\n"): index for index, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a BERT vocabulary: it is not UTF-8 text ({error}).") from error
    _require_marks(vocab, path)
    config = path.parent / "tokenizer_config.json"
    settings = read_mapping(config) if os.path.isfile(config) else {}
    lowercase = bool(settings.get("do_lower_case", True))
    return BertWordPieceTokenizer(vocab, lowercase=lowercase)


def _require_marks(vocab: Mapping[str, int], path: Path) -> None:
    missing = [mark for mark in BERT_MARKS if mark not in vocab]
    if missing:
        raise ValueError(f"{path} is not a BERT vocabulary: it lacks {', '.join(missing)}.")


def warn_if_vocabulary_differs(name: str, words: int, rows: int) -> None:
    """Warn when a vocabulary is smaller than a trained token table: it may be another model's.

    Args:
        name: The backbone.
        words: Size of the vocabulary.
        rows: Rows of the token table.
    """
    # The table of PubMedBERT is rounded up: its vocabulary has 28895 words.
    if words != rows and (words, rows) != (28895, 30522):
        warnings.warn(
            f"The vocabulary given to {name} has {words} words, its token table {rows} rows. With the "
            "vocabulary of another model every word means something else.",
            stacklevel=2,
        )

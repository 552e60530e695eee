"""CLIP's byte pair encoding, from the vocabulary file that comes with open_clip, which is not imported."""

from __future__ import annotations

import gzip
import html
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

MERGES = 48894  # of the file's lines those that CLIP was trained with, behind a first line of remarks
START, END = "<start_of_text>", "<end_of_text>"
PATTERN = rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
LAST = "</w>"  # ends the last symbol of a word


def clean_text(text: str) -> str:
    """Return a text as CLIP's models read it: encodings mended, HTML entities read, single spaces.

    Example:
        >>> clean_text("  H&amp;E   stain ")
        'H&E stain'
    """
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def vocabulary_file() -> Path | None:
    """Return the file with CLIP's merges; None: this open_clip keeps it elsewhere."""
    spec = find_spec("open_clip")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    paths = [Path(folder, "bpe_simple_vocab_16e6.txt.gz") for folder in folders]
    return next((path for path in paths if path.is_file()), None)


class ClipBpe:
    """Lower-cased text to ids: bytes, and pairs of symbols that are merged in the order of the file.

    Args:
        path: The file, see `vocabulary_file`.

    Attributes:
        sot_token_id: Id that starts a text.
        eot_token_id: Id that ends one.
        vocab_size: Number of ids.

    Source: Radford et al., arXiv:2103.00020 (github.com/openai/CLIP, clip/simple_tokenizer.py): the file, its
    order and the pattern of words.
    """

    def __init__(self, path: Path) -> None:
        import regex  # knows classes of letters in Unicode

        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]
        self._bytes = _alphabet()
        # Ids are given to visible bytes first, then to the others, both in their order.
        symbols = sorted(self._bytes, key=lambda symbol: (ord(symbol) > 255, ord(symbol)))
        names = [*symbols, *(symbol + LAST for symbol in symbols), *map("".join, merges), START, END]
        self._ids = {name: id for id, name in enumerate(names)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._words = regex.compile(PATTERN, regex.IGNORECASE)
        self._known: dict[str, list[int]] = {mark: [self._ids[mark]] for mark in (START, END)}
        self.sot_token_id, self.eot_token_id = self._ids[START], self._ids[END]
        self.vocab_size = len(self._ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without marks and padding."""
        return [id for word in self._words.findall(clean_text(text).lower()) for id in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            symbols = [self._bytes[byte] for byte in word.encode("utf-8")]
            symbols[-1] += LAST
            self._known[word] = [self._ids[symbol] for symbol in self._merged(symbols)]
        return self._known[word]

    def _merged(self, symbols: list[str]) -> list[str]:
        """Return the symbols after all merges: each time the first pair of the file, everywhere."""
        while True:
            pairs = [pair for pair in pairwise(symbols) if pair in self._ranks]
            if not pairs:
                return symbols
            best = min(pairs, key=self._ranks.__getitem__)
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged


def _alphabet() -> list[str]:
    """Return the symbol of each byte: visible ones of Latin-1 are themselves, others follow from 256."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]

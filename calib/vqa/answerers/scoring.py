"""Scores of options by a language model: logits of letters, and log-probabilities of texts, prompt once."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calib.core.checks import as_float64

SCORING = ("letters", "texts")  # what of an option is scored
AGREE = 2e-3  # nats a token by which scores with and without a cache may differ
HALF = 0.25  # the same in half precision
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptionScores:
    """What a model gives to K options.

    Attributes:
        logits: K raw logits of the letters; of several spellings (A, with a space before it) log-sum-exp.
        letters: K log-probabilities of the letters over the whole vocabulary.
        sums: K sums of token log-probabilities of the texts. None: not asked for.
        counts: K numbers of tokens of the texts. None: not asked for.
    """

    logits: list[float]
    letters: list[float]
    sums: list[float] | None
    counts: list[int] | None


def letter_ids(tokenizer: Any, letters: str) -> list[list[int]]:
    """Return for each letter the ids of the tokens that are it, with and without a space before it.

    Args:
        tokenizer: Of the transformers library.
        letters: The letters.

    Raises:
        ValueError: A letter is no token of its own, or shares one with another.
    """
    found: list[list[int]] = []
    for letter in letters:
        ids: set[int] = set()
        for spelt in (letter, f" {letter}"):
            pieces = tokenizer.encode(spelt, add_special_tokens=False)
            ids |= {pieces[0]} if len(pieces) == 1 else set()
        for token in (letter, f"▁{letter}", f"Ġ{letter}"):
            id_ = tokenizer.convert_tokens_to_ids(token)
            ids |= {id_} if isinstance(id_, int) and id_ >= 0 else set()
        ids.discard(getattr(tokenizer, "unk_token_id", None) or -1)
        ids = {id_ for id_ in ids if tokenizer.decode([id_]).strip() == letter}
        if not ids:
            raise ValueError(
                f"The letter {letter} is no token of this model: options have no letters to score."
            )
        found.append(sorted(ids))
    return found


class OptionScorer:
    """Scores options after a prompt, which is computed once.

    The cache of the prompt is repeated for the options. On the first prompt with an image, and on the first
    without, the sums are compared with those of whole sequences; a model whose cache gives others is computed
    without it, which is said.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        letters: From `letter_ids`.
    """

    def __init__(self, model: Any, tokenizer: Any, letters: Sequence[Sequence[int]]) -> None:
        self.model, self.tokenizer, self.letters = model, tokenizer, letters
        self.cached: dict[bool, bool] = {}  # of prompts with an image, and of those without, once it is known
        known = inspect.signature(model.forward).parameters
        self._last_only = "logits_to_keep" in known
        self._cache = "cache" if "cache" in known else "past_key_values"  # its name until transformers 5.2x
        # Models whose images take two dimensions of positions keep here by how much these are fewer.
        self._rope = next((part for part in model.modules() if hasattr(part, "rope_deltas")), None)

    def __call__(self, inputs: Mapping[str, Any], count: int, texts: Sequence[str] | None) -> OptionScores:
        """Return the scores of options.

        Args:
            inputs: Of one prompt: input_ids (1, L), attention_mask, pixels, ...
            count: K.
            texts: Their texts. None: letters only.
        """
        keep = {"logits_to_keep": 1} if self._last_only else {}
        seen = "pixel_values" in inputs
        use_cache = texts is not None and self.cached.get(seen, True)
        if self._rope is not None:
            self._rope.rope_deltas = None  # not those of the prompt before
        out = self.model(**inputs, use_cache=use_cache, **keep)
        last = as_float64(out.logits[0, -1])  # (V,)
        logits = torch.stack([last[list(self.letters[k])].logsumexp(0) for k in range(count)])
        letters = logits - last.logsumexp(0)
        sums, counts = None, None
        if texts is not None:
            ids = [self._ids(text) for text in texts]
            counts = [len(each) for each in ids]
            if use_cache:
                sums = self._with_cache(inputs, out[self._cache], last, ids)
            if seen not in self.cached:
                whole = [self._whole(inputs, each) for each in ids]
                self.cached[seen] = sums is not None and self._agree(sums, whole, counts)
                if not self.cached[seen]:
                    log.warning("%s: options are scored without its cache.", type(self.model).__name__)
                    sums = whole
            elif not use_cache:
                sums = [self._whole(inputs, each) for each in ids]
        return OptionScores(logits.tolist(), [min(x, 0.0) for x in letters.tolist()], sums, counts)

    def _agree(self, sums: Sequence[float], whole: Sequence[float], counts: Sequence[int]) -> bool:
        allowed = AGREE if next(self.model.parameters()).dtype == torch.float32 else HALF
        return all(abs(a - b) <= allowed * n for a, b, n in zip(sums, whole, counts, strict=True))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise ValueError(f"The option {text!r} has no token.")
        return ids

    def _with_cache(
        self, inputs: Mapping[str, Any], cache: Any, last: Tensor, ids: Sequence[Sequence[int]]
    ) -> list[float] | None:
        """Return the sums (K,) from the prompt's cache, repeated for the options; None: there is none."""
        if not hasattr(cache, "batch_repeat_interleave"):
            return None
        first = last.log_softmax(0)
        if max(map(len, ids)) == 1:
            return [float(first[each[0]]) for each in ids]
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(ids))
        longest = max(map(len, ids)) - 1  # the last token predicts nothing that is asked for
        pad = self.tokenizer.pad_token_id or 0
        device = inputs["input_ids"].device
        rows = torch.tensor([[*each[:-1], *[pad] * (longest - len(each) + 1)] for each in ids], device=device)
        real = torch.tensor([[1] * (len(each) - 1) + [0] * (longest - len(each) + 1) for each in ids])
        mask = torch.cat(
            [inputs["attention_mask"].expand(len(ids), -1), real.to(inputs["attention_mask"])], dim=1
        )
        start = inputs["input_ids"].shape[1]
        positions = (start + torch.arange(longest, device=device)).expand(len(ids), -1)
        if self._rope is not None:
            deltas = self._rope.rope_deltas
            positions = (positions if deltas is None else positions + deltas.to(device)).expand(3, -1, -1)
        kept = {self._cache: cache}
        try:
            out = self.model(
                input_ids=rows, attention_mask=mask, position_ids=positions, use_cache=True, **kept
            )
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # a model with rules of its own
            log.info("the cache cannot be repeated: %s", error)
            return None
        logprobs = as_float64(out.logits).log_softmax(-1)  # (K, T, V)
        return [
            float(first[each[0]]) + sum(float(logprobs[k, t, id_]) for t, id_ in enumerate(each[1:]))
            for k, each in enumerate(ids)
        ]

    def _whole(self, inputs: Mapping[str, Any], ids: Sequence[int]) -> float:
        """Return the sum of an option's token log-probabilities from prompt and option as one sequence."""
        tail = torch.tensor([list(ids)], device=inputs["input_ids"].device)
        length = inputs["input_ids"].shape[1]
        longer = dict(inputs)
        for name, value in inputs.items():  # ids, mask, and what marks image tokens: of text it is 0
            if value.shape == (1, length):
                fill = {"input_ids": tail, "attention_mask": torch.ones_like(tail)}.get(name, 0 * tail)
                longer[name] = torch.cat([value, fill.to(value)], dim=1)
        logprobs = as_float64(self.model(**longer).logits[0]).log_softmax(-1)[-len(ids) - 1 : -1]
        return float(logprobs.gather(1, tail[0][:, None].to(logprobs.device)).sum())

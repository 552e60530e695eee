"""What was recorded of one model's answers, as arrays that are made when a method asks for them."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import pyarrow.compute as pc

from calib.core.errors import unknown_name
from calib.core.text import few
from calib.vqa.columns import flat, lengths
from calib.vqa.origin import refuse
from calib.vqa.tables import Outputs
from calib.vqa.uncertainty.answers import token_sar
from calib.vqa.uncertainty.options import softmax_rows
from calib.vqa.uncertainty.samples import ABSENT

# How options are scored, and the columns that takes. "auto" is the first of CHOOSING that there is.
SCORES: dict[str, tuple[str, ...]] = {
    "logit": ("option_logit",),
    "letter": ("option_letter_logprob",),
    "sum": ("option_loglik",),
    "mean": ("option_loglik", "option_n_tokens"),
    "pmi": ("option_loglik", "option_prior_loglik"),
}
CHOOSING = ("logit", "letter", "sum")  # in the order of `calib.vqa.schema.CHOOSING`


class Missing(Exception):  # noqa: N818, it is a finding, not an error
    """What a method needs was not recorded; the message says what."""


class Evidence:
    """N answers of one model as arrays; what was not recorded raises `Missing`.

    Args:
        outputs: Its outputs.
        scores: How options are scored: a key of SCORES, or "auto".

    Attributes:
        given: Arrays (N,) that come from elsewhere by name, such as the doubt of another condition.

    Raises:
        ValueError: `scores` is unknown.

    Example:
        >>> from calib.vqa.tables import Items
        >>> items = Items.of_rows([{"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 0}])
        >>> rows = [{"model_id": "m", "item_id": "a", "option_logit": [0.0, 0.0]}]
        >>> Evidence(Outputs.of_rows(rows, items)).option_probs.tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, outputs: Outputs, scores: str = "auto") -> None:
        if scores not in SCORES and scores != "auto":
            raise unknown_name("way to score options", scores, ["auto", *SCORES])
        self.outputs = outputs
        self.scores = scores
        if scores == "auto":
            self.scores = next((kind for kind in CHOOSING if outputs.has(SCORES[kind][0])), CHOOSING[0])
        self.given: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.outputs)

    @cached_property
    def option_scores(self) -> np.ndarray:
        """(N, K) scores of the options, NaN behind a row's last."""
        first, *more = (self._lists(name) for name in SCORES[self.scores])
        if self.scores == "mean":
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.where(more[0] > 0, first / more[0], np.nan)
        return first - more[0] if self.scores == "pmi" else first

    @cached_property
    def option_probs(self) -> np.ndarray:
        """(N, K) softmax of the scores."""
        return softmax_rows(self.option_scores)

    @cached_property
    def option_count(self) -> np.ndarray:
        """(N,) numbers of options."""
        return self.outputs.items.n_options[self.outputs.item_rows]

    @cached_property
    def token_logprobs(self) -> np.ndarray:
        """(N, L) log-probabilities of the answer's tokens."""
        return self._lists("answer_token_logprobs")

    @cached_property
    def token_entropies(self) -> np.ndarray:
        """(N, L) entropies at the answer's tokens."""
        return self._lists("answer_token_entropies")

    @cached_property
    def token_similarity(self) -> np.ndarray:
        """(N, L) similarity of the answer with and without each token.

        Raises:
            ValueError: A row has another number of them than of the answer's tokens.
        """
        found = self._lists("answer_token_similarity")
        names = ("answer_token_similarity", "answer_token_logprobs")
        counts, tokens = (lengths(self.outputs.column(name)) for name in names)
        refuse(
            self.outputs.origin,
            (counts >= 0) & (tokens >= 0) & (counts != tokens),
            lambda row: (
                f"column '{names[0]}' has {counts[row]} numbers, and '{names[1]}' {tokens[row]}: one is "
                "needed for each token of the answer."
            ),
        )
        wide = self.token_logprobs.shape[1]
        return np.pad(found, ((0, 0), (0, max(0, wide - found.shape[1]))), constant_values=np.nan)[:, :wide]

    @cached_property
    def verbalized_confidence(self) -> np.ndarray:
        """(N,) in [0, 1]."""
        return self._numbers("verbalized_confidence")

    @cached_property
    def p_true_value(self) -> np.ndarray:
        """(N,) P(True), from its logits, or as it was recorded."""
        if not self.outputs.has("p_true_logits"):
            return self._numbers("p_true", "p_true_logits or p_true")
        found = softmax_rows(self._lists("p_true_logits"))[:, 0]
        if self.outputs.has("p_true"):
            found = np.where(np.isnan(found), self.outputs.numbers("p_true"), found)
        return found

    @cached_property
    def sample_clusters(self) -> np.ndarray:
        """(N, S) what each sample answers: sample_clusters where they are known, else the option.

        Raises:
            Missing: There are no samples, or a list has not a cluster for each of them.
        """
        codes = self._codes("samples")
        if not self.outputs.has("sample_clusters"):
            return codes
        counts, samples = lengths(self.outputs.column("sample_clusters")), (codes != ABSENT).sum(axis=1)
        wrong = np.flatnonzero((counts >= 0) & (counts != samples))
        if len(wrong):
            row = int(wrong[0])
            raise Missing(
                f"sample_clusters are not those of the samples: {self.outputs.where(row)} has {counts[row]} "
                f"for {samples[row]} samples"
            )
        clusters = self.outputs.padded("sample_clusters")
        wide = np.full(codes.shape, np.nan)
        shared = min(codes.shape[1], clusters.shape[1])
        wide[:, :shared] = clusters[:, :shared]
        return np.where(np.isnan(wide) | (codes == ABSENT), codes, np.nan_to_num(wide)).astype(np.int64)

    @cached_property
    def noisy_clusters(self) -> np.ndarray:
        """(N, T) which option each answer to a distorted image chooses."""
        if self.outputs.has("sample_clusters"):
            raise Missing("the clusters of noisy_samples among sample_clusters are not recorded")
        return self._codes("noisy_samples")

    @cached_property
    def greedy_cluster(self) -> np.ndarray:
        """(N,) the answer itself among the clusters of options; below 0: no option."""
        if self.outputs.has("sample_clusters"):
            raise Missing("the cluster of the greedy answer among sample_clusters is not recorded")
        return self.outputs.choices

    @cached_property
    def sample_logprobs(self) -> np.ndarray:
        """(N, S) sums of the samples' token log-probabilities."""
        return self._field("samples", "logprob_sum")

    @cached_property
    def sample_mean_logprobs(self) -> np.ndarray:
        """(N, S) the same per token."""
        return self._per_token("samples")

    @cached_property
    def noisy_mean_logprobs(self) -> np.ndarray:
        """(N, T) of answers to distorted images, per token."""
        return self._per_token("noisy_samples")

    @cached_property
    def sample_similarity(self) -> np.ndarray:
        """(N, S, S) how alike samples are: column sample_similarity, row by row, or the same cluster."""
        clusters = self.sample_clusters
        present = clusters != ABSENT
        same = (clusters[:, :, None] == clusters[:, None, :]).astype(np.float64)
        if self._has("sample_similarity"):
            given = self.outputs.padded("sample_similarity")
            for row in np.flatnonzero(~np.isnan(given).all(axis=1)):
                count = int(present[row].sum())
                values = given[row][~np.isnan(given[row])]
                where = f"{self.outputs.where(int(row))}: column 'sample_similarity'"
                if len(values) != count**2:
                    raise ValueError(
                        f"{where} has {len(values)} numbers; for {count} samples it takes {count**2}, row by "
                        "row."
                    )
                square = values.reshape(count, count)
                if not ((square >= 0) & (square <= 1)).all() or not np.diag(square).all():
                    raise ValueError(
                        f"{where} has numbers from {square.min():g} to {square.max():g}, of a sample and "
                        f"itself {np.diag(square).min():g}; expected are 0 to 1, above 0 of one and itself."
                    )
                same[row, :count, :count] = square
        return np.where(present[:, :, None] & present[:, None, :], same, np.nan)

    @cached_property
    def sample_token_sars(self) -> np.ndarray:
        """(N, S) TokenSAR of every sample: columns sample_token_logprobs and sample_token_similarity."""
        for name in ("sample_token_logprobs", "sample_token_similarity"):
            if not self._has(name):
                raise Missing(f"column {name} (a list for every sample) is not recorded")
        both = [
            self.outputs.column(name).to_pylist()
            for name in ("sample_token_logprobs", "sample_token_similarity")
        ]
        found = np.full(self.sample_clusters.shape, np.nan)
        samples = (self.sample_clusters != ABSENT).sum(axis=1)
        for row, (logprobs, similarity) in enumerate(zip(*both, strict=True)):
            if logprobs is None or similarity is None:
                continue
            counts = [[len(tokens or []) for tokens in each] for each in (logprobs, similarity)]
            if counts[0] != counts[1] or len(counts[0]) != samples[row]:
                raise ValueError(
                    f"{self.outputs.where(row)}: columns sample_token_logprobs and sample_token_similarity "
                    f"need a list for each of the {samples[row]} samples, of one length in both; they have "
                    f"lists of {few(counts[0])} and of {few(counts[1])} numbers."
                )
            for i, (tokens, alike) in enumerate(zip(logprobs, similarity, strict=True)):
                found[row, i] = token_sar(np.array([tokens]), np.array([alike]))[0]
        return found

    @cached_property
    def chance(self) -> np.ndarray:
        """(N,) numbers in [0, 1) that say nothing: of the question's name, the same on every machine."""
        items = self.outputs.items
        names, index = np.unique(items.bases[self.outputs.item_rows].astype(str), return_inverse=True)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        numbers = np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])
        drawn: np.ndarray = numbers[index]
        return drawn

    def need(self, name: str) -> np.ndarray:
        """Return an array by name.

        Raises:
            Missing: It was not recorded.
        """
        if name in self.given:
            return self.given[name]
        if not hasattr(type(self), name):
            raise Missing(GIVEN.get(name, f"{name} is not known"))
        found: np.ndarray = getattr(self, name)
        return found

    def _has(self, name: str) -> bool:
        return name in self.outputs.columns and self.outputs.has(name)

    def _require(self, name: str, said: str | None = None) -> None:
        if not self._has(name):
            raise Missing(f"column {said or name} is not recorded")

    def _lists(self, name: str) -> np.ndarray:
        self._require(name)
        return self.outputs.padded(name)

    def _numbers(self, name: str, said: str | None = None) -> np.ndarray:
        self._require(name, said)
        return self.outputs.numbers(name)

    def _codes(self, name: str) -> np.ndarray:
        """Return the options that samples chose, (N, S); one that is no option is a cluster of its own."""
        self._require(name)
        places, rows = self.outputs.sample_choices(name)
        numbers = flat(self.outputs.column(name))[2]
        found = np.full((len(self), int(numbers.max(initial=-1)) + 1), ABSENT, dtype=np.int64)
        # Those of distorted images are told apart from the others too.
        own = -2 - 2 * numbers - (name != "samples")
        found[rows, numbers] = np.where(places >= 0, places, own)
        return found

    def _field(self, name: str, field: str) -> np.ndarray:
        self._require(name)
        values, rows, numbers = flat(self.outputs.column(name))
        column = pc.struct_field(values, field)
        if column.null_count == len(column):
            raise Missing(f"the {field} of {name} is not recorded")
        found = np.full((len(self), int(numbers.max(initial=-1)) + 1), np.nan)
        found[rows, numbers] = column.cast("float64").to_numpy(zero_copy_only=False)
        return found

    def _per_token(self, name: str) -> np.ndarray:
        sums, counts = self._field(name, "logprob_sum"), self._field(name, "n_tokens")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(counts > 0, sums / counts, np.nan)


# What only an evaluation of several conditions or models can know, and why it may be missing.
GIVEN = {
    "cell_error": "the error rate of a kind of question is known to an evaluation only",
    "no_image_doubt": "there are no answers of this model without the image (condition no_image)",
    "others_wrong": "there are no answers of other models to the same questions",
}

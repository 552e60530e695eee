"""The methods by name: what each needs, how much of the model it sees, and whether it is a probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calib.core.byname import tensors
from calib.core.errors import unknown_name
from calib.vqa.uncertainty import answers, graphs, options, samples
from calib.vqa.uncertainty.evidence import Evidence, Missing

Access = Literal["white", "grey", "black"]


@dataclass(frozen=True)
class Method:
    """A row of METHODS.

    Attributes:
        function: Arrays of `Evidence` by name -> (N,), higher = more uncertain; NaN where a row lacks them.
        title: What it is in a few words.
        access: "white": the probabilities of every token. "grey": scores of the options or log-probabilities
            of the answer, as some interfaces give them. "black": texts alone.
        needs: The columns of the table of outputs, in words.
        probabilistic: Whether 1 - u is meant as the probability to be right, so that it has a raw ECE.
        panel: Whether it is one of the eight that are compared by default.
        baseline: Whether it is there to be beaten; most say nothing of this answer in particular.
    """

    function: Callable[..., np.ndarray]
    title: str
    access: Access
    needs: str
    probabilistic: bool = False
    panel: bool = False
    baseline: bool = False


def _chance(chance: np.ndarray) -> np.ndarray:
    return chance


def _prior(cell_error: np.ndarray) -> np.ndarray:
    return cell_error


def _no_image(no_image_doubt: np.ndarray) -> np.ndarray:
    return no_image_doubt


def _others(others_wrong: np.ndarray) -> np.ndarray:
    return others_wrong


_SCORES = "scores of the options"
_TOKENS = "answer_token_logprobs"
_SAMPLES = "samples"
_LOGPROBS = "samples with logprob_sum and n_tokens"
METHODS: dict[str, Method] = {
    # The panel: eight that every kind of model offers some of.
    "option_msp": Method(
        options.option_msp, "1 - largest probability of an option", "grey", _SCORES, True, panel=True
    ),
    "option_entropy": Method(options.option_entropy, "entropy of the options", "grey", _SCORES, panel=True),
    "option_margin": Method(
        options.option_margin, "1 - (first - second probability)", "grey", _SCORES, panel=True
    ),
    "perplexity": Method(
        answers.perplexity,
        "mean negative log-probability of the answer's tokens",
        "grey",
        _TOKENS,
        panel=True,
    ),
    "mean_token_entropy": Method(
        answers.mean_token_entropy,
        "mean entropy at its tokens",
        "white",
        "answer_token_entropies",
        panel=True,
    ),
    "answer_entropy": Method(
        samples.answer_entropy, "entropy of the answers drawn, by option", "black", _SAMPLES, panel=True
    ),
    "verbalised": Method(
        answers.verbalised, "1 - confidence in words", "black", "verbalized_confidence", True, panel=True
    ),
    "p_true": Method(answers.p_true, "1 - P(True)", "grey", "p_true_logits or p_true", True, panel=True),
    # Others of the field.
    "option_entropy_normalised": Method(
        options.option_entropy_normalised, "entropy of the options / log K", "grey", _SCORES
    ),
    "option_log_ratio": Method(options.option_log_ratio, "second - first score", "grey", _SCORES),
    "option_gini": Method(options.option_gini, "1 - sum of squared probabilities", "grey", _SCORES),
    "self_consistency": Method(
        samples.self_consistency, "1 - share of the most frequent answer", "black", _SAMPLES, True
    ),
    "number_of_answers": Method(samples.number_of_answers, "different answers drawn", "black", _SAMPLES),
    "seq_nll": Method(answers.seq_nll, "negative log-probability of the answer", "grey", _TOKENS),
    "mc_entropy": Method(samples.mc_entropy, "mean NLL of the samples", "grey", _LOGPROBS),
    "mc_entropy_normalised": Method(
        samples.mc_entropy_normalised, "mean NLL of the samples per token", "grey", _LOGPROBS
    ),
    "semantic_entropy_kuhn": Method(
        samples.semantic_entropy_kuhn, "semantic entropy, code of 2023", "grey", _LOGPROBS
    ),
    "semantic_entropy_rao": Method(
        samples.semantic_entropy_rao, "semantic entropy, Farquhar 2024", "grey", _LOGPROBS
    ),
    "semantic_entropy_discrete": Method(
        samples.semantic_entropy_discrete, "semantic entropy, discrete", "black", _SAMPLES
    ),
    "semantic_entropy_polygraph": Method(
        samples.semantic_entropy_polygraph, "semantic entropy, LM-Polygraph", "grey", _LOGPROBS
    ),
    "degmat": Method(graphs.degmat, "mean distance of the samples", "black", _SAMPLES),
    "eigv": Method(graphs.eigv, "clusters by the graph's spectrum", "black", _SAMPLES),
    "eccentricity": Method(graphs.eccentricity, "distance from the samples' centre", "black", _SAMPLES),
    "token_sar": Method(
        answers.token_sar, "NLL weighted by relevance", "grey", f"{_TOKENS}, answer_token_similarity"
    ),
    "sentence_sar": Method(samples.sentence_sar, "NLL backed by similar samples", "grey", _LOGPROBS),
    "sar": Method(samples.sar, "both", "grey", "samples, sample_token_logprobs, sample_token_similarity"),
    "vase": Method(
        samples.vase, "semantic entropy against a distorted image", "grey", "samples, noisy_samples"
    ),
    "radflag": Method(
        samples.radflag, "1 - agreement of the samples with the answer", "black", _SAMPLES, True
    ),
    # What has to be beaten, what asks nothing of the answer first.
    "random": Method(_chance, "chance, of the question's name", "black", "nothing", baseline=True),
    "number_of_options": Method(
        options.number_of_options, "1 - 1 / number of options", "black", "nothing", baseline=True
    ),
    "dataset_prior": Method(
        _prior, "error rate of questions of its modality and type", "black", "an evaluation", baseline=True
    ),
    "no_image": Method(
        _no_image, "the same method without the image", "grey", "condition no_image", baseline=True
    ),
    "best_distractor": Method(
        options.best_distractor, "score of the answer's best rival", "grey", _SCORES, baseline=True
    ),
    "other_models": Method(
        _others, "share of other models that are wrong on it", "black", "other models", baseline=True
    ),
}
PANEL = tuple(name for name, method in METHODS.items() if method.panel)


@dataclass(frozen=True)
class Scored:
    """What a method says of N answers.

    Attributes:
        name: The method.
        values: (N,) float64, higher = more uncertain; NaN where it can say nothing.
        reason: Why rows are NaN. Empty: none is.
    """

    name: str
    values: np.ndarray
    reason: str

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: where it says something."""
        known: np.ndarray = ~np.isnan(self.values)
        return known


def score(evidence: Evidence, name: str) -> Scored:
    """Return what a method says of the answers.

    Args:
        evidence: The answers.
        name: A key of METHODS.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> from calib.vqa.tables import Items, Outputs
        >>> items = Items.of_rows([{"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 0}])
        >>> rows = [{"model_id": "m", "item_id": "a", "option_logit": [0.0, 0.0]}]
        >>> evidence = Evidence(Outputs.of_rows(rows, items))
        >>> score(evidence, "option_msp").values.tolist(), score(evidence, "verbalised").reason
        ([0.5], 'column verbalized_confidence is not recorded')
    """
    if name not in METHODS:
        raise unknown_name("uncertainty method", name, METHODS)
    method = METHODS[name]
    try:
        arrays = {each: evidence.need(each) for each in tensors(method.function)}
        values = np.asarray(method.function(**arrays), dtype=np.float64)
    except Missing as missing:
        return Scored(name, np.full(len(evidence), np.nan), str(missing))
    lacking = int(np.isnan(values).sum())
    reason = f"{lacking} of {len(values)} answers lack {method.needs}" if lacking else ""
    return Scored(name, values, reason)

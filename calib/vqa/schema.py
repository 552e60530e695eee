"""The columns of the two tables of visual question answering: names, types, and what they mean.

`ITEMS`, one row per question and condition:

| column | |
|:--|:--|
| item_id | required, unique; usual is dataset/number#condition |
| base_id | the question, shared by its conditions; left out: item_id up to its # |
| condition | original, nota, nota_control, nota_added, hidden, no_image, ...; left out: original |
| dataset, split, modality, question_type | free text, for tables and slices |
| group_id | image or patient: what is drawn together in a bootstrap; left out: base_id |
| image_id, image | a name of the image; its path, none where no image is shown |
| question, options | texts; none where a licence withholds them |
| option_ids | required: names that an option keeps when options are permuted or replaced; nota is NOTA's |
| correct_index | required: the place of the right option, from 0; -1: no option is right |
| perturbation | JSON: how it was made of the original |

`OUTPUTS`, one row per model, prompt, run and item; K options as listed in the item:

| column | |
|:--|:--|
| model_id, item_id | required; with prompt_id and run_id they name a row once |
| model_revision, prompt_id, run_id | free text |
| pred_index | the answer's place among the options, -1: no option; none: the arg-max of the scores |
| answer_status | option, refusal, non_answer, ambiguous, unparsed |
| option_logit | K raw logits: log-probabilities up to a constant of the row |
| option_letter_logprob | K log-probabilities of the letters over the whole vocabulary |
| option_loglik, option_n_tokens | K sums of token log-probabilities of the options' texts, and their tokens |
| option_prior_loglik | the same sums without image or question |
| answer_text, answer_token_logprobs, answer_token_entropies | the greedy answer; nats |
| samples | drawn answers: text, pred_id (option id or none), logprob_sum, n_tokens, option_order, seed |
| noisy_samples | the same with a distorted image |
| sample_clusters | cluster of each sample of an open answer |
| p_true_logits | [true, false] |
| p_true | where the logits are not known: P(True) |
| verbalized_confidence, verbalized_text | 0 to 1 |

Other columns are kept: results can be split by them. Of items, `template` (a text with {option}) says how
image-text models are asked. Of outputs, some methods read what takes a model of language: the lists
`answer_token_similarity` (of the answer with and without each token, 0 to 1), `sample_similarity` (S x S
numbers of S samples, row by row), `sample_token_logprobs` and `sample_token_similarity` (a list a sample).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

VERSION = 1  # of both tables; a file may say it in a column schema_version

NOTA = "nota"  # the option id of "None of the above"
ORIGINAL = "original"
STATUSES = ("option", "refusal", "non_answer", "ambiguous", "unparsed")

_STRINGS, _NUMBERS, _COUNTS = pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.int32())
SAMPLE = pa.struct(
    [
        ("text", pa.string()),
        ("pred_id", pa.string()),
        ("logprob_sum", pa.float64()),
        ("n_tokens", pa.int32()),
        ("option_order", _STRINGS),
        ("seed", pa.int64()),
    ]
)
ITEMS: dict[str, Any] = {
    "schema_version": pa.int32(),
    "item_id": pa.string(),
    "base_id": pa.string(),
    "condition": pa.string(),
    "dataset": pa.string(),
    "split": pa.string(),
    "group_id": pa.string(),
    "image_id": pa.string(),
    "modality": pa.string(),
    "question_type": pa.string(),
    "question": pa.string(),
    "options": _STRINGS,
    "option_ids": _STRINGS,
    "correct_index": pa.int32(),
    "image": pa.string(),
    "perturbation": pa.string(),
}
ITEMS_NEED = ("item_id", "option_ids", "correct_index")
OUTPUTS: dict[str, Any] = {
    "schema_version": pa.int32(),
    "model_id": pa.string(),
    "model_revision": pa.string(),
    "prompt_id": pa.string(),
    "run_id": pa.string(),
    "item_id": pa.string(),
    "pred_index": pa.int32(),
    "answer_status": pa.string(),
    "option_logit": _NUMBERS,
    "option_letter_logprob": _NUMBERS,
    "option_loglik": _NUMBERS,
    "option_n_tokens": _COUNTS,
    "option_prior_loglik": _NUMBERS,
    "answer_text": pa.string(),
    "answer_token_logprobs": _NUMBERS,
    "answer_token_entropies": _NUMBERS,
    "samples": pa.list_(SAMPLE),
    "noisy_samples": pa.list_(SAMPLE),
    "sample_clusters": _COUNTS,
    "p_true_logits": _NUMBERS,
    "p_true": pa.float64(),
    "verbalized_confidence": pa.float64(),
    "verbalized_text": pa.string(),
}
OUTPUTS_NEED = ("model_id", "item_id")
# Written by some instead of samples: places among the item's options, -1 for none of them.
SAMPLE_PLACES = {"sample_pred_index": _COUNTS}
# One number for each option of the item, and whether these are log-probabilities: never above 0.
PER_OPTION = {
    "option_logit": False,
    "option_letter_logprob": True,
    "option_loglik": True,
    "option_n_tokens": False,
    "option_prior_loglik": True,
}
# Scores of the options by which an answer is chosen where pred_index does not say it, the first there is.
CHOOSING = ("option_logit", "option_letter_logprob", "option_loglik")

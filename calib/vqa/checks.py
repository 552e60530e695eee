"""What is checked in the tables of questions and answers: the first row that is wrong is named."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib.core.text import few
from calib.vqa.arrays import ItemArrays, OutputArrays
from calib.vqa.columns import ABSENT, codes, flat, lengths, repeated
from calib.vqa.origin import Origin, refuse
from calib.vqa.samples import check_samples
from calib.vqa.schema import NOTA, PER_OPTION, STATUSES

# By how much a log-probability may be above 0, and the sum of probabilities above 1: half precision.
ROUNDING = 1e-2
ALIKE = 1e-3  # by how much a row of probabilities may miss 1
log = logging.getLogger(__name__)


def check_items(items: ItemArrays) -> None:
    """Refuse items that cannot be right; see `calib.vqa.tables.read_items`.

    Raises:
        ValueError: See there.
    """
    origin, counts = items.origin, items.n_options
    _unique(items.table.column("item_id"), origin, "the item_id")
    _no_nulls(items.table.column("option_ids"), origin, "option_ids")
    refuse(
        origin,
        counts < 2,
        lambda row: f"column 'option_ids' names {counts[row]} options; a question has at least 2.",
    )
    refuse(
        origin,
        repeated(items.option_codes),
        lambda row: f"column 'option_ids' names an option twice: {few(items.cell('option_ids', row))}.",
    )
    listed = lengths(items.column("options"))
    refuse(
        origin,
        (listed >= 0) & (listed != counts),
        lambda row: f"column 'options' has {listed[row]} texts, and option_ids names {counts[row]} options.",
    )
    _no_nulls(items.table.column("options"), origin, "options")
    refuse(
        origin,
        (items.correct < -1) | (items.correct >= counts),
        lambda row: (
            f"column 'correct_index' is {items.correct[row]}; allowed are 0 to {counts[row] - 1} for the "
            "place of the right option, and -1 where none is right."
        ),
    )
    _repeated_texts(items)


def _repeated_texts(items: ItemArrays) -> None:
    """Refuse a right option whose text stands twice; tell of other texts that do."""
    column = items.column("options")
    values, rows, places = flat(column)
    if not len(values):
        return
    trimmed = pc.utf8_trim_whitespace(values)
    vocabulary = pc.unique(trimmed)
    listed = np.full(items.option_codes.shape, ABSENT, dtype=np.int64)
    listed[rows, places] = codes(trimmed, vocabulary)
    right = np.maximum(items.correct, 0)
    of_right = np.take_along_axis(listed, right[:, None], axis=1)
    twice = ((listed == of_right) & (of_right != ABSENT)).sum(axis=1) > 1
    refuse(
        items.origin,
        twice & (items.correct >= 0),
        lambda row: (
            f"the right option '{items.cell('options', row)[right[row]]}' stands twice in column "
            "'options', so that no answer can be told right or wrong. Take the item away, or mend it."
        ),
    )
    others = repeated(listed)
    if others.any():
        row = int(np.flatnonzero(others)[0])
        log.warning(
            "%s: options that repeat (%d such items): wrong ones of one text count as different answers.",
            items.where(row),
            int(others.sum()),
        )


def check_pairs(items: ItemArrays, originals: np.ndarray) -> None:
    """Refuse items of None of the above that do not differ from their originals by that option.

    Args:
        items: N items.
        originals: (N,) the row of each one's original.

    Raises:
        ValueError: A replaced option is not one, an added one not another.
    """
    mine, theirs = items.option_codes, items.option_codes[originals]
    new = np.zeros(len(items), dtype=np.int64)
    for place in range(mine.shape[1]):
        new += (mine[:, place] != ABSENT) & ~(theirs == mine[:, place, None]).any(axis=1)
    grown = items.n_options - items.n_options[originals]
    nota = items.places(NOTA)
    for condition, more in (("nota", 0), ("nota_control", 0), ("nota_added", 1)):
        asked = items.conditions == condition
        refuse(
            items.origin,
            asked & ((new != 1) | (grown != more) | (nota < 0)),
            lambda row, condition=condition: (  # type: ignore[misc]
                f"an item of the condition {condition} must have the options of its original with one "
                f"{'added' if condition == 'nota_added' else 'replaced'}, whose id is {NOTA}; it has "
                f"{few(items.cell('option_ids', row), 12)}, the original "
                f"{few(items.cell('option_ids', int(originals[row])), 12)}."
            ),
        )
        right = items.correct == nota
        refuse(
            items.origin,
            asked & (right != (condition == "nota")),
            lambda row, condition=condition: (  # type: ignore[misc]
                f"column 'correct_index' is {items.correct[row]}, and {NOTA} stands at {nota[row]}: "
                f"condition {condition} means that {NOTA} is {'' if condition == 'nota' else 'not '}right."
            ),
        )


def check_outputs(outputs: OutputArrays) -> None:
    """Refuse outputs that cannot be right; see `calib.vqa.tables.read_outputs`.

    Raises:
        ValueError: See there.
    """
    items, origin, rows = outputs.items, outputs.origin, outputs.item_rows
    refuse(
        origin,
        rows < 0,
        lambda row: (
            f"column 'item_id': there is no item '{outputs.texts('item_id')[row]}' in "
            f"{few(items.origin.names)}. Answers to further items, such as another condition, need their "
            "file of items as well."
        ),
    )
    _unique_rows(outputs)
    counts = items.n_options[rows]
    choice = outputs.numbers("pred_index")
    refuse(
        origin,
        ~np.isnan(choice) & ((choice < -1) | (choice >= counts)),
        lambda row: (
            f"column 'pred_index' is {choice[row]:.0f}; allowed are 0 to {counts[row] - 1} for the place of "
            "an option, and -1 for none of them."
        ),
    )
    for name, log_probs in PER_OPTION.items():
        if outputs.has(name):
            _check_scores(outputs, name, counts, log_probs)
    _check_status(outputs)
    for name in ("answer_token_logprobs", "answer_token_entropies", "p_true_logits"):
        if outputs.has(name):
            _check_finite(outputs, name)
    length = lengths(outputs.column("p_true_logits"))
    refuse(
        origin,
        (length >= 0) & (length != 2),
        lambda row: f"column 'p_true_logits' has {length[row]} numbers; it holds [true, false].",
    )
    for name in ("p_true", "verbalized_confidence"):
        values = outputs.numbers(name)
        known = outputs.table.column(name).is_valid().to_numpy()
        refuse(
            origin,
            known & ~((values >= 0) & (values <= 1)),
            lambda row, name=name, values=values: (  # type: ignore[misc]
                f"column '{name}' is {values[row]:g}; allowed is 0 to 1 (percent are divided by 100)."
            ),
        )
    for name in ("samples", "noisy_samples"):
        if outputs.has(name):
            check_samples(outputs, name)


def _check_scores(outputs: OutputArrays, name: str, counts: np.ndarray, log_probs: bool) -> None:
    origin, length = outputs.origin, lengths(outputs.column(name))
    refuse(
        origin,
        (length >= 0) & (length != counts),
        lambda row: (
            f"column '{name}' has {length[row]} numbers, and the item "
            f"'{outputs.texts('item_id')[row]}' has {counts[row]} options."
        ),
    )
    _check_finite(outputs, name, but_minus_infinity=log_probs)
    values = outputs.padded(name)
    given = length >= 0
    if name == "option_n_tokens":
        refuse(
            origin,
            np.asarray((values < 1).any(axis=1)),
            lambda row: f"column '{name}' has a number below 1: a text has tokens.",
        )
        return
    if log_probs:
        refuse(
            origin,
            np.asarray((values > ROUNDING).any(axis=1)),
            lambda row: (
                f"column '{name}' has {np.nanmax(values[row]):g}: a log-probability is never above 0. Raw "
                "logits belong in option_logit; of probabilities take logarithms."
            ),
        )
    if name == "option_letter_logprob":
        total = np.exp(np.where(np.isnan(values), -np.inf, values)).sum(axis=1)
        refuse(
            origin,
            total > 1 + ROUNDING,
            lambda row: (
                f"column '{name}': the letters' probabilities sum to {total[row]:g}, above 1. Are these "
                "log-probabilities of texts? They belong in option_loglik."
            ),
        )
    if name == "option_logit" and given.any():
        # Of one row it might be chance; nobody's logits are so in every row of a model.
        share = (np.nanmin(values[given], axis=1) >= 0) & (
            np.abs(np.nansum(values[given], axis=1) - 1) <= ALIKE
        )
        models = outputs.models[given]
        for model in np.unique(models[share]):
            if share[models == model].all():
                row = int(np.flatnonzero(given)[np.flatnonzero(models == model)[0]])
                raise ValueError(
                    f"{origin.where(row)}: column '{name}' of model '{model}' holds probabilities: every row "
                    "is between 0 and 1 and sums to 1. Logits are wanted; logarithms of these are such."
                )


def _check_finite(outputs: OutputArrays, name: str, *, but_minus_infinity: bool = False) -> None:
    values, rows, places = flat(outputs.column(name))
    numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    wrong = ~np.isfinite(numbers)
    if but_minus_infinity:  # a probability of 0
        wrong &= ~(numbers == -np.inf)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        cell = values[at].as_py()
        raise ValueError(
            f"{outputs.where(int(rows[at]))}: column '{name}', number {places[at] + 1}, is "
            f"{'missing' if cell is None else cell}; expected are finite numbers"
            f"{' and -inf' if but_minus_infinity else ''}. What is not known is no list at all."
        )


def _check_status(outputs: OutputArrays) -> None:
    status = outputs.column("answer_status")
    places = codes(status, pa.array(STATUSES))
    refuse(
        outputs.origin,
        places == -1,
        lambda row: f"column 'answer_status' is '{status[row]}'; allowed: {', '.join(STATUSES)}.",
    )
    choice = outputs.numbers("pred_index")
    refuse(
        outputs.origin,
        (places > 0) & (choice >= 0),
        lambda row: (
            f"column 'answer_status' is '{status[row]}', and 'pred_index' names an option "
            f"({choice[row]:.0f}); what chose no option has -1."
        ),
    )
    refuse(
        outputs.origin,
        (places == 0) & (choice < 0),
        lambda row: (
            f"column 'answer_status' is '{status[row]}', and 'pred_index' is {choice[row]:.0f}: no option. "
            f"What chose none says why: {', '.join(STATUSES[1:])}."
        ),
    )


def _unique(column: Any, origin: Origin, what: str) -> None:
    seen = codes(column, pc.unique(column))
    first = np.zeros(len(seen), dtype=bool)
    first[np.unique(seen, return_index=True)[1]] = True
    texts = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    refuse(
        origin,
        ~first,
        lambda row: (
            f"{what} '{texts[row]}' stands twice, before in "
            f"{origin.where(int(np.flatnonzero(seen == seen[row])[0]))}."
        ),
    )


def _unique_rows(outputs: OutputArrays) -> None:
    keys = [outputs.column(name) for name in ("model_id", "prompt_id", "run_id", "item_id")]
    seen = np.zeros(len(outputs), dtype=np.int64)
    for key in keys:
        found = codes(key, pc.unique(key))
        _, seen = np.unique(seen * (int(found.max()) + 1) + found, return_inverse=True)
    first = np.zeros(len(seen), dtype=bool)
    first[np.unique(seen, return_index=True)[1]] = True
    refuse(
        outputs.origin,
        ~first,
        lambda row: (
            "model "
            + ", ".join(
                f"{what} '{key[row]}'" for what, key in zip(("", "prompt", "run", "item"), keys, strict=True)
            ).strip()
            + f" stands twice, before in {outputs.where(int(np.flatnonzero(seen == seen[row])[0]))}. Several "
            "runs have several run_id; asked in another way, a model has another model_id "
            "(calib vqa answer model_id=NAME)."
        ),
    )


def _no_nulls(column: Any, origin: Origin, name: str) -> None:
    values, rows, _ = flat(column)
    if values.null_count:
        row = int(rows[pc.index(pc.is_null(values), True).as_py()])
        raise ValueError(f"{origin.where(row)}: column '{name}' has an empty entry.")

"""Everything that items and outputs say, in one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

from calib.data.notices import ProgressLog
from calib.vqa.evaluation.calibration import calibration, transfer
from calib.vqa.evaluation.errors import error_detection
from calib.vqa.evaluation.foresight import collapse
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.result import Evaluation
from calib.vqa.evaluation.sanity import letters, orders, overview, robustness
from calib.vqa.evaluation.shifts import accuracy_shift, doubt_shift
from calib.vqa.evaluation.study import Answers, Layout, systems
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.evaluation.tracking import cells, tracking
from calib.vqa.evaluation.words import sentences
from calib.vqa.tables import Items, Outputs, join_items, join_outputs
from calib.vqa.uncertainty import METHODS

log = logging.getLogger(__name__)


def evaluate(
    items: Items | Sequence[Items], outputs: Outputs | Sequence[Outputs], protocol: Protocol | None = None
) -> Evaluation:
    """Return what the answers and their uncertainties are worth.

    Args:
        items: Originals and changed questions.
        outputs: What one system or several said of them.
        protocol: What is compared and how. None: `Protocol()`.

    Raises:
        ValueError: A changed question has no original, or a name is unknown.

    Example:
        >>> rows = [{"item_id": str(i), "option_ids": ["o0", "o1"], "correct_index": 0} for i in range(40)]
        >>> items = Items.of_rows(rows)
        >>> said = [{"model_id": "m", "item_id": str(i), "option_logit": [i - 19.5, 0.0]} for i in range(40)]
        >>> found = evaluate(items, Outputs.of_rows(said, items), Protocol(n_resamples=50))
        >>> found.rows("overview")[0]["accuracy"], round(found.rows("errors")[0]["auroc"], 2)
        (0.5, 0.5)
    """
    protocol = protocol or Protocol()
    given = [items] if isinstance(items, Items) else list(items)
    said = [outputs] if isinstance(outputs, Outputs) else list(outputs)
    all_items = given[0] if len(given) == 1 else join_items(given)
    all_outputs = (
        join_outputs(said, all_items) if len(said) > 1 or said[0].items is not all_items else said[0]
    )
    layout = Layout(all_items, protocol)
    log.info("%d answers to %d items", len(all_outputs), len(all_items))
    found = systems(all_outputs, layout)
    result = Evaluation()
    by_cell = cells(found, protocol)
    steps = {
        "overview": lambda: overview(found, protocol),
        "errors": lambda: error_detection(found, protocol),
        "calibration": lambda: calibration(found, protocol),
        "transfer": lambda: transfer(found, protocol),
        "shift": lambda: accuracy_shift(found, protocol),
        "shift_uncertainty": lambda: doubt_shift(found, protocol),
        "collapse": lambda: collapse(found, protocol),
        "tracking": lambda: tracking(by_cell, protocol),
        "cells": lambda: by_cell,
        "robustness": lambda: robustness(found, protocol),
        "orders": lambda: orders(found, protocol),
        "letters": lambda: letters(found, protocol),
        "methods": lambda: methods(found, protocol),
    }
    progress = ProgressLog(log, "tables of the evaluation", len(steps))
    for number, (name, step) in enumerate(steps.items(), start=1):
        result.tables[name] = step()
        progress.update(number)
    result.about = {
        "items": len(all_items),
        "outputs": len(all_outputs),
        "systems": [answers.name for answers in found],
        "datasets": layout.names,
        "scores": {answers.name: answers.evidence.scores for answers in found},
        "protocol": asdict(protocol),
    }
    result.sentences = sentences(result, protocol)
    return result


def methods(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of methods: what each is and sees, and for how many systems it is known."""
    rows = []
    for name in protocol.chosen:
        method = METHODS[name]
        lacking = [answers for answers in found if not answers.usable(name)]
        reasons = dict.fromkeys(answers.reasons[name] for answers in lacking)
        rows.append(
            {
                "method": name,
                "title": method.title,
                "access": method.access,
                "needs": method.needs,
                "probability": "yes" if method.probabilistic else "no",
                "systems": len(found) - len(lacking),
                "why": "; ".join(reasons),
            }
        )
    fields = (
        Field("method", "method"),
        Field("title", "what it is"),
        Field("access", "access"),
        Field("needs", "needs"),
        Field("probability", "a probability"),
        Field("systems", "systems", "count"),
        Field("why", "why not for others"),
    )
    note = (
        "White: the distribution at every token. Grey: scores of the options or log-probabilities of the "
        "answer. Black: texts alone."
    )
    return ResultTable("Methods", note, fields, rows)

"""The sentences of an evaluation: what asks nothing stands first, and chance is no victory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from calib.vqa import Evaluation, Items, Outputs, Protocol, evaluate
from calib.vqa.evaluation.foresight import ONE_LOGIT
from calib.vqa.evaluation.page import page
from calib.vqa.evaluation.phrases import probability
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.evaluation.words import MANY, in_short, sentences

METHODS = ("option_msp", "number_of_options", "best_distractor")
QUICK = Protocol(methods=METHODS, n_resamples=20, n_permutations=20)


def said_of(places: int, **changes: Any) -> list[str]:
    """Return the sentences of tables of so many systems on one data set; the last is changed."""
    return sentences(result_of(places, **changes), Protocol())


def result_of(places: int, **changes: Any) -> Evaluation:
    tables: dict[str, list[dict[str, Any]]] = {}
    for k in range(places):
        last = k == places - 1
        about = {"system": f"m{k}", "dataset": "d", "condition": "original"}
        overview = {"n": 100, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "majority": 0.4}
        overview |= {"chance": 0.25, "no_option": 0.0, **(changes.get("overview", {}) if last else {})}
        tables.setdefault("overview", []).append(about | overview)
        reference = {"method": "option_msp", "auroc": 0.75, "auroc_low": 0.65, "auroc_high": 0.85, "why": ""}
        entropy = {"method": "option_entropy", "auroc": 0.753, "difference": 0.003, "p_holm": 1.0, "why": ""}
        prior = {"method": "dataset_prior", "auroc": 0.55, "difference": -0.2, "p_holm": 0.006, "why": ""}
        for row, name in ((reference, "msp"), (entropy, "entropy"), (prior, "prior")):
            tables.setdefault("errors", []).append(about | row | (changes.get(name, {}) if last else {}))
        sure = {"method": "option_msp", "ece": 0.1134, "ece_after": 0.0951, "gap": changes.get("gap", 0.084)}
        tables.setdefault("calibration", []).append(about | sure)
    found = Evaluation(tables={name: ResultTable(name, "", (), rows) for name, rows in tables.items()})
    for name in ("orders", "shift", "collapse", "shift_uncertainty", "tracking"):
        found.tables[name] = ResultTable(name, "", (), [])
    lacking = [{"method": name, "systems": 0, "why": "not recorded"} for name in ("p_true", "verbalised")]
    found.tables["methods"] = ResultTable("methods", "", (), lacking)
    return found


def test_of_one_case_the_baselines_are_told_and_tenths_of_a_point_are_no_difference() -> None:
    answers, wrong, sure, *_, last = said_of(1)
    assert answers == (
        "m0 on d: 100 questions, 70 % (60 to 80) right; more than by always giving the most frequent answer "
        "(40 %); guessing gives 25 %."
    )
    assert wrong == (
        "Wrong answers: option_msp tells them from right ones with AUROC 75 % (65 to 85); better than chance "
        "(50 %) and dataset_prior (error rate of questions of its modality and type): 55 %; no difference to "
        "tell from option_entropy: 75 %."
    )
    assert sure == "Confidence: 8 points above accuracy in the mean (ECE 11 %, after one temperature 10 %)."
    assert last == "Not known here, and why stands in the table methods: p_true and verbalised."
    assert said_of(1, gap=0.004)[2].startswith("Confidence: as high as accuracy")


def test_of_a_few_cases_each_has_a_paragraph() -> None:
    two = said_of(2)
    assert [each.split(":")[0] for each in two[:2]] == ["m0 on d", "m1 on d"]
    assert all(". Wrong answers: option_msp tells them" in each for each in two[:2])


def test_of_many_cases_it_is_counted_where_a_method_beats_asking_nothing() -> None:
    many = MANY + 1
    prior = {"auroc": 0.74, "difference": -0.01, "p_holm": 0.4}
    answers, wrong, others, *_ = said_of(many, prior=prior, overview={"majority": 0.75})
    assert answers == (
        "Answers: 5 systems on 1 data set, together 5 cases (a system on a data set); 70 to 70 % are right, "
        "more than by always giving the most frequent answer in 4 of 5, no difference to tell in 1 (m4 on d: "
        "70 % beside 75 %)."
    )
    assert wrong == (
        "Wrong answers: option_msp tells them from right ones with AUROC 75 to 75 %; better than chance "
        "(50 %) in 5 of 5; better than dataset_prior (error rate of questions of its modality and type) in 4 "
        "of 5, no difference to tell in 1 (m4 on d)."
    )
    assert others == "option_msp beside others: no difference to tell from option_entropy in 5 of 5."
    worse = said_of(many, entropy={"difference": 0.1, "p_holm": 0.01})[2]
    assert worse.endswith("no difference to tell from option_entropy in 4 of 5, worse in 1 (m4 on d).")


def test_a_case_with_too_few_wrong_answers_is_counted_apart() -> None:
    few = {"auroc_low": math.nan, "auroc_high": math.nan, "p_holm": math.nan, "difference": math.nan}
    lacking = {**few, "why": "3 wrong answers: 20 are needed"}
    rows = said_of(MANY + 1, msp=few, entropy=lacking, prior=lacking)
    assert "better than chance (50 %) in 4 of 4" in rows[1]
    assert "better than dataset_prior (error rate of questions of its modality and type) in 4 of 4" in rows[1]


def test_many_cases_begin_with_plain_sentences_and_what_their_words_mean() -> None:
    found = result_of(MANY + 1, gap=-0.23)
    del found.tables["errors"].rows[-3]["auroc"]  # of the last case, which has too few wrong answers
    found.tables["orders"] = ResultTable("orders", "", (), [{"changed": 0.18}, {"changed": 0.45}])
    ordered, true, orders, legend = in_short(found, Protocol())
    assert ordered.startswith("Are wrong answers the less sure ones? AUROC 75 to 75 % in 4 of 5 cases")
    assert true == "Is the confidence true? It is up to 23 points from the share of right answers."
    assert orders == "Does the order of the options matter? 18 to 45 % of the answers change with it."
    assert legend.startswith("Below, option_msp is 1 - largest probability of an option; nota (NOTA) is None")
    assert in_short(result_of(MANY), Protocol()) == []


@pytest.mark.parametrize(("p", "told"), [(0.0005, "p < 0.001"), (0.02, "p 0.020"), (1.0, "p 1.00")])
def test_p_values_have_the_digits_they_deserve(p: float, told: str) -> None:
    assert probability(p) == told


def hidden(n: int, rng: np.random.Generator, model: str, dataset: str, options: int) -> Any:
    """Return rows of items and outputs of n questions, and with None of the above at one logit."""
    items, said = [], []
    for i in range(n):
        logits = rng.normal(size=options)
        logits[0] += 2
        for condition, first in (("original", "o0"), ("nota", "nota")):
            name = f"{dataset}/{i}#{condition}"
            ids = [first, *(f"o{k}" for k in range(1, options))]
            items.append({"item_id": name, "condition": condition, "dataset": dataset, "option_ids": ids})
            items[-1] |= {"correct_index": 0, "group_id": f"{dataset}{i}"}
            asked = [0.8, *logits[1:]] if condition == "nota" else logits
            said.append({"model_id": model, "item_id": name, "option_logit": list(map(float, asked))})
    return items, said


def evaluated(*parts: tuple[list[dict], list[dict]]) -> Any:
    """Return the evaluation of all items and answers together."""
    items = Items.of_rows([row for rows, _ in parts for row in rows])
    return evaluate(items, Outputs.of_rows([row for _, rows in parts for row in rows], items), QUICK)


def test_systems_asked_questions_of_fewer_options_than_others_and_none_of_the_above_as_one_logit() -> None:
    rng = np.random.default_rng(5)
    found = evaluated(hidden(150, rng, "a", "four", 4), hidden(150, rng, "b", "six", 6))
    for system in "ab":
        (row,) = found.rows("collapse", system=system, method="option_msp")
        assert row["null_auroc"] == pytest.approx(row["auroc"])
        assert row["why_null"] == ONE_LOGIT
    assert "by construction: None of the above has the same logit everywhere" in found.text()


def test_a_baseline_that_is_the_same_for_all_questions_of_a_data_set_ranks_none_of_them() -> None:
    rng = np.random.default_rng(6)
    found = evaluated(hidden(100, rng, "m", "four", 4), hidden(100, rng, "m", "six", 6))
    # Over both data sets the number of options differs, within each it tells nothing.
    assert not found.rows("errors", method="number_of_options")
    (row,) = found.rows("methods", method="number_of_options")
    assert row["why"] == "it is the same for every question"


def test_answers_to_changed_questions_alone_are_no_findings() -> None:
    items, said = hidden(5, np.random.default_rng(1), "m", "four", 4)
    table = Items.of_rows(items)
    found = evaluate(table, Outputs.of_rows(said[1::2], table), QUICK)
    assert found.sentences[0].startswith("No answer to an original question was given")
    assert "right option hidden" not in found.text()


def test_no_p_value_is_nought_on_the_page_and_nought_is_not_negative() -> None:
    fields = (Field("system", "system"), Field("p", "p", "p"), Field("gap", "gap", "points"))
    rows = [
        {"system": name, "p": p, "gap": -0.0004} for name, p in (("m", 0.0004), ("k", 0.25), ("l", math.nan))
    ]
    about: dict[str, Any] = {"outputs": 1, "items": 1, "systems": ["m"], "datasets": ["d"]}
    table = ResultTable("Shift", "", fields, rows)
    shown = page({"shift": table}, [], about)
    assert "+0.0" in shown
    assert "+0.0" in table.markdown()
    assert "≤0.001" in shown
    assert "0.250" in shown
    assert "0.000" not in shown
    assert "1 answer of 1 system to 1 item of 1 data set." in shown

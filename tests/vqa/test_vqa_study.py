"""What an evaluation lays out: models and their runs, cells, orders, columns that nobody has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib.metrics.failure import failure_statistic
from calib.vqa import Items, Outputs, Protocol, evaluate
from calib.vqa.evaluation.study import Layout, systems
from calib.vqa.evaluation.tables import Field, ResultTable


def test_orders_without_any_option_are_unlike_and_changed_images_are_no_order() -> None:
    rows: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for i in range(30):
        for condition in ("original", "permuted", "permuted+black_image"):
            rows.append({"item_id": f"{i}#{condition}", "option_ids": ["o0", "o1"], "correct_index": 0})
            rows[-1]["condition"] = condition
            said.append({"model_id": "m", "item_id": f"{i}#{condition}", "answer_status": "refusal"})
    items = Items.of_rows(rows)
    found = evaluate(items, Outputs.of_rows(said, items), Protocol(n_resamples=20, n_permutations=20))
    (row,) = found.rows("orders")
    assert (row["orders"], row["changed"]) == (2.0, 1.0)


def test_questions_that_no_answer_can_be_right_on_count_nowhere() -> None:
    rows: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for i in range(40):
        for condition, ids in (("original", ["o0", "o1"]), ("permuted", ["o1", "o0"])):
            right = -1 if i >= 30 else ids.index("o0")
            rows.append({"item_id": f"{i}#{condition}", "option_ids": ids, "correct_index": right})
            rows[-1]["condition"] = condition
            said.append({"model_id": "m", "item_id": f"{i}#{condition}", "pred_index": ids.index("o0")})
    items = Items.of_rows(rows)
    found = evaluate(items, Outputs.of_rows(said, items), Protocol(n_resamples=20, n_permutations=20))
    (order,), (shift,) = found.rows("orders"), found.rows("shift")
    assert [row["accuracy"] for row in found.rows("overview")] == [1.0, 1.0]
    assert (order["n"], order["accuracy"], order["accuracy_vote"]) == (30, 1.0, 1.0)
    assert (shift["n"], shift["accuracy_original"], shift["accuracy"]) == (30, 1.0, 1.0)


def test_the_most_frequent_answer_is_one_of_text() -> None:
    rows = [
        {"item_id": f"{i}", "option_ids": ["o0", "o1"], "options": texts, "correct_index": i % 2}
        for i in range(40)
        for texts in [["Yes", "no"] if i % 2 == 0 else ["no", "yes"]]
    ]
    items = Items.of_rows(rows)
    said = [{"model_id": "m", "item_id": f"{i}", "pred_index": 0} for i in range(40)]
    found = evaluate(items, Outputs.of_rows(said, items), Protocol(n_resamples=20, n_permutations=20))
    assert found.rows("overview")[0]["majority"] == 1.0  # "yes" always, though o0 and A half the time


def test_prompts_and_runs_of_a_model_are_not_other_models() -> None:
    rng = np.random.default_rng(3)
    rows = [{"item_id": f"{i}", "option_ids": ["o0", "o1"], "correct_index": 0} for i in range(60)]
    said: list[dict[str, Any]] = []
    for model, run in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("c", "1"), ("c", "2")):
        logits = rng.normal(0.5, 1, size=60)
        said += [
            {"model_id": model, "run_id": run, "item_id": f"{i}", "option_logit": [logits[i], 0.0]}
            for i in range(60)
        ]
    items = Items.of_rows(rows)
    protocol = Protocol(
        methods=("option_msp", "other_models"), n_resamples=20, n_permutations=20, min_cases=5
    )
    outputs = Outputs.of_rows(said, items)
    (row,) = evaluate(items, outputs, protocol).rows("tracking", method="option_msp")
    assert (row["models"], row["why"]) == (3, "3 models: 5 are needed for a test")  # of 6 systems
    found = systems(outputs, Layout(items, protocol))
    b_wrong, c_wrong = (~found[3].right).astype(float), np.mean([~found[k].right for k in (4, 5)], axis=0)
    assert found[1].doubts["other_models"] == pytest.approx((b_wrong + c_wrong) / 2)


def test_the_error_rate_of_a_cell_does_not_know_the_error_it_foresees() -> None:
    """Of 100 kinds of questions that are equally hard, in-sample rates would foresee errors: AUROC 0.79."""
    rng, found = np.random.default_rng(6), []
    for kinds in (5, 100):
        rows = [
            {"item_id": f"{i}", "option_ids": ["o0", "o1"], "correct_index": 0, "modality": f"m{i % kinds}"}
            for i in range(400)
        ]
        items = Items.of_rows(rows)
        protocol = Protocol(methods=("dataset_prior",), n_resamples=2, folds=5)
        for _ in range(15):
            wrong = rng.random(400) < 0.3
            said = [{"model_id": "m", "item_id": f"{i}", "pred_index": int(wrong[i])} for i in range(400)]
            (answers,) = systems(Outputs.of_rows(said, items), Layout(items, protocol))
            doubt = answers.doubts["dataset_prior"]
            found.append(float(failure_statistic("auroc")(doubt, ~answers.right)))
    assert 0.42 < np.mean(found[:15]) < 0.53
    assert 0.42 < np.mean(found[15:]) < 0.53


def test_columns_and_values_that_do_not_occur_are_refused() -> None:
    rows = [{"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 0, "scanner": "A"}]
    items = Items.of_rows(rows)
    Layout(items, Protocol(by=("modality", "scanner"), shift=("scanner", "A")))
    for settings, told in (
        ({"by": ("scaner",)}, "Did you mean 'scanner'"),
        ({"shift": ("scaner", "A")}, "Did you mean 'scanner'"),
        ({"shift": ("scanner", "Philips")}, "value of scanner"),
        ({"shift": ("modality", "CT")}, "no item says anything of modality"),
    ):
        with pytest.raises(ValueError, match=told):
            Layout(items, Protocol(**settings))


def test_rows_with_other_numbers_are_printed_apart() -> None:
    fields = (Field("method", "method"), Field("mean", "mean", "share"), Field("why", "why"))
    means = {"a": 0.5, "b": 0.5, "c": 0.6, "d": 0.6, "e": 0.5}
    rows = [{"method": name, "mean": mean, "why": "3 models"} for name, mean in means.items()]
    found = ResultTable("title", "note", fields, rows).printed
    assert [row["method"] for row in found] == ["a and 1 more", "c and 1 more", "e"]


def test_answers_that_contradict_the_logits_are_said() -> None:
    rng, rows, said = np.random.default_rng(8), [], []
    logits = rng.normal(size=(300, 4)) + np.array([2.0, 0, 0, 0])
    changed = np.column_stack([rng.normal(size=300), logits[:, 1:]])
    for condition, first, table in (("original", "o0", logits), ("nota", "nota", changed)):
        for i in range(300):
            name = f"{i}#{condition}"
            rows.append({"item_id": name, "condition": condition, "group_id": f"{i}", "correct_index": 0})
            rows[-1]["option_ids"] = [first, "o1", "o2", "o3"]
            said.append({"model_id": "m", "item_id": name, "option_logit": table[i].tolist()})
            said[-1]["pred_index"] = 1 if condition == "nota" and i % 10 == 0 else int(table[i].argmax())
    items = Items.of_rows(rows)
    protocol = Protocol(methods=("option_msp", "best_distractor"), n_resamples=20, n_permutations=20)
    found = evaluate(items, Outputs.of_rows(said, items), protocol)
    (row,) = found.rows("collapse", method="option_msp")
    assert "known, but of the fall by logits" in found.text()
    assert row["why_null"].startswith("known, but of the fall by logits")
    assert row["null_auroc"] != pytest.approx(row["auroc"], abs=1e-6)

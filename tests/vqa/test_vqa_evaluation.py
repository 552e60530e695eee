"""The evaluation: numbers of a reference report, what is refused, what must not matter, words, page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib.vqa
from calib.io.files import read_json
from calib.metrics.failure import failure_statistic
from calib.vqa import Evaluation, Items, Outputs, Protocol, evaluate, read_items, read_outputs
from calib.vqa.evaluation import shifts
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.schema import NOTA

FOLDER = Path(__file__).parents[1] / "golden"
THEIRS = json.loads((FOLDER / "vqa_report.json").read_text())["models"]
NAMES = {
    "msp_nll": "seq_nll",
    "sample_entropy": "answer_entropy",
    "label_prob": "self_consistency",
    "verbalized": "verbalised",
    "baseline_best_distractor": "best_distractor",
}


@pytest.fixture(scope="module")
def golden() -> tuple[Items, Outputs]:
    items = read_items(FOLDER / "vqa_report_items.jsonl")
    return items, read_outputs(FOLDER / "vqa_report_outputs.jsonl", items=items)


@pytest.fixture(scope="module")
def report(golden: tuple[Items, Outputs]) -> Evaluation:
    methods = tuple(dict.fromkeys(NAMES.get(name, name) for name in THEIRS["toy-vlm-a"]["methods"]))
    return evaluate(*golden, Protocol(methods=methods, min_cases=1, n_resamples=40, n_permutations=40))


@pytest.mark.parametrize("model", THEIRS)
def test_accuracy_under_none_of_the_above_is_that_of_the_reference(report: Evaluation, model: str) -> None:
    theirs = THEIRS[model]
    accuracy = {row["condition"]: row["accuracy"] for row in report.rows("overview", system=model)}
    shift = {row["condition"]: row for row in report.rows("shift", system=model)}
    assert accuracy["original"] == pytest.approx(theirs["acc_original"])
    assert accuracy["nota"] == pytest.approx(theirs["acc_nota"])
    assert accuracy["nota_control"] == pytest.approx(theirs["acc_nota_control"])
    assert shift["nota_control"]["nota_rate"] == pytest.approx(theirs["false_nota_rate_control"])
    nota = shift["nota"]
    assert nota["dual_accuracy"] == pytest.approx(theirs["dual_accuracy"])
    assert nota["collapse_rate"] == pytest.approx(theirs["collapse_rate_given_correct"])
    assert [nota["lost"], nota["won"]] == theirs["discordant"]
    assert nota["p_mcnemar"] == pytest.approx(theirs["mcnemar_exact_p"])


@pytest.mark.parametrize("model", THEIRS)
def test_uncertainty_under_none_of_the_above_is_that_of_the_reference(report: Evaluation, model: str) -> None:
    for theirs_name, theirs in THEIRS[model]["methods"].items():
        if theirs_name == "sample_entropy":
            continue  # the next test
        where = {"system": model, "method": NAMES.get(theirs_name, theirs_name)}
        (before,), (then,) = (report.rows("errors", condition=c, **where) for c in ("original", "nota"))
        (moved,) = report.rows("shift_uncertainty", condition="nota", **where)
        (fall,) = report.rows("collapse", condition="nota", **where)
        pairs = [
            (before.get("auroc"), theirs["auroc_error_original"]),
            (then.get("auroc"), theirs["auroc_error_nota"]),
            (before.get("prr"), theirs["prr_original"]),
            (before.get("aurc"), theirs["aurc_original"]),
            (before.get("augrc"), theirs["augrc_original"]),
            (moved["n"], theirs["n_valid"]),
            (moved["median_change"], theirs["shift"]["median_delta"]),
            (moved["mean_change"], theirs["shift"]["mean_delta"]),
            (moved["p_wilcoxon"], theirs["shift"]["wilcoxon_p"]),
            (fall["n"], theirs["collapse"]["n"]),
            (fall["n_collapse"], theirs["collapse"]["n_collapse"]),
            (fall.get("auroc"), theirs["collapse"]["auroc"]),
            (fall.get("aupr"), theirs["collapse"]["aupr"]),
            (fall.get("auroc_all"), theirs["collapse"]["auroc_all_items_nota_wrong"]),
            (fall.get("delong_se"), theirs["collapse"]["delong_se"]),
        ]
        if "ece15_original" in theirs:
            (sure,), (later,) = (
                report.rows("calibration", condition=c, **where) for c in ("original", "nota")
            )
            pairs += [(sure["ece"], theirs["ece15_original"]), (later["ece"], theirs["ece15_nota"])]
            pairs += [(sure["gap"], theirs["signed_gap_original"]), (later["gap"], theirs["signed_gap_nota"])]
        for i, (ours, known) in enumerate(pairs):
            assert ours == (None if known is None else pytest.approx(known)), (theirs_name, i)


def test_answer_entropy_differs_from_the_reference_by_the_ties_that_rounding_breaks_there(
    report: Evaluation, golden: tuple[Items, Outputs]
) -> None:
    items, outputs = golden
    mine = np.flatnonzero(
        (outputs.models == "toy-vlm-a") & (items.conditions[outputs.item_rows] == "original")
    )
    places, rows = outputs.sample_choices()
    shares = np.stack([np.bincount(places[rows == row], minlength=4) / 10 for row in mine])
    terms = np.where(shares > 0, -shares * np.log(np.where(shares > 0, shares, 1)), 0)
    by_option = sum(terms.T[1:], start=terms.T[0])  # in the order of the options: equal sums differ in a bit
    wrong = ~outputs.right[mine]
    known = THEIRS["toy-vlm-a"]["methods"]["sample_entropy"]["auroc_error_original"]
    assert failure_statistic("auroc")(by_option, wrong) == pytest.approx(known)
    ours = failure_statistic("auroc")(by_option.round(12), wrong)
    assert ours != pytest.approx(known)
    (row,) = report.rows("errors", system="toy-vlm-a", method="answer_entropy", condition="original")
    assert row["auroc"] == pytest.approx(ours)


def test_too_few_cases_have_no_number_and_a_reason(golden: tuple[Items, Outputs]) -> None:
    found = evaluate(*golden, Protocol(methods=("option_msp",), n_resamples=20, n_permutations=20))
    (row,) = found.rows("errors", system="toy-vlm-a", condition="original")
    assert "auroc" not in row
    assert row["why"] == "8 wrong answers: 20 are needed"
    (row,) = found.rows("collapse", system="toy-vlm-degenerate", condition="nota")
    assert (row["prevalence"], row["why"]) == (1.0, "0 surviving answers: 20 are needed")
    assert "cannot be ranked (0 surviving answers: 20 are needed)" in found.text()


def test_the_order_of_rows_changes_nothing(golden: tuple[Items, Outputs]) -> None:
    items, outputs = golden
    few = outputs.take(outputs.models == "toy-vlm-b")
    mixed = few.take(np.random.default_rng(0).permutation(len(few)))
    protocol = Protocol(methods=("option_msp", "verbalised"), min_cases=1, n_resamples=20, n_permutations=20)
    first, again = (evaluate(items, each, protocol) for each in (few, mixed))
    for name in ("errors", "collapse", "shift"):
        for row in first.rows(name):
            where = {key: row[key] for key in ("system", "condition", "method") if key in row}
            (other,) = again.rows(name, **where)
            for key in ("auroc", "auroc_low", "difference_high", "collapse_rate", "null_p", "p_cluster"):
                if key in row:
                    assert other[key] == pytest.approx(row[key], nan_ok=True), (name, where, key)


def asked(n: int, rng: np.random.Generator, *, fragility: float) -> tuple[list[Items], Outputs]:
    """Return questions about n images with raw logits, before and with the right option hidden."""
    logits = rng.normal(size=(n, 4)) + np.array([2.0, 0, 0, 0])
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    doubt = 1 - probs.max(axis=1)
    changed = logits.copy()
    changed[:, 0] = rng.normal(size=n) - fragility * (doubt - doubt.mean()) / doubt.std()
    rows, said = [], []
    for condition, first, table in (("original", "o0", logits), ("nota", "nota", changed)):
        for i in range(n):
            name = f"set/{i}#{condition}"
            rows.append(
                {"item_id": name, "condition": condition, "dataset": "set", "group_id": f"image{i // 3}"}
            )
            rows[-1] |= {"option_ids": [first, "o1", "o2", "o3"], "correct_index": 0}
            said.append({"model_id": "m", "item_id": name, "option_logit": table[i].tolist()})
    items = [Items.of_rows(rows[:n]), Items.of_rows(rows[n:])]
    return items, Outputs.of_rows(said, calib.vqa.join_items(items))


@pytest.mark.parametrize(("fragility", "beyond"), [(0.0, False), (0.7, True)])
def test_collapse_is_foreseen_beyond_the_best_rival_where_it_is(fragility: float, beyond: bool) -> None:
    items, outputs = asked(600, np.random.default_rng(8), fragility=fragility)
    found = evaluate(items, outputs, Protocol(methods=("option_msp", "best_distractor"), n_resamples=50))
    (row,) = found.rows("collapse", method="option_msp")
    assert row["auroc"] == pytest.approx(row["null_auroc"])  # logits and answers tell the same collapse
    assert (row["null_p"] <= 0.05) == beyond
    assert (row["added_p"] <= 0.05) == beyond
    assert row["null_mean"] > 0.55  # what the rival alone gives is no coin
    assert (": more than the" in found.text()) == beyond


def test_of_one_image_there_are_numbers_and_no_intervals() -> None:
    items, outputs = asked(200, np.random.default_rng(9), fragility=0.7)
    one = [Items.of_rows([row | {"group_id": "image"} for row in each.rows()]) for each in items]
    rows = [{k: v for k, v in row.items() if v is not None} for row in outputs.rows()]
    said = Outputs.of_rows(rows, calib.vqa.join_items(one))
    found = evaluate(one, said, Protocol(methods=("option_msp", "best_distractor"), n_permutations=20))
    row = found.rows("errors", condition="original")[0]
    assert 0.5 < row["auroc"] < 1
    assert "auroc_low" not in row
    (fall,) = found.rows("collapse", method="option_msp")
    assert fall["null_p"] == 1.0  # the only image has nobody to exchange with
    assert "added_p" not in fall
    assert found.rows("calibration")[0]["why"] == "no correction: all originals are of one image"


def test_letters_are_not_logits_and_the_null_says_why(report: Evaluation) -> None:
    (row,) = report.rows("collapse", system="toy-vlm-a", method="option_msp", condition="nota")
    assert "null_p" not in row
    assert row["why_null"].startswith("it takes raw logits")


def test_methods_that_know_less_are_compared_where_both_know(report: Evaluation) -> None:
    (row,) = report.rows("errors", system="toy-vlm-b", method="verbalised", condition="original")
    assert row["n"] < 60
    assert np.isfinite(row["difference"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_other_orders_are_compared_by_option(golden: tuple[Items, Outputs]) -> None:
    rows, said = [], []
    for i in range(60):
        for condition, ids in (("original", ["o0", "o1", "o2"]), ("permuted", ["o2", "o0", "o1"])):
            rows.append({"item_id": f"{i}#{condition}", "option_ids": ids, "correct_index": ids.index("o0")})
            rows[-1]["condition"] = condition
            # Every third question: the first place is chosen, whatever stands there.
            chosen = 0 if i % 3 == 0 else ids.index("o0" if i % 3 == 1 else "o1")
            said.append({"model_id": "m", "item_id": rows[-1]["item_id"], "pred_index": chosen})
    items = Items.of_rows(rows)
    found = evaluate(items, Outputs.of_rows(said, items), Protocol(n_resamples=20, n_permutations=20))
    (row,) = found.rows("orders")
    assert (row["n"], row["orders"], row["changed"]) == (60, 2.0, pytest.approx(1 / 3))
    assert (row["accuracy"], row["accuracy_all"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_a_real_shift_and_a_temperature_that_travels() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(400, 3)) + np.array([1.5, 0, 0])
    scanners = np.where(np.arange(400) % 2, "A", "B")
    logits[scanners == "B", 0] -= 0.8
    rows = [
        {
            "item_id": f"{d}/{i}",
            "dataset": d,
            "option_ids": ["o0", "o1", "o2"],
            "correct_index": 0,
            "scanner": s,
        }
        for d in ("one", "two")
        for i, s in enumerate(scanners)
    ]
    said = [
        {"model_id": "m", "item_id": f"{d}/{i}", "option_logit": (scale * logits[i]).tolist()}
        for d, scale in (("one", 3.0), ("two", 1.0))
        for i in range(400)
    ]
    items = Items.of_rows(rows)
    protocol = Protocol(methods=("option_msp",), shift=("scanner", "A"), n_resamples=50, n_permutations=20)
    found = evaluate(items, Outputs.of_rows(said, items), protocol)
    row = found.rows("robustness", dataset="one")[0]
    assert (row["shift"], row["n"]) == ("B", 200)
    assert row["ratio"] == pytest.approx(row["accuracy"] / row["accuracy_usual"])
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"] < 1
    home, abroad = found.rows("calibration", dataset="one")[0], found.rows("transfer", source="one")[0]
    assert home["ece_after"] < home["ece"] / 2  # logits three times too large
    assert abroad["temperature"] == pytest.approx(3.0, abs=0.5)
    assert abroad["ece_after"] > abroad["ece"]  # there they were right


def test_names_and_numbers_out_of_range_are_refused() -> None:
    for settings, told in (
        ({"methods": ("option_mps",)}, "Did you mean 'option_msp'"),
        ({"reference": "all"}, "uncertainty method 'all'"),
        ({"scores": "letters"}, "Did you mean 'letter'"),
        ({"budgets": (10.0,)}, "budgets must be numbers between 0 and 1"),
        ({"min_cases": 0}, "min_cases must be a whole number of at least 1"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"methods": "option_msp"}, "methods must be a tuple, not 'option_msp'"),
        ({"budgets": 0.1}, "budgets must be a tuple, not 0.1"),
        ({"shift": "scanner"}, "shift must be .column, usual value., not 'scanner'"),
    ):
        with pytest.raises(ValueError, match=told):
            Protocol(**settings)  # type: ignore[arg-type]


def test_the_reference_is_always_among_the_methods_and_words_stand_for_several() -> None:
    assert Protocol(methods=("verbalised",)).chosen == ("option_msp", "verbalised")
    assert Protocol(methods=("verbalised",), reference="verbalised").chosen == ("verbalised",)
    assert {"dataset_prior", "vase", "p_true"} <= set(Protocol(methods=("panel", "vase")).chosen)


def test_files_hold_what_tables_hold_and_the_page_is_safe(
    golden: tuple[Items, Outputs], tmp_path: Path
) -> None:
    items, outputs = golden
    rows = [row | {"model_id": "<script>=1"} for row in outputs.take(outputs.models == "toy-vlm-b").rows()]
    kept: list[dict[str, Any]] = [{k: v for k, v in row.items() if v is not None} for row in rows]
    found = evaluate(items, Outputs.of_rows(kept, items), Protocol(n_resamples=20, n_permutations=20))
    found.save(tmp_path / "out")
    record = read_json(tmp_path / "out" / "metrics.json")
    assert record["tables"]["errors"]["rows"][0]["auroc"] == found.rows("errors")[0]["auroc"]
    with (tmp_path / "out" / "tables" / "errors.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["auroc"]) == found.rows("errors")[0]["auroc"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>=1" not in page
    assert "&lt;script&gt;=1" in page
    assert "http" not in page.split("</style>")[1].split("<script>")[0]
    assert found.sentences[0] in (tmp_path / "out" / "tables.md").read_text().replace("\\", "")


def test_tables_of_an_earlier_evaluation_go_and_other_files_stay(tmp_path: Path) -> None:
    table = ResultTable("A", "", (Field("n", "n", "count"),), [{"n": 1}])
    (tmp_path / "tables").mkdir()
    for name in ("mine", "b"):
        (tmp_path / "tables" / f"{name}.csv").write_text("n")
    about: dict[str, Any] = {"outputs": 1, "items": 1, "systems": ["m"], "datasets": ["d"]}
    Evaluation(tables={"a": table, "b": table}, about=about).save(tmp_path)
    Evaluation(tables={"a": table}, about=about).save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["a.csv", "mine.csv"]


def test_flips_are_drawn_with_the_seed_of_the_protocol(
    golden: tuple[Items, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    items, outputs = golden
    seeds = []

    def flips(*args: Any, seed: int = 0, **settings: Any) -> float:
        seeds.append(seed)
        return 0.5

    monkeypatch.setattr(shifts, "sign_flip_test", flips)
    part = outputs.take(outputs.models == "toy-vlm-b")
    evaluate(items, part, Protocol(n_resamples=20, n_permutations=20, seed=7))
    assert set(seeds) == {7}


def test_the_demonstration_is_small_and_says_something() -> None:
    items, outputs = calib.vqa.demonstration()
    assert {kind: int((items.texts("dataset") == kind).sum()) for kind in ("MMBench", "OODCV-VQA")} == {
        "MMBench": 436,
        "OODCV-VQA": 315,
    }
    folder = Path(calib.__file__).parent / "assets" / "vqa"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
    assert not (items.places("nota")[:] == items.correct).any()  # never right
    assert outputs.right[outputs.models == "Yi-VL-34B"].mean() == pytest.approx(0.791, abs=0.001)


def test_a_love_of_letters_is_no_fragility() -> None:
    rng = np.random.default_rng(4)
    n, letters = 600, np.array([1.2, 0.4, -0.4, -1.2])
    place = rng.integers(0, 4, n)
    asked = letters + rng.normal(size=(n, 4))
    asked[np.arange(n), place] += 2
    changed = asked.copy()  # None of the above gets what its letter gets, and knows nothing of the question
    changed[np.arange(n), place] = letters[place] + 1.5 * rng.normal(size=n)
    ids = [f"o{k}" for k in range(4)]
    items, outputs = [], []
    for i, right in enumerate(place.tolist()):
        for form, scores in (("original", asked[i]), ("nota", changed[i])):
            row = {"item_id": f"{i}#{form}", "base_id": str(i), "condition": form, "correct_index": right}
            listed = [NOTA if form == "nota" and k == right else name for k, name in enumerate(ids)]
            items.append({**row, "option_ids": listed})
            outputs.append({"model_id": "m", "item_id": row["item_id"], "option_logit": scores.tolist()})
    table = Items.of_rows(items)
    protocol = Protocol(methods=("option_msp", "option_entropy", "best_distractor"), n_resamples=40)
    found = evaluate(table, Outputs.of_rows(outputs, table), protocol)
    rows = [row for row in found.rows("collapse") if row["method"] in ("option_msp", "option_entropy")]
    assert len(rows) == 2
    for row in rows:
        assert row["null_p"] > 0.05
        assert row["added_p"] > 0.05

"""None of the above against the golden vectors; other changes keep what they must, question by question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.vqa import (
    Items,
    join_items,
    nota_choices,
    nota_eligibility,
    originals,
    perturb,
    split_by,
    two_by_two,
)
from calib.vqa.nota import NotaIneligibleError
from calib.vqa.perturbations import PERTURBATIONS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vqa_nota_perturb.json").read_text())


def rows(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "item_id": f"q{k}#original",
            "question": f"Which of these findings does image {k} show best?",
            "options": [f"finding {k}-{place}" for place in range(4)],
            "option_ids": ["o0", "o1", "o2", "o3"],
            "correct_index": k % 4,
            "image": f"{k}.png",
            "group_id": f"patient {k // 2}",
            "modality": ["CT", "MRI"][k % 2],
            "split": "test",
        }
        for k in range(count)
    ]


@pytest.fixture
def items() -> Items:
    return Items.of_rows(rows())


@pytest.mark.parametrize("case", GOLDEN["perturb"], ids=lambda case: json.dumps(case["kwargs"]))
def test_none_of_the_above_is_that_of_the_golden_vectors(case: dict[str, Any]) -> None:
    made = nota_choices(**case["inp"], **case["kwargs"])
    assert {name: getattr(made, name) for name in case["out"]} == case["out"]


@pytest.mark.parametrize("case", GOLDEN["eligibility"], ids=lambda case: case["reason"] or "eligible")
def test_which_questions_can_carry_it(case: dict[str, Any]) -> None:
    assert nota_eligibility(case["options"]) == case["reason"]


def test_more_questions_that_cannot() -> None:
    for options in (["A and C", "x", "y"], ["All of these options", "x", "y"], ["x", "Not given", "y"]):
        assert nota_eligibility(options) == "nota_like_option"
    assert nota_eligibility(None) == "options_withheld"
    assert nota_eligibility(["x", "y", "z"], -1) == "no_right_option"
    with pytest.raises(NotaIneligibleError, match=r"of two options one is left .* \(fewer_than_3_options\)"):
        nota_choices(["yes", "no"], 0)
    with pytest.raises(
        ValueError, match=r"distractor to be replaced is option 1; the wrong options are \[0, 2\]"
    ):
        nota_choices(["x", "y", "z"], 1, mode="replace_distractor", index=1)
    with pytest.raises(ValueError, match="is empty or that of an option"):
        nota_choices(["x", "y", "z"], 1, text=" Y")
    with pytest.raises(ValueError, match="Did you mean 'drop'"):
        nota_choices(["x", "y", "z"], 1, mode="dorp")


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_what_is_drawn_depends_on_the_question_alone(items: Items, kind: str) -> None:
    made = perturb(items, kind, seed=3)
    turned = perturb(items.take(range(5, -1, -1)), kind, seed=3)
    if kind != "swapped_image":  # which depends on the others there are
        assert made.rows() == turned.rows()[::-1]
    assert made.conditions.tolist() == [PERTURBATIONS[kind][0]] * 6
    assert len(join_items([items, made])) == 12
    assert json.loads(made.cell("perturbation", 0))["kind"] == kind
    originals(join_items([items, made]))  # also that options differ as they should


def test_the_right_option_stays_right(items: Items) -> None:
    before = [row["options"][row["correct_index"]] for row in items.rows()]
    for kind in ("permute", "replace_distractor", "add"):
        after = perturb(items, kind, seed=1).rows()
        assert [row["options"][row["correct_index"]] for row in after] == before
    permuted = perturb(items, "permute", seed=1).rows()
    assert all(a["option_ids"] != b["option_ids"] for a, b in zip(permuted, items.rows(), strict=True))
    assert perturb(items, "drop").correct.tolist() == [-1] * 6
    nota = perturb(items, "replace_correct", position="random", seed=2)
    assert nota.correct.tolist() == nota.places().tolist()
    assert len(set(nota.correct.tolist())) > 1


def test_distractors_are_drawn_evenly() -> None:
    """Of three wrong options each is replaced in a third of 600 questions, within four standard errors."""
    many = perturb(Items.of_rows(rows(600)), "replace_distractor", seed=5)
    gone = [json.loads(text)["replaced_id"] for text in many.texts("perturbation")]
    counts = np.array([gone.count(f"o{k}") for k in range(4)])
    assert counts.sum() == 600
    assert (abs(counts - 150) < 4 * np.sqrt(600 * 0.25 * 0.75)).all()


def test_images_are_left_out_blackened_and_swapped(items: Items) -> None:
    assert perturb(items, "no_image").texts("image").tolist() == [None] * 6
    assert perturb(items, "black_image").texts("image").tolist() == [f"black:{k}.png" for k in range(6)]
    swapped = perturb(items, "swapped_image", within="modality")
    for row, image in enumerate(swapped.texts("image")):
        other = int(image[0])
        assert other // 2 != row // 2  # another patient
        assert other % 2 == row % 2  # the same modality
    left_out: dict[str, str] = {}
    bare = Items.of_rows([*rows(2), {**rows(3)[2], "image": None}])
    perturb(bare, "black_image", left_out=left_out)
    assert left_out == {"q2#original": "no_image"}
    with pytest.raises(
        ValueError, match=r"None of the 2 items can be changed by 'swapped_image': 2 no_other_image"
    ):
        perturb(items.take([0, 1]), "swapped_image")
    with pytest.raises(ValueError, match="'permute' has no setting text: it takes a seed only"):
        perturb(items, "permute", text="x")
    with pytest.raises(ValueError, match="Unknown setting of the perturbation 'add' 'within'"):
        perturb(items, "add", within="modality")


def test_two_by_two_holds_the_same_questions_four_times(items: Items) -> None:
    bare = Items.of_rows([*rows(4), {**rows(5)[4], "question": "Which?"}])
    four = two_by_two(bare)
    assert len(four) == 16
    assert sorted(set(four.conditions.tolist())) == [
        "black_image",
        "black_image+corrupted_text",
        "corrupted_text",
        "original",
    ]
    by = {row["item_id"]: row for row in four.rows()}
    text, both = by["q0#corrupted_text"]["question"], by["q0#black_image+corrupted_text"]["question"]
    assert text == both  # the same words in the same order: pairs differ by the image alone
    assert sorted(text.split()) == sorted(by["q0#original"]["question"].split())
    assert text != by["q0#original"]["question"]
    assert json.loads(by["q0#black_image+corrupted_text"]["perturbation"])["after"]["kind"] == "black_image"


def test_words_of_their_own_about_an_earlier_change_are_kept() -> None:
    own = [{**row, "condition": "blurred", "perturbation": "blurred by hand"} for row in rows(2)]
    found = perturb(Items.of_rows(own), "permute")
    assert json.loads(found.cell("perturbation", 0))["after"] == "blurred by hand"
    assert found.cell("condition", 0) == "blurred+permuted"


def test_kinds_of_one_name_need_conditions_of_their_own(items: Items) -> None:
    first, second = (
        perturb(items, "permute", seed=1),
        perturb(items, "permute", seed=2, condition="permuted2"),
    )
    assert len(join_items([items, first, second])) == 18
    with pytest.raises(ValueError, match="the item_id 'q0#permuted' stands twice"):
        join_items([first, perturb(items, "permute", seed=2)])


def test_questions_that_cannot_are_left_out_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    some = [
        *rows(2),
        {**rows(3)[2], "options": ["yes", "no"], "option_ids": ["o0", "o1"], "correct_index": 0},
    ]
    assert len(perturb(Items.of_rows(some), "replace_correct")) == 2
    assert "1 of 3 items are left out: 1 fewer_than_3_options (of two options one is left" in caplog.text


def test_each_change_counts_the_items_it_left_out_itself(caplog: pytest.LogCaptureFixture) -> None:
    some = Items.of_rows([*rows(3), {**rows(4)[3], "question": "Which?"}, {**rows(5)[4], "image": None}])
    left_out: dict[str, str] = {}
    perturb(some, "corrupted_text", left_out=left_out)
    perturb(some, "black_image", left_out=left_out)
    perturb(some, "permute", left_out=left_out)
    said = [record.getMessage().rpartition(" (")[0] for record in caplog.records]
    assert said == [
        "corrupted_text: 1 of 5 items are left out: 1 no_question",
        "black_image: 1 of 5 items are left out: 1 no_image",
    ]
    assert left_out == {"q3#original": "no_question", "q4#original": "no_image"}


def test_a_shift_by_a_column_and_the_groups_on_both_sides(items: Items) -> None:
    shift = split_by(items, "modality", "MRI")
    assert shift.ood.tolist() == [False, True] * 3
    assert shift.iid.tolist() == [True, False] * 3
    assert not shift.constant
    assert len(shift.shared) == 3
    train = Items.of_rows([{**row, "split": "train" if k < 4 else "test"} for k, row in enumerate(rows())])
    own = split_by(train, "group_id", ["patient 0", "patient 2"], group="group_id")
    assert own.constant  # a patient is usual or not: unusual training items can be tested on
    assert own.ood.tolist() == [True, True, False, False, True, True]
    assert own.train.tolist() == [False, False, True, True, False, False]
    assert not own.iid.any()
    with pytest.raises(ValueError, match="Unknown value of the column 'modality' 'PET'"):
        split_by(items, "modality", "PET")
    with pytest.raises(ValueError, match="Every item has one of the values CT, MRI"):
        split_by(items, "modality", ["CT", "MRI"])

"""The parser of answers: real ones as a person reads them, and hand cases of every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calib.vqa import parse_answer
from calib.vqa.parsing import parse_confidence

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vqa_answers.json").read_text(encoding="utf-8"))
OPTIONS = ["Paget's disease", "Gout", "Marfan syndrome", "Gout of the knee"]


@pytest.mark.parametrize("case", GOLDEN["answers"], ids=lambda case: case["from"])
def test_real_answers_are_read_as_a_person_reads_them(case: dict[str, Any]) -> None:
    found = parse_answer(case["text"], case["options"])
    assert (found.place, found.status) == (case["place"], case["status"])


CASES = [
    ("B", 1, "option"),
    ("b", -1, "unparsed"),
    ("(C)", 2, "option"),
    ("**B**", 1, "option"),
    ("B. Gout", 1, "option"),
    ("B) because of the urate crystals", 1, "option"),
    ("[D] Gout of the knee", 3, "option"),
    ("Answer: C", 2, "option"),
    ("The correct answer is option C, not A.", 2, "option"),
    ("\\boxed{B}", 1, "option"),
    ("A is wrong.\nTherefore, the answer is B.", 1, "option"),
    ("A. Paget's disease is rare. B. Gout fits. The answer is (B).", 1, "option"),
    ("Gout", 1, "option"),
    ("gout.", 1, "option"),
    ("It is Gout of the knee.", 3, "option"),  # within which Gout stands
    ("This is Marfan syndrome", 2, "option"),
    ("Not gout but Marfan syndrome", 2, "option"),
    ('{"answer": "C"}', 2, "option"),
    ('```json\n{"Answer": "Gout", "confidence": 80}\n```', 1, "option"),
    ('{"answer": ["B"]}', 1, "option"),
    ('{"answer": ["A", "B"]}', -1, "ambiguous"),
    ('{"reason": "x"}', -1, "non_answer"),
    ("A or B", -1, "ambiguous"),
    ("The answer is A and B.", -1, "ambiguous"),
    ("**E, F**", -1, "unparsed"),
    ("**A, B**", -1, "ambiguous"),
    ("A. Paget's disease\nB. Gout\nC. Marfan syndrome", -1, "ambiguous"),
    ("Either gout or Marfan syndrome.", -1, "ambiguous"),
    ("E", -1, "unparsed"),  # no such letter
    ("The answer is a fracture.", -1, "unparsed"),
    ("I cannot provide medical advice.", -1, "refusal"),
    ("I'm sorry, but I can't see the image. A. Paget's disease affects bones.", -1, "refusal"),
    ("No puedo responder sin la imagen.", -1, "refusal"),
    ("", -1, "non_answer"),
    (None, -1, "non_answer"),
    ("La respuesta correcta es:\n\nB. Gout", 1, "option"),
    ("A resposta correta é **C**.", 2, "option"),
    ("正解は **B. Gout** です。", 1, "option"),
    ("因此，答案是C。", 2, "option"),
    ("התשובה הנכונה היא:\nB. Gout", 1, "option"),
]


@pytest.mark.parametrize(("text", "place", "status"), CASES, ids=[repr(text)[:50] for text, _, _ in CASES])
def test_forms_of_answers(text: str | None, place: int, status: str) -> None:
    found = parse_answer(text, OPTIONS)
    assert (found.place, found.status) == (place, status)


def test_options_that_are_letters_and_options_without_texts() -> None:
    assert parse_answer("A", ["E", "B", "C", "A"]).place == 0  # the letter, not the text
    assert parse_answer("C.", None, 3).place == 2
    assert parse_answer("D", None, 3).status == "unparsed"
    with pytest.raises(ValueError, match="the texts of 1 to 26 options, or their number"):
        parse_answer("A", None)


def test_confidence_in_words() -> None:
    for text, share in (
        ("85", 0.85),
        ("Confidence: 85 %", 0.85),
        ("0.7", 0.7),
        ("1", None),  # 1 %, or all
        ("1.0", 1.0),
        ("90/100", 0.9),
        ("8/10", 0.8),
        ("100", 1.0),
        ("9 out of 10", 0.9),
        ("I am 95 out of 100 sure", 0.95),
        ("On a scale from 0 to 100, I would say 90", 0.9),
        ("Confidence (0-100): 85", 0.85),
        ("On a scale of 1 to 10, an 8", 0.8),
        ("Between 0 and 1: 0.9", 0.9),
        ("On a scale from 0 to 100", None),
        ("I chose option 2 with 85% confidence", 0.85),
        ("2024", None),
        ("150", None),
        ("high", None),
        (None, None),
    ):
        assert parse_confidence(text) == pytest.approx(share), text
    assert parse_answer('{"answer": "A", "confidence": 0.5}', OPTIONS).confidence == 0.5
    assert parse_answer('{"answer": "A", "confidence": "90%"}', OPTIONS).confidence == pytest.approx(0.9)
    assert parse_answer('{"answer": "A", "confidence": 300}', OPTIONS).confidence is None
    assert parse_answer('{"answer": "A", "confidence": 1}', OPTIONS).confidence is None
    assert parse_answer('{"answer": "A", "confidence": 1.0}', OPTIONS).confidence == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "The answer is {} because the ring enhances. There is also oedema around it.",
        "The answer is {} since it enhances. There is oedema.",
        "The answer is {} as the ring enhances. There is oedema.",
        "The answer is {} and not gliosis. There is oedema.",
        "The best answer is {} with a ring. There is oedema.",
        "The answer is {} based on the ring. There is oedema.",
        "Answer: {} due to its ring. There is oedema.",
        "The answer is {}. There is oedema.",
    ],
)
def test_every_letter_is_read_alike(text: str) -> None:
    for place, letter in enumerate("ABCDEFGHI"):
        found = parse_answer(text.format(letter), None, 9)
        assert (found.place, found.status) == (place, "option"), letter


def test_an_article_is_no_answer() -> None:
    assert parse_answer("The answer is A fracture of the hip. I see oedema.", None, 4).place == -1

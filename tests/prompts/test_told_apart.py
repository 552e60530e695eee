"""Classes that no prompt could tell apart are refused by name, before any image is encoded."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import pytest

from calib.backbones import Backbone, create_backbone
from calib.prompts.learner import PromptLearner
from calib.prompts.zero_shot import zero_shot_features

SAME_FOR_CLIP = [("Grade I", "grade i"), ("a &amp; b", "a & b"), ("a &amp;amp; b", "a & b"), ("A", "a")]
SAME_FOR_BERT = [
    ("正常", "肺炎"),
    ("норма", "рак"),
    ("α-cell", "β-cell"),
    ("bénin", "benin"),
    ("Tumour", "tumour"),
    ("naïve cell", "naive cell"),
]


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return create_backbone("embedded")


@pytest.fixture(scope="module")
def medclip(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    letters = [*string.ascii_letters, *string.digits, *string.punctuation]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    words += [f"##{letter}" for letter in string.ascii_letters + string.digits]
    vocabulary = tmp_path_factory.mktemp("letters") / "vocab.txt"
    Path(vocabulary).write_text("\n".join(words) + "\n", encoding="utf-8")
    return create_backbone("medclip", weights="random", tokenizer=str(vocabulary))


def refused(backbone: Backbone, names: tuple[str, ...]) -> None:
    message = rf"The classes '{names[0]}' and '{names[-1]}' are the same tokens for {backbone.name}"
    with pytest.raises(ValueError, match=message):
        zero_shot_features(backbone, names, "An image of {}.")
    with pytest.raises(ValueError, match=message):
        PromptLearner(backbone, names, n_ctx=4)


@pytest.mark.parametrize("names", SAME_FOR_CLIP)
def test_what_clip_reads_alike_is_refused(embedded: Backbone, names: tuple[str, str]) -> None:
    refused(embedded, (names[0], "stroma", names[1]))


@pytest.mark.parametrize("names", SAME_FOR_BERT)
def test_what_a_vocabulary_reads_alike_is_refused(medclip: Backbone, names: tuple[str, str]) -> None:
    refused(medclip, names)


def test_a_name_without_a_known_word_is_pointed_out(
    medclip: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert zero_shot_features(medclip, ["normal", "肺炎"], "{}.").shape[0] == 2
    assert "medclip knows no word of the class name (肺炎)" in caplog.text
    caplog.clear()
    zero_shot_features(medclip, ["normal", "tumour"], "{}.")
    assert not caplog.text


def test_clip_can_spell_any_word(embedded: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    assert zero_shot_features(embedded, ["正常", "肺炎", "bénin", "benin"], "{}.").shape[0] == 4
    assert not caplog.text


def test_a_context_that_no_text_tower_takes_is_refused_before_it_is_made(embedded: Backbone) -> None:
    for truncate in (False, True):
        with pytest.raises(ValueError, match="'normal' does not fit: 1000000000 context tokens"):
            PromptLearner(embedded, ["normal", "tumour"], n_ctx=10**9, truncate=truncate)

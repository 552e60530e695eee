from __future__ import annotations

import unicodedata

import pytest

from calib.core.names import (
    check_class_names,
    check_tokens,
    codes_among,
    composed,
    hard_to_read,
    name_key,
    one_form,
    one_spelling,
    same_names,
    several_in_one,
    spelt_apart,
)

NFC, NFD = "bénin", unicodedata.normalize("NFD", "bénin")
ALIKE = [
    (NFC, NFD),
    ("ﬁbrosis", "fibrosis"),
    ("CD４", "CD4"),
    ("Ａ", "A"),
    ("Å", "\u212b"),  # the sign of the unit
    ("benign", "benign\u200b"),
    ("benign", "be\u00adnign"),
    ("smooth muscle", "smooth\u00a0muscle"),
    ("smooth muscle", "smooth\u3000 muscle"),
    ("각", unicodedata.normalize("NFD", "각")),
    ("ガ", "ｶﾞ"),
    ("grade ①", "grade 1"),
    ("Ⅳ", "IV"),
]
APART = [("a", "A"), ("bénin", "benin"), ("a", "а"), ("10-5", "10+5"), ("α", "β"), ("x y", "xy")]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_the_same_are_one(one: str, other: str) -> None:
    assert one_form(one) == one_form(other)
    assert len({*one_spelling([one, other]).values()}) == 1
    with pytest.raises(ValueError, match=r"Two classes are both called .*nothing could tell them apart"):
        check_class_names([one, "malin", other])


@pytest.mark.parametrize(("one", "other"), APART)
def test_names_that_a_reader_tells_apart_stay_two(one: str, other: str) -> None:
    assert check_class_names([one, other]) == [one, other]
    assert one_spelling([one, other]) == {one: one, other: other}


def test_only_what_is_spelt_differently_is_pointed_out() -> None:
    assert one_spelling([NFD, NFC]) == {NFD: NFC, NFC: NFC}
    assert one_spelling([NFD]) == {NFD: NFC}
    assert spelt_apart(one_spelling([NFD, NFC, "malin"])) == []
    assert one_spelling(["ﬁbrosis"]) == {"ﬁbrosis": "ﬁbrosis"}
    assert spelt_apart(one_spelling(["ﬁbrosis", "fibrosis", "malin"])) == [["fibrosis", "ﬁbrosis"]]


def test_underscores_are_blanks_where_names_are_compared() -> None:
    assert name_key("smooth_muscle") == name_key("smooth muscle") != one_form("smooth_muscle")
    assert same_names(["smooth_muscle", NFD], ["smooth muscle", NFC])
    assert not same_names([NFC, "a"], ["a", NFC])
    assert composed(NFD) == NFC


def test_classes_of_the_same_tokens_are_refused_by_name() -> None:
    check_tokens(["a", "b", "c"], [[1, 2], [1, 3], [1]], model="m")
    with pytest.raises(ValueError, match=r"'a' and 'c' are the same tokens for m"):
        check_tokens(["a", "b", "c"], [[1, 2], [1, 3], [1, 2]], model="m")


class Counted(str):
    """Text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_ten_thousand_names_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib.core.names.plain_name", Counted)
    monkeypatch.setattr("calib.core.names.one_form", Counted)
    names = [f"class {n}" for n in range(10_000)]
    assert check_class_names(names) == names
    assert Counted.compared < 100_000
    check_tokens(names, ([n] for n in range(10_000)), model="m")


def test_names_that_are_one_for_a_reader_are_refused_in_any_spelling() -> None:
    with pytest.raises(ValueError, match="both called"):
        check_class_names(["smooth\uff3fmuscle", "smooth_muscle"])  # the first with a full-width underscore


CODES = ["0", "10", "-1", "1.0", "2020-01", "n01855672", "C50.9", "J18", "class_3", "Label 2", "id7"]
BADLY = ["N", "MEL", "NV", "LungOpacity", "normalTissue"]
WELL = ["COVID-19", "T1 stage", "grade 2", "IgA", "mRNA", "pneumonia", "病", "no finding"]


def test_numbers_and_codes_are_no_words_and_abbreviations_read_badly() -> None:
    assert codes_among([*CODES, *BADLY, *WELL]) == CODES
    assert hard_to_read([*CODES, *BADLY, *WELL]) == BADLY


@pytest.mark.parametrize("mark", ["|", ";", ",", "/", "+", " & ", "', '"])
def test_a_name_that_lists_others_is_found(mark: str) -> None:
    both = f"Atelectasis{mark}Effusion"
    if "'" in mark:
        both = f"['{both}']"
        mark = ","
    assert several_in_one(["Atelectasis", "Effusion", both]) == both
    assert several_in_one(["Atelectasis", "Edema", both]) is None
    assert several_in_one([f"a{mark}b", f"b{mark}c", f"c{mark}a"]) == f"a{mark}b"


def test_names_with_signs_in_them_are_no_lists() -> None:
    assert several_in_one(["no lung opacity, not normal", "lung opacity", "normal"]) is None
    assert several_in_one(["3+4", "4+3", "3", "4"]) is None
    assert several_in_one(["CIN1/CIN2", "CIN3", "normal"]) is None

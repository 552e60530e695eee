"""Which option a free text chooses: letters, texts of options, JSON; refusals, and what cannot be told."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What stands before an answer, in the languages of public examinations; the last one in a text counts.
_MARK = re.compile(
    r"(?:(?:final|(?:in)?correct|right|best|most (?:likely|appropriate|suitable)|my)\s+)*"
    r"(?:answer|choice|option|diagnosis|statement|alternative|response)\b"
    r"(?:\s+(?:choice|option|letter|here|would|should|that|among|from|of|the|these|given|provided|options|"
    r"question|for|to|this|correct|best|fits|matches|therefore|most|likely|appropriate|be))*"
    r"\s*(?:(?:is|are)\b(?:\s+(?:most\s+)?(?:likely|probably|therefore|thus|clearly))?|:|=)"
    r"|(?:alternativa|resposta|respuesta|opci[oó]n|op[cç][aã]o)\b"
    r"(?:\s+(?:in)?(?:correc?t[ao]|final|más|mais|probable|provável|es|é|ser[ií]a))*\s*(?:\bes\b|\bé\b|:)"
    r"|(?:正解|正答|答え|解答)(?:は|:)|(?:答案|应该|應該)(?:是|为|為)"
    r"|ה?תשובה(?:\s+(?:ה?נכונה|היא))*\s*(?:היא|:)",
    re.I,
)
# What an answer may follow as well, if nothing of those stands there.
_WEAK = re.compile(
    r"\b(?:is|are|es|é|הוא|היא)\s*:\s*(?=\n)|\b(?:is|are|es|é)\s+(?=\*\*\(?[A-Z][).:])"
    r"|\b(?:would|should|must) be\b|\b(?:lean|leaning) (?:toward|towards|to)\b",
    re.I,
)
# "**D. Ulcerative colitis** is the most likely diagnosis"
_STATED = re.compile(
    r"(?:^|[\s*(])([A-Z])[.)]\s*[^\s.,)][^.\n]{1,120}?\*{0,2}\s+(?:is|es|é)\s+(?:therefore\s+)?(?:the|la|el|a|o)?\s*"
    r"(?:most|correct|best|right|appropriate|likely|más|mais|correc?t[ao])\b"
)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\s*\(?([A-Z])\)?\s*\}?\}")
_FINAL = re.compile(
    r"\banswer\b[^.:\n]{0,30}(?:\bis|:)[\s*]*\(?([A-Z])\b(?:\)|\.|\*|\s)*(?:[^\n.]{0,80}\.?)?\s*$", re.I
)
_LEAD = re.compile(r"^[\s*_\"'`(\[{#>-]*([A-Z])(?:[\s]*[)\]}.:,*\"'`]|\s+[-–—]|\s*\n|\s*$)")
_WORD_LETTER = re.compile(
    r"^\s*(?:option|choice|answer|letter|letra|alternativa|opci[oó]n|op[cç][aã]o|选项|選択肢)?\s*[\"'`*_(\[{]*([A-Z])(?![A-Za-z'’])"
)
_MARKED = re.compile(
    r"\(([A-Z])(?:\)|[.:]\s)|\[([A-Z])\]|\*\*\s*\(?([A-Z])(?:[).:]|\*\*)|(?:^|\n)[\s*-]*([A-Z])[).:]\s"
    r"|[「『、。はがもで]\s*([A-Z])(?=[.:」』の]|\s*(?:です|で))"
    r"|(?:選択肢|\b[Oo]ption|\b[Cc]hoice|\b[Oo]pci[oó]n|\b[Oo]pç[aã]o|\b[Ll]etra|\b[Aa]lternativa)\s*\(?([A-Z])(?![A-Za-z])"
)
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|in conclusion|in summary|overall|so the|por (?:lo )?tanto|portanto|assim|"
    r"em conclusão|en conclusión|en resumen)\b|したがって|従って|(?<!に)よって|以上のことから|以上から"
    r"|לכן|לפיכך|לסיכום|因此|所以",
    re.I,
)
_PAIR = re.compile(r"\W*([A-Z])\W*(?:and|or|&|/|,|y|e|o|ou)\W*([A-Z])(?!\w)")
# A lower-case word behind an A that is an article; behind an answer stands a reason.
_SENTENCE = re.compile(
    r"\s+(?!(?:because|since|as|and|with|which|due|for|is|based|given|but|not)\b)[^\W\d_A-Z]"
)
_ALONE = re.compile(r"\W*([A-Z])\W*")  # a letter and signs
LONG = 200  # characters beyond which a text explains, and options in it need not be its answer
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.S)
_KEYS = ("answer", "final_answer", "choice", "option", "letter", "prediction", "answer_choice")
_SURE = ("confidence", "certainty", "probability", "verbalized_confidence")
_REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m|i am|we are)\s+(?:sorry|unable|not able|afraid)|\bsorry\b|\bapologi[sz]e"
    r"|\b(?:i|we)\s*(?:can ?not|can(?:'|’)t|am unable|do not|don(?:'|’)t|won(?:'|’)t|will not)\s+"
    r"(?:provide|give|offer|answer|help|assist|see|view|access|analy[sz]e|interpret|make|diagnose|have|"
    r"fulfil|respond)"
    r"|\b(?:unable|not able|not possible|impossible)\s+to\s+"
    r"(?:provide|give|answer|determine|see|view|assist|interpret|say)"
    r"|\bas an ai\b|\bconsult (?:a|with a|your) (?:doctor|physician|medical|health)"
    r"|\b(?:no|without) (?:an |the )?image (?:was |is |has been )?(?:provided|attached|available|given)"
    r"|\b(?:lo siento|no puedo|desculpe|não posso|não consigo|sinto muito|lamento)\b"
    r"|לצערי|אין לי אפשרות|cannot be (?:answered|determined)|image is not available"
    r"|申し訳|できません|すみません|מצטער|לא יכול|איני יכול|אינני יכול",
    re.I,
)
# "from 0 to 100": its end; and a number, its %, what it is out of
_SCALE = re.compile(
    r"(?<![\w.%])[01](?:\.0)?%?\s*(?:to|and|through|-|–|—)\s*(100|10|1)(?:\.0)?(?!\.?\d)(?:\s*%|\s*percent)?"
)
_NUMBER = re.compile(
    r"(?<![\w.])(\d{1,3}(?:[.,]\d+)?)(?!\d)\s*(%|percent)?(?:\s*(?:/|out of)\s*(100|10|5)(?!\d))?", re.I
)
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_NEGATED = re.compile(
    r"\b(?:not|isn't|incorrect|wrong|except|rather than|unlike)\W+(?:(?!but\b)\w+\W+){0,2}$", re.I
)


@dataclass(frozen=True)
class Parsed:
    """What a text says.

    Attributes:
        place: Of the option chosen, from 0; -1: none.
        status: One of `calib.vqa.schema.STATUSES`.
        how: By what it was read: json, boxed, marked, letter, text, ...; of no option why.
        confidence: What it says of its confidence, 0 to 1. None: nothing.
    """

    place: int
    status: str
    how: str
    confidence: float | None = None


def parse_answer(text: str | None, options: Sequence[str] | None, count: int | None = None) -> Parsed:
    """Return which option a text chooses.

    Read in this order, the first that says something counts: JSON with a key such as answer; a letter in a
    box; a letter alone, at the end as the answer, or in front; what follows the last "the answer is" (a
    letter, or an option's text); of an explanation its conclusion; the only letter marked as one, (B) or
    **B**; in a short text the only option whose text occurs. A text that names two options is ambiguous: it
    is no answer, and counts as wrong. A refusal is none either, whatever it lists. Nothing is drawn where
    nothing is said.

    Args:
        text: The answer.
        options: K texts in the order of the letters. None: only letters are known.
        count: K, where the texts are not there.

    Raises:
        ValueError: Neither options nor their number, or more than there are letters.

    Example:
        >>> options = ["Paget's disease", "Gout", "Marfan syndrome"]
        >>> parse_answer("The answer is (B) Gout.", options)
        Parsed(place=1, status='option', how='marked', confidence=None)
        >>> parse_answer("gout", options).place, parse_answer("Gout or Marfan syndrome", options).status
        (1, 'ambiguous')
        >>> parse_answer("I'm sorry, I cannot provide medical advice.", options).status
        'refusal'
    """
    number = len(options) if options is not None else count
    if number is None or not 1 <= number <= len(LETTERS):
        raise ValueError(f"An answer is read with the texts of 1 to {len(LETTERS)} options, or their number.")
    said = unicodedata.normalize("NFKC", text or "").strip()
    if not said:
        return Parsed(-1, "non_answer", "empty")
    reader = _Reader(number, options)
    return reader.json(said) or reader.plain(said)


def parse_confidence(text: str | None) -> float | None:
    """Return the confidence that a text states, 0 to 1; None: none, or one outside 0 to 100.

    A number with %, /100 or above 1 is in percent, one with a point that is at most 1 a share. One with a
    mark goes before one without. A bare 1 may be 1 % or all: it is none.

    Example:
        >>> parse_confidence("Confidence: 85%"), parse_confidence("0.7"), parse_confidence("I am quite sure")
        (0.85, 0.7, None)
        >>> parse_confidence("9 out of 10"), parse_confidence("On a scale from 0 to 100, I would say 90")
        (0.9, 0.9)
    """
    scale = _SCALE.search(text or "")
    found = list(_NUMBER.finditer(_SCALE.sub(" ", text or "")))
    if not found:
        return None
    marked = [each for each in found if each[2]] or [each for each in found if each[3]]
    chosen = (marked or found)[0]
    number = float(chosen[1].replace(",", "."))
    top = chosen[3] or (scale[1] if scale and (number > 1 or chosen[1].isdigit()) else None)
    if chosen[2]:
        number /= 100
    elif top:
        number /= float(top)
    elif chosen[1] == "1":
        return None
    elif number > 1:
        number /= 100
    return number if 0 <= number <= 1 else None


class _Reader:
    def __init__(self, count: int, options: Sequence[str] | None) -> None:
        self.letters, self.count = LETTERS[:count], count
        self.texts = [_plain(option) for option in options] if options is not None else []

    def json(self, said: str) -> Parsed | None:
        """Return what a JSON object in the text says, or None where there is none."""
        inside = _FENCE.search(said)
        body = inside[1] if inside else said
        start, stop = body.find("{"), body.rfind("}")
        if start < 0 or stop < start:
            return None
        try:
            value = json.loads(body[start : stop + 1])
        except ValueError:
            return None
        if not isinstance(value, dict):
            return None
        lower = {str(key).lower().replace(" ", "_"): item for key, item in value.items()}
        sure = next((_share(lower[key]) for key in _SURE if key in lower), None)
        given = next((lower[key] for key in _KEYS if key in lower), None)
        if isinstance(given, list | Mapping):
            named = {self.plain(str(each)).place for each in given} - {-1}
            if isinstance(given, list) and len(given) == 1 and len(named) == 1:
                return Parsed(named.pop(), "option", "json", sure)
            return Parsed(-1, "ambiguous" if len(named) > 1 else "unparsed", "json", sure)
        if given is None:
            return Parsed(-1, "non_answer", "json", sure)
        found = self.plain(str(given))
        return Parsed(found.place, found.status, "json" if found.place >= 0 else found.how, sure)

    def plain(self, said: str) -> Parsed:
        """Return what a text without JSON says."""
        boxed = {letter for letter in _BOXED.findall(said) if letter in self.letters}
        if len(boxed) == 1:
            return self._letter(boxed.pop(), "boxed")
        for line in (said, said.split("\n")[-1]):  # a letter alone, also where options are letters themselves
            alone = _ALONE.fullmatch(line)
            if alone and alone[1] in self.letters:
                return self._letter(alone[1], "letter")
        exact = [k for k, option in enumerate(self.texts) if option and option == _plain(said)]
        if len(exact) == 1:
            return Parsed(exact[0], "option", "text")
        final = _FINAL.search(said)
        if final and final[1] in self.letters and not re.match(r"\s*(?:and|or|&|/|,)", said[final.end(1) :]):
            return self._letter(final[1], "marked")
        pair = self._pair(said)
        if pair is not None:
            return pair
        lead = _LEAD.match(said)
        leads = lead is not None and lead[1] in self.letters and not self._two_in_front(said, lead)
        if lead is not None and leads and not self._is_list(said, lead):
            return self._letter(lead[1], "letter")
        for mark in [*reversed(list(_MARK.finditer(said))), *reversed(list(_WEAK.finditer(said)))]:
            found = self._after(said[mark.end() :])
            if found is not None:
                return found
        stated = {letter for letter in _STATED.findall(said) if letter in self.letters}
        if len(stated) == 1:
            return self._letter(stated.pop(), "marked")
        return self._concluded(said)

    def _concluded(self, said: str) -> Parsed:
        """Return what a text says that explains: by its conclusion, else by all of it."""
        refused = bool(_REFUSAL.search(said))
        for mark in reversed(list(_CONCLUSION.finditer(said))):
            rest = said[mark.end() :]
            named = self._marked(rest)
            if len(named) == 1:
                return self._letter(named.pop(), "conclusion")
            if named:
                return Parsed(-1, "ambiguous", "letters")
            if not refused and len(rest) <= LONG and self._by_text(rest).place >= 0:
                return Parsed(self._by_text(rest).place, "option", "conclusion")
        named = self._marked(said)
        if len(named) == 1 and not refused:
            return self._letter(named.pop(), "only_letter")
        if refused:
            return Parsed(-1, "refusal", "refusal")
        if len(named) > 1:
            return Parsed(-1, "ambiguous", "letters")
        longest = max(map(len, self.texts), default=0)
        return self._by_text(said) if len(said) <= LONG + longest else Parsed(-1, "unparsed", "long")

    def _marked(self, said: str) -> set[str]:
        return {
            letter for found in _MARKED.findall(said) for letter in found if letter and letter in self.letters
        }

    def _after(self, rest: str) -> Parsed | None:
        """Return what stands right behind "the answer is"."""
        if re.match(r"\s*\n\s*[*-]\s", rest):  # a list of reasons
            return None
        line = rest.lstrip(" \t*_:：\n\"'`").split("\n")[0][:400]
        pair = self._pair(line)
        if pair is not None:
            return pair
        first = _WORD_LETTER.match(line)
        if first and first[1] in self.letters and not self._is_article(first, line):
            return self._letter(first[1], "marked")
        found = self._by_text(line)
        return Parsed(found.place, "option", "marked") if found.place >= 0 else None

    def _pair(self, said: str) -> Parsed | None:
        """Return that two letters stand in front: "A or B"."""
        pair = _PAIR.match(said)
        if pair and {pair[1], pair[2]} <= set(self.letters) and pair[1] != pair[2]:
            return Parsed(-1, "ambiguous", "letters")
        return None

    def _is_list(self, said: str, lead: re.Match[str]) -> bool:
        """Return whether the text begins by listing options: the next line with a letter has the next one."""
        following = re.search(r"\n[\s*-]*\(?([A-Z])[).:]", said[lead.end(1) :])
        return following is not None and ord(following[1]) == ord(lead[1]) + 1

    def _is_article(self, found: re.Match[str], line: str) -> bool:
        """Return whether an A begins a sentence instead of naming an option: "The answer is A fracture"."""
        return bool(found[1] in "AI" and _SENTENCE.match(line[found.end(1) :]))

    def _two_in_front(self, said: str, lead: re.Match[str]) -> bool:
        other = re.match(r"[\s)\]*.,]*(?:and|or|&|/|,)?\s*[(\[]?([A-Z])(?:[)\].,*]|\s*$)", said[lead.end() :])
        return bool(other and other[1] in self.letters and other[1] != lead[1])

    def _by_text(self, said: str) -> Parsed:
        text = f" {_plain(said)} "
        found = [k for k, option in enumerate(self.texts) if len(option) > 1 and self._at(k, text) >= 0]
        # An option within another one that occurs as well is no answer of its own.
        whole = [
            k
            for k in found
            if not any(
                k != other
                and self._at(k, f" {self.texts[other]} ") >= 0
                and text.count(self.texts[k]) <= text.count(self.texts[other])
                for other in found
            )
        ]
        kept = [k for k in whole if not _NEGATED.search(text[: self._at(k, text)].strip() + " ")]
        if len(kept) == 1:
            return Parsed(kept[0], "option", "text")
        if len(kept) > 1:
            return Parsed(-1, "ambiguous", "texts")
        return (
            Parsed(-1, "refusal", "refusal") if _REFUSAL.search(said) else Parsed(-1, "unparsed", "nothing")
        )

    def _at(self, option: int, text: str) -> int:
        """Return where an option's text stands in another as words of its own, -1: nowhere."""
        wanted = self.texts[option]
        # Chinese and Japanese have no spaces between words.
        return text.find(wanted) if _HAN.search(wanted) else text.find(f" {wanted} ")

    def _letter(self, letter: str, how: str) -> Parsed:
        return Parsed(self.letters.index(letter), "option", how)


def _plain(text: str) -> str:
    """Return a text in small letters, its words apart, without signs at their ends."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(word for word in (each.strip(".,;:!?*_\"'`()[]{}") for each in words) if word)


def _share(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return parse_confidence(value)
    if isinstance(value, int) and value == 1:  # 1 %, or all
        return None
    share = float(value) if 0 <= value <= 1 else float(value) / 100
    return share if 0 <= share <= 1 else None

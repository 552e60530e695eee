"""Sets of questions as items: readers of the files they come in, and what holds of them; also own tables.

No published one is downloaded here; `root` is the folder of the images where they are files.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.core.errors import unknown_name
from calib.io.files import atomic_path
from calib.vqa.adapters.own_columns import SUFFIXES
from calib.vqa.adapters.own_table import read_own
from calib.vqa.adapters.rows import Collector, column, listed, rows_of
from calib.vqa.parsing import LETTERS
from calib.vqa.tables import Items

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Source:
    """A published set of questions, or the layout of an own one.

    Attributes:
        read: Reads it: `read(path, root, folder)` returns items.
        file: Which of its files is read.
        licence: Its terms.
        nota: Whether questions can carry None of the above.
        notes: What holds of it.
    """

    read: Callable[[Path, Path | None, Path | None], Items]
    file: str
    licence: str
    nota: bool = True
    notes: str = ""

    def told(self) -> str:
        """Return what is to be known of the set, in sentences.

        Example:
            >>> SOURCES["slake"].told()
            'Licence: CC BY 4.0. No question can carry None of the above. English yes/no questions only.'
        """
        nota = "" if self.nota else "No question can carry None of the above."
        return " ".join(part for part in (f"Licence: {self.licence}.", nota, self.notes) if part)


def read_source(
    name: str, path: str | Path, *, root: str | Path | None = None, folder: str | Path | None = None
) -> Items:
    """Return the items of a published set, or of a table of one's own questions.

    Args:
        name: A key of `SOURCES`; "table" is one's own, whose columns `read_own` says.
        path: Its file.
        root: The folder its image paths are relative to. None: paths stay as they are; of an own table they
            are relative to the table.
        folder: Where images are written that stand in the file itself (base64).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The name is unknown, the file is no such set, or has no multiple-choice question.
    """
    if name not in SOURCES:
        raise unknown_name("source of questions", name, SOURCES)
    return SOURCES[name].read(
        Path(path), None if root is None else Path(root), None if folder is None else Path(folder)
    )


def _pmc_vqa(path: Path, root: Path | None, folder: Path | None) -> Items:
    found = Collector("pmc_vqa")
    for number, (where, row) in enumerate(rows_of(path)):
        options = [_unlettered(column(row, where, f"Choice {letter}"), letter) for letter in "ABCD"]
        label = str(column(row, where, "Answer_label", "Anwser_label", "Answer", "Anwser")).strip()
        right = "ABCD".find(label) if len(label) == 1 else _index(options, label)
        figure = column(row, where, "Figure_path")
        found.add(
            row.get("index", number),
            question=column(row, where, "Question"),
            options=options,
            correct=right if right >= 0 else None,
            image=_joined(root, figure),
            image_id=str(figure),
            group_id=f"pmc_vqa/{figure}",
        )
    return found.items(path)


def _omnimedvqa(path: Path, root: Path | None, folder: Path | None) -> Items:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"There are no .json files in {path}.")
    found = Collector("omnimedvqa")
    for file in files:
        for where, row in rows_of(file):
            given = [column(row, where, f"option_{letter}", needed=False) for letter in "ABCD"]
            options = [str(option).strip() for option in given if option is not None and str(option).strip()]
            right = _index(options, str(column(row, where, "gt_answer")))
            image = column(row, where, "image_path")
            found.add(
                column(row, where, "question_id"),
                question=column(row, where, "question"),
                options=options,
                correct=right if right >= 0 else None,
                image=_joined(root, image),
                image_id=str(image),
                group_id=f"omnimedvqa/{image}",
                modality=column(row, where, "modality_type", needed=False),
                question_type=column(row, where, "question_type", needed=False),
                subset=column(row, where, "dataset", needed=False),
            )
    return found.items(path)


def _vlmevalkit(dataset: str) -> Callable[[Path, Path | None, Path | None], Items]:
    def read(path: Path, root: Path | None, folder: Path | None) -> Items:
        found = Collector(dataset)
        for where, row in rows_of(path):
            cells = [column(row, where, letter, needed=False) for letter in LETTERS[:10]]
            options = [
                str(cell) for cell in cells if cell is not None and str(cell).strip() not in ("", "nan")
            ]
            answer = str(column(row, where, "answer")).strip()
            right = LETTERS.find(answer) if len(answer) == 1 else -1
            image, digest = _image_of(row, where, root, folder)
            found.add(
                column(row, where, "index"),
                question=column(row, where, "question"),
                options=options,
                correct=right if 0 <= right < len(options) else None,
                image=image,
                image_id=digest,
                group_id=None if digest is None else f"{dataset}/{digest}",
                modality=column(row, where, "modality", needed=False),
                question_type=column(row, where, "clinical vqa task", "category", needed=False),
                department=column(row, where, "department", needed=False),
            )
        return found.items(path)

    return read


def _medxpertqa(path: Path, root: Path | None, folder: Path | None) -> Items:
    found = Collector("medxpertqa_mm")
    for where, row in rows_of(path):
        options = listed(column(row, where, "options"), where)
        if isinstance(options, list):  # [{"letter": "A", "content": ...}]
            options = {each.get("letter"): each.get("content") for each in options if isinstance(each, dict)}
        if not isinstance(options, dict) or not all(isinstance(letter, str) for letter in options):
            raise ValueError(f"{where}: options must be letters with texts, not {str(options)[:40]!r}.")
        letters = sorted(options)
        label = str(column(row, where, "label")).strip()
        images = listed(column(row, where, "images", needed=False) or [], where)
        image = images[0] if isinstance(images, list) and images else None
        question = str(column(row, where, "question")).split("\nAnswer Choices:")[0]
        found.add(
            column(row, where, "id"),
            question=question,
            options=[options[letter] for letter in letters],
            correct=letters.index(label) if label in letters else None,
            image=_joined(root, image),
            image_id=None if image is None else str(image),
            group_id=None if image is None else f"medxpertqa_mm/{image}",
            question_type=column(row, where, "medical_task", needed=False),
            body_system=column(row, where, "body_system", needed=False),
            images=len(images) if isinstance(images, list) else 0,
        )
    return found.items(path)


def _worldmedqa(path: Path, root: Path | None, folder: Path | None) -> Items:
    found = Collector("worldmedqa_v")
    for number, (where, row) in enumerate(rows_of(path)):
        options = [column(row, where, letter) for letter in "ABCD"]
        label = str(column(row, where, "correct_option", "answer")).strip()
        image, digest = _image_of(row, where, root, folder)
        country, language = (column(row, where, name, needed=False) for name in ("country", "lang"))
        own = column(row, where, "index", "id", needed=False)
        found.add(
            "-".join(
                str(part) for part in (country, language, number if own is None else own) if part is not None
            ),
            question=column(row, where, "question"),
            options=options,
            correct="ABCD".find(label) if label in tuple("ABCD") else None,
            image=image,
            image_id=digest,
            group_id=None if digest is None else f"worldmedqa_v/{digest}",
            country=country,
            language=language,
        )
    return found.items(path)


def _closed(dataset: str) -> Callable[[Path, Path | None, Path | None], Items]:
    """Return a reader of yes/no questions: of open ones there are no options."""

    def read(path: Path, root: Path | None, folder: Path | None) -> Items:
        found = Collector(dataset)
        for number, (where, row) in enumerate(rows_of(path)):
            answer = str(column(row, where, "answer")).strip().lower().strip(".")
            if str(column(row, where, "q_lang", needed=False) or "en") != "en":
                found.left_out["another language"] += 1
                continue
            if answer not in YES_NO:
                found.left_out["open, or closed with options of its own that no column lists"] += 1
                continue
            image = column(row, where, "image_name", "img_name", "image", needed=False)
            own = column(row, where, "qid", needed=False)
            found.add(
                f"{number if own is None else own}",
                question=column(row, where, "question"),
                options=list(YES_NO),
                correct=YES_NO.index(answer),
                image=_joined(root, image),
                image_id=None if image is None else str(image),
                group_id=None if image is None else f"{dataset}/{image}",
                modality=column(row, where, "modality", "image_organ", needed=False),
                question_type=column(row, where, "content_type", "question_type", needed=False),
                location=column(row, where, "location", needed=False),
            )
        return found.items(path)

    return read


def _unlettered(text: Any, letter: str) -> str:
    """Return an option without the letter that stands before it: " A:Focal lesion" is "Focal lesion"."""
    return str(text).strip().removeprefix(f"{letter}:").removeprefix(f"{letter} :").strip()


def _index(options: list[str], answer: str) -> int:
    """Return the place of the option with a text, -1: none, or several."""
    plain = [" ".join(option.casefold().split()).strip(".") for option in options]
    wanted = " ".join(answer.casefold().split()).strip(".")
    return plain.index(wanted) if plain.count(wanted) == 1 else -1


def _joined(root: Path | None, image: Any) -> str | None:
    if image is None:
        return None
    return str(image) if root is None else str(root / str(image))


def _image_of(row: Any, where: str, root: Path | None, folder: Path | None) -> tuple[str | None, str | None]:
    """Return the path and digest of an image that stands in a cell as base64, or is a path there."""
    value = column(row, where, "image", "image_path", needed=False)
    if isinstance(value, dict):  # as the datasets library writes images into Parquet
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith("["):
        value = next(iter(_literal(value, where)), None)
    if value is None or value == "":
        return None, None
    if isinstance(value, str) and len(value) < 300 and "." in value[-6:]:
        return _joined(root, value), value
    try:
        content = value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"{where}: the image is neither a path nor base64.") from error
    digest = hashlib.sha256(content).hexdigest()
    if folder is None:
        raise ValueError(f"{where}: images stand in the file itself; say where they may be written (folder).")
    kind = ".png" if content.startswith(b"\x89PNG") else ".jpg"
    target = folder / f"{digest}{kind}"
    if not target.is_file():
        with atomic_path(target) as part:
            part.write_bytes(content)
    return str(target), digest


def _literal(text: str, where: str) -> list[Any]:
    """Return a list that a cell holds as Python writes it."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: {text[:60]!r} is no list of images.") from error
    return found if isinstance(found, list) else [found]


def _table(path: Path, root: Path | None, folder: Path | None) -> Items:
    return read_own(path, root)


SOURCES: dict[str, Source] = {
    "table": Source(_table, f"your own: {', '.join(f'*{suffix}' for suffix in SUFFIXES)}", "yours"),
    "pmc_vqa": Source(
        _pmc_vqa,
        "test_clean.csv, test_2.csv",
        "CC BY-SA (README)",
        notes="Right letters are unevenly spread; some options are like None of the above.",
    ),
    "omnimedvqa": Source(
        _omnimedvqa,
        "QA_information/Open-access/*.json",
        "per source data set; open-access images are shipped",
        notes="2 to 4 options, 12 modalities.",
    ),
    "gmai_mmbench": Source(
        _vlmevalkit("gmai_mmbench"), "GMAI-MMBench_VAL.tsv", "Apache-2.0 (card)", notes="VLMEvalKit's format."
    ),
    "medxpertqa_mm": Source(
        _medxpertqa, "MM/test.jsonl", "MIT", notes="5 options; of several images the first is shown."
    ),
    "worldmedqa_v": Source(_worldmedqa, "*.tsv, *.parquet", "see the card", notes="4 options, 4 countries."),
    "vqa_rad": Source(
        _closed("vqa_rad"),
        "testset.json, or Parquet",
        "CC0 1.0",
        nota=False,
        notes="Yes/no questions only: of two options, None of the above would leave one.",
    ),
    "slake": Source(
        _closed("slake"), "test.json", "CC BY 4.0", nota=False, notes="English yes/no questions only."
    ),
    "pathvqa": Source(
        _closed("pathvqa"), "Parquet", "MIT (card); images of publishers", nota=False, notes="Yes/no only."
    ),
}

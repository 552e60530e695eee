"""Single cases: the mistakes with the least doubt, and the right ones with the most."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from calib.core.text import printable
from calib.report.document import Case, Section
from calib.report.sections.overview import percent
from calib.report.subject import Subject

SIDE = 144  # pixels of a thumbnail
QUALITY = 72  # of its JPEG


def cases(subject: Subject) -> Section:
    """Return the section of single cases, with thumbnails where images are at hand.

    Args:
        subject: What the report is about.
    """
    parts, doubt = subject.parts, subject.doubt.numpy()
    wrong = ~subject.correct
    order = np.argsort(doubt, kind="stable")
    kinds = {
        "Mistakes with the least doubt: what a threshold lets pass": order[wrong[order]][: parts.shown],
        "Right ones with the most doubt: what is reviewed for nothing": order[::-1][~wrong[order[::-1]]][
            : parts.shown
        ],
    }
    rows_of = _rows_of(subject)
    learn = (
        "Mistakes nobody doubts are the ones to learn from: a wrong label, an image of poor quality, "
        "or a kind of case the model does not know."
    )
    section = Section(
        "cases",
        "Single cases",
        said=[
            f"{learn if wrong.any() else 'There are no mistakes among these images.'} Cases are sorted by "
            f"{parts.their_doubt}."
        ],
        cases={title: [_case(subject, int(row), rows_of) for row in rows] for title, rows in kinds.items()},
    )
    section.cases = {title: found for title, found in section.cases.items() if found}
    shown = [case for found in section.cases.values() for case in found]
    if not section.cases:
        section.said.append("There is nothing to show.")
    elif not any(case.thumbnail for case in shown):
        section.notes.append(f"There are no thumbnails. {parts.no_images}")
    elif parts.images is not None:
        section.notes.append(
            "The thumbnails are images of patients: this page is as confidential as they are. It can be made "
            "without them (images=false) and without names of files (names=false)."
        )
    return section


def _rows_of(subject: Subject) -> dict[str, int]:
    images = subject.parts.images
    return {} if images is None else {content: row for row, content in enumerate(images.ids)}


def _case(subject: Subject, row: int, rows_of: dict[str, int]) -> Case:
    p, names, predicted = subject.outcomes, subject.class_names, subject.predicted
    label, prediction = int(p.labels[row]), int(p.predictions[row])
    confidence, doubt = float(p.confidence[row]), float(subject.doubt[row])
    if subject.parts.why is not None:
        why = subject.parts.why[row]
    elif label == prediction:
        probs = p.probs[row].clone()
        probs[prediction] = -1
        rival = int(probs.argmax())
        why = f"{percent(confidence, 0)} for it, {percent(float(p.probs[row, rival]), 0)} for {names[rival]}."
    else:
        why = f"{percent(confidence, 0)} for it, {percent(float(p.probs[row, label]), 0)} for {names[label]}."
    return Case(
        title=printable(predicted.names[row]) if subject.parts.names else f"image {row + 1}",
        label=names[label],
        prediction=names[prediction],
        confidence=confidence,
        doubt=doubt,
        why=why,
        thumbnail=_thumbnail(subject, rows_of.get(predicted.ids[row])),
    )


def _thumbnail(subject: Subject, row: int | None) -> str | None:
    """Return an image as a small JPEG in a data address. None: it is not at hand or cannot be read."""
    if row is None or subject.parts.images is None:
        return None
    try:
        image = subject.parts.images.open(row)
    except (ValueError, OSError):  # moved, changed or damaged since; the rest of the report stands
        return None
    return thumbnail(image)


def thumbnail(image: Any) -> str:
    """Return a PIL image as a small JPEG in a data address, with nothing of its metadata.

    Args:
        image: In any mode that converts to RGB.

    Example:
        >>> from PIL import Image
        >>> thumbnail(Image.new("L", (300, 200)))[:30]
        'data:image/jpeg;base64,/9j/4AA'
    """
    from PIL import Image

    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    plain = Image.frombytes("RGB", small.size, small.tobytes())
    if plain.size and all(low == high for low, high in _same_channels(plain)):
        plain = plain.convert("L")  # a grey image takes half the space
    content = io.BytesIO()
    plain.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _same_channels(image: Any) -> list[tuple[bytes, bytes]]:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return [(red, green), (green, blue)]

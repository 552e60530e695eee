"""The model card: what a model is for, what it was made with, how it did, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from calib.core.text import few, redacted
from calib.metrics import METRICS, columns_of
from calib.report.document import Document, Table
from calib.report.page import template
from calib.report.sections.provenance import OWN, Origin
from calib.report.sections.review import PAGE
from calib.report.sections.sets import promises
from calib.report.subject import Subject
from calib.report.tables import Cell, aligned, markdown

TAGS = ["calib", "calibration", "uncertainty", "medical", "vision-language", "prompt-learning", "few-shot"]
LISTED = ("accuracy", "ece", "brier", "nll")  # in the index of the hub


@dataclass(frozen=True)
class Card:
    """What stands in a model card.

    Attributes:
        title: Its heading.
        what: A paragraph on what it is.
        classes: What it tells apart.
        data_name: What it was made with.
        like: The same in words.
        place: What stands before a file in `calib.load`: a hub id with "/". Empty: the card's own folder.
        prompt_file: The file of the prompt.
        failure_file: That of the failure head. Empty: there is none.
        pin: What follows the file in `calib.load`, with a comma before it.
        status: A sentence on its licence.
        data: Facts about the data.
        notes: Known limits of the data.
        results: The table of results in Markdown. Empty: there are none.
        doubt: The table of the doubt in Markdown. Empty: there is none.
        found: The sentences on what was found.
        calibration: Sentences on calibration.
        decisions: What the files decide and promise, a paragraph each.
        limits: Sentences.
        provenance: Digests and versions.
        level: Of the intervals, in percent.
        grouped: Whether groups were resampled.
    """

    title: str
    what: str
    classes: str
    data_name: str
    like: str
    place: str
    prompt_file: str
    failure_file: str = ""
    pin: str = ""
    status: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    results: str = ""
    doubt: str = ""
    found: str = ""
    calibration: str = ""
    decisions: Sequence[str] = ()
    limits: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    level: str = "95"
    grouped: bool = False


def card_of(
    class_names: Sequence[str],
    origin: Origin,
    *,
    title: str,
    hub_id: str | None,
    files: tuple[str, str],
    licence: str | None = None,
    held: Mapping[str, Any] | None = None,
    document: Document | None = None,
    subject: Subject | None = None,
) -> Card:
    """Return the card of a model.

    Args:
        class_names: C names.
        origin: Where it comes from.
        title: Its heading.
        hub_id: "hf://owner/name" where it will lie. None: it is loaded from the folder of the card.
        files: The files of the prompt and of the failure head, empty where there is none.
        licence: The licence of the files, as the hub calls it. None: not stated.
        held: A file's name to the decisions in it (`calib.posthoc.decisions.Decisions`), or to None; those of
            the last are what the report is about. None: there are none.
        document: The report on its test images. None: there are no test images.
        subject: What that report is about.
    """
    data = {key: "not stated" if value == OWN else value for key, value in origin.data.items()}
    about = {} if subject is None else subject.predicted.about
    name = str(about.get("data") or origin.trained_on or "see below")
    facts: dict[str, Any] = {}
    applied: list[str] = []
    if document is not None and subject is not None:
        sections = {section.name: section for section in document.sections}
        said = sections["overview"].said
        facts = {
            "results": _markdown(document.tables["comparison"]),
            "doubt": _markdown(document.tables["doubt"]),
            "found": f"{said[0]} {said[1]}",
            "calibration": said[2],
            "level": f"{100 * subject.parts.level:g}",
            "grouped": subject.groups is not None,
        }
        applied = [each.replace(PAGE, "the test images") for each in sections["review"].said[2:]]
    return Card(
        title=title,
        what=_what(class_names, origin, files[1]),
        classes=few(list(class_names), 20),
        data_name=name,
        like=in_words(name, origin),
        place="" if hub_id is None else f"{hub_id}/",
        prompt_file=files[0],
        failure_file=files[1],
        pin="" if hub_id is None else ', revision="COMMIT"',
        status="Its licence is not stated." if licence is None else f"Its licence is {licence}.",
        data=data,
        notes=list(origin.notes),
        limits=_limits(origin, subject),
        provenance={
            **origin.model,
            **{f"version of {key}": value for key, value in origin.software.items()},
            **{f"digest of {key}": value for key, value in origin.files.items()},
        },
        decisions=_decisions(held or {}, class_names, applied),
        **facts,
    )


def in_words(data_name: str, origin: Origin) -> str:
    """Return what data are called in a sentence for others, to whom the name of a reader says nothing.

    Args:
        data_name: The data set, or the reader of images of one's own.
        origin: Says which of both.

    Example:
        >>> in_words("folder", Origin(data={"source": "your own"})), in_words("cxr3", Origin())
        ('own images (folder)', 'cxr3')
    """
    return f"own images ({data_name})" if origin.data.get("source") == OWN else data_name


def _what(class_names: Sequence[str], origin: Origin, failure: str) -> str:
    backbone = origin.model.get("backbone", "a frozen vision-language model")
    shots = f" {origin.shots}" if origin.shots else ""
    head = " Beside it lies a head that says how likely each prediction is wrong." if failure else ""
    return (
        f"A prompt for the frozen image and text towers of the backbone {backbone}: it makes them a "
        f"classifier of {len(class_names)} classes with calibrated confidences.{shots}{head}"
    )


def _decisions(held: Mapping[str, Any], class_names: Sequence[str], applied: Sequence[str]) -> list[str]:
    """Return what the files decide and promise, a paragraph each.

    Args:
        held: File to its decisions, or to None.
        class_names: C names.
        applied: What the review threshold of the last file does on the test images.
    """
    said, found = [], {file: each for file, each in held.items() if each is not None}
    for file, each in found.items():
        if each.review is not None:
            shown = applied if each.review.achievable and file == [*held][-1] else []
            said.append(" ".join([f"Review threshold in {file}: {each.review.guarantee}", *shown]))
        if each.sets is not None:
            said.append(f"Prediction sets in {file}: {' '.join(promises(each.sets, class_names))}")
        if each.familiarity is not None:
            said.append(f"Unfamiliar images are marked by {file}: {each.familiarity.guarantee}")
    if all(each.review is None for each in found.values()):
        said.append("No review threshold was fitted.")
    if all(each.sets is None for each in found.values()):
        said.append("No prediction sets were fitted.")
    return said


def _limits(origin: Origin, subject: Subject | None) -> list[str]:
    limits = [
        "Confidences are calibrated for images and shares of classes like those it was made with; both shift "
        "between hospitals.",
        "It names one of its classes for any image whatever, also for one that shows none of them.",
    ]
    if origin.shots:
        limits.append(f"{origin.shots} Another draw gives another model.")
    if subject is not None:
        if subject.groups is None:
            limits.append("It is not known which test images are of the same patient.")
        if not subject.parts.slices:
            limits.append("How it does on subgroups (site, scanner, sex, age) is not known.")
    else:
        limits.append("It was not tested.")
    return limits


def _markdown(table: Table) -> str:
    header, rows = table.texts()
    return aligned(header, rows)


def card_text(card: Card, *, licence: str | None = None, document: Document | None = None) -> str:
    """Return README.md: what the hub reads in front, and the card.

    Args:
        card: From `card_of`.
        licence: As the hub calls it. None: not stated.
        document: The report, whose numbers are listed in front. None: there is none.
    """
    environment = Environment(
        loader=FunctionLoader(template),
        autoescape=False,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["said"] = lambda text: markdown(redacted(str(text)))
    body = environment.get_template("card.md.j2").render(card=card)
    return f"---\n{_front(card, licence, document)}\n---\n\n{body}"


def _front(card: Card, licence: str | None, document: Document | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if document is not None:
        table = document.tables["comparison"]
        row = next(iter(table.rows.values()))
        for name in LISTED:
            column, value = columns_of(METRICS)[name], row[name]
            if isinstance(value, Cell) and value.value is not None:
                results.append(
                    EvalResult(
                        task_type="image-classification",
                        dataset_type=card.data_name,
                        dataset_name=card.data_name,
                        dataset_split="test",
                        metric_type=name,
                        metric_name=column.title.removesuffix(" %"),
                        metric_value=round(value.value, 6),
                    )
                )
    data = ModelCardData(
        library_name="calib",
        tags=TAGS,
        pipeline_tag="image-classification",
        license=licence,
        model_name=card.title if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()

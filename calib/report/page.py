"""The report: one HTML page that asks nothing of the network, and its tables as JSON, CSV and Markdown."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from calib.core.text import few
from calib.io.files import blocking_file, write_text
from calib.report.document import Document
from calib.report.sections.cases import cases
from calib.report.sections.checklist import checklist
from calib.report.sections.classes import classes, groups
from calib.report.sections.decisions import decisions
from calib.report.sections.overview import Metrics, comparison, metrics_of, overview
from calib.report.sections.provenance import Origin, provenance
from calib.report.sections.reliability import reliability
from calib.report.sections.review import review
from calib.report.sections.sets import prediction_sets
from calib.report.sections.steps import caught, erring, reviewed
from calib.report.subject import (
    ByMethod,
    Calibrate,
    Images,
    Parts,
    Reported,
    Review,
    Sets,
    Subject,
    subject_of,
)
from calib.report.written import as_csv, as_json, as_markdown

ENDINGS = (".html", ".htm")
BESIDE = (".json", ".csv", ".md")  # the tables of a page
GENERATOR = b'<meta name="generator" content="calib'  # a page of this library says so
HEAD = 8192  # bytes in which it does
FEATURES_ONLY = "These are packaged features without images."


def report(
    predictions: Reported | Sequence[Reported] | ByMethod,
    path: str | Path,
    *,
    calibrator: Calibrate | None = None,
    sets: Sets | None = None,
    review: Review | None = None,
    doubt: Tensor | None = None,
    doubt_name: str | None = None,
    others: Mapping[str, Tensor] | None = None,
    why: Sequence[str] | None = None,
    images: Images | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    strata: Sequence[Any] | None = None,
    title: str | None = None,
    names: bool = True,
    main: str | None = None,
    baseline: str | None = None,
    n_bins: int = 10,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    origin: Origin | None = None,
    no_images: str = "No images were given.",
) -> Path:
    """Return the path of the page, written with its tables beside it as .json, .csv and .md.

    One file that opens from disk, in any browser, on paper too: what was done in plain sentences, methods
    beside each other with intervals, reliability, errors by review threshold with a slider, decision curves,
    classes and groups, single cases, prediction sets, provenance, and checklists of reporting.

    Args:
        predictions: What a model said (`calib.Predictions`); several, of which the first are reported and the
            others stand beside them (their `about` says method and seed); or method to seed to predictions.
        path: The page, ending in .html.
        calibrator: A calibrator of the outputs, logits (N, C) -> probabilities (N, C): the reported ones are
            calibrated, and stand beside those without it.
        sets: Prediction sets, fitted on other cases (`calib.posthoc.PredictionSets`).
        review: A review threshold, fitted on other cases (`calib.posthoc.ReviewThreshold`).
        doubt: (N,) how much each prediction is doubted, higher = more likely wrong. None: 1 - confidence.
        doubt_name: What it is called. None: "doubt", or "1 - confidence".
        others: Further scores by name, (N,) each, that are compared with the doubt.
        why: (N,) reasons in words for single cases. None: the probabilities.
        images: Where thumbnails come from, e.g. `task.test` of a task loaded from images. None, or features
            without images: there are none, and the page says so.
        slices: Name to (N,) values, e.g. {"scanner": [...]}: a table for each.
        strata: (N,) what the sets are conditional on.
        title: The heading. None: the method and the data.
        names: Whether names of files and groups may stand on the page.
        main: The method that is reported. None: the first.
        baseline: The method the others are compared with. None: zero-shot, or the one before the calibrator.
        n_bins: Bins of reliability and ECE.
        level: Coverage of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Of the bootstrap.
        origin: What is known of where the predictions come from.
        no_images: Why there are no images, as a sentence.

    Raises:
        ValueError: The predictions are of different images or classes, or something does not fit them, or
            `images` are none; or the page or a table would replace a file that is not of an earlier report.
        WriteError: A file cannot be written.

    Example:
        >>> import tempfile, torch, calib
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 0.0]])
        >>> said = calib.Predictions(logits, torch.tensor([0, 1, 1, 0]), logits, ["a", "b", "c", "d"],
        ...                          ["1.png", "2.png", "3.png", "4.png"], ["benign", "malignant"])
        >>> page = report(said, tempfile.mkdtemp() + "/report.html", n_resamples=50)
        >>> sorted(path.name for path in page.parent.iterdir())
        ['report.csv', 'report.html', 'report.json', 'report.md']
    """
    page = checked_path(path)
    named = doubt_name or ("1 - confidence" if doubt is None else "doubt")
    if images is not None and not callable(getattr(images, "open", None)):
        if not hasattr(images, "ids"):
            raise ValueError(
                f"images={type(images).__name__}: expected where images are looked up by their ids, as "
                "task.test of a task loaded from images, or None."
            )
        images, no_images = None, FEATURES_ONLY  # a task of packaged features
    parts = Parts(
        sets=sets,
        strata=strata,
        review=review,
        doubt=doubt,
        doubt_name=named,
        why=why,
        images=images,
        no_images=no_images,
        slices=slices or {},
        names=names,
        n_bins=n_bins,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
    subject = subject_of(predictions, main=main, baseline=baseline, calibrator=calibrator, parts=parts)
    write_report(document_of(subject, origin=origin or Origin(), others=others, title=title), page)
    return page


def checked_path(path: str | Path) -> Path:
    """Return the path of a page.

    Raises:
        ValueError: It does not end in .html, is a folder, would lie in a file, or it or its tables would
            replace what is not an earlier report.
    """
    page = Path(path)
    if page.suffix.lower() not in ENDINGS or page.is_dir():
        raise ValueError(f"The report must be a file that ends in .html, and '{page}' is not.")
    blocking = blocking_file(page.parent)
    if blocking is not None:
        raise ValueError(f"The report '{page}' cannot be written: '{blocking}' is a file.")
    _refuse_others(page)
    return page


def _refuse_others(page: Path) -> None:
    """Refuse a page that would replace anything but an earlier report; its tables belong to it."""
    if page.is_file():
        with page.open("rb") as file:
            if GENERATOR in file.read(HEAD):
                return
    for path in (page, *map(page.with_suffix, BESIDE)):
        if path.exists() or path.is_symlink():
            raise ValueError(
                f"The report '{page}' would replace '{path}', which is not of an earlier report: choose "
                "another out=."
            )


def document_of(
    subject: Subject,
    *,
    origin: Origin,
    others: Mapping[str, Tensor] | None = None,
    title: str | None = None,
    metrics: Metrics | None = None,
) -> Document:
    """Return the report of a subject, before it becomes a page or files.

    Args:
        subject: What it is about.
        origin: Where the predictions come from.
        others: Further scores of doubt by name.
        title: The heading. None: the method and the data.
        metrics: Method to seed to `calib.metrics.summarize`, where they are known. None: they are computed.
    """
    metrics = metrics_of(subject) if metrics is None else metrics
    compared, differences = comparison(subject, metrics)
    sections = [
        overview(subject, metrics, differences),
        compared,
        reliability(subject, metrics[subject.main][subject.seed]),
        review(subject, others),
        *([prediction_sets(subject, subject.parts.sets)] if subject.parts.sets is not None else []),
        decisions(subject),
        classes(subject),
        groups(subject),
        cases(subject),
        provenance(subject, origin),
        checklist(subject, origin),
    ]
    return Document(
        title=title or f"{subject.main}{f' on {subject.data_name}' if subject.data_name else ''}",
        subtitle=(
            f"{len(subject.correct):,} images, {len(subject.class_names)} classes: "
            f"{few(subject.class_names, 8)}."
        ),
        sections=sections,
    )


def write_report(document: Document, page: Path) -> None:
    """Write the page, and its tables beside it.

    Args:
        document: The report.
        page: The path of the page; the others end in .json, .csv and .md instead.

    Raises:
        ValueError: One would replace a file that is not of an earlier report.
        WriteError: One cannot be written.
    """
    _refuse_others(page)
    write_text(page, as_html(document))  # first: by it tables are known as a report's, should this end early
    for ending, text in zip(BESIDE, (as_json, as_csv, as_markdown), strict=True):
        write_text(page.with_suffix(ending), text(document))


def as_html(document: Document) -> str:
    """Return the page. What users name their classes, files and methods is escaped in it."""
    from calib import __version__

    environment = Environment(
        loader=FunctionLoader(template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters["bound"] = _bound
    environment.globals |= {"reviewed": reviewed, "erring": erring, "caught": caught}
    style, script = template("page.css"), template("page.js")
    return environment.get_template("page.html.j2").render(
        document=document,
        version=__version__,
        style=Markup(style),
        script=Markup(f"<script>{script}</script>"),
        policy=_policy(style, script),
    )


def _bound(text: str) -> str:
    """Return text in which no line begins with a percent sign: a hard space binds it to its number."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


def _policy(style: str, script: str) -> str:
    """Return what the browser may load for the page: nothing but what is in it, by digest."""
    allowed = {
        "default-src": "'none'",
        "style-src": _digest(style),
        "script-src": _digest(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{key} {value}" for key, value in allowed.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def template(name: str) -> str:
    """Return the text of a file in the folder of templates."""
    return (importlib.resources.files("calib.report") / "templates" / name).read_text(encoding="utf-8")

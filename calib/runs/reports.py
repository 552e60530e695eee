"""The report of finished runs: what lies in their folders becomes one page, with images where they are."""

from __future__ import annotations

import logging
from dataclasses import replace

from torch import Tensor

from calib.config import ReportRun
from calib.data import ImageTable
from calib.report.document import Document
from calib.report.page import FEATURES_ONLY, document_of
from calib.report.sections.overview import Metrics
from calib.report.sections.provenance import Origin
from calib.report.subject import Parts, Subject, subject_of
from calib.runs.decisions import judged_doubt
from calib.runs.material import Material, material_of
from calib.runs.prepare import load_task
from calib.runs.slices import read_slices

log = logging.getLogger(__name__)
SWITCHED_OFF = "They were left out (images=false)."


def report_of(config: ReportRun) -> Document:
    """Return the report that the settings ask for.

    Raises:
        FileNotFoundError: A run is not there.
        ValueError: The runs cannot stand in one report, or a file is damaged.
    """
    return document_from(material_of(config), config)


def document_from(material: Material, config: ReportRun, metrics: Metrics | None = None) -> Document:
    """Return the report of what was found.

    Args:
        material: From a run, or from an evaluation that has it at hand.
        config: How it is reported.
        metrics: Method to seed to `calib.metrics.summarize`, where they are known.
    """
    return document_of_material(material, config, metrics)[0]


def document_of_material(
    material: Material, config: ReportRun, metrics: Metrics | None = None
) -> tuple[Document, Subject]:
    """Return the report of what was found, and what it is about; see `document_from`."""
    images, no_images = material.images, SWITCHED_OFF
    if not config.images:
        images = None
    elif images is None:
        images, no_images = _images(material, config)
    main = material.main if config.main is None else config.main
    own = main == material.main  # what follows belongs to it alone
    first = next(iter(next(iter(material.by_method.values())).values()))
    parts = Parts(
        sets=material.sets if own else None,
        review=material.review if own else None,
        judged=_judged(material) if own and material.review is not None else None,
        doubt=material.doubt if own else None,
        doubt_name=material.doubt_name if own else Parts.doubt_name,
        why=material.why if own else None,
        images=images,
        no_images=no_images,
        slices={} if config.slices is None else read_slices(config.slices, first.names, first.ids),
        names=config.names,
        data_name=material.called,
        n_bins=config.n_bins,
        level=config.level,
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
    subject = subject_of(material.by_method, main=main, baseline=config.baseline, parts=parts)
    document = document_of(
        subject,
        origin=material.origin if own else Origin(),
        others=material.others if own else None,
        title=config.title,
        metrics=metrics,
    )
    return document, subject


def _judged(material: Material) -> Tensor:
    """Return the doubts of the reported predictions, (N,), as `calib predict` judges them."""
    runs = material.by_method[material.main]
    found = runs[min(runs)]
    doubt = 1 - found.confidence if material.doubt is None else material.doubt
    return judged_doubt(doubt, found, material.familiarity)


def _images(material: Material, config: ReportRun) -> tuple[ImageTable | None, str]:
    """Return the images of the predictions, or why they are not at hand."""
    data = material.data
    if data is None:
        return None, "It is not known where the images are."
    if config.data.root is not None:
        data = replace(data, root=config.data.root)
    names = next(iter(material.by_method[material.main].values())).class_names
    try:
        table = load_task(data, needs=(material.split,), among=names).splits()[material.split]
    except (FileNotFoundError, ValueError) as error:
        log.warning("The images could not be read: %s", error)
        return None, "The images could not be read when this page was written."  # the error names folders
    if not isinstance(table, ImageTable):
        return None, f"{FEATURES_ONLY} The setting data.root=IMAGES gives them."
    wanted = next(iter(material.by_method[material.main].values())).ids
    missing = len(set(wanted) - set(table.ids))
    if missing == len(set(wanted)):
        log.warning("The images at '%s' are others than those that were predicted.", data.root)
        return None, "The images at hand are others than those that were predicted."
    return table, ""

"""Where everything comes from: data, split, model, settings, versions, digests of files."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calib.core.hashing import json_digest
from calib.core.text import redacted
from calib.metrics import Column
from calib.report.document import Section, Table
from calib.report.subject import Subject

OWN = "your own"  # source and licence of images of one's own, as their readers call them
PACKAGES = ("calib", "torch", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Origin:
    """What is known of where the predictions come from; whatever is empty is not known.

    Attributes:
        data: Facts about the data by their label: source, licence, split, shots, overlap, ...
        notes: Known limits of the data, as sentences.
        model: Facts about the model: backbone, weights, objective, calibration, ...
        settings: Every setting by its dotted key.
        software: Versions at training.
        files: Digests of files.
        shots: How many images the prompt learned from, in words. Empty: not known.
        partition: How training and test are kept apart, in words. Empty: not known.
        trained_on: The data set the model learned from. Empty: not known.
        chosen_on: What decided about settings, in words. Empty: not known.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    model: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    shots: str = ""
    partition: str = ""
    trained_on: str = ""
    chosen_on: str = ""


def provenance(subject: Subject, origin: Origin) -> Section:
    """Return the section on where everything comes from.

    Args:
        subject: What the report is about.
        origin: What its caller knows.
    """
    predicted = subject.predicted
    data = {
        "data set": subject.data_name or "not said",
        "images": f"{len(subject.correct):,}",
        "classes": ", ".join(subject.class_names),
        "groups": "not known" if subject.n_groups is None else f"{subject.n_groups:,}",
        "digest of images and labels": json_digest([list(predicted.ids), predicted.labels.tolist()])[:16],
        **origin.data,
    }
    model = {
        key: str(value)
        for key, value in predicted.about.items()
        if value is not None and key != "data" and isinstance(value, str | int | float)
    } | dict(origin.model)
    software = {name: _version(name) for name in PACKAGES} | {"Python": platform.python_version()}
    tables = [
        _facts("data", "Data", data),
        _facts("model", "Model", model),
        *([_facts("files", "Files, by the digest of their bytes", origin.files)] if origin.files else []),
        *([_facts("settings", "Settings", origin.settings, folded=True)] if origin.settings else []),
        *(
            [_facts("training_software", "Software at training", origin.software, True)]
            if origin.software
            else []
        ),
        _facts("software", "Software of this report", software, folded=True),
    ]
    said = ["What it takes to make these numbers again, as far as it is known."]
    parts = subject.parts
    said.append(
        f"Seeds of the reported method: {', '.join(str(seed) for seed in subject.seeds)}. Bootstrap: "
        f"{parts.n_resamples:,} resamples, seed {parts.seed}."
    )
    return Section("provenance", "Provenance", said=said, tables=tables, notes=list(origin.notes))


def _facts(name: str, title: str, facts: Mapping[str, str], folded: bool = False) -> Table:
    rows = {key: {"value": redacted(value)} for key, value in facts.items()}
    return Table(name, title, "what", {"value": Column("value")}, rows, folded=folded)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

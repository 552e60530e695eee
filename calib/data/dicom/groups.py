"""Patients of DICOM images as groups: told apart by the ids in their headers, which are never written."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calib.data.dicom import DICOM_SUFFIXES, guarded, is_dicom_file
from calib.data.records import FileSource, ImageTable
from calib.data.task import Splits

logger = logging.getLogger(__name__)

SAID = "patient"  # how the name of a group begins
LENGTH = 12  # hexadecimal digits after it: 10 million patients, and two alike in one of six cases
OF_PATIENT = ("IssuerOfPatientID", "PatientID")


def grouped_by_patient(splits: Splits) -> Splits:
    """Return splits whose images are grouped by the patient ids of their headers, where all have one.

    A group is called by a digest of the content of the patient's images, group(p) = "patient-" +
    SHA-256(min over images i of p: id(i)): the same wherever the same images are. It is not a digest of the
    patient id, which anybody could find again by trying all numbers of a hospital.

    Args:
        splits: From a reader, once the images were looked at. Where groups are known they stay.
    """
    tables = {split: table for split, table in splits.tables.items() if isinstance(table, ImageTable)}
    if not tables or any(table.groups is not None for table in tables.values()):
        return splits
    files = [(split, row) for split, table in tables.items() for row in range(len(table))]
    paths = {key: _path(tables[key[0]], key[1]) for key in files}
    if not all(path is not None and is_dicom_file(path) for path in paths.values()):
        if any(path is not None and path.suffix.lower() in DICOM_SUFFIXES for path in paths.values()):
            logger.info("Patients are not known: only some of the images are DICOM files.")
        return splits
    patients = {key: _patient(path) for key, path in paths.items() if path is not None}
    problem = _why_not(list(patients.values()))
    if problem:
        logger.warning(
            "Patients are not known: %s. Images of one patient may be on both sides of a split. A table can "
            "say who they are of (data.name=table, data.options.columns.group=NAME).",
            problem,
        )
        return splits
    first: dict[Any, str] = {}
    for (split, row), patient in patients.items():
        id_ = tables[split][row].id
        first[patient] = min(id_, first.get(patient, id_))
    names = {patient: group_name(id_) for patient, id_ in first.items()}
    grouped = {
        split: table.with_groups([names[patients[split, row]] for row in range(len(table))])
        for split, table in tables.items()
    }
    note = f"Images are grouped by the patient ids in their DICOM headers: {len(names)} patients."
    logger.info("%s (data.options.patients=false leaves it.)", note)
    return replace(splits, tables={**splits.tables, **grouped})


def patients_of_headers(files: Sequence[Path], ids: Sequence[str]) -> list[str] | None:
    """Return the patient of every image as `grouped_by_patient` calls them. None: headers do not say it.

    Args:
        files: N images.
        ids: Their content ids; empty of one that cannot be read, whose patient is "".
    """
    readable = {file: id_ for file, id_ in zip(files, ids, strict=True) if id_}
    if not readable or not all(is_dicom_file(file) for file in readable):
        return None
    patients = {file: _patient(file) for file in readable}
    problem = _why_not(list(patients.values()))
    if problem:
        logger.info("Patients are not known: %s (--patients says how they are told apart).", problem)
        return None
    first: dict[Any, str] = {}
    for file, patient in patients.items():
        first[patient] = min(readable[file], first.get(patient, readable[file]))
    return [group_name(first[patients[file]]) if file in readable else "" for file in files]


def group_name(id_: str) -> str:
    """Return what a patient is called, by the smallest content id of their images.

    Example:
        >>> group_name("00ff")
        'patient-f419b8964dc9'
    """
    return f"{SAID}-{hashlib.sha256(f'{SAID}:{id_}'.encode()).hexdigest()[:LENGTH]}"


def _path(table: ImageTable, row: int) -> Path | None:
    source = table[row].source
    return source.path if isinstance(source, FileSource) else None


def _patient(path: Path) -> tuple[str, ...] | None:
    """Return what tells a patient from all others; None: the header does not say. It is never shown."""
    import pydicom

    with guarded(str(path)):
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(OF_PATIENT))
        found = tuple(str(data.get(keyword) or "").strip() for keyword in OF_PATIENT)
    return found if found[-1] else None


def _why_not(patients: list[tuple[str, ...] | None]) -> str:
    """Return why ids say nothing of who is who; empty: they do."""
    lacking = sum(patient is None for patient in patients)
    if lacking:
        return f"{lacking} of {len(patients)} DICOM files have no patient id"
    if len(patients) > 1 and len(set(patients)) == 1:
        return f"all {len(patients)} DICOM files have the same patient id, which seems to have been replaced"
    return ""

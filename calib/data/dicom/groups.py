"""Patients of DICOM images as groups: told apart by the ids in their headers, which are never written."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from calib.data.dicom import DICOM_SUFFIXES, guarded, is_dicom_file
from calib.data.records import FileSource, ImageTable
from calib.data.task import Splits

logger = logging.getLogger(__name__)

SAID = "patient"  # how the name of a group begins
LENGTH = 12  # hexadecimal digits after it: 10 million patients, and two alike in one of six cases
OF_PATIENT = ("IssuerOfPatientID", "PatientID")
# What stands where an id was taken out, without case and signs; besides zeros or letters x alone.
NO_ID = {
    *("anon", "anonymous", "anonymised", "anonymized", "deidentified", "redacted", "removed", "deleted"),
    *("none", "null", "nan", "na", "unknown", "unnamed", "noid", "nopatientid", "patientid", "id", "default"),
}
SPLIT = (
    "Images of one patient may be on both sides of a split. A table can say who they are of "
    "(data.name=table, data.options.columns.group=NAME)."
)
COUNTED = (
    "Where several images are of one patient, calib review accepts too much: say whose they are, "
    "--patients HOW."
)
Patient = tuple[str, ...] | None  # what tells a patient from all others; None: the header does not say


def grouped_by_patient(splits: Splits) -> Splits:
    """Return splits whose images are grouped by the patient ids of their headers, where they say something.

    A group is called by a digest of the content of the patient's images, group(p) = "patient-" +
    SHA-256(min over images i of p: id(i)): the same wherever the same images are. It is not a digest of the
    patient id, which anybody could find again by trying all numbers of a hospital. An image without an id
    (none, or a word in its place such as ANONYMOUS) is a group of its own. One id for all images has been
    replaced: nothing could be trained on one patient.

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
            logger.warning("Patients are not known: only some of the images are DICOM files. %s", SPLIT)
        return splits
    patients = [_patient(path) for path in paths.values() if path is not None]
    lacking, known = patients.count(None), set(patients) - {None}
    if not known or (len(known) == 1 and len(patients) > 1):
        problem = (
            f"{len(patients) - lacking} of {len(patients)} DICOM files have the same patient id, which seems "
            f"to have been replaced{', and the others none' if lacking else ''}"
            if known
            else f"none of {len(patients)} DICOM files has a patient id"
        )
        logger.warning("Patients are not known: %s. %s", problem, SPLIT)
        return splits
    if lacking:
        logger.warning("%s %s", _own(lacking, len(patients)), SPLIT)
    names = _names(patients, [tables[split][row].id for split, row in files])
    named = dict(zip(files, names, strict=True))
    grouped = {
        split: table.with_groups([named[split, row] for row in range(len(table))])
        for split, table in tables.items()
    }
    note = f"Images are grouped by the patient ids in their DICOM headers: {len(known)} patients."
    logger.info("%s (data.options.patients=false leaves it.)", note)
    return replace(splits, tables={**splits.tables, **grouped})


def patients_of_headers(files: Sequence[Path], ids: Sequence[str]) -> list[str] | None:
    """Return the patient of every image as `grouped_by_patient` calls them. None: headers do not say it.

    One id for all images is one patient here: predictions may well be of one, and to count a single patient
    accepts nothing too much. What is doubtful is a warning.

    Args:
        files: N images.
        ids: Their content ids; empty of one that cannot be read, whose patient is "".
    """
    readable = {file: id_ for file, id_ in zip(files, ids, strict=True) if id_}
    dicom = sum(is_dicom_file(file) for file in readable)
    if dicom < len(readable):
        if dicom:
            log = "Patients are not known: only %d of %d images are DICOM files. %s"
            logger.warning(log, dicom, len(readable), COUNTED)
        return None
    patients = [_patient_or_none(file) for file in readable]
    lacking, known = patients.count(None), set(patients) - {None}
    if not known:
        if patients:
            log = "Patients are not known: none of %d DICOM files has a patient id. %s"
            logger.warning(log, len(patients), COUNTED)
        return None
    if lacking:
        logger.warning("%s %s", _own(lacking, len(patients)), COUNTED)
    if len(known) == 1 and len(patients) - lacking > 1:
        logger.warning(
            "%d of %d DICOM files have the same patient id and count as one patient, however many they are. "
            "If the id was replaced, say whose they are: --patients HOW.",
            len(patients) - lacking,
            len(patients),
        )
    names = dict(zip(readable, _names(patients, list(readable.values())), strict=True))
    return [names.get(file, "") for file in files]


def group_name(id_: str) -> str:
    """Return what a patient is called, by the smallest content id of their images.

    Example:
        >>> group_name("00ff")
        'patient-f419b8964dc9'
    """
    return f"{SAID}-{hashlib.sha256(f'{SAID}:{id_}'.encode()).hexdigest()[:LENGTH]}"


def is_no_id(said: str) -> bool:
    """Return whether what stands in the place of a patient id is none: a word for "taken out", 000, xxx.

    Example:
        >>> [is_no_id(said) for said in ("", "ANONYMOUS", "0000", "N/A", "ANON-17", "100")]
        [True, True, True, True, False, False]
    """
    bare = re.sub(r"[\W_]+", "", said.casefold())
    return bare in NO_ID or not bare.strip("0") or not bare.strip("x")


def _names(patients: Sequence[Patient], ids: Sequence[str]) -> list[str]:
    """Return what the patient of every image is called; an image without one is called by itself."""
    first: dict[Patient, str] = {}
    for patient, id_ in zip(patients, ids, strict=True):
        first[patient] = min(id_, first.get(patient, id_))
    return [group_name(first[who] if who else id_) for who, id_ in zip(patients, ids, strict=True)]


def _path(table: ImageTable, row: int) -> Path | None:
    source = table[row].source
    return source.path if isinstance(source, FileSource) else None


def _patient(path: Path) -> Patient:
    """Return what tells a patient from all others; None: the header does not say. It is never shown."""
    import pydicom

    with guarded(str(path)):
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(OF_PATIENT))
        found = tuple(str(data.get(keyword) or "").strip() for keyword in OF_PATIENT)
    return None if is_no_id(found[-1]) else found


def _patient_or_none(path: Path) -> Patient:
    """Return the patient of an image that was read; an id that is damaged is none."""
    try:
        return _patient(path)
    except ValueError:
        return None


def _own(lacking: int, of: int) -> str:
    return f"{lacking} of {of} DICOM files have no patient id: each counts as a patient of its own."

"""DICOM files as tests need them: few pixels, a header that names somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SECRETS = ("Nobody^Anna", "MRN4711", "19300102", "Hospital of Nowhere")  # what no output may hold


def write_dicom(
    path: Path, pixels: np.ndarray, *, patient: str = SECRETS[1], frames: bool = False, **elements: Any
) -> Path:
    """Write pixels (H, W) grey, (H, W, 3) RGB or (F, H, W) frames as a DICOM file, and return its path.

    Args:
        path: The file.
        pixels: uint8, uint16 or int16.
        patient: The patient's id; it stands beside a name, a date and a hospital.
        frames: Whether three axes are frames.
        elements: Further elements by keyword; None takes one away.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = SECRETS[0], patient
    data.PatientBirthDate, data.InstitutionName = SECRETS[2], SECRETS[3]
    colour = pixels.ndim == 3 and not frames
    data.Rows, data.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)
    return path


def table_of(entries: list[int], *, first: int, bits: int) -> Any:
    """Return an item of a VOI or modality table."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.array(entries, dtype="<u2").tobytes()
    return item

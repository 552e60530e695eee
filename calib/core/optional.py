"""Optional parts: what each is for, whether it is here, and the command that installs it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class OptionalPart:
    """A package that is needed for one thing only.

    Attributes:
        modules: What is imported of it.
        what: What needs it.
        install: The command that installs it.
    """

    modules: tuple[str, ...]
    what: str
    install: str

    def is_here(self) -> bool:
        """Return whether it could be imported; nothing is."""
        return all(importlib.util.find_spec(name) is not None for name in self.modules)

    def missing(self) -> str:
        """Return what is said where it is missing.

        Example:
            >>> OPTIONAL["dicom"].missing()
            "Reading DICOM files needs pydicom: pip install 'calib[dicom]'."
        """
        what = self.what if self.what.startswith("calib ") else f"{self.what[0].upper()}{self.what[1:]}"
        return f"{what} needs {' and '.join(self.modules)}: {self.install}."


OPTIONAL = {
    "dicom": OptionalPart(("pydicom",), "reading DICOM files", "pip install 'calib[dicom]'"),
    "dicom-lossless-jpeg": OptionalPart(
        ("pylibjpeg", "libjpeg"),
        "reading DICOM files with lossless or 12-bit JPEG",
        "pip install pylibjpeg pylibjpeg-libjpeg",
    ),
    "dicom-jpeg-ls": OptionalPart(("jpeg_ls",), "reading DICOM files with JPEG-LS", "pip install pyjpegls"),
    "dicom-jpeg-2000": OptionalPart(
        ("pylibjpeg", "openjpeg"),
        "reading DICOM files with high-throughput JPEG 2000",
        "pip install pylibjpeg pylibjpeg-openjpeg",
    ),
    "segment": OptionalPart(("monai",), "calib segment", "pip install 'calib[segment]'"),
    "tune": OptionalPart(("optuna",), "calib tune", "pip install 'calib[tune]'"),
    "vqa": OptionalPart(
        ("num2words", "sentencepiece"),
        "answering questions with SmolVLM or a tokenizer of SentencePiece",
        "pip install 'calib[vqa]'",
    ),
}

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
        install: The command that installs it. It names the packages and not an extra of calib: so it is right
            in a clone, beside a wheel, and where calib was never installed (`calib` of PyPI is of others).
    """

    modules: tuple[str, ...]
    what: str
    install: str

    def is_here(self) -> bool:
        """Return whether it could be imported; nothing is."""
        return all(importlib.util.find_spec(name) is not None for name in self.modules)

    def check(self) -> None:
        """Refuse to begin what needs it; whether it can really be imported shows later.

        Raises:
            ValueError: It is not here; the message says how to install it.
        """
        if not self.is_here():
            raise ValueError(self.missing())

    def missing(self) -> str:
        """Return what is said where it is missing.

        Example:
            >>> OPTIONAL["dicom"].missing()
            "Reading DICOM files needs pydicom: pip install 'pydicom>=3.0.1'."
        """
        what = self.what if self.what.startswith("calib ") else f"{self.what[0].upper()}{self.what[1:]}"
        return f"{what} needs {' and '.join(self.modules)}: {self.install}."


OPTIONAL = {
    "dicom": OptionalPart(("pydicom",), "reading DICOM files", "pip install 'pydicom>=3.0.1'"),
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
    "segment": OptionalPart(("monai",), "calib segment", "pip install 'monai>=1.3'"),
    "tune": OptionalPart(("optuna",), "calib tune", "pip install 'optuna>=4.2'"),
    "vqa": OptionalPart(
        ("num2words", "sentencepiece"),
        "answering questions with SmolVLM or a tokenizer of SentencePiece",
        "pip install 'num2words>=0.5.13' 'sentencepiece>=0.2' 'protobuf>=4.25'",
    ),
}

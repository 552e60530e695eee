"""Exported segmentation networks: one safetensors file with everything a prediction needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from calib.core.float32 import exact_float32
from calib.core.optional import OPTIONAL
from calib.core.text import few
from calib.io.tensors import load_tensors, require_keys, require_strings, require_version, save_tensors
from calib.segmentation.batches import to_input
from calib.segmentation.masks import MaskClasses
from calib.segmentation.network import NETWORKS, build_network

KIND = "segment"
VERSION = 1
KEYS = ("network", "channels", "size", "class_names", "values", "colours", "temperature", "about")


@dataclass(eq=False)
class Segmenter:
    """A trained network, and what its outputs mean.

    Attributes:
        network: (B, 3, size, size) -> (B, C, size, size) logits; in evaluation mode.
        name: Its kind, a key of `NETWORKS`.
        channels: Its widths.
        size: Side of the square that images are scaled to.
        classes: What its classes are, and which values stand for them in masks.
        temperature: What logits are divided by; 1 where nothing was calibrated.
        about: Where it comes from: settings, images, versions.
    """

    network: nn.Module
    name: str
    channels: list[int]
    size: int
    classes: MaskClasses
    temperature: float = 1.0
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.eval()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature!r}.")

    def __repr__(self) -> str:
        """Return what it tells apart in a line."""
        return f"<Segmenter: {self.name} of {few(self.class_names)}; {self.size} pixels>"

    @property
    def class_names(self) -> list[str]:
        """C names, the background first."""
        return [*self.classes.names]

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of images as the network takes them, (B, C, size, size), on their device.

        Args:
            images: (B, 3, size, size), from `calib.segmentation.batches.to_input`.
        """
        parameter = next(self.network.parameters())
        with exact_float32(parameter.device):
            found: Tensor = self.network(images.to(parameter)).float()
        return found / self.temperature

    def probs(self, image: Image.Image) -> Tensor:
        """Return the probabilities of every pixel of an image, (C, H, W), at its own size.

        The logits are interpolated between the pixels that the network saw, then made probabilities.

        Args:
            image: RGB, from `calib.open_image`.
        """
        logits = self.logits(to_input(image, self.size)[None]).cpu()
        if logits.shape[-2:] != (image.height, image.width):
            size = (image.height, image.width)
            logits = interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[0].softmax(0)

    def mask(self, probs: Tensor) -> np.ndarray:
        """Return the mask of the most probable classes, (H, W), in the first value of each class.

        Args:
            probs: (C, H, W).
        """
        values = np.array([each[0] for each in self.classes.values])
        found: np.ndarray = values[probs.argmax(0).numpy()]
        return found

    def save(self, path: str | Path, *, run: str | None = None) -> None:
        """Write everything to one safetensors file, atomically.

        Args:
            path: The file.
            run: The mark of the run in whose folder it lies. None: it is nobody's.
        """
        record = {
            "kind": KIND,
            "version": VERSION,
            "network": self.name,
            "channels": self.channels,
            "size": self.size,
            "class_names": self.class_names,
            "values": [[*each] for each in self.classes.values],
            "colours": self.classes.colours,
            "temperature": self.temperature,
            "about": self.about,
        }
        save_tensors(path, self.network.state_dict(), record, run=run)

    @classmethod
    def load(cls, path: str | Path) -> Segmenter:
        """Return the network in a file written by `save`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or of another kind, or MONAI is not installed.
        """
        tensors, record = load_tensors(path, kind=KIND)
        require_version(record, VERSION, path=path)
        require_keys(record, KEYS, path=path)
        names = require_strings(record, "class_names", path=path)
        values, channels = record["values"], record["channels"]
        whole = isinstance(channels, list) and all(type(each) is int for each in channels)
        fits = (
            isinstance(values, list)
            and len(values) == len(names)
            and all(isinstance(each, list) and each and all(type(v) is int for v in each) for each in values)
        )
        size, temperature = record["size"], record["temperature"]
        if not fits or not whole or type(size) is not int or not isinstance(temperature, int | float):
            raise ValueError(f"{path}: channels, size, temperature or values of the classes are damaged.")
        if record["network"] not in NETWORKS:
            raise ValueError(f"{path} has the network {record['network']!r}; known: {', '.join(NETWORKS)}.")
        OPTIONAL["segment"].check()
        try:
            network = build_network(record["network"], channels, len(names), size=size)
            network.load_state_dict(tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except RuntimeError as error:
            raise ValueError(f"{path}: its weights are not those of its network ({error}).") from error
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"{path}: temperature must be a finite number above 0, got {temperature!r}.")
        broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise ValueError(f"{path}: {broken[0]} holds NaN or infinite values.")
        classes = MaskClasses(tuple(names), tuple(tuple(each) for each in values), bool(record["colours"]))
        about = record["about"] if isinstance(record["about"], dict) else {}
        return cls(network, record["network"], channels, size, classes, float(temperature), about)

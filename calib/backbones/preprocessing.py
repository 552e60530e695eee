"""From a PIL image to the normalised tensor a backbone expects, for evaluation and for training views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calib.core.checks import check_whole
from calib.core.errors import unknown_name

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZES = ("shortest", "pad", "squash")

# The crop that CoOp and CalibPrompt train with: share of the image area, width / height.
CROP_SCALE = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor; call it on a PIL image.

    Args:
        image_size: Height and width of the result, in pixels.
        mean: Mean of each colour channel, taken off after scaling to [0, 1].
        std: Standard deviation of each colour channel, divided by afterwards; positive.
        interpolation: "bicubic" or "bilinear".
        resize: "shortest" scales the shorter side to `image_size` and cuts out the centre; "pad" puts the
            image in the middle of a black square at least `image_size` wide and scales that; "squash" scales
            both sides.
        grey: True turns the image grey first; the three channels are then equal.

    Raises:
        ValueError: A field has a value that is not allowed.

    Example:
        >>> CLIP(Image.new("RGB", (300, 200), "white")).shape
        torch.Size([3, 224, 224])
        >>> round(float(CLIP(Image.new("RGB", (300, 200), "white"))[0, 0, 0]), 4)
        1.9303
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"
    grey: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in [*INTERPOLATIONS]:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        if self.resize not in RESIZES:
            raise unknown_name("resize", self.resize, RESIZES)
        check_whole(1, image_size=self.image_size)
        for field in ("mean", "std"):
            values = getattr(self, field)
            if not isinstance(values, Sequence) or len(values) != 3 or not all(map(_is_finite, values)):
                raise ValueError(f"{field} needs three finite numbers, one per channel, got {values!r}.")
            # Lists (from JSON) become tuples, so equal means equal.
            object.__setattr__(self, field, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}.")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the tensor of an image as it is evaluated.

        Args:
            image: Any 8-bit PIL image; it is turned to RGB.

        Returns:
            (3, image_size, image_size) float32, normalised.

        Raises:
            ValueError: It is no PIL image, or has more than 8 bits per channel.

        Differs: nothing; "shortest" equals torchvision's Resize and CenterCrop, "pad" MedCLIP's own processor
        (github.com/RyanWangZf/MedCLIP 017e5ab, medclip/dataset.py).
        """
        return self._to_tensor(self._fit(self._eight_bit(image)))

    def augment(self, image: Image.Image, seed: int) -> Tensor:
        """Return the tensor of a random training view, the same one for the same seed.

        A crop of 8 to 100 % of the area (width / height between 3/4 and 4/3), scaled to a square, mirrored
        half of the time. Torch's global random state is neither read nor changed.

        Args:
            image: Any 8-bit PIL image.
            seed: Number that picks the view.

        Returns:
            (3, image_size, image_size) float32, normalised.

        Source: train transform of github.com/iabh1shekbasu/CalibPrompt c6ec13e; equal to torchvision's
        RandomResizedCrop and RandomHorizontalFlip after `torch.manual_seed(seed)`.
        """
        generator = torch.Generator().manual_seed(int(seed))
        image = self._eight_bit(image)
        view = self._scale(image.crop(_random_box(image.width, image.height, generator)))
        if float(torch.rand(1, generator=generator)) < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._to_tensor(view)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values: two preprocessings agree exactly when theirs do."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def _eight_bit(self, image: Image.Image) -> Image.Image:
        if not isinstance(image, Image.Image):
            raise ValueError(
                "The image must be a PIL image, as calib.open_image returns it, not "
                f"{type(image).__name__}. Of an 8-bit array (H, W, 3): PIL.Image.fromarray(array)."
            )
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"The image has mode {image.mode!r}, more than 8 bits per channel. Scale it to 8 bits first "
                "(for X-rays: choose the window), since PIL would cut off everything above 255."
            )
        image = image.convert("RGB")
        return image.convert("L") if self.grey else image

    def _fit(self, image: Image.Image) -> Image.Image:
        if self.resize == "squash":
            return self._scale(image)
        if self.resize == "pad":
            side = max(self.image_size, *image.size)  # MedCLIP frames a small image instead of enlarging it
            square = Image.new(image.mode, (side, side))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            return self._scale(square)
        size, short = self.image_size, min(image.size)
        width, height = (size if side == short else int(size * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        return image.crop((left, top, left + size, top + size))

    def _scale(self, image: Image.Image) -> Image.Image:
        return image.resize((self.image_size, self.image_size), INTERPOLATIONS[self.interpolation])

    def _to_tensor(self, image: Image.Image) -> Tensor:
        # By NumPy, whose arithmetic is torch's to the last bit: images are prepared side by side, each by one
        # thread, and torch would share every operation among threads of its own.
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
        mean, std = (np.asarray(each, dtype=np.float32) for each in (self.mean, self.std))
        return torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(2, 0, 1)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _random_box(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a random crop; a centred one where ten draws do not fit."""
    log_low, log_high = (float(value) for value in torch.log(torch.tensor(CROP_RATIO)))
    for _ in range(10):
        area = width * height * torch.empty(1).uniform_(*CROP_SCALE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(log_low, log_high, generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
            return left, top, left + w, top + h
    w = min(width, round(height * CROP_RATIO[1]))
    h = min(height, round(width / CROP_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


CLIP = Preprocessing(
    image_size=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""What CLIP, PLIP, QuiltNet and BiomedCLIP were trained with, and what CalibPrompt feeds all four models."""

MEDCLIP = Preprocessing(
    image_size=224,
    mean=(0.5862785803043838,) * 3,
    std=(0.27950088968644304,) * 3,
    resize="pad",
    grey=True,
)
"""MedCLIP's own: grey, padded to a square (github.com/RyanWangZf/MedCLIP 017e5ab, medclip/dataset.py)."""

PREPROCESSINGS = {"clip": CLIP, "calibprompt": CLIP, "medclip": MEDCLIP}

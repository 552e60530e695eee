"""Corruptions of images at five severities: the same for the same image, on any machine, in any order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms.v2 import functional as v2

from calib.core.checks import check_kind
from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.core.text import few

SEVERITIES = (1, 2, 3, 4, 5)
VERSION = 1  # raised when the same name and severity give other pixels: cached features are not used then
USUAL = 224  # pixels of the shorter side for which lengths below are said
# Optical densities (red, green, blue) of haematoxylin, eosin and DAB: Ruifrok and Johnston 2001.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True)
class Draw:
    """What a corruption is told of one image.

    Attributes:
        strength: The number of its severity, in the unit of its row.
        random: The image's own random numbers.
        unit: Pixels of the image to one of an image whose shorter side has `USUAL`.
    """

    strength: float
    random: np.random.Generator
    unit: float

    @property
    def sign(self) -> int:
        """A coin: -1 or 1."""
        return int(self.random.integers(0, 2)) * 2 - 1


@dataclass(frozen=True)
class Corruption:
    """A row of CORRUPTIONS.

    Attributes:
        act: (image (K, H, W) in [0, 1], draw) -> the same, corrupted; K is 1 for a grey image, else 3. What
            leaves [0, 1] is cut off afterwards.
        strengths: One number for each severity.
        says: What it does, and what the strengths are.
        of_colour: Whether it changes nothing of a grey image.
    """

    act: Callable[[Tensor, Draw], Tensor]
    strengths: tuple[float, float, float, float, float]
    says: str
    of_colour: bool = False


def corrupt(
    image: Image.Image, name: str, severity: int, *, key: str, size: int | None = USUAL
) -> Image.Image:
    """Return the image corrupted, as RGB.

    The image is first scaled (bicubic) so that its shorter side has `size` pixels, as a backbone's
    preprocessing does it: a severity is then the same disturbance for 28 and for 3,000 pixels. A grey image,
    one whose three channels are equal, stays grey.

    Args:
        image: An 8-bit image, as `calib.open_image` returns it.
        name: A key of `CORRUPTIONS`.
        severity: From 1 to 5, or 0, which returns the image as it is.
        key: What the random numbers depend on beside name and severity: the image's content id.
        size: The shorter side in pixels: that of the backbone. None: as it is.

    Raises:
        ValueError: The name is unknown, or the severity is none.

    Example:
        >>> image = Image.new("RGB", (300, 224), (90, 120, 200))
        >>> corrupt(image, "brightness", 3, key="a1").getpixel((0, 0))
        (37, 62, 162)
        >>> corrupt(image, "brightness", 0, key="a1") is image
        True

    Source: the idea and the kinds of Hendrycks and Dietterich 2019 (ImageNet-C); strengths are our own.
    """
    check_kind(image, Image.Image, "image", "calib.open_image returns one.")
    row, severity = checked_corruption(name), checked_severity(severity)
    if severity == 0:
        return image
    image = _scaled(image.convert("RGB"), size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W) uint8
    if is_grey(image):
        if row.of_colour:
            return image
        pixels = pixels[:1]
    unit = min(image.size) / USUAL
    random = np.random.default_rng(stable_hash(key, name, severity))
    changed = row.act(pixels.float() / 255, Draw(row.strengths[severity - 1], random, unit))
    found = (changed.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(found.permute(1, 2, 0).contiguous().numpy())


def is_grey(image: Image.Image) -> bool:
    """Return whether all pixels are grey: their three channels are equal.

    Example:
        >>> is_grey(Image.new("RGB", (2, 2), (7, 7, 7))), is_grey(Image.new("RGB", (2, 2), (7, 7, 8)))
        (True, False)
    """
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels == pixels[..., :1]).all())


def checked_corruption(name: Any) -> Corruption:
    """Return the row of a corruption.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", str(name), CORRUPTIONS)
    return CORRUPTIONS[name]


def checked_severity(severity: Any) -> int:
    """Return a severity, 0 (as it is) to 5.

    Raises:
        ValueError: It is none.
    """
    whole = isinstance(severity, int | np.integer) and not isinstance(severity, bool)
    if not whole or not 0 <= severity <= len(SEVERITIES):
        raise ValueError(
            f"A severity is a whole number from 1 (mild) to {len(SEVERITIES)} (strong), or 0 (as it is), not "
            f"{severity!r}. There are: {few([str(each) for each in SEVERITIES], 10)}."
        )
    return int(severity)


def _scaled(image: Image.Image, size: int | None) -> Image.Image:
    """Return an image whose shorter side has `size` pixels, as `calib.backbones.preprocessing` scales it."""
    short = min(image.size)
    if size is None or short == size:
        return image
    width, height = (size if side == short else max(size, int(size * side / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _blur(image: Tensor, draw: Draw) -> Tensor:
    sigma = draw.strength * draw.unit
    side = _odd(6 * sigma, image)
    for size in ([side, 1], [1, side]):  # one side after the other is the same, and many times faster
        image = torch.as_tensor(v2.gaussian_blur(image, size, [sigma, sigma]))
    return image


def _noise(image: Tensor, draw: Draw) -> Tensor:
    # torchvision's own takes its noise from torch's global generator.
    return image + draw.strength * torch.from_numpy(draw.random.standard_normal(image.shape)).float()


def _brightness(image: Tensor, draw: Draw) -> Tensor:
    # A curve of tones: black stays black and white white. A factor would burn out what is bright already.
    return torch.as_tensor(v2.adjust_gamma(image, 2.0 ** (draw.sign * draw.strength)))


def _contrast(image: Tensor, draw: Draw) -> Tensor:
    return torch.as_tensor(v2.adjust_contrast(image, draw.strength))


def _jpeg(image: Tensor, draw: Draw) -> Tensor:
    written = v2.jpeg((image * 255).round().to(torch.uint8), int(draw.strength))
    return torch.as_tensor(written).float() / 255


def _pixelation(image: Tensor, draw: Draw) -> Tensor:
    height, width = image.shape[1:]
    block = draw.strength * draw.unit
    coarse = [max(1, round(side / block)) for side in (height, width)]
    return interpolate(interpolate(image[None], coarse, mode="area"), (height, width), mode="nearest")[0]


def _stain(image: Tensor, draw: Draw) -> Tensor:
    stains = torch.tensor(STAINS, dtype=torch.float64)
    stains = stains / stains.norm(dim=1, keepdim=True)
    change = 2.0 ** (draw.strength * _direction(draw.random, 3))  # of the amount of each stain
    mixing = torch.linalg.inv(stains) @ torch.diag(torch.from_numpy(change)) @ stains  # (3, 3) of densities
    density = -image.double().clamp_min(1 / 255).log()
    return torch.einsum("chw,cd->dhw", density, mixing).neg().exp().float()


def _colour(image: Tensor, draw: Draw) -> Tensor:
    hue, saturation = draw.sign * draw.strength, 2.0 ** (draw.sign * 8 * draw.strength)
    return torch.as_tensor(v2.adjust_saturation(v2.adjust_hue(image, hue), saturation))


def _shadow(image: Tensor, draw: Draw) -> Tensor:
    """Darken one side of a bent line across the image; the edge is soft and the shadow has a tint."""
    across, along = _turned(image, draw.random.uniform(0, 2 * math.pi))
    edge = across - draw.random.uniform(-0.35, 0.35) + draw.random.uniform(-0.4, 0.4) * (along**2 - 0.25)
    mask = torch.sigmoid(edge / draw.random.uniform(0.05, 0.15))  # 1 in full shadow
    light = torch.from_numpy(draw.random.uniform(0.75, 1.0, 3)).float()[: len(image), None, None]
    return image * (1 - draw.strength * light * mask)


def _vignetting(image: Tensor, draw: Draw) -> Tensor:
    x, y = _turned(image, 0.0)
    left, top = draw.random.uniform(-0.15, 0.15, 2)  # the centre of the light
    far = ((x - left) ** 2 + (y - top) ** 2) / 2  # 1 in the corners of a square
    return image * (1 - draw.strength * far.clamp(0, 1))


def _motion(image: Tensor, draw: Draw) -> Tensor:
    length, angle = draw.strength * draw.unit, draw.random.uniform(0, math.pi)
    side = _odd(length + 2, image)
    kernel = torch.zeros(side, side)
    steps = np.linspace(-(length - 1) / 2, (length - 1) / 2, 8 * side)
    for x, y in zip(steps * math.cos(angle), steps * math.sin(angle), strict=True):  # bilinear
        for at_x, at_y in ((math.floor(x) + i, math.floor(y) + j) for i in (0, 1) for j in (0, 1)):
            share = (1 - abs(x - at_x)) * (1 - abs(y - at_y))
            row, column = at_y + side // 2, at_x + side // 2
            if 0 <= row < side and 0 <= column < side:
                kernel[row, column] += share
    height, width = image.shape[1:]
    framed = pad(image, [side // 2] * 4, mode="reflect")
    taps = kernel.nonzero().tolist()  # few: adding them up is faster than a convolution
    moved = torch.zeros_like(image)
    for row, column in taps:
        moved += kernel[row, column] * framed[:, row : row + height, column : column + width]
    return moved / kernel.sum()


def _odd(length: float, image: Tensor) -> int:
    """Return an odd number of pixels of at least `length` where the image's reflected edge allows it."""
    most = 2 * min(image.shape[1:]) - 1
    return min(2 * math.ceil(length / 2) + 1, most)


def _direction(random: np.random.Generator, n: int) -> np.ndarray:
    """Return n numbers whose root mean square is 1."""
    numbers = random.standard_normal(n)
    return np.asarray(numbers / math.sqrt(float((numbers**2).mean())))


def _turned(image: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Return coordinates (H, W) of an image turned by an angle, -1 to 1 along its sides."""
    height, width = image.shape[1:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(
        _blur, (0.7, 1.2, 2.0, 3.0, 4.5), "out of focus: Gaussian, standard deviation in pixels of 224"
    ),
    "noise": Corruption(_noise, (0.04, 0.08, 0.13, 0.2, 0.3), "Gaussian noise, standard deviation of 0 to 1"),
    "brightness": Corruption(
        _brightness, (0.3, 0.6, 0.9, 1.2, 1.6), "brighter or darker, by a coin: doublings of gamma"
    ),
    "contrast": Corruption(_contrast, (0.75, 0.6, 0.45, 0.3, 0.2), "washed out: share of the contrast left"),
    "jpeg": Corruption(_jpeg, (40, 25, 15, 10, 5), "JPEG compression: quality"),
    "pixelation": Corruption(_pixelation, (1.5, 2.5, 4.0, 6.0, 9.0), "coarse pixels: side in pixels of 224"),
    "stain": Corruption(
        _stain,
        (0.1, 0.2, 0.35, 0.55, 0.8),
        "more or less of each stain (H, E, DAB): root mean square of the doublings",
        of_colour=True,
    ),
    "colour": Corruption(
        _colour,
        (0.01, 0.025, 0.045, 0.07, 0.1),
        "another hue (in turns) and saturation, by coins",
        of_colour=True,
    ),
    "shadow": Corruption(
        _shadow, (0.2, 0.35, 0.5, 0.65, 0.8), "a soft shadow with a tint over one side: share of light lost"
    ),
    "vignetting": Corruption(
        _vignetting, (0.3, 0.5, 0.7, 0.85, 1.0), "darker corners: share of light lost there"
    ),
    "motion": Corruption(_motion, (4, 7, 12, 18, 27), "moved in a straight line: pixels of 224"),
}

"""Colours of classes in masks: a palette for a file that holds numbers, and masks over their images."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image

GOLDEN = 0.618034  # of a turn: each hue lies far from all before it
SIZE = 256  # values that a PNG can show in colours
OVER = 0.4  # of a colour over an image


def palette_of(values: Sequence[int]) -> list[int]:
    """Return the palette in which classes are told apart: 3 x 256 numbers from 0 to 255, red, green, blue.

    Args:
        values: The value of each class, the background first, which is black.

    Example:
        >>> palette_of([0, 1, 7])[:6]
        [0, 0, 0, 255, 38, 38]
    """
    colours = np.zeros((SIZE, 3))
    for number, value in enumerate(values[1:]):
        if value < SIZE:
            colours[value] = hsv_to_rgb(number * GOLDEN % 1, 0.85, 1)
    found: list[int] = (colours * 255).round().astype(int).reshape(-1).tolist()
    return found


def coloured(mask: np.ndarray, values: Sequence[int]) -> Image.Image:
    """Return a mask as a picture that a reader takes as numbers and a viewer shows in colours.

    Args:
        mask: (H, W) values from 0 to 255.
        values: As in `palette_of`.

    Example:
        >>> image = coloured(np.array([[0, 1]]), [0, 1])
        >>> image.mode, np.asarray(image).tolist(), image.convert("RGB").getpixel((1, 0))
        ('P', [[0, 1]], (255, 38, 38))
    """
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette(palette_of(values))
    return image


def overlaid(image: Image.Image, labels: np.ndarray) -> Image.Image:
    """Return an image under the colours of its classes; the background stays as it is.

    Args:
        image: RGB.
        labels: (H, W) classes, 0 the background.
    """
    colours = np.array(palette_of(range(int(labels.max()) + 1))).reshape(-1, 3)[labels]
    plain = np.asarray(image, dtype=float)
    mixed = np.where(labels[..., None] > 0, (1 - OVER) * plain + OVER * colours, plain)
    return Image.fromarray(mixed.round().astype(np.uint8))

"""Colours of classes in masks: a palette for a file that holds numbers, and outlines on their images."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, grey_dilation, grey_erosion

# Seen on pink and violet stains, on black and on grey: so no red, and no violet.
NAMED = {
    "yellow": (255, 230, 0),
    "cyan": (0, 230, 255),
    "green": (60, 255, 60),
    "orange": (255, 140, 0),
    "white": (255, 255, 255),
    "blue": (70, 120, 255),
}
GOLDEN = 0.618034  # of a turn: further hues, each far from all before it, and darker than those with names
SIZE = 256  # values that a PNG can show in colours
EDGE = (0, 0, 0)  # around a line in the colour of its class: one of the two shows on any ground


def colours_of(n: int) -> list[tuple[int, int, int]]:
    """Return the colours of n classes, the background left out.

    Example:
        >>> colours_of(1), len(set(colours_of(40)))
        ([(255, 230, 0)], 40)
    """
    further = [hsv_to_rgb(number * GOLDEN % 1, 0.85, 0.65) for number in range(n - len(NAMED))]
    rest = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in further]
    return [*NAMED.values(), *rest][:n]


def palette_of(values: Sequence[int]) -> list[int]:
    """Return the palette in which classes are told apart: 3 x 256 numbers from 0 to 255, red, green, blue.

    Args:
        values: The value of each class, the background first, which is black.

    Example:
        >>> palette_of([0, 1, 7])[:6]
        [0, 0, 0, 255, 230, 0]
    """
    palette = np.zeros((SIZE, 3), dtype=int)
    for value, colour in zip(values[1:], colours_of(len(values) - 1), strict=True):
        if value < SIZE:
            palette[value] = colour
    found: list[int] = palette.reshape(-1).tolist()
    return found


def coloured(mask: np.ndarray, values: Sequence[int]) -> Image.Image:
    """Return a mask as a picture that a reader takes as numbers and a viewer shows in colours.

    Args:
        mask: (H, W) values from 0 to 255.
        values: As in `palette_of`.

    Example:
        >>> image = coloured(np.array([[0, 1]]), [0, 1])
        >>> image.mode, np.asarray(image).tolist(), image.convert("RGB").getpixel((1, 0))
        ('P', [[0, 1]], (255, 230, 0))
    """
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette(palette_of(values))
    return image


def outlined(image: Image.Image, labels: np.ndarray, side: int) -> Image.Image:
    """Return an image, its longer side as long as asked for, with the outlines of its classes.

    Around every area runs a line in the colour of its class, and a black one around that; what is inside
    stays as it is.

    Args:
        image: RGB.
        labels: (H, W) classes, 0 the background.
        side: Pixels of the longer side: lines are drawn after scaling, so that they stay as wide as they are.

    Example:
        >>> image = Image.new("RGB", (6, 6), (9, 9, 9))
        >>> labels = np.zeros((6, 6), dtype=int)
        >>> labels[2:5, 2:5] = 1
        >>> drawn = outlined(image, labels, 6)
        >>> [drawn.getpixel((x, 3)) for x in range(4)]  # ground, edge, line, what is inside
        [(9, 9, 9), (0, 0, 0), (255, 230, 0), (9, 9, 9)]
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.resize(size, Image.Resampling.BICUBIC))
    seen = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    inner = (seen > 0) & (grey_erosion(seen, 3, mode="nearest") != grey_dilation(seen, 3, mode="nearest"))
    pixels[binary_dilation(inner, np.ones((3, 3))) & (seen == 0)] = EDGE
    colours = np.array([EDGE, *colours_of(int(seen.max()))], dtype=np.uint8)
    pixels[inner] = colours[seen[inner]]
    return Image.fromarray(pixels)

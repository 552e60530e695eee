"""Masks: which value or colour of a pixel is which class, read from files, or refused by name."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calib.core.text import few
from calib.data.images import check_image, read_image_file

MEAN = "mean"  # what tables call the mean over classes
MOST_CLASSES = 64  # more values in masks are numbers of objects, or of an image that JPEG has blurred
WHOLE = ("L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class MaskClasses:
    """The classes of masks, the background first.

    Attributes:
        names: C names.
        values: For each class the values of its pixels, at least one; of colours 65536 r + 256 g + b.
        colours: Whether masks hold colours.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    colours: bool = False

    @classmethod
    def given(cls, classes: Mapping[str, Any]) -> MaskClasses:
        """Return the classes that somebody names: name to value, "#rrggbb", or a list of them.

        Raises:
            ValueError: There are fewer than 2, a value is none or belongs to two classes, or one is called
                "mean".

        Example:
            >>> MaskClasses.given({"background": 0, "nucleus": [1, 2]}).values
            ((0,), (1, 2))
            >>> MaskClasses.given({"background": "#000000", "vessel": "#ff0000"}).values
            ((0,), (16711680,))
        """
        if len(classes) < 2:
            raise ValueError(
                "data.classes must name at least 2 classes, the background first: "
                "'data.classes={background: 0, nucleus: [1, 2]}'."
            )
        if len(classes) > MOST_CLASSES:
            raise ValueError(
                f"data.classes names {len(classes)} classes; at most {MOST_CLASSES} are trained."
            )
        if MEAN in classes:
            raise ValueError(f"data.classes: '{MEAN}' is what tables call the mean over classes; rename it.")
        kinds, values = set(), []
        for name, given in classes.items():
            listed = [*given] if isinstance(given, list | tuple) else [given]
            if not listed:
                raise ValueError(f"data.classes.{name} is an empty list: say the value of its pixels.")
            read = [_value(name, each) for each in listed]
            kinds |= {coloured for _, coloured in read}
            values.append(tuple(value for value, _ in read))
        if len(kinds) > 1:
            raise ValueError("data.classes holds numbers and colours: masks hold one or the other.")
        counts = Counter(value for each in values for value in each)
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"data.classes gives the value {twice[0]} to more than one class.")
        return cls(tuple(map(str, classes)), tuple(values), kinds == {True})

    @classmethod
    def found(cls, paths: Iterable[Path]) -> MaskClasses:
        """Return the classes of masks in which every value is a class, called by its number.

        Raises:
            ValueError: There is a single value, or there are too many; a mask cannot be read.
        """
        seen: dict[int, Path] = {}
        for path in paths:
            for value in np.unique(read_values(path)).tolist():
                seen.setdefault(value, path)
            if len(seen) > MOST_CLASSES:
                raise ValueError(
                    f"The masks hold more than {MOST_CLASSES} values (the last in {path}): they are no "
                    "classes. Numbers of single objects have to be put together first, e.g. as 1 for all."
                )
        if len(seen) < 2:
            raise ValueError(
                f"All pixels of the training masks have the value {few([str(value) for value in seen])}: "
                "there is nothing to tell apart."
            )
        values = sorted(seen)
        return cls(tuple(str(value) for value in values), tuple((value,) for value in values))

    def read(self, path: Path) -> np.ndarray:
        """Return the class of every pixel of a mask, (H, W) uint8.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no mask, or a pixel is of no class.
        """
        values = read_values(path, colours=self.colours)
        found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        class_of = {value: number for number, each in enumerate(self.values) for value in each}
        strangers = [(value, count) for value, count in zip(found.tolist(), counts.tolist(), strict=True)
                     if value not in class_of]  # fmt: skip
        if strangers:
            value, count = strangers[0]
            rest = f" (and {len(strangers) - 1} more values)" if len(strangers) > 1 else ""
            raise ValueError(
                f"{path}: {count} pixels have the value {self._shown(value)}{rest}, which is no class. "
                f"Classes: {self.described()}. Say what it is: data.classes."
            )
        table = np.array([class_of[value] for value in found.tolist()], dtype=np.uint8)
        return table[place].reshape(values.shape)

    def described(self) -> str:
        """Return the classes with their values, in words."""
        parts = [
            f"{name} = {' or '.join(map(self._shown, values))}"
            for name, values in zip(self.names, self.values, strict=True)
        ]
        return few(parts, 8)

    def _shown(self, value: int) -> str:
        return f"#{value:06x}" if self.colours else str(value)


def read_values(path: Path, *, colours: bool = False) -> np.ndarray:
    """Return the values of a mask, (H, W) int64; of colours 65536 r + 256 g + b.

    Args:
        path: A file without losses, such as PNG or TIFF.
        colours: Whether classes are colours.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, one of JPEG, or of colours where numbers are expected.
    """
    content = read_image_file(path)
    check_image(content, str(path))
    image = Image.open(io.BytesIO(content))
    if image.format in ("JPEG", "MPO"):
        raise ValueError(f"{path} is a JPEG, which changes values at edges: save masks as PNG or TIFF.")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        raise ValueError(f"{path} cannot be decoded ({error}).") from error
    if colours:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int64), -1, 0)
        return 65536 * red + 256 * green + blue
    if image.mode == "1":
        return np.asarray(image, dtype=np.int64)
    if image.mode in WHOLE:
        return np.asarray(image).astype(np.int64)
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise ValueError(f"{path} has pixels of type {image.mode}: a mask holds whole numbers.")
    bands = np.asarray(image)
    plain = bands[..., : 1 if image.mode == "LA" else 3]
    if (plain == plain[..., :1]).all():
        return plain[..., 0].astype(np.int64)
    shown = sorted(
        {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(plain.reshape(-1, 3), axis=0)[:8].tolist()}
    )
    raise ValueError(
        f"{path} holds colours ({few(shown)}), not numbers. Say which colour is which class: "
        f'\'data.classes={{background: "{shown[0]}", NAME: "{shown[-1]}"}}\'.'
    )


def pixels_of(masks: Sequence[np.ndarray], n_classes: int) -> list[int]:
    """Return how many pixels of each class masks hold.

    Example:
        >>> pixels_of([np.array([[0, 2], [0, 0]])], 3)
        [3, 0, 1]
    """
    total = np.zeros(n_classes, dtype=np.int64)
    for mask in masks:
        total += np.bincount(mask.reshape(-1), minlength=n_classes)
    return [int(count) for count in total]


def _value(name: str, given: Any) -> tuple[int, bool]:
    """Return a value and whether it is a colour."""
    if isinstance(given, str) and len(given) == 7 and given.startswith("#"):
        try:
            return int(given[1:], 16), True
        except ValueError:
            pass
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(
            f'data.classes.{name} must be a value of pixels (0, 1, ...), a colour ("#ff0000"), or a list of '
            f"them, not {given!r}."
        )
    return given, False

"""Images with their masks: from folders `images` and `masks` or a table; which belongs to which."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calib.core.errors import meant_path, unknown_name
from calib.core.hashing import json_digest
from calib.core.text import few
from calib.data.images import has_image_suffix, odd_kind, open_image
from calib.data.notices import ProgressLog
from calib.data.readers.table import TABLE_SUFFIXES
from calib.data.readers.table_paths import check_files, check_links, native, within
from calib.data.readers.table_rows import Row, read_rows
from calib.data.task import SPLITS
from calib.segmentation.masks import MaskClasses, pixels_of

log = logging.getLogger(__name__)
IMAGES, MASKS = "images", "masks"
UNSPLIT = "all"  # the only split of a folder without train, val and test
COLUMN_KEYS = {"file": "file", "image": "file", "mask": "label", "label": "label", "split": "split",
               "group": "group", "patient": "group", "id": "id"}  # fmt: skip


@dataclass(frozen=True)
class PixelTable:
    """Images with a mask each.

    Attributes:
        images: N files.
        masks: N files.
        names: N readable names.
        groups: N groups, such as patients. None: not known.
        classes: What the values of the masks are.
        grey16_max: The white of 16-bit images, see `calib.data.images.open_image`.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...] | None
    classes: MaskClasses
    grey16_max: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> tuple[Image.Image, np.ndarray]:
        """Return an image as RGB, and the class of each of its pixels, (H, W) uint8.

        Raises:
            FileNotFoundError: A file is gone.
            ValueError: A file cannot be read, a value is no class, or their sizes differ.
        """
        image = open_image(self.images[row], grey16_max=self.grey16_max)
        mask = self.classes.read(self.masks[row])
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"{self.masks[row]} has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                f"{self.images[row]} {image.width} x {image.height}: they must be the same."
            )
        return image, mask

    def rows(self, chosen: Sequence[int]) -> PixelTable:
        """Return some of the images."""
        pick = lambda values: tuple(values[row] for row in chosen)  # noqa: E731
        groups = None if self.groups is None else pick(self.groups)
        return replace(
            self, images=pick(self.images), masks=pick(self.masks), names=pick(self.names), groups=groups
        )

    def look(self) -> dict[str, Any]:
        """Return what the images are, once each could be read: digest, number, pixels per class.

        Raises:
            ValueError: As `read`.
        """
        digests, pixels = [], np.zeros(len(self.classes.names), dtype=np.int64)
        progress = ProgressLog(log, "reading images and masks", len(self))
        for row in range(len(self)):
            digests.append(self.id_of(row))
            pixels += np.array(pixels_of([self.read(row)[1]], len(pixels)))
            progress.update(row + 1)
        return {"n": len(self), "digest": json_digest(digests), "pixels": pixels.tolist()}

    def id_of(self, row: int) -> str:
        """Return the content id of an image and its mask, the SHA-256 of their bytes one after the other."""
        digest = hashlib.sha256(self.images[row].read_bytes())
        digest.update(self.masks[row].read_bytes())
        return digest.hexdigest()


def load_pixels(
    root: str | Path,
    *,
    classes: Mapping[str, Any] | MaskClasses | None = None,
    table: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    delimiter: str | None = None,
    skip_splits: Sequence[str] = (),
    allow_outside: bool = False,
    grey16_max: int | None = None,
) -> dict[str, PixelTable]:
    """Return the images of every split with their masks.

    Folders: `ROOT/train/images/NAME.*` with `ROOT/train/masks/NAME.*`, likewise val and test; without these
    and without a table, `ROOT/images` and `ROOT/masks` are the split "all". A table (CSV, TSV, Parquet) has
    the columns file (or image, path), mask, split and perhaps group (or patient), with paths that start from
    its folder.

    Args:
        root: The folder, or the table.
        classes: Name to value, see `MaskClasses.given`. None or empty: every value of the masks of train (or
            all) is a class.
        table: Name of a table in the folder. None: the only one there, if it has no folders of images.
        columns: What the columns file, mask, split, group and id are called; None: it is not used.
        delimiter: Of a text table. None: comma, of .tsv a tab.
        skip_splits: Values of the split column that are left out.
        allow_outside: Whether paths of the table may lead out of its folder.
        grey16_max: The white of 16-bit images.

    Raises:
        FileNotFoundError: There is no such folder or table.
        ValueError: An image has no mask or a mask no image, two have one name, or the layout is another.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"There is no folder or table {root} (data.root).{meant_path(root)}")
    if root.is_file() and root.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{root} is no table ({', '.join(TABLE_SUFFIXES)}) and no folder (data.root).")
    if root.is_file() or table is not None or not _has_folders(root):
        found = _of_table(root, table, columns or {}, delimiter, skip_splits, allow_outside)
    else:
        found = _of_folders(root)
    known = classes if isinstance(classes, MaskClasses) else MaskClasses.given(classes) if classes else None
    if known is None:
        first = next(split for split in ("train", UNSPLIT, "val", "test") if split in found)
        known = MaskClasses.found(mask for _, mask, _, _ in found[first])
    return {split: _table(rows, known, grey16_max) for split, rows in found.items()}


Found = list[tuple[Path, Path, str, str | None]]  # image, mask, name, group


def _table(rows: Found, classes: MaskClasses, grey16_max: int | None) -> PixelTable:
    images, masks, names, groups = zip(*rows, strict=True)
    known = None if any(group is None for group in groups) else groups
    return PixelTable(images, masks, names, known, classes, grey16_max)


def _has_folders(root: Path) -> bool:
    """Return whether folders say what is what; a table beside folders without splits knows more."""
    if any((root / part / IMAGES).is_dir() for part in SPLITS):
        return True
    return (root / MASKS).is_dir() and not any(
        path.suffix.lower() in TABLE_SUFFIXES for path in root.iterdir()
    )


def _of_folders(root: Path) -> dict[str, Found]:
    sides = (IMAGES, MASKS)
    splits = [split for split in SPLITS if any((root / split / side).is_dir() for side in sides)]
    if splits:
        return {split: _pairs(root / split) for split in splits}
    return {UNSPLIT: _pairs(root)}


def _pairs(folder: Path) -> Found:
    """Return the images of a folder with the masks of the same name."""
    sides: dict[str, dict[str, Path]] = {}
    for side in (IMAGES, MASKS):
        if not (folder / side).is_dir():
            raise ValueError(f"{folder} has no folder '{side}': images lie in images, masks in masks.")
        files = sorted(path for path in (folder / side).iterdir() if has_image_suffix(path))
        by_stem: dict[str, Path] = {}
        for path in files:
            if path.stem in by_stem:
                raise ValueError(f"{path} and {by_stem[path.stem]} have the same name without ending.")
            by_stem[path.stem] = path
        sides[side] = by_stem
    images, masks = sides[IMAGES], sides[MASKS]
    if not images:
        raise ValueError(f"There are no images in {folder / IMAGES}.")
    bare = sorted(images.keys() - masks.keys())
    if bare:
        raise ValueError(
            f"{len(bare)} of the {len(images)} images in {folder / IMAGES} have no mask of the same name in "
            f"{folder / MASKS}: {few([images[stem].name for stem in bare])}."
        )
    lone = sorted(masks.keys() - images.keys())
    if lone:
        raise ValueError(
            f"{len(lone)} masks in {folder / MASKS} have no image of the same name: "
            f"{few([masks[stem].name for stem in lone])}."
        )
    return [(path, masks[stem], path.name, None) for stem, path in images.items()]


def _of_table(
    root: Path,
    table: str | None,
    columns: Mapping[str, str | None],
    delimiter: str | None,
    skip_splits: Sequence[str],
    allow_outside: bool,
) -> dict[str, Found]:
    named = {"label": "mask"}
    for key, column in columns.items():
        if key not in COLUMN_KEYS:
            raise unknown_name("key of data.options.columns", key, COLUMN_KEYS)
        named[COLUMN_KEYS[key]] = column  # type: ignore[assignment]
    if root.is_dir():
        tables = sorted(path.name for path in root.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
        if table is None and len(tables) > 1:
            raise ValueError(
                f"{root} has several tables ({few(tables)}): name the one, as {root / tables[0]}."
            )
        if table is None and not tables:
            raise ValueError(
                f"{root} has neither folders images and masks (or train/images and train/masks, ...) nor a "
                f"table ({', '.join(TABLE_SUFFIXES)})."
            )
        path = root / (table or tables[0])
    else:
        path, root = root, root.parent
    try:
        rows, _, unsplit = read_rows(path, named, delimiter, None, skip_splits)
    except ValueError as error:  # there the second path of a row is a label
        raise ValueError(
            str(error).replace("data.options.columns.label=", "data.options.columns.mask=")
        ) from None
    masks = [replace(row, file=row.label, name=row.label) for row in rows]
    rows = _checked(rows, root, allow_outside, "images")
    masks = _checked(masks, root, allow_outside, "masks")
    found: dict[str, Found] = {}
    for row, mask in zip(rows, masks, strict=True):
        split = row.split if unsplit is None else UNSPLIT
        found.setdefault(split, []).append((root / row.file, root / mask.file, row.name, row.group))
    if not found:
        raise ValueError(f"{path} has no rows of train, val or test.")
    return {split: found[split] for split in (*SPLITS, UNSPLIT) if split in found}


def _checked(rows: list[Row], root: Path, allow_outside: bool, what: str) -> list[Row]:
    rows = [native(row, root) for row in rows]
    rows = rows if allow_outside else [within(row, root) for row in rows]
    check_files(rows, root, what)
    if not allow_outside:
        check_links(rows, root)
    return rows


def images_in(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that paths name: files, and folders with their images.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: A file is no image, or a folder has none.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = sorted(path for path in given.iterdir() if has_image_suffix(path))
            if not inside:
                raise ValueError(f"There are no images in {given}.")
            found += inside
        elif not given.exists():
            raise FileNotFoundError(f"There is no image or folder {given}.{meant_path(given)}")
        elif not has_image_suffix(given) or odd_kind(given) is not None:
            raise ValueError(f"{given} is no image file.")
        else:
            found.append(given)
    return found

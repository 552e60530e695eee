"""Images without labels, in a folder or a table; the list of those labelled since makes a task of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calib.core.errors import meant_path
from calib.core.text import few
from calib.data.images import IMAGE_SUFFIXES, file_id, looks_like_image, odd_kind
from calib.data.readers.table import TABLE_SUFFIXES
from calib.data.readers.table_paths import check_files, check_links, is_file, native, within
from calib.data.readers.table_rows import read_rows
from calib.data.records import FileSource, ImageTable
from calib.data.shot_list import ListedImage, ShotList, read_shot_list
from calib.data.task import ClassNames, Splits


def load_pool(
    root: str | Path, shots_from: str | Path | None = None, *, class_names: ClassNames | None = None
) -> Splits:
    """Return the labelled images of a pool as a training split; there is no other.

    Args:
        root: The folder of the images, or a table of them; see `load_unlabelled`.
        shots_from: The list of chosen images with their labels, which `calib select` began.
        class_names: Names in label order. None: the labels in the list.

    Raises:
        FileNotFoundError: Folder or list do not exist.
        ValueError: There is no list, labels are missing or unknown, or an image is missing or was changed.
    """
    base = _folder_of(root)
    if shots_from is None:
        raise ValueError(
            "Images without labels (data.name=pool) are trained on by the list of those that were chosen and "
            "labelled: data.shots_from=FILE. calib select makes it. To evaluate, give labelled images "
            "(data.name=folder data.root=FOLDER)."
        )
    chosen = read_shot_list(shots_from)
    chosen.check_filled()
    labels, names = chosen.numbered(class_names)
    _check_unchanged(chosen, base)
    grouped = all(each.group is not None for each in chosen.images)
    table = ImageTable(
        [FileSource(base / each.file) for each in chosen.images],
        [label for label in labels if label is not None],
        [each.file for each in chosen.images],
        groups=[each.group or "" for each in chosen.images] if grouped else None,
        ids=[each.content_id for each in chosen.images],
    )
    said = f"{chosen.path} lists images for training only (data.name=pool)."
    return Splits(names, {"train": table}, (), lambda split: f"{said} It has no {split} images.")


def load_unlabelled(root: str | Path) -> ImageTable:
    """Return all images of a pool; their labels are all 0 and mean nothing.

    Args:
        root: A folder, which is searched in depth (links to folders are not followed); or a CSV, TSV or
            Parquet table with a column for the file and, if there is one, for the group (see
            `calib.data.readers.table_rows.COLUMNS`), whose paths start from its folder. Rows of another split
            than train are left out.

    Raises:
        FileNotFoundError: It does not exist.
        ValueError: It holds no images, or the table is not as above.
    """
    path = Path(root)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return _of_table(path)
    base = _folder_of(root)
    files = sorted(file for file in base.rglob("*") if _is_image(file, base))
    if not files:
        raise ValueError(f"The folder {base} holds no image (known endings: {', '.join(IMAGE_SUFFIXES)}).")
    names = [file.relative_to(base).as_posix() for file in files]
    return ImageTable([FileSource(file) for file in files], [0] * len(files), names)


def _of_table(path: Path) -> ImageTable:
    base = path.parent
    rows, *_ = read_rows(path, {"id": None}, None, None, (), labelled=False)
    rows = [row for row in rows if row.split != "test" and row.split != "val"]
    rows = [within(native(row, base), base, how=None) for row in rows]
    if not rows:
        raise ValueError(f"{path} lists no images to choose from: all are of the splits test and val.")
    check_files(rows, base)
    check_links(rows, base, how=None)
    grouped = rows[0].group is not None
    return ImageTable(
        [FileSource(base / row.file) for row in rows],
        [0] * len(rows),
        [row.name for row in rows],
        groups=[row.group or "" for row in rows] if grouped else None,
    )


def _folder_of(root: str | Path) -> Path:
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or table {path} (data.root).{meant_path(path)}")
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return path.parent
    if not path.is_dir():
        raise ValueError(f"{path} is {odd_kind(path) or 'no folder'}, not a folder of images (data.root).")
    return path


def _is_image(file: Path, base: Path) -> bool:
    """Return whether a path is an image of the pool, by its name or as a DICOM file, and no hidden one."""
    hidden = any(part.startswith(".") for part in file.relative_to(base).parts)
    return not hidden and looks_like_image(file) and file.is_file()


def _check_unchanged(chosen: ShotList, base: Path) -> None:
    """Refuse a list of which an image is missing, lies elsewhere, or was changed since it was chosen."""
    outside = [
        each for each in chosen.images if Path(each.file).is_absolute() or ".." in Path(each.file).parts
    ]
    if outside:
        raise ValueError(f"{outside[0].where}: the path '{outside[0].file}' leads out of {base}.")
    missing = [each for each in chosen.images if not is_file(base / each.file)]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(chosen.images)} images in {chosen.path} do not exist in {base} "
            f"(data.root): {_named(missing)}."
        )
    changed = [each for each in chosen.images if file_id(base / each.file) != each.content_id]
    if changed:
        raise ValueError(
            f"{len(changed)} images are no longer those that were chosen: their content differs from "
            f"{chosen.path}: {_named(changed)}. Put the images back, or choose anew (calib select)."
        )


def _named(images: Sequence[ListedImage]) -> str:
    return few([f"{each.file} ({each.where.rpartition(', ')[2]})" for each in images])

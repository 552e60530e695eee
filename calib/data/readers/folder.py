"""Images in class folders: `<root>/{train[,test][,val]}/<class>/*`, or the same under `<root>/images`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from calib.core.errors import meant_path, unknown_name
from calib.core.names import one_form, one_spelling
from calib.core.problems import note
from calib.core.text import few
from calib.data.dicom import is_dicom_file
from calib.data.images import IMAGE_SUFFIXES, has_image_suffix, looks_like_image, why_no_file
from calib.data.labels import number_labels
from calib.data.records import FileSource, ImageTable
from calib.data.task import MEANT, SPLITS, UNSPLIT, ClassNames, Splits, Table, put_in_order

logger = logging.getLogger(__name__)

CLASS_NAMES_FILE = "classnames.txt"
# Files that commonly lie beside images. Any other ending is an error: it may be an image in a format not read
# here.
SIDECARS = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".log", ".db", ".ini")


def load_image_folder(root: str | Path, *, class_names: ClassNames | None = None) -> Splits:
    """Return the splits of a folder of images.

    The layout is `<root>/{train[,test][,val]}/<class>/*`, or with the splits under `<root>/images`; a prompt
    can also be applied to `<root>/test/<class>/*` alone, and to `<root>/<class>/*`. A class may have no
    folder, or an empty one, in some split. One numbering of the classes, the sorted folder names, serves all
    splits; folders called by numbers are labels already. Class names come from `class_names`,
    else from `<root>/classnames.txt` (lines "<folder> <class name>"), else from the folder names with
    underscores as spaces. A list `class_names` that holds just the names in classnames.txt, or just the
    folders, sets the numbering.
    Differs: the official CalibPrompt code numbers the folders of every split by themselves and takes any
        file.

    Args:
        root: The data set's folder.
        class_names: Folder to name, or names in label order; see `calib.data.task.number_classes`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The layout is another one, or a file is not an image.
    """
    root = Path(root)
    base, layout = _layout(root)
    skipped: list[str] = []
    found = {split: _scan_split(folder, root, skipped) for split, folder in layout.items()}
    unsplit = layout == {UNSPLIT: base}
    if skipped:
        logger.warning("Skipped %d files that are not images: %s", len(skipped), few(skipped))
    found = _by_one_spelling(found)
    folders = sorted(set().union(*found.values()))
    if not isinstance(class_names, Mapping) and (root / CLASS_NAMES_FILE).is_file():
        named = _listed_names(root / CLASS_NAMES_FILE, folders)
        class_names = (
            named if class_names is None else put_in_order(named, class_names, source=CLASS_NAMES_FILE)
        )
    labels, names = number_labels(
        {folder: str(base) for folder in folders},
        class_names,
        what="class folder",
        hint=f", or a {CLASS_NAMES_FILE} with lines '<folder> <class name>'",
    )
    tables: dict[str, Table] = {split: _table(classes, labels, root) for split, classes in found.items()}
    tables = {split: table for split, table in tables.items() if len(table)}
    notes = (f"{base} has no split folders: all images are for testing.",) if unsplit else ()
    return Splits(names, tables, notes, lambda split: _no_split(base, split, unsplit))


def _no_split(base: Path, split: str, unsplit: bool) -> str:
    """Return the message for a split that is needed and not there."""
    listed = few(_subfolders(base)) or "no folders"
    if not unsplit:
        empty = f"no images in its '{split}' folder" if (base / split).is_dir() else f"no '{split}' folder"
        return f"{base} has {empty}; it has: {listed}."
    if base.name in SPLITS:
        return f"{base} is itself a '{base.name}' folder: give the folder it lies in, {base.parent}."
    loose = sum(path.is_file() and looks_like_image(path) for path in base.iterdir())
    listed += f" (and {loose} images, which belong in class folders)" if loose else ""
    return (
        f"{base} has no 'train' and 'test' folders; it has: {listed}. Expected "
        "<root>/train/<class>/* and, for test results, <root>/test/<class>/*. Images not split yet can be "
        "listed in a table with a split column (data.name=table)."
    )


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry))


def _by_one_spelling(found: dict[str, dict[str, list[Path]]]) -> dict[str, dict[str, list[Path]]]:
    """Return the images of each split by class folder, those whose names look the same under one name."""
    spelling = one_spelling(folder for classes in found.values() for folder in classes)
    shared: dict[str, dict[str, list[Path]]] = {}
    for split, classes in found.items():
        shared[split] = {}
        for folder, paths in classes.items():
            shared[split].setdefault(spelling[folder], []).extend(paths)
    return shared


def _listed_names(path: Path, folders: list[str]) -> dict[str, str]:
    """Return the class names in a file by folder, sorted by folder."""
    by_form = {one_form(folder): folder for folder in folders}
    named = {by_form.get(one_form(each), each): name for each, name in read_class_names(path).items()}
    strangers = [folder for folder in folders if folder not in named]
    if strangers:
        raise ValueError(f"{path}: {unknown_name('class folder', strangers[0], named)}")
    return {folder: named[folder] for folder in sorted(named)}


def read_class_names(path: Path) -> dict[str, str]:
    """Return folder to class name from lines "<folder> <class name>", split at the first tab, else space.

    Raises:
        ValueError: A line has no class name, or a folder is listed twice; the message says which line. Or it
            is not UTF-8.
    """
    names: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        folder, _, name = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if not name.strip():
            raise ValueError(
                f"{path}, line {number}: expected '<folder> <class name>', got {line.strip()!r}."
            )
        if folder in names:
            raise ValueError(f"{path}, line {number}: the folder '{folder}' is listed twice.")
        names[folder] = name.strip()
    return names


def _layout(root: Path) -> tuple[Path, dict[str, Path]]:
    """Return the folder that the images are under, and the folder of every split."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root} (data.root).{meant_path(root)}")
    within = (root, root / "images")
    bases = [base for base in within if any((base / split).is_dir() for split in SPLITS)]
    if len(bases) > 1:
        raise ValueError(f"{root} has splits both directly and under 'images'. Keep one of the two.")
    base = bases[0] if bases else next((base for base in reversed(within) if _holds_classes(base)), root)
    layout = {split: base / split for split in SPLITS if (base / split).is_dir()}
    for name in _subfolders(base):
        meant = MEANT.get(name.lower(), name.lower())
        if meant in SPLITS and name not in SPLITS:
            note(ValueError(f"{base / name}: please name this folder '{meant}'."))
            layout.setdefault(meant, base / name)
    if layout:
        return base, layout
    if not _holds_classes(base):
        raise ValueError(_no_split(base, UNSPLIT, unsplit=True))
    return base, {UNSPLIT: base}


def _holds_classes(folder: Path) -> bool:
    """Return whether a folder holds class folders: some with images, none with folders of its own."""
    inside = (
        [folder / name for name in _subfolders(folder) if not name.startswith(".")] if folder.is_dir() else []
    )
    flat = not any(_subfolders(each) for each in inside)
    return flat and any(looks_like_image(path) for each in inside for path in each.iterdir())


def _scan_split(folder: Path, root: Path, skipped: list[str]) -> dict[str, list[Path]]:
    classes = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            classes[entry.name] = _scan_class(path, root, skipped)
        elif _is_image(path, root, skipped):
            outside = f"{path} lies outside the class folders; expected {folder.name}/<class>/{entry.name}."
            note(ValueError(outside), like="outside")
    if not classes:
        note(ValueError(f"{folder} has no class folders."))
    return classes


def _scan_class(folder: Path, root: Path, skipped: list[str]) -> list[Path]:
    images = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            nested = (
                f"{path} is a folder inside a class folder; images must lie directly in {folder}, or be "
                "listed in a table, which can name the patients, too (data.name=table)."
            )
            note(ValueError(nested), like="nested")
        elif _is_image(path, root, skipped):
            images.append(path)
    return images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link to itself raises nothing."""
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_image(path: Path, root: Path, skipped: list[str]) -> bool:
    """Return whether a file is an image; what commonly lies beside images is added to `skipped`."""
    odd = why_no_file(path)
    if odd is not None:
        note(ValueError(f"{path} is {odd}. Remove it from the data set's folder."), like=odd)
        return False
    if has_image_suffix(path):
        return True
    sidecar = path.suffix.lower() in SIDECARS
    if not sidecar and is_dicom_file(path):  # which are often called by a number
        return True
    if sidecar or not path.suffix:
        skipped.append(path.relative_to(root).as_posix())
    else:
        unread = (
            f"{path} is of a kind that is not read ({path.suffix}). Convert it to one of "
            f"{', '.join(IMAGE_SUFFIXES)}, or move it out of the data set's folder."
        )
        note(ValueError(unread), like=path.suffix.lower())
    return False


def _table(classes: dict[str, list[Path]], labels: dict[str, int], root: Path) -> ImageTable:
    rows = [
        (path, labels[folder])
        for folder in sorted(classes, key=labels.__getitem__)
        for path in classes[folder]
    ]
    return ImageTable(
        [FileSource(path) for path, _ in rows],
        [label for _, label in rows],
        [path.relative_to(root).as_posix() for path, _ in rows],
    )

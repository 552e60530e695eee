"""Images in class folders: `<root>/{train,test[,val]}/<class>/*`, or the same under `<root>/images`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from calib.core.names import one_form, one_spelling
from calib.core.text import few
from calib.data.images import IMAGE_SUFFIXES, has_image_suffix
from calib.data.records import FileSource, ImageTable
from calib.data.task import MEANT, SPLITS, ClassNames, Splits, Table, number_classes, put_in_order

logger = logging.getLogger(__name__)

CLASS_NAMES_FILE = "classnames.txt"
# Files that commonly lie beside images. Any other ending is an error: it may be an image in a format not read
# here.
SIDECARS = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".log", ".db", ".ini")


def load_image_folder(root: str | Path, *, class_names: ClassNames | None = None) -> Splits:
    """Return the splits of a folder of images.

    The layout is `<root>/{train,test[,val]}/<class>/*`, or with the splits under `<root>/images`. One
    numbering of the classes, the sorted folder names, serves all splits. Class names come from `class_names`,
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
        ValueError: The layout is another one, a class is missing or empty in a split, or a file is not an
            image.
    """
    root = Path(root)
    base = _split_base(root)
    skipped: list[str] = []
    found = {split: _scan_split(base / split, root, skipped) for split in SPLITS if (base / split).is_dir()}
    if skipped:
        logger.warning("Skipped %d files that are not images: %s", len(skipped), few(skipped))
    found = _by_one_spelling(found)
    folders = sorted(set().union(*found.values()))
    for split, classes in found.items():
        missing = [folder for folder in folders if folder not in classes]
        if missing:
            raise ValueError(
                f"The {split} split in {base} has no folder for class '{missing[0]}'; other splits have one."
            )
    if not isinstance(class_names, Mapping) and (root / CLASS_NAMES_FILE).is_file():
        named = _listed_names(root / CLASS_NAMES_FILE, folders)
        class_names = (
            named if class_names is None else put_in_order(named, class_names, source=CLASS_NAMES_FILE)
        )
    labels, names = number_classes(folders, class_names, what="class folder")
    used = {labels[folder] for folder in folders}
    absent = [name for label, name in enumerate(names) if label not in used]
    if absent:
        raise ValueError(
            f"{base} has no folder for class '{absent[0]}'. Its class folders: {few(folders, 20)}. "
            "Correct data.class_names."
        )
    tables: dict[str, Table] = {split: _table(classes, labels, root) for split, classes in found.items()}
    return Splits(names, tables)


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
    absent = [folder for folder in named if folder not in folders]
    if absent:
        raise ValueError(f"{path} names the folder '{absent[0]}', which no split has.")
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


def _split_base(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root} (data.root).")
    bases = [
        base for base in (root, root / "images") if (base / "train").is_dir() or (base / "test").is_dir()
    ]
    if len(bases) > 1:
        raise ValueError(f"{root} has splits both directly and under 'images'. Keep one of the two.")
    subfolders = sorted(entry.name for entry in os.scandir(bases[0] if bases else root) if entry.is_dir())
    if not bases:
        raise ValueError(
            f"{root} has no 'train' and 'test' folders; it has: {few(subfolders) or 'no folders'}. Expected "
            "<root>/train/<class>/* and <root>/test/<class>/*. Images not split yet can be listed in a "
            "table with a split column (data.name=table)."
        )
    for name in subfolders:
        if name.lower() in MEANT:
            raise ValueError(f"{bases[0] / name}: please name this folder '{MEANT[name.lower()]}'.")
    for split in ("train", "test"):
        if split not in subfolders:
            raise ValueError(f"{bases[0]} has no '{split}' folder; it has: {few(subfolders)}.")
    return bases[0]


def _scan_split(folder: Path, root: Path, skipped: list[str]) -> dict[str, list[Path]]:
    classes = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            classes[entry.name] = _scan_class(path, root, skipped)
        elif _is_image(path):
            raise ValueError(
                f"{path} lies outside the class folders; expected {folder.name}/<class>/{entry.name}."
            )
        else:
            skipped.append(path.relative_to(root).as_posix())
    if not classes:
        raise ValueError(f"{folder} has no class folders.")
    return classes


def _scan_class(folder: Path, root: Path, skipped: list[str]) -> list[Path]:
    images = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            raise ValueError(
                f"{path} is a folder inside a class folder; images must lie directly in {folder}."
            )
        if _is_image(path):
            images.append(path)
        else:
            skipped.append(path.relative_to(root).as_posix())
    if not images:
        raise ValueError(f"The class folder {folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
    return images


def _is_image(path: Path) -> bool:
    if not path.is_file():
        raise ValueError(f"{path} is a broken link.")
    if has_image_suffix(path):
        return True
    if path.suffix.lower() in SIDECARS or not path.suffix:
        return False
    raise ValueError(
        f"{path} is of a kind that is not read ({path.suffix}). Convert it to one of "
        f"{', '.join(IMAGE_SUFFIXES)}, or move it out of the data set's folder."
    )


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

"""`calib data check` of images with masks: what `calib segment` will read, and what it would refuse."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calib.commands.data_verdict import verdict
from calib.commands.segment.palette import NAMED as COLOURS
from calib.commands.segment.palette import outlined
from calib.commands.segment.train import check_trainable, tables_of
from calib.config import SegmentRun
from calib.core.text import few
from calib.data.notices import ProgressLog
from calib.report.contact_sheet import SheetRow, save_contact_sheet
from calib.report.tables import aligned
from calib.segmentation.tables import PixelTable

NAMED = 10
SHOWN, WIDE, SIDE = 12, 6, 200  # images of a split in the picture, side by side, and their pixels
RARE = 20  # training images with a class, below which its Dice is to be looked at by itself
log = logging.getLogger(__name__)


def check_pixels(config: SegmentRun, picture: Path | None = None) -> dict[str, Any]:
    """Return what was found among images with masks, as JSON would have it.

    Args:
        config: The settings of `calib segment`.
        picture: The file for a picture of images with the outlines of their masks. None: none is drawn.

    Returns:
        {"data": root and classes with their values, "splits": {split: images, groups, and for each class its
        share of the pixels and in how many images it is}, "sizes", "unreadable": {split: {name: reason}},
        "copies" and "shared_groups" within and across splits, "picture", "warnings", "refused"}.
    """
    found: dict[str, Any] = {
        "data": {"name": "images with masks", "root": config.data.root, "classes": {}},
        "splits": {},
        "sizes": {},
        "unreadable": {},
        "copies": {},
        "shared_groups": {},
        "picture": None,
        "warnings": [],
        "refused": [],
    }
    tables: dict[str, PixelTable] = {}
    with _refusal(found["refused"]):
        tables = tables_of(config)
    if not tables:
        return found
    classes = tables["train"].classes
    found["data"]["classes"] = {name: [*v] for name, v in zip(classes.names, classes.values, strict=True)}
    sizes: Counter[str] = Counter()
    where: dict[str, list[str]] = {}  # digest of an image to the splits it is in
    progress = ProgressLog(log, "reading images and masks", sum(map(len, tables.values())))
    for split, table in tables.items():
        found["splits"][split] = _look(split, table, sizes, where, found, progress)
    found["sizes"] = dict(sizes.most_common())
    found["copies"] = dict(Counter("/".join(dict.fromkeys(s)) for s in where.values() if len(s) > 1))
    found["shared_groups"] = _shared_groups(tables)
    _judge(config, tables, found)
    if picture is not None and not found["unreadable"]:
        rows = [SheetRow(split, _drawn(table)) for split, table in tables.items()]
        save_contact_sheet(rows, _title(classes.names), picture, wide=WIDE, side=SIDE, tagged=False)
        found["picture"] = str(picture)
    return found


def _look(
    split: str,
    table: PixelTable,
    sizes: Counter[str],
    where: dict[str, list[str]],
    found: dict[str, Any],
    progress: ProgressLog,
) -> dict[str, Any]:
    pixels = np.zeros(len(table.classes.names), dtype=np.int64)
    images = np.zeros_like(pixels)
    before = sum(part["n"] for part in found["splits"].values())
    for row, name in enumerate(table.names):
        try:
            image, mask = table.read(row)
        except (ValueError, OSError) as error:
            found["unreadable"].setdefault(split, {})[name] = str(error)
        else:
            count = np.bincount(mask.reshape(-1), minlength=len(pixels))
            pixels, images = pixels + count, images + (count > 0)
            sizes[f"{image.width} x {image.height}"] += 1
            where.setdefault(_digest(table.images[row]), []).append(split)
        progress.update(before + row + 1)
    shares = pixels / max(1, int(pixels.sum()))
    return {
        "n": len(table),
        "groups": None if table.groups is None else len(set(table.groups)),
        "classes": {
            name: {"share": float(share), "images": int(count)}
            for name, share, count in zip(table.classes.names, shares, images, strict=True)
        },
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shared_groups(tables: Mapping[str, PixelTable]) -> dict[str, list[str]]:
    """Return the groups that are in more than one split."""
    where: dict[str, list[str]] = {}
    for split, table in tables.items():
        for group in dict.fromkeys(table.groups or ()):
            where.setdefault(group, []).append(split)
    return {group: splits for group, splits in sorted(where.items()) if len(splits) > 1}


def _judge(config: SegmentRun, tables: Mapping[str, PixelTable], found: dict[str, Any]) -> None:
    refused, warnings = found["refused"], found["warnings"]
    reasons = [reason for by_name in found["unreadable"].values() for reason in by_name.values()]
    if reasons:
        more = [f"and {len(reasons) - NAMED} more."] if len(reasons) > NAMED else []
        refused.append("\n  ".join([f"{len(reasons)} images or masks:", *reasons[:NAMED], *more]))
    trained = found["splits"]["train"]["classes"]
    if absent := [name for name, seen in trained.items() if not seen["images"]]:
        refused.append(f"No training mask has a pixel of {few(absent)} (data.classes).")
    with _refusal(refused):
        check_trainable(config, tables)
    rare = [f"{name} ({seen['images']})" for name, seen in trained.items() if 0 < seen["images"] < RARE]
    if rare and found["splits"]["train"]["n"] >= RARE:
        warnings.append(
            f"Of few training images: {few(rare)}. Look at these classes by themselves, in the results."
        )
    for split in ("val", "test"):
        if split not in tables:
            what = "curves and a temperature" if split == "val" else "results"
            warnings.append(f"There is no split {split}: no {what}.")
    if not config.data.classes:
        warnings.append(
            "Every value of the masks is a class; data.classes names them, and puts several together."
        )
    if found["copies"]:
        warnings.append(f"Copies (the same bytes): {_counts(found['copies'])}.")
    if found["shared_groups"]:
        warnings.append(f"Groups on both sides of a split: {few(list(found['shared_groups']), NAMED)}.")


def _counts(copies: Mapping[str, int]) -> str:
    return ", ".join(f"{n} in {split.replace('/', ' and ')}" for split, n in copies.items())


def _drawn(table: PixelTable) -> list[Image.Image]:
    step = max(1, len(table) // SHOWN)
    return [outlined(*table.read(row), SIDE) for row in range(0, len(table), step)][:SHOWN]


def _title(names: Sequence[str]) -> str:
    """Return what stands above the picture: the colours of the first classes."""
    known = zip(names[1:], COLOURS, strict=False)  # further ones have colours without a name
    return f"outlines of masks: {', '.join(f'{name} {colour}' for name, colour in known)}"


@contextlib.contextmanager
def _refusal(refused: list[str]) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        refused.append(str(error))


def words_of_pixels(found: Mapping[str, Any]) -> str:
    """Return the findings of `check_pixels` as text."""
    data, splits = found["data"], found["splits"]
    lines = [f"{data['name']} in {data['root']}: {len(data['classes'])} classes"]
    if splits:
        lines += ["", _table(found), ""]
        bad = sum(map(len, found["unreadable"].values()))
        total = sum(part["n"] for part in splits.values())
        lines.append(f"Images with masks: {total - bad} of {total} can be read.")
        sizes = found["sizes"]
        often = next(iter(sizes.items()), None)
        if often is not None:
            all_of = (
                f"Sizes: all {often[0]}" if len(sizes) == 1 else f"Sizes: {len(sizes)}, most often {often[0]}"
            )
            lines.append(f"{all_of} pixels.")
        if all(part["groups"] is None for part in splits.values()):
            lines.append("Patients: not known; images of one patient may be on both sides of a split.")
    if found["picture"] is not None:
        lines.append(f"Images with the outlines of their masks: {found['picture']}")
    return "\n".join([*lines, *verdict(found)])


def _table(found: Mapping[str, Any]) -> str:
    splits, classes = found["splits"], found["data"]["classes"]
    rows = []
    for name, values in classes.items():
        cells = [splits[split]["classes"][name] for split in splits]
        shown = [f"{each['images']} ({100 * each['share']:.1f} %)" for each in cells]
        rows.append([name, " ".join(map(str, values)), *shown])
    rows.append(["all", "", *(str(part["n"]) for part in splits.values())])
    if any(part["groups"] is not None for part in splits.values()):
        rows.append(["patients (groups)", "", *(str(part["groups"] or "?") for part in splits.values())])
    return aligned(["class", "value", *(f"{split}: images (pixels)" for split in splits)], rows)

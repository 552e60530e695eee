"""`calib data check` of a table of questions: what `calib vqa` will ask, and of which images."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.commands.data_arguments import holds_own
from calib.commands.data_verdict import verdict
from calib.core.text import few
from calib.data.notices import ProgressLog
from calib.report.tables import aligned
from calib.vqa.adapters.sources import read_source
from calib.vqa.images import PACKAGED, item_image
from calib.vqa.perturbations import BLACK
from calib.vqa.tables import Items, join_items, read_items

NAMED = 10
ALIKE = 0.2  # by how much the right option may stand at one place more often than chance
log = logging.getLogger(__name__)


def check_items(paths: Sequence[str], root: str | None = None) -> dict[str, Any]:
    """Return what was found in tables of items, as JSON would have it.

    Args:
        paths: .parquet or .jsonl files of items, or tables of own questions.
        root: The folder of relative paths of images; of an own table they are relative to the table.

    Returns:
        {"data": files, "own": those of own questions, "items", "questions", "groups", "conditions": {name:
        items}, "options": {number: items}, "right": {place: share}, "images": how many, and how many are
        packaged features, "unreadable": {image: reason}, "warnings", "refused"}.
    """
    own = [path for path in paths if holds_own(Path(path))]
    found: dict[str, Any] = {
        "own": own,
        "data": {"name": "items", "root": few(list(paths))},
        "items": 0,
        "warnings": [],
        "refused": [],
    }
    try:
        items = _read(paths, own, root)
    except (ValueError, OSError) as error:
        found["refused"].append(str(error))
        return found
    found |= {
        "items": len(items),
        "questions": len(set(items.bases.tolist())),
        "groups": len(set(items.groups.tolist())),
        "conditions": dict(Counter(items.conditions.tolist()).most_common()),
        "options": {str(n): count for n, count in sorted(Counter(items.n_options.tolist()).items())},
        "right": _right(items),
    }
    _look_at_images(items, root, found)
    chance = float((1 / items.n_options).mean())
    most = max(found["right"].items(), key=lambda each: each[1], default=None)
    if most is not None and most[1] > chance + ALIKE:
        found["warnings"].append(
            f"The right option stands at place {most[0]} in {100 * most[1]:.0f} % of the items: a model that "
            "always says so is as often right. calib vqa perturb kind=permute changes the order."
        )
    return found


def _read(paths: Sequence[str], own: Sequence[str], root: str | None) -> Items:
    """Return the items; images of own tables as whole paths, that `root` is not put before them again."""
    if not own:
        return read_items(*paths)
    folders = [Path(path).parent if root is None else Path(root) for path in own]
    parts = [
        read_source("table", path, root=folder.resolve()) for path, folder in zip(own, folders, strict=True)
    ]
    others = [path for path in paths if path not in own]
    return join_items([*parts, *([read_items(*others)] if others else [])])


def _right(items: Items) -> dict[str, float]:
    """Return how often the right option stands at each place, of the items that have one."""
    places = [place for place in items.correct.tolist() if place >= 0]
    return {chr(ord("A") + place): count / len(places) for place, count in sorted(Counter(places).items())}


def _look_at_images(items: Items, root: str | None, found: dict[str, Any]) -> None:
    named = [str(image) for image in items.texts("image") if image] if items.has("image") else []
    images = list(dict.fromkeys(named))
    files = [image for image in images if not image.removeprefix(BLACK).startswith(PACKAGED)]
    found["images"] = {
        "n": len(images),
        "packaged": len(images) - len(files),
        "without": len(items) - len(named),
    }
    bad: dict[str, str] = {}
    progress = ProgressLog(log, "looking at images", len(files))
    for number, image in enumerate(files, start=1):
        try:
            item_image(image, root)
        except (ValueError, OSError) as error:
            bad[image] = str(error)
        progress.update(number)
    found["unreadable"] = bad
    if bad:
        reasons = list(bad.values())
        more = [f"and {len(bad) - NAMED} more."] if len(bad) > NAMED else []
        found["refused"].append(
            "\n  ".join([f"{len(bad)} of {len(files)} images cannot be read:", *reasons[:NAMED], *more])
        )


def words_of_items(found: Mapping[str, Any]) -> str:
    """Return the findings of `check_items` as text."""
    lines = [f"Items in {found['data']['root']}"]
    if found["items"]:
        lines[0] += f": {found['items']}, of {found['questions']} questions in {found['groups']} groups"
        rows = [[name, str(count)] for name, count in found["conditions"].items()]
        lines += ["", aligned(["condition", "items"], rows), ""]
        options = ", ".join(f"{count} with {n}" for n, count in found["options"].items())
        right = ", ".join(f"{place} {100 * share:.0f} %" for place, share in found["right"].items())
        images = found["images"]
        lines += [f"Options: {options}.", f"The right one stands at: {right or 'none is right'}."]
        lines.append(
            f"Images: {images['n']} ({images['packaged']} of them packaged features), "
            f"{images['without']} items show none."
        )
    good = "They can be asked: nothing was found that calib vqa refuses."
    for path in found["own"]:
        good += f"\n  calib vqa items source=table path={shlex.quote(path)} out=items.jsonl"
    return "\n".join([*lines, *verdict(found, by="calib vqa answer", good=good)])

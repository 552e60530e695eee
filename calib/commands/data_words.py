"""What `calib data check` found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib.commands.check_failure import sentence_of
from calib.commands.data_verdict import verdict
from calib.core.text import few
from calib.report.tables import aligned

NAMED = 5  # names shown of each finding; --json has all


def words_of(found: Mapping[str, Any]) -> str:
    """Return the findings as text.

    Args:
        found: From `calib.commands.data.check`.
    """
    lines = [_heading(found)]
    if found["splits"]:
        lines += ["", _counts(found), ""]
        lines += [*_images(found), *_overlap(found), *_shots(found)]
        if found.get("failure") is not None:
            lines.append(sentence_of(found["failure"]))
    return "\n".join([*lines, *verdict(found)])


def _heading(found: Mapping[str, Any]) -> str:
    data = found["data"]
    where = f" in {data['root']}" if data["root"] is not None else ""
    classes = f": {len(data['class_names'])} classes" if data["class_names"] else ""
    return f"{data['name']}{where}{classes}"


def _counts(found: Mapping[str, Any]) -> str:
    splits: Mapping[str, Any] = found["splits"]
    names = found["data"]["class_names"]
    rows = [[name, *(str(part["classes"][name]) for part in splits.values())] for name in names]
    rows.append(["all", *(str(part["n"]) for part in splits.values())])
    if any(part["groups"] is not None for part in splits.values()):
        known = [part["groups"] for part in splits.values()]
        rows.append(["patients (groups)", *("?" if each is None else str(each) for each in known)])
    return aligned(["class", *splits], rows)


def _images(found: Mapping[str, Any]) -> list[str]:
    images = found["images"]
    if not images["looked_at"]:
        return ["Images: none, these are packaged features."]
    readable = sum(images["kinds"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in images["kinds"].items())
    lines = [f"Images: {readable} of {images['looked_at']} can be read ({kinds})."]
    sizes = [(tuple(map(int, size.split(" x "))), count) for size, count in images["sizes"].items()]
    if len(sizes) == 1:
        lines.append(f"Sizes: all {next(iter(images['sizes']))} pixels.")
    elif sizes:
        (low, _), (high, _) = min(sizes), max(sizes)
        often = next(iter(images["sizes"].items()))
        lines.append(
            f"Sizes: {len(sizes)}, from {low[0]} x {low[1]} to {high[0]} x {high[1]} pixels; most often "
            f"{often[0]} ({often[1]} images)."
        )
    return lines


def _overlap(found: Mapping[str, Any]) -> list[str]:
    overlap, lines = found["overlap"], []
    copies = [f"{part['count']} in {split}" for split, part in overlap["repeated_images"].items()]
    copies += [f"{part['count']} in both of {pair}" for pair, part in overlap["shared_images"].items()]
    lines.append(f"Copies (the same bytes): {', '.join(copies) or 'none'}.")
    if all(part["groups"] is None for part in found["splits"].values()):
        lines.append("Patients: not known; images of one patient may be on both sides of a split.")
    else:
        shared = [f"{part['count']} in both of {pair}" for pair, part in overlap["shared_groups"].items()]
        lines.append(f"Patients (groups) on both sides of a split: {', '.join(shared) or 'none'}.")
        for group, names in list(overlap["images_of_shared_groups"].items())[:NAMED]:
            lines.append(f"  {group}: {few(names, NAMED)}")
    return lines


def _shots(found: Mapping[str, Any]) -> list[str]:
    shots = found["shots"]
    if shots is None:
        return []
    train, val = (sum(shots[key].values()) for key in ("train", "val"))
    groups = f", from {shots['groups']} patients (groups)" if shots["groups"] is not None else ""
    lines = [f"Shots (seed {shots['seed']}): {train} for training, {val} for validation{groups}."]
    if shots["picture"] is not None:
        lines.append(f"Their picture: {shots['picture']}")
    lines.append(f'Zero-shot would read "{found["data"]["sentence"]}".')
    return lines

"""Where predictions come from, in words for a report: what an export and its run's split.json say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from calib.backbones.same import said_precision
from calib.data.chosen_shots import strategies_of
from calib.data.images import file_id
from calib.posthoc.not_drawn import others_of
from calib.report.sections.provenance import Origin
from calib.runs.folder import RunFolder
from calib.runs.identity import flat
from calib.runs.marks import record_in

PARTS = {
    "repeated_images": "repeated within a split",
    "shared_images": "in two splits",
    "shared_groups": "groups in two splits",
}


def origin_of(
    training: Mapping[str, Any],
    backbone: Mapping[str, Any] | None,
    path: Path,
    *,
    calibration: Mapping[str, Any] | None = None,
) -> Origin:
    """Return what is known of where the predictions of an export come from.

    Folders of this machine are not told: of absolute paths the last part stands.

    Args:
        training: What the export says of its training.
        backbone: Its backbone's description. None: not known.
        path: The export; a split.json beside it is read.
        calibration: What the export says of its calibration. None: it has none.
    """
    split = record_in(RunFolder(path.parent).split)
    config = dict(training.get("config") or {})
    data = dict(config.get("data") or {})
    terms = split.get("data") if isinstance(split.get("data"), dict) else {}
    assert isinstance(terms, dict)
    facts = {
        "source": terms.get("source"),
        "licence": terms.get("licence"),
        "split": training.get("split"),
        "shots per class": "as chosen" if training.get("chosen") else _counted(data.get("shots"), "all"),
        "validation shots per class": data.get("val_shots"),
        "overlap": _overlap(split.get("overlap")),
    }
    described = backbone or {}
    weights = described.get("weights") if isinstance(described.get("weights"), dict) else {}
    assert isinstance(weights, dict)
    model = {
        "backbone": described.get("name"),
        "weights": _hidden(weights.get("source")),
        "digest of the weights": weights.get("digest"),
        "images encoded in": said_precision(described).get("encode_precision"),
        "objective": _objective(training.get("objective") or training.get("loss")),
        "calibration": None if calibration is None else calibration.get("method"),
        "failures from": training.get("fit_on"),
    }
    others = others_of(strategies_of(training.get("chosen")))
    how = f", chosen by the strategy {' and '.join(others)}: no random sample" if others else ""
    shots, learner = split.get("train"), "The failure head" if "fit_on" in training else "The prompt"
    return Origin(
        data=_said(facts),
        notes=[str(note) for note in terms.get("notes") or []],
        model=_said(model),
        settings={key: str(_hidden(value)) for key, value in flat(config).items() if value is not None},
        software={str(name): str(value) for name, value in (training.get("versions") or {}).items()},
        files={path.name: file_id(path)} if path.is_file() else {},
        shots=f"{learner} learned from {len(shots)} images{how}." if isinstance(shots, list) else "",
        partition=_partition(split, training),
        trained_on=str(data.get("name") or ""),
        chosen_on=_chosen(config),
    )


def _said(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}


def _counted(value: Any, none: str) -> Any:
    return none if value is None else value


def _hidden(value: Any) -> Any:
    r"""Return a value; of a path from the root, the home or a drive its last part.

    Example:
        >>> [_hidden(each) for each in ("/data/x", "~/data/x", "C:\\data\\x", "runs/mine", "~")]
        ['.../x', '.../x', '.../x', 'runs/mine', '~']
    """
    if isinstance(value, list | tuple):
        return [_hidden(each) for each in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if len((path := kind(value)).parts) > 1 and (path.is_absolute() or value.startswith("~")):
            return f".../{path.name}"
    return value


def _objective(terms: Any) -> str:
    if not isinstance(terms, Mapping):
        return ""
    return ", ".join(
        f"{name} ({', '.join(f'{key} {value}' for key, value in each.items())})" if each else str(name)
        for name, each in terms.items()
        if isinstance(each, Mapping)
    )


def _overlap(found: Any) -> str:
    if not isinstance(found, Mapping):
        return ""
    parts = []
    for key, words in PARTS.items():
        each = found.get(key)
        count = sum(_count(item) for item in each.values()) if isinstance(each, Mapping) else 0
        if count:
            parts.append(f"{count} {words}")
    return f"{', '.join(parts)}." if parts else "No image and no known group is in two splits."


def _count(found: Any) -> int:
    if isinstance(found, Mapping):
        return int(found.get("count") or 0)
    return len(found) if isinstance(found, Sequence) and not isinstance(found, str) else 0


def _partition(split: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    train, test, digest = split.get("train"), split.get("test"), split.get("digest") or training.get("split")
    if not isinstance(train, list):
        return ""
    val = split.get("val")
    counted = [f"{len(train)} images to learn from"]
    if isinstance(val, list) and val:
        counted.append(f"{len(val)} for validation")
    if isinstance(test, Mapping) and test.get("n"):
        counted.append(f"{test['n']} for testing")
    by = ", drawn so that no group is on both sides" if split.get("grouped") else ", drawn image by image"
    return f"{', '.join(counted)}{by}; seed {split.get('seed')}, digest {str(digest)[:16]}."


def _chosen(config: Mapping[str, Any]) -> str:
    """Return what decided about the model, where the settings say it."""
    calibrate = config.get("calibrate")
    if not isinstance(calibrate, Mapping):
        return ""
    how = str(calibrate.get("method"))
    by = "by its own shots, each judged by prompts trained without it" if how != "none" else "not at all"
    return f"The last epoch was taken, whatever it scored. Calibrated {by} (calibrate.method={how})."

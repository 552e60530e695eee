"""`calib data check task=failure`: which images a failure head would learn from, and be judged on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib.commands.data_verdict import verdict
from calib.commands.failure.embeddings import from_captions, from_embeddings
from calib.commands.failure.images import planned
from calib.config import FailureRun
from calib.core.names import same_names
from calib.core.text import few
from calib.data import TaskData
from calib.failure.data import FailureData
from calib.prompts.export import Prompt
from calib.report.tables import aligned
from calib.runs.exports import prompt_path


def learned_from(config: FailureRun, task: TaskData) -> dict[str, Any]:
    """Return which images a head would learn from, as JSON would have it; nothing is encoded.

    Args:
        config: The settings, with the data filled in (`calib.commands.failure.images.resolve`).
        task: The data, with train and test.

    Returns:
        {"judges": what, "fit_on": how they are chosen, "outside": images beside the prompt's shots,
        "cross_fitted": shots that prompts trained without them judge, "val", "test", "copies_left_out"}.

    Raises:
        FileNotFoundError: There is no prompt.
        ValueError: What `calib train task=failure` would refuse.
    """
    prompt = None if config.prompt is None else Prompt.load(prompt_path(config.prompt))
    if prompt is not None and not same_names(task.class_names, prompt.class_names):
        raise ValueError(
            f"The prompt '{config.prompt}' knows the classes {few(prompt.class_names)}, the data have "
            f"{few(task.class_names)}. They must be the same, in the same order."
        )
    draw, copies = planned(config, task, prompt)
    return {
        "judges": "zero-shot" if prompt is None else str(prompt.training.get("method") or "a prompt"),
        "fit_on": "all" if prompt is None or prompt.context is None else draw.fit_on,
        "outside": len(draw.outside),
        "cross_fitted": len(draw.kept),
        "val": len(draw.split.val),
        "test": len(task.test),
        "copies_left_out": sum(id_ in copies for id_ in task.train.ids),
    }


def sentence_of(learned: Mapping[str, Any]) -> str:
    """Return what `learned_from` found, in words.

    Example:
        >>> found = {"judges": "coop", "outside": 40, "cross_fitted": 0, "val": 0, "test": 9}
        >>> sentence_of({**found, "copies_left_out": 0})
        'A head for coop would learn from 40 images outside its shots, and be judged on 9 test images.'
    """
    parts = []
    if learned["outside"] or not learned["cross_fitted"]:
        parts.append(f"{learned['outside']} images outside its shots")
    if learned["cross_fitted"]:
        parts.append(f"{learned['cross_fitted']} of its shots, each judged by a prompt trained without it")
    val = f", be validated on {learned['val']}" if learned["val"] else ""
    copies = learned["copies_left_out"]
    left = f" Copies of test images are left out: {copies}." if copies else ""
    return (
        f"A head for {learned['judges']} would learn from {' and '.join(parts)}{val}, and be judged on "
        f"{learned['test']} test images.{left}"
    )


def check_embeddings(config: FailureRun) -> dict[str, Any]:
    """Return what was found in files of embeddings, as JSON would have it.

    Args:
        config: The settings, of which `embeddings.train` is one.
    """
    path = str(config.embeddings.train)
    found: dict[str, Any] = {
        "data": {"name": "embeddings", "root": path},
        "splits": {},
        "warnings": [],
        "refused": [],
    }
    try:
        data = from_captions(config, path) if config.embeddings.captions else from_embeddings(config, path)
    except (ValueError, OSError) as error:
        found["refused"].append(str(error))
        return found
    found["data"]["class_names"] = data.judged.class_names
    found["splits"] = _parts(data)
    train = found["splits"]["train"]
    if train["n"] and train["wrong"] in (0, train["n"]):
        which = "right" if train["wrong"] == 0 else "wrong"
        found["warnings"].append(f"All training predictions are {which}: there is nothing to tell apart.")
    left = data.record.get("test_copies_left_out")
    if left:
        found["warnings"].append(f"{left} training rows are test rows as well, and are left out.")
    return found


def _parts(data: FailureData) -> dict[str, dict[str, int]]:
    parts = {"train": data.cases, "val": data.val, "test": data.test_cases}
    return {
        name: {"n": len(cases), "wrong": int(cases.failure.sum())}
        for name, cases in parts.items()
        if cases is not None
    }


def words_of_embeddings(found: Mapping[str, Any]) -> str:
    """Return the findings of `check_embeddings` as text."""
    lines = [f"embeddings in {found['data']['root']}"]
    if found["splits"]:
        rows = [
            [name, str(part["n"]), f"{part['wrong']} ({100 * part['wrong'] / max(1, part['n']):.1f} %)"]
            for name, part in found["splits"].items()
        ]
        lines[0] += f": {len(found['data']['class_names'])} classes" if found["data"]["class_names"] else ""
        lines += ["", aligned(["rows", "predictions", "wrong"], rows)]
    return "\n".join([*lines, *verdict(found)])

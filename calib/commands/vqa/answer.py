"""`calib vqa answer`: a model's answers to items, in a folder that goes on after an interruption."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from calib.commands.vqa.arguments import Given
from calib.processes.workers import environments_of, run_workers, usable_cores, usable_devices
from calib.vqa.answerers.recorded import read_recorded
from calib.vqa.answerers.registry import ANSWERERS
from calib.vqa.run import RESULT, answer, keep_recorded
from calib.vqa.tables import Items, Outputs, read_items

log = logging.getLogger(__name__)


def main(given: Given) -> int:
    """Run `calib vqa answer`. Returns the exit status."""
    asked = given.settings
    if not given.files:
        raise ValueError("Which items? calib vqa answer ITEMS... model=MODEL out=FOLDER.")
    items = read_items(*given.files)
    if asked["answerer"] == "recorded":
        settings = {name: asked[name] for name in ("model_id", "absent_logprob")}
        outputs = read_recorded(asked["answers"], items, **settings)
        keep_recorded(outputs, items, asked["out"], asked["answers"], settings)
    else:
        if asked["processes"] > 1:
            _share(given)
        outputs = answer(ANSWERERS[asked["answerer"]](asked), items, asked["out"], chunk=asked["chunk"])
    print(told(items, outputs, str(Path(asked["out"]) / RESULT)))
    print(f"What they are worth: calib vqa evaluate {' '.join([*given.files, asked['out']])} out=FOLDER")
    return 0


def _share(given: Given) -> None:
    """Have several processes work in the same folder, until all is answered or they have ended."""
    count = given.settings["processes"]
    device = given.settings["device"]
    devices = [] if device == "cpu" else usable_devices({})
    words = [word for word in given.words if not word.startswith("processes=")]
    environments = environments_of(count, devices, cores=usable_cores())
    statuses = run_workers(["answer", *words], environments, command="vqa")
    if all(statuses):
        raise ValueError("No process could answer; each has said why.")
    for number, status in enumerate(statuses, start=1):
        if status:
            log.warning(
                "Process %d ended with status %d; the others have taken over its work.", number, status
            )


def told(items: Items, outputs: Outputs, out: str) -> str:
    """Return what is said of answers: accuracy for each condition, and how many chose no option.

    Example:
        >>> row = {"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 1}
        >>> items = Items.of_rows([row])
        >>> said = Outputs.of_rows([{"model_id": "m", "item_id": "a", "pred_index": 1}], items)
        >>> print(told(items, said, "m.parquet"))
        m.parquet: 1 outputs.
          m, original: 1 of 1 right (100.0 %), 0 chose no option
    """
    lines = [f"{out}: {len(outputs)} outputs."]
    conditions = items.conditions[outputs.item_rows]
    status = outputs.texts("answer_status")
    for model, condition in sorted(set(zip(outputs.models.tolist(), conditions.tolist(), strict=True))):
        rows = (outputs.models == model) & (conditions == condition)
        right, none = int(outputs.right[rows].sum()), int((outputs.choices[rows] < 0).sum())
        kinds = Counter(str(each) for each in status[rows & (outputs.choices < 0)] if each is not None)
        why = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})" if kinds else ""
        share = 100 * right / int(np.sum(rows))
        lines.append(
            f"  {model}, {condition}: {right} of {int(rows.sum())} right ({share:.1f} %), "
            f"{none} chose no option{why}"
        )
    return "\n".join(lines)

"""What prediction sets of a run are fitted on: its validation images, or its left-out shots."""

from __future__ import annotations

from pathlib import Path

from calib.data.outputs import Outputs, in_order, of_predictions
from calib.prompts.export import Prompt
from calib.runs.left_out import left_out_shots, metrics_beside
from calib.runs.validation import validation_predictions

SHOTS = "shots"


def set_cases(
    path: Path, *, cases: str | None = None, weights: str | None = None, tokenizer: str | None = None
) -> tuple[Outputs, bool]:
    """Return labelled outputs of a run's prompt in its order of classes, and whether they are of its shots.

    Args:
        path: The prompt's file.
        cases: "validation" or "shots". None: validation images where the run has any, else the shots, each
            judged by prompts that did not see it.
        weights: The backbone's weights where they have moved since training. None: where the export says.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The backbone's weights or the images are not there.
        ValueError: There are no such cases, or they are not the run's.
    """
    prompt = Prompt.load(path)
    data = (prompt.training.get("config") or {}).get("data") or {}
    if cases == SHOTS or (cases is None and not data.get("val_shots")):
        return _left_out(path, prompt), True
    found = validation_predictions(path, weights=weights, tokenizer=tokenizer)
    return in_order(of_predictions(found, path), prompt.class_names), False


def _left_out(path: Path, prompt: Prompt) -> Outputs:
    shots = left_out_shots(path, prompt)
    if shots is None:
        raise ValueError(
            f"{path}: there is nothing to fit on. {metrics_beside(path)} holds no left-out shots; runs keep "
            "them that calibrate by them. Give labelled outputs of the prompt for other images: --on FILE."
        )
    return shots

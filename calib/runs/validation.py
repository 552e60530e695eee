"""What a run's prompt says of the run's own validation images: what calibrators are fitted on."""

from __future__ import annotations

from pathlib import Path

from calib.config import DataConfig
from calib.data import FewShotSplit, TaskData
from calib.data.predictions import Predictions
from calib.prompts.export import Prompt
from calib.runs.exports import prompt_path
from calib.runs.folder import RunFolder
from calib.runs.from_exports import data_from_export, own_data
from calib.runs.marks import record_in
from calib.runs.prepare import features_of, load_task, restored_backbone


def validation_predictions(
    run: str | Path, *, weights: str | None = None, tokenizer: str | None = None
) -> Predictions:
    """Return the predictions of a run's prompt on the validation images that were drawn beside its shots.

    Args:
        run: The run folder, or its prompt.safetensors.
        weights: The backbone's weights where they have moved since training. None: where the export says.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The prompt, its backbone's weights or the images are not there.
        ValueError: The run has no validation images, or they are not those it was trained beside.
    """
    path = prompt_path(run)
    prompt = Prompt.load(path)
    own = own_data(prompt, str(path))
    seed, digest = prompt.training.get("seed"), prompt.training.get("split")
    if own is None or seed is None or digest is None:
        raise ValueError(
            f"{path} does not say which images it was trained on. Give outputs of others: --on FILE."
        )
    if not own.val_shots:
        raise ValueError(
            f"{path} was trained with data.val_shots=0: there are no validation images to fit on, and those "
            "it was trained on are nearly all right. Give labelled outputs for others: --on FILE."
        )
    instead = (
        "Give labelled outputs for other images, such as a table of calib predict with labels: --on FILE."
    )
    data = data_from_export(own, DataConfig(name=""), set(), source=str(path), instead=instead)
    task = load_task(data, needs=("train",), among=prompt.class_names)
    split = shots_of_run(path, own, task, seed)
    if split is None or split.digest() != digest:
        raise ValueError(
            f"The data have changed since {path} was trained: the draw of its shots is another, and some "
            "validation images may be among those it was trained on. Give labelled outputs: --on FILE."
        )
    backbone = restored_backbone(prompt, weights=weights, tokenizer=tokenizer)
    table = features_of(task.train.subset(split.val), backbone, data)
    return prompt.in_order(task.class_names).predict(table, data=data.name)


def shots_of_run(path: Path, own: DataConfig, task: TaskData, seed: int) -> FewShotSplit | None:
    """Return the shots of a run: drawn anew, or as its split.json lists them where they were chosen.

    Args:
        path: The run's prompt.
        own: Its data settings.
        task: The data.
        seed: The run's.

    Returns:
        The shots; None where they were chosen and no split.json lists them.

    Raises:
        ValueError: The data do not hold them.
    """
    if own.shots_from is None:
        return task.draw(own.shots, val_shots=own.val_shots, at_most=own.at_most, seed=seed)
    record = record_in(RunFolder(path.parent).split)
    return FewShotSplit.from_dict(record, task.train.ids) if "train" in record else None

"""What a failure run's head says of the run's own validation images: what its threshold is fitted on."""

from __future__ import annotations

from pathlib import Path

import torch

from calib.commands.failure.embeddings import from_embeddings
from calib.commands.failure.images import from_images, resolve
from calib.config import FailureRun, load_config
from calib.data.embeddings import load_embeddings
from calib.data.judged import Judged, rounded_doubt
from calib.data.task import Table
from calib.failure.evaluation import head_uncertainty
from calib.failure.export import FailureHead
from calib.io.files import read_json
from calib.runs.folder import RunFolder
from calib.runs.prepare import load_task

HOW = "Give labelled outputs of the head for other images, from `calib predict --failure`: --on FILE."


def judged_by_head(path: Path, *, weights: str | None = None, tokenizer: str | None = None) -> Judged:
    """Return the doubts of a failure run's head about its validation images, and which were judged wrongly.

    Args:
        path: The head's file, in the folder of its run.
        weights: The backbone's weights where they have moved since training. None: where they were.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The images or the backbone's weights are not there.
        ValueError: The run has no validation images, or they are not those it was trained beside.
    """
    folder = RunFolder(path.parent)
    if not folder.config.is_file():
        raise ValueError(f"{path} lies in no run folder, so that its validation images are not known. {HOW}")
    moved = {"weights": weights, "tokenizer": tokenizer}
    changes = [f"backbone.{name}={where}" for name, where in moved.items() if where is not None]
    loaded: FailureRun = load_config([str(folder.config), *changes], task="failure")
    config = resolve(loaded)
    if config.embeddings.captions:
        raise ValueError(f"{path} was trained on captions: what it judges has no classes. {HOW}")
    files = config.embeddings.train
    data = from_images(config) if files is None else from_embeddings(config, files)
    written, told = read_json(folder.split), data.record
    if not isinstance(written, dict) or any(written.get(key) != told.get(key) for key in ("digest", "val")):
        raise ValueError(f"The data have changed since {path} was trained: the draw is another one. {HOW}")
    if data.val is None:
        raise ValueError(f"{path} was trained without validation images (data.val_shots=0). {HOW}")
    train: Table
    if files is None:
        train = load_task(config.data, needs=("train",)).train
    else:
        train = load_embeddings(files, normalize=config.embeddings.normalize).table
    groups = None
    if train.groups is not None:
        owner = dict(zip(train.ids, train.groups, strict=True))
        groups = [str(owner[each]) for each in told["val"]]
    head, labels = FailureHead.load(path), data.val.labels.tolist()
    doubt, judged = rounded_doubt(head_uncertainty(head, data.val)), data.judged.prompt
    if judged is not None and judged.decisions is not None and judged.decisions.familiarity is not None:
        unlike = judged.decisions.familiarity(data.val.image_features[0])  # never accepted, whatever the head
        doubt = doubt.masked_fill(unlike.to(doubt.device), torch.inf)
    return Judged(
        path,
        doubt,
        data.val.failure,
        torch.ones(len(labels), dtype=torch.bool),
        groups,
        "uncertainty",
        list(head.class_names),
        [head.class_names[label] for label in labels],
    )

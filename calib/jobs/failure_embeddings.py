"""Failure data from files of embeddings: a model of which there is nothing else."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from calib.config import FailureRun
from calib.embeddings import Embeddings, load_embeddings
from calib.jobs.failure_data import FailureData, Judged, draw_rows
from calib.jobs.prepare import fingerprint
from calib.predictions import Predictions


def from_embeddings(config: FailureRun, path: str) -> FailureData:
    """Return model and predictions in the files that the settings name.

    Args:
        config: The settings.
        path: `embeddings.train`.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is not as `calib.embeddings` describes, the two do not fit together, or a class has
            too few images.
    """
    train, test = _train_and_test(config, path)
    judged = Judged(train.text_features, train.class_names, train.logit_scale)
    rows = train.rows("train") if train.split is not None else torch.arange(len(train.table))
    test_rows = test.rows("test") if test.split is not None else torch.arange(len(test.table))
    for name, found, source in (("train", rows, train), ("test", test_rows, test)):
        if not len(found):
            raise ValueError(f"{source.path} has no rows whose split is '{name}'.")
    copies = {test.table.ids[row] for row in test_rows.tolist()}
    free = [row for row in rows.tolist() if train.table.ids[row] not in copies]
    val_rows = train.rows("val")
    try:
        split = draw_rows(config, train.table, free, train.class_names, val_shots=0 if len(val_rows) else -1)
    except ValueError as error:
        raise ValueError(f"{train.path}: {error}") from error
    if len(val_rows):
        val_table = train.table.subset(val_rows)
        split = replace(split, val=val_rows, val_ids=val_table.ids, val_names=val_table.names)
    shown = test.table.subset(test_rows)
    names = [Path(source.path).name for source in (train, test)]
    predictions = Predictions(
        logits=judged.cases(shown).logits[0],
        labels=shown.labels,
        image_features=shown.image_features,
        ids=shown.ids,
        names=shown.names,
        class_names=judged.class_names,
        groups=shown.groups,
        about={"method": "embeddings", "seed": config.seed, "data": names[1]},
    )
    record = {
        **split.to_dict(),
        "fit_on": "all",
        "prompt": judged.digest(),
        "test": fingerprint(shown),
        "test_copies_left_out": len(rows) - len(free),
        "data": {"name": names[0], "test": names[1], "settings": asdict(config.embeddings)},
    }
    table = train.table.subset(split.train)
    cases = judged.cases(table, train.predictions[split.train])
    val = None
    if len(split.val):
        val = judged.cases(train.table.subset(split.val), train.predictions[split.val])
    return FailureData(judged, cases, val, predictions, test.predictions[test_rows], record)


def _train_and_test(config: FailureRun, path: str) -> tuple[Embeddings, Embeddings]:
    normalize = config.embeddings.normalize
    train = load_embeddings(path, normalize=normalize)
    if config.embeddings.test is None:
        if train.split is None:
            raise ValueError(
                f"{path} does not say which rows are for testing: give another file (embeddings.test=...), "
                "or an array `split` of train, val and test."
            )
        return train, train
    test = load_embeddings(config.embeddings.test, normalize=normalize)
    train.check_same_model(test)
    return train, test

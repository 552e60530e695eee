"""Failure data from files of embeddings: a model of which there is nothing else."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.config import FailureRun
from calib.core.hashing import json_digest
from calib.data.embeddings import Embeddings, load_embeddings
from calib.data.features import FeatureTable
from calib.data.images import file_id
from calib.data.predictions import Predictions
from calib.failure.captions import CaptionPairs
from calib.failure.cases import FailureCases
from calib.failure.data import NEEDS_TEST, Captions, FailureData, FrozenClassifier, draw_rows
from calib.failure.digests import text_digest
from calib.runs.prepare import fingerprint

log = logging.getLogger(__name__)


def from_embeddings(config: FailureRun, path: str) -> FailureData:
    """Return model and predictions in the files that the settings name.

    Args:
        config: The settings.
        path: `embeddings.train`.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is not as `calib.data.embeddings` describes, the two do not fit together, or a
            class has too few images.
    """
    train, test = _train_and_test(config, path)
    judged = FrozenClassifier(
        text_features=train.text_features, class_names=train.class_names, logit_scale=train.logit_scale
    )
    rows = _rows(train, test)
    left_out, val_rows = rows.test_copies, rows.val
    try:
        split = draw_rows(
            train.table,
            rows.train,
            train.class_names,
            shots=config.data.shots,
            val_shots=0 if len(val_rows) else config.data.val_shots,
            at_most=config.data.at_most,
            seed=config.seed,
        )
    except ValueError as error:
        copies = f" ({left_out} rows that are test rows as well were left out.)" if left_out else ""
        raise ValueError(f"{train.path}: {error}{copies}") from error
    if len(val_rows):
        val_table = train.table.subset(val_rows)
        split = replace(split, val=val_rows, val_ids=val_table.ids, val_names=val_table.names)
    shown, test_cases = test.table.subset(rows.test), _cases(test, rows.test)
    about = {"method": "embeddings", "seed": config.seed, "data": Path(test.path).name}
    return FailureData(
        judged=judged,
        cases=_cases(train, split.train),
        val=_cases(train, split.val) if len(split.val) else None,
        test=_predictions(test_cases, shown, judged.class_names, about),
        test_cases=test_cases,
        record={**split.to_dict(), **_facts(config, train, test, shown, left_out)},
    )


def from_captions(config: FailureRun, path: str) -> FailureData:
    """Return model and predictions in files of image-caption pairs; see the head of `calib.data.embeddings`.

    Validation pairs are the rows of the training file whose split is "val"; without any there are none.

    Args:
        config: The settings.
        path: `embeddings.train`.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is not as `calib.data.embeddings` describes, or the two do not fit together.
    """
    train, test = _train_and_test(config, path)
    rows = _rows(train, test)
    kept = {"train": torch.tensor(rows.train, dtype=torch.int64), "val": rows.val}
    if len(rows.train) < 2:
        raise ValueError(f"{train.path}: at least 2 training pairs that are not test images are needed.")
    size = config.data.batch_size
    parts = {part: _pairs(train, index) for part, index in kept.items()}
    shown = test.table.subset(rows.test)
    blocks = _pairs(test, rows.test).blocks(size)
    cases = blocks.cases
    names = [f"candidate {number}" for number in range(cases.logits.shape[2])]
    about = {"method": "captions", "seed": config.seed, "data": Path(test.path).name}
    ids = {part: list(pairs.ids) for part, pairs in parts.items()}
    facts = _facts(config, train, test, shown, rows.test_copies)
    return FailureData(
        judged=FrozenClassifier(text_features=None, class_names=[], logit_scale=train.logit_scale),
        cases=parts["train"].blocks(size).cases,
        val=parts["val"].blocks(size).cases if len(parts["val"]) > 1 else None,
        test=_predictions(cases, shown, names, about),
        test_cases=cases,
        record={**ids, "digest": json_digest(ids), **facts},
        captions=Captions(pairs=parts["train"], test_rows=blocks.rows),
    )


def _predictions(
    cases: FailureCases, table: FeatureTable, class_names: list[str], about: dict[str, Any]
) -> Predictions:
    """Return what the model says about the test images of a table."""
    return Predictions(
        logits=cases.logits[0],
        labels=cases.labels,
        image_features=table.image_features,
        ids=table.ids,
        names=table.names,
        class_names=class_names,
        groups=table.groups,
        about=about,
    )


def _facts(
    config: FailureRun, train: Embeddings, test: Embeddings, shown: FeatureTable, left_out: int
) -> dict[str, Any]:
    """Return what split.json says of the two files and the test images, whatever is drawn from them."""
    paths = [Path(source.path) for source in (train, test)]
    return {
        "fit_on": "all",
        "prompt": text_digest(train.text_features),
        "test": fingerprint(shown),
        "test_copies_left_out": left_out,
        "data": {"name": paths[0].name, "test": paths[1].name, "settings": asdict(config.embeddings)},
        "files": [file_id(path) for path in paths],
    }


def _cases(source: Embeddings, rows: Tensor) -> FailureCases:
    return FailureCases.of_table(
        source.table.subset(rows),
        source.text_features,
        logit_scale=source.logit_scale,
        predictions=None if source.predictions is None else source.predictions[rows],
    )


def _pairs(source: Embeddings, rows: Tensor) -> CaptionPairs:
    images, texts = source.table.image_features[rows], source.text_features[rows]
    return CaptionPairs(images, texts, source.logit_scale, [source.table.ids[row] for row in rows.tolist()])


@dataclass(frozen=True)
class _Rows:
    """Which rows of the two files are for what; no image is for two things.

    Attributes:
        train: Rows to learn from.
        val: Rows of the training file whose split is "val".
        test: Rows of the test file.
        test_copies: Training rows that are left out as they are test rows as well.
    """

    train: list[int]
    val: Tensor
    test: Tensor
    test_copies: int


def _rows(train: Embeddings, test: Embeddings) -> _Rows:
    """Return the rows by their splits; an image in several, by its id, is for testing, or for validation."""
    rows = train.rows("train") if train.split is not None else torch.arange(len(train.table))
    test_rows = test.rows("test") if test.split is not None else torch.arange(len(test.table))
    for name, found, source in (("train", rows, train), ("test", test_rows, test)):
        if not len(found):
            more = f" {NEEDS_TEST}" if name == "test" else ""
            raise ValueError(f"{source.path} has no rows whose split is '{name}'.{more}")
    copies = {test.table.ids[row] for row in test_rows.tolist()}
    free = [row for row in rows.tolist() if train.table.ids[row] not in copies]
    if not free:
        raise ValueError(
            f"{train.path}: all {len(rows)} training rows are test rows of {test.path} as well, by their "
            "ids: nothing is left to learn from. Give another file (embeddings.train, embeddings.test), or "
            "ids that tell images apart."
        )
    given = train.rows("val").tolist()
    val = [row for row in given if train.table.ids[row] not in copies]
    if len(val) < len(given):
        log.warning("%d validation rows are test rows as well: left out.", len(given) - len(val))
    judged = {train.table.ids[row] for row in val}
    kept = [row for row in free if train.table.ids[row] not in judged]
    if len(kept) < len(free):
        log.warning("%d training rows are validation rows as well: left out.", len(free) - len(kept))
    if not kept:
        raise ValueError(f"{train.path}: all {len(free)} training rows are validation rows as well.")
    return _Rows(kept, torch.tensor(val, dtype=torch.int64), test_rows, len(rows) - len(free))


def _train_and_test(config: FailureRun, path: str) -> tuple[Embeddings, Embeddings]:
    how = {"normalize": config.embeddings.normalize, "captions": config.embeddings.captions}
    train = load_embeddings(path, **how)
    if config.embeddings.test is None:
        if train.split is None:
            raise ValueError(
                f"{path} does not say which rows are for testing: give another file (embeddings.test=...), "
                f"or an array `split` of train, val and test. {NEEDS_TEST}"
            )
        return train, train
    test = load_embeddings(config.embeddings.test, **how)
    train.check_same_model(test)
    return train, test

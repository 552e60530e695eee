"""What a failure head learns from and is judged on, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.data import FewShotSplit, TaskData, few_shot_split
from calib.data.predictions import Predictions
from calib.data.task import Table
from calib.failure.captions import CaptionPairs
from calib.failure.cases import FailureCases, scale_of
from calib.prompts.export import Prompt

NEEDS_TEST = (  # after what says that there are none
    "A failure run judges its head and the other scores on test images: give some, or train a head alone "
    "from Python (calib.fit_failure_head)."
)


@dataclass(frozen=True, kw_only=True)
class FrozenClassifier:
    """The frozen model whose predictions are judged.

    Attributes:
        text_features: (C, D) unit norm. None: captions, other ones for every image.
        class_names: C names in label order; of captions none.
        logit_scale: Log of the scale, the prompt's temperature included.
        prompt: Its prompt. None: a model known by a file of embeddings only.
    """

    text_features: Tensor | None
    class_names: list[str]
    logit_scale: float
    prompt: Prompt | None = None

    @classmethod
    def of(cls, prompt: Prompt) -> FrozenClassifier:
        """Return the model that a prompt makes of its backbone."""
        return cls(
            text_features=prompt.text_features,
            class_names=list(prompt.class_names),
            logit_scale=scale_of(prompt),
            prompt=prompt,
        )


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """The prompt's own shots, of which the head learns from some; see `calib.commands.failure.cross_fit`.

    Attributes:
        prompt: The prompt that is judged.
        backbone: Its backbone.
        task: The data set.
        shots: The prompt's shots, as rows of the training split.
        kept: Which of them the head learns from, as positions among them; at least one.
    """

    prompt: Prompt
    backbone: Backbone
    task: TaskData
    shots: FewShotSplit
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What is there instead of classes where every image has a caption.

    Attributes:
        pairs: What the head is trained on.
        test_rows: (K, B) int64: the test pairs in each block of candidates.
    """

    pairs: CaptionPairs
    test_rows: Tensor


@dataclass(kw_only=True)
class FailureData:
    """Everything a failure run needs before it begins.

    Attributes:
        judged: The model.
        cases: Its predictions on images it was not trained on. None: there are none, all are cross-fitted.
        val: Predictions on the validation images. None: there are none.
        test: What the model says about the test images.
        test_cases: The same as cases, with its predictions.
        record: What split.json says.
        cross_fit: The shots that are cross-fitted. None: there are none.
        captions: Pairs of images and captions. None: classes.
    """

    judged: FrozenClassifier
    cases: FailureCases | None
    val: FailureCases | None
    test: Predictions
    test_cases: FailureCases
    record: dict[str, Any]
    cross_fit: CrossFit | None = None
    captions: Captions | None = None

    def names_of(self, source: int) -> list[str]:
        """Return the names of the candidates of the test images with this `source`."""
        if self.captions is None:
            return self.judged.class_names
        return [self.test.names[row] for row in self.captions.test_rows[source].tolist()]


def cases_of(test: Predictions, text_features: Tensor, *, calibrated: bool = False) -> FailureCases:
    """Return a prompt's predictions as cases.

    Args:
        test: What the prompt says.
        text_features: (C, D) of the prompt.
        calibrated: Whether the logits are those of a calibration.
    """
    return FailureCases(
        image_features=test.image_features[None],
        labels=test.labels,
        text_features=text_features[None],
        source=torch.zeros(len(test.labels), dtype=torch.int64),
        predictions=test.logits.argmax(dim=1)[None],
        logits=test.logits[None],
        calibrated=calibrated,
    )


def check_both_kinds(cases: FailureCases) -> None:
    """Refuse predictions that are all right or all wrong: there is nothing to tell apart.

    Raises:
        ValueError: They are.
    """
    failure = cases.predictions != cases.labels  # (V, N)
    if failure.any() and not failure.all():
        return
    kind, other = ("wrong", "right") if failure.any() else ("right", "wrong")
    raise ValueError(
        f"All {len(cases)} training predictions are {kind}: nothing shows the head what makes one {other}. "
        "Use more images (data.shots), or others than the prompt was trained on."
    )


def draw_rows(
    table: Table,
    rows: Sequence[int],
    class_names: Sequence[str],
    *,
    shots: int | None,
    val_shots: int,
    at_most: bool = False,
    seed: int,
) -> FewShotSplit:
    """Return the head's draw among some rows of a table, as rows of the table.

    Args:
        table: The training split.
        rows: Which images may be drawn.
        class_names: C names, for messages.
        shots: Images per class. None: all.
        val_shots: Validation images per class.
        at_most: Whether both are upper limits.
        seed: Of the draw.

    Raises:
        ValueError: A class has too few images.
    """
    index, ids = torch.tensor(rows, dtype=torch.int64), table.ids
    split = few_shot_split(
        table.labels[index],
        [ids[row] for row in rows],
        shots,
        val_shots=val_shots,
        at_most=at_most,
        seed=seed,
        groups=None if table.groups is None else [table.groups[row] for row in rows],
        class_names=class_names,
        names=[table.names[row] for row in rows],
    )
    return replace(split, train=index[split.train], val=index[split.val])

"""Prompts made of a fixed sentence per class: what a model says without any training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.core.checks import check_kind
from calib.core.names import check_class_names, check_tokens, plain_name
from calib.core.text import few
from calib.data.task import TaskData, check_template
from calib.prompts.export import Prompt

ZERO_SHOT = "zero-shot"  # the method's name
logger = logging.getLogger(__name__)


@torch.no_grad()
def zero_shot_features(backbone: Backbone, class_names: Sequence[str], template: str) -> Tensor:
    """Return the text features of one fixed sentence per class.

    Args:
        backbone: The frozen model.
        class_names: C names in label order.
        template: A sentence with one `{}` for the class name.

    Returns:
        Unit-norm features (C, D).

    Raises:
        ValueError: As `class_tokens`.
    """
    tokens = class_tokens(backbone, class_names, template)
    warn_of_unknown_words(backbone, class_names)
    return backbone.encode_sentences(tokens)


def class_tokens(backbone: Backbone, class_names: Sequence[str], template: str) -> Tensor:
    """Return the token rows (C, L) of one fixed sentence per class, once they differ.

    Args:
        backbone: The frozen model.
        class_names: C names in label order.
        template: A sentence with one `{}` for the class name.

    Raises:
        ValueError: The template has not exactly one `{}`, a sentence is longer than the text tower takes, or
            two are the same tokens.
    """
    check_template(template)
    names = check_class_names(class_names)
    tokens = backbone.tokenize([template.replace("{}", name) for name in names])
    check_tokens(names, tokens.tolist(), model=backbone.name)
    return tokens


def warn_of_unknown_words(backbone: Backbone, class_names: Sequence[str]) -> None:
    """Warn of class names of which the vocabulary has no word: the model cannot know what they are."""
    unknown = backbone.tokenizer.unknown_id
    if unknown is None:
        return
    strangers = [name for name in class_names if set(backbone.piece_ids(plain_name(name))) <= {unknown}]
    if strangers:
        logger.warning(
            "%s knows no word of the class %s (%s), which is like any other unknown word to it. "
            "Give names in the language of its vocabulary (data.class_names).",
            backbone.name,
            "name" if len(strangers) == 1 else "names",
            few(strangers),
        )


def zero_shot(backbone: Backbone, task: TaskData, *, training: Mapping[str, Any] | None = None) -> Prompt:
    """Return the prompt that a data set's template makes.

    Args:
        backbone: The frozen model.
        task: Class names and template.
        training: Facts that go with it, such as the seed of the prompts it stands beside.

    Raises:
        ValueError: A class name does not fit, see `zero_shot_features`.
    """
    check_kind(backbone, Backbone, "backbone", "calib.create_backbone returns one.")
    check_kind(task, TaskData, "task", "calib.load_data returns one.")
    texts = zero_shot_features(backbone, task.class_names, task.template).cpu()
    return template_prompt(backbone, task, texts, training=training or {})


def template_prompt(
    backbone: Backbone, task: TaskData, text_features: Tensor, *, training: Mapping[str, Any]
) -> Prompt:
    """Return the zero-shot prompt of text features (C, D) that are already there.

    Args:
        backbone: The frozen model they are from.
        task: Class names and template.
        text_features: (C, D) unit norm, on the CPU.
        training: Facts that go with it, such as the seed.
    """
    return Prompt(
        text_features=text_features,
        class_names=list(task.class_names),
        logit_scale=float(backbone.logit_scale),
        backbone=backbone.export_description(),
        prompt={"template": task.template},
        training={"method": ZERO_SHOT, **training},
    )

"""Exported failure heads: one safetensors file with everything that scoring an image's prediction needs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.backbones.same import check_same_backbone, said_precision
from calib.core.checks import HALF_NORM, check_tensor, check_unit_norm
from calib.core.errors import unknown_name
from calib.core.names import same_names
from calib.core.text import few
from calib.failure.digests import same_text, text_digest
from calib.failure.doubt import HEAD, Doubt
from calib.failure.explain import Explanation
from calib.failure.head_file import KIND, VERSION, read_head_file
from calib.failure.vilu import ViLU
from calib.io.tensors import save_tensors
from calib.posthoc.decisions import Decisions, doubt_digest
from calib.prompts.calibration import Calibration, same_calibration
from calib.prompts.export import Prompt

ROWS_AT_ONCE = 4096  # bounds the memory of the attention, (rows, C)
MADE_FOR = "This failure head was trained for"


@dataclass(eq=False)
class FailureHead:
    """A trained failure head with the texts it judges by, bound to the model it was trained for.

    Attributes:
        head: The head; its options and `logit_scale` are saved with it. A copy in evaluation mode is kept, so
            that training may go on with the one given.
        text_features: (C, D) unit norm float32. None: it was trained on pairs of images and captions, and the
            candidates are given with the images.
        class_names: C names in label order; without text features none.
        means: What `head.part_means` returned for the training images. Empty: it cannot `explain`.
        backbone: The backbone's `describe()`. None: features of an unknown model, where the text features and
            their width are all there is to recognise it by.
        prompt: `prompt_digest` of the prompt it judges. None: no prompt export was involved.
        training: Objective, seed, data set, how the failures were obtained, software versions.
        calibration: That of the prompt it judges, where a residual head's confidence starts. None: none.
        doubt: What makes one probability of its score and of others. None: the uncertainty is the head's own.
        decisions: What may pass and what must be reviewed, by its uncertainty. None: nothing is known.
    """

    head: ViLU = field(repr=False)
    text_features: Tensor | None = field(repr=False)
    class_names: list[str]
    means: dict[str, Tensor] = field(default_factory=dict, repr=False)
    backbone: dict[str, Any] | None = field(default=None, repr=False)
    prompt: str | None = field(default=None, repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    doubt: Doubt | None = field(default=None, repr=False)
    decisions: Decisions | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        expected = (len(self.class_names), self.head.dim)
        if self.text_features is None:
            if self.class_names:
                raise ValueError("A failure head with class names needs their text_features.")
        elif tuple(self.text_features.shape) != expected:
            raise ValueError(
                f"text_features must be {expected}: {expected[0]} class names and a head of width "
                f"{expected[1]}. They are {tuple(self.text_features.shape)}."
            )
        self.head = copy.deepcopy(self.head).eval()

    def uncertainty(
        self,
        image_features: Tensor,
        predictions: Tensor | None = None,
        *,
        text_features: Tensor | None = None,
        by: str | None = None,
    ) -> Tensor:
        """Return how likely each prediction is wrong, P(wrong).

        By the stack where the file holds one: a probability, calibrated on images that its parts had not
        seen. By the head alone it is `sigmoid(failure logit)`, an order first of all: the weights of the
        training loss decide how far it is a probability.

        Args:
            image_features: (N, D) unit norm, from the model the head was trained for.
            predictions: (N,) int64, what the model predicted. None: the most similar class.
            text_features: (C, D) unit norm, the candidates of a head trained on captions. Others know theirs.
            by: A single part: "head", or a score of the stack by its name, as that score says it (higher =
                more likely wrong, not always a probability). None: the stack, and without one the head.

        Returns:
            (N,) float64, in which even very sure images keep their order; in [0, 1] unless a single score was
            asked for.

        Raises:
            ValueError: The features have another width, are not unit norm or hold NaN (rows are named),
                candidates are missing or not wanted, or `by` is no part.
        """
        self._check_features(image_features, "image_features")
        texts, doubt = self._texts(text_features), self.doubt
        names = [HEAD] if doubt is None else list(dict.fromkeys([*doubt.stack.names, HEAD]))
        if by is not None and by not in names:
            raise unknown_name("part of this doubt", by, names)
        found = torch.zeros(len(image_features), dtype=torch.float64)
        for start in range(0, len(image_features), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            picked = None if predictions is None else predictions[rows]
            if doubt is None or by == HEAD:
                found[rows] = self._head_logits(image_features[rows], texts, picked).sigmoid()
            else:
                parts = self._parts(image_features[rows], texts, picked, doubt)
                found[rows] = doubt.stack(parts) if by is None else parts[:, names.index(by)]
        return found.to(image_features.device)

    def explain(
        self,
        image_features: Tensor,
        predictions: Tensor | None = None,
        *,
        text_features: Tensor | None = None,
        logits: Tensor | None = None,
        top: int = 3,
    ) -> Explanation:
        """Return why each prediction is trusted or doubted: see `Explanation`.

        Where the file holds a stack, the contributions are those of its parts, in log-odds of P(wrong).

        Args:
            image_features: As in `uncertainty`.
            predictions: As in `uncertainty`.
            text_features: As in `uncertainty`.
            logits: (N, C) of the model that is judged, e.g. `Prompt.logits`: its confidence is quoted as they
                have it. None: as the model was when the head was trained.
            top: How many alternative classes to name.

        Raises:
            ValueError: As in `uncertainty`; the file holds no training means.
        """
        if not self.means:
            raise ValueError("This failure head was saved without training means, so it cannot explain.")
        self._check_features(image_features, "image_features")
        texts = self._texts(text_features)
        given = self._arguments(image_features, texts, predictions)
        told = self._model_logits(given[0])
        why = self.head.explain(*given, means=self.means, logits=logits, model_logits=told, top=top)
        if self.doubt is None:
            return why
        parts = self._parts(image_features, texts, predictions, self.doubt)
        return self.doubt.explanation(why, parts, given[0].cpu())

    def check_prompt(self, prompt: Prompt) -> None:
        """Refuse a prompt other than the one whose predictions the head judges.

        Raises:
            ValueError: Its classes, its text features or its backbone are others; the message says which.
        """
        if self.text_features is None:
            raise ValueError("This failure head was trained on captions: it belongs to no prompt.")
        if not same_names(prompt.class_names, self.class_names):
            raise ValueError(
                f"This failure head judges the classes {few(self.class_names)}, and the prompt has "
                f"{few(prompt.class_names)}. Train one for this prompt."
            )
        self.check_text(prompt.text_features)
        if not same_calibration(self.calibration, prompt.calibration):
            ours, theirs = (
                "as it was trained" if each is None else "calibrated"
                for each in (self.calibration, prompt.calibration)
            )
            raise ValueError(
                f"This failure head judges the prompt {ours}, and the one at hand is {theirs}"
                f"{' in another way' if ours == theirs else ''}. Take the prompt it was trained for (a run "
                "keeps the one without calibration in 'bare'), or train a head for this one."
            )
        if self.backbone is not None:
            check_same_backbone(
                self.backbone, prompt.backbone, what=MADE_FOR, at_hand="the prompt was made for"
            )

    def check_text(self, text_features: Tensor) -> None:
        """Refuse text features other than those the head was trained with, rounding aside.

        Args:
            text_features: (C, D).

        Raises:
            ValueError: The shape differs, or a value by more than rounding, or the head has none of its own.
        """
        if self.text_features is None:
            raise ValueError("This failure head was trained on captions: it has no text features of its own.")
        ours, theirs = tuple(self.text_features.shape), tuple(text_features.shape)
        if ours != theirs:
            raise ValueError(
                f"This failure head was trained with text features {ours}, those at hand are {theirs}."
            )
        if not same_text(self.text_features, text_features):
            mine, other = text_digest(self.text_features), text_digest(text_features)
            raise ValueError(
                f"This failure head was trained with other text features ({mine[:12]}, not {other[:12]}): "
                "another prompt, template or text tower. Train one: calib train task=failure prompt=RUN."
            )

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse a backbone other than the one the head was trained for.

        A head trained on features of an unknown model only knows their width.

        Raises:
            ValueError: Its width, weights, preprocessing, architecture or parity settings differ.
        """
        if backbone.embed_dim != self.head.dim:
            raise ValueError(
                f"This failure head takes features of width {self.head.dim}, and {backbone.name} makes "
                f"{backbone.embed_dim}."
            )
        if self.backbone is not None:
            check_same_backbone(self.backbone, backbone.describe(), what=MADE_FOR)

    def save(self, path: str | Path, *, run: str | None = None) -> None:
        """Write the head and all that belongs to it to a safetensors file, atomically.

        Args:
            path: The file.
            run: The mark of the run in whose folder it lies. None: it is nobody's.

        Raises:
            ValueError: Its decisions were fitted for another head.
        """
        texts, tensors = self.text_features, self._tensors()
        record = {
            "kind": KIND,
            "version": VERSION,
            "head": self.head.options,
            "logit_scale": self.head.logit_scale,
            "class_names": self.class_names,
            "backbone": self.backbone,
            "prompt": self.prompt,
            "text_digest": None if texts is None else text_digest(texts),
            "training": self.training,
            "calibration": None if self.calibration is None else self.calibration.record(),
            "doubt": None if self.doubt is None else self.doubt.to_record(),
            "decisions": None if self.decisions is None else self.decisions.to_record(),
        }
        if self.decisions is not None:
            self.decisions.check(self.doubt_digest(), what="This failure head")
            tensors |= self.decisions.tensors()
        save_tensors(path, tensors, record, run=run)

    @classmethod
    def load(cls, path: str | Path) -> FailureHead:
        """Return the head in a file written by `save`, checked.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of another kind or version, or its parts do not fit together;
                decisions that were fitted for another head among them.
        """
        loaded = cls(**read_head_file(path))
        if loaded.decisions is not None:
            loaded.decisions.check(loaded.doubt_digest(), what=str(path))
        return loaded

    def doubt_digest(self) -> str:
        """Return what names the head's uncertainty: all it computes with, and the prompt it judges."""
        facts = {
            "head": self.head.options,
            "logit_scale": self.head.logit_scale,
            "class_names": self.class_names,
            "backbone": None if self.backbone is None else self.backbone["weights"]["digest"],
            "prompt": self.prompt,
            "doubt": None if self.doubt is None else self.doubt.to_record(),
        }
        return doubt_digest(self._tensors(), facts | said_precision(self.backbone or {}))

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file, but for those of the decisions."""
        tensors = {} if self.text_features is None else {"text_features": self.text_features.float()}
        tensors |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"mean.{name}": value.float() for name, value in self.means.items()}
        tensors |= {} if self.calibration is None else self.calibration.tensors()
        return tensors | ({} if self.doubt is None else self.doubt.tensors())

    @torch.no_grad()
    def _head_logits(self, images: Tensor, texts: Tensor, predictions: Tensor | None) -> Tensor:
        """Return the failure logits (n,) of the head itself, float64 on the CPU."""
        given = self._arguments(images, texts, predictions)
        found: Tensor = self.head(*given, model_logits=self._model_logits(given[0])).cpu().double()
        return found

    @torch.no_grad()
    def _parts(self, images: Tensor, texts: Tensor, predictions: Tensor | None, doubt: Doubt) -> Tensor:
        """Return what every part of the doubt says of n predictions, (n, P)."""
        given = self._arguments(images, texts, None)
        told = self._model_logits(given[0])
        logits = (self.head.logits(*given) if told is None else told).cpu()
        picked = logits.argmax(dim=1) if predictions is None else predictions.cpu()
        return doubt.values(
            image_features=given[0].cpu(),
            logits=logits,
            predictions=picked,
            text_features=given[1].cpu(),
            head=self._head_logits(images, texts, predictions) if HEAD in doubt.stack.names else None,
        )

    def _arguments(
        self, image_features: Tensor, text_features: Tensor, predictions: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return images, texts and (if given) predictions in the type and on the device of the head."""
        like = self.head.mlp[0].get_parameter("weight")
        given = (image_features.to(like), text_features.to(like))
        return given if predictions is None else (*given, predictions.to(like.device))

    def _model_logits(self, image_features: Tensor) -> Tensor | None:
        """Return the logits of the calibrated prompt; None where the texts are all there is."""
        return None if self.calibration is None else self.calibration.logits(image_features)

    def _texts(self, given: Tensor | None) -> Tensor:
        """Return the candidates: the head's own, or for a head of captions those that were given."""
        if given is None:
            if self.text_features is None:
                raise ValueError(
                    "This failure head was trained on captions: give text_features (C, D), the candidates "
                    "these images were compared with."
                )
            return self.text_features
        if self.text_features is not None:
            raise ValueError("This failure head has text features of its own: leave text_features out.")
        self._check_features(given, "text_features")
        return given

    def _check_features(self, features: Tensor, name: str) -> None:
        check_tensor(features, name)
        if features.dim() != 2 or features.shape[1] != self.head.dim:
            raise ValueError(
                f"{name} must be (N, {self.head.dim}) for this failure head, not {tuple(features.shape)}."
            )
        check_unit_norm(features, name, tolerance=HALF_NORM)

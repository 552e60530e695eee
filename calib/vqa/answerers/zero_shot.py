"""A frozen backbone or an exported prompt as a model that answers: the option that fits the image best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.core.checks import check_kind
from calib.core.errors import unknown_name
from calib.core.names import name_key
from calib.data.features import FeatureTable
from calib.data.specs import load_data
from calib.prompts.export import Prompt
from calib.vqa.answerers.requests import filled
from calib.vqa.images import PACKAGED, item_image, root_name
from calib.vqa.schema import NOTA
from calib.vqa.tables import Items

TEMPLATE = "An image of {}."
NOTA_WAYS = ("text", "threshold")


class ZeroShot:
    """A backbone, or a prompt with its backbone, that answers items.

    The logit of an option is exp(logit_scale) times the cosine of image and text; of a prompt's own classes
    it is the prompt's logit, calibrated where the prompt is. An item without an image has no answer.

    Attributes:
        model_id: Its name in the table of outputs.
        batch_size: Items at once.
        threshold: The logit of None of the above, where it is a threshold. None: not fitted.

    Args:
        backbone: The frozen model. None: the one of the prompt.
        prompt: Classes that need no template, because they were learned.
        template: A text with {option} or {} for the option, and perhaps {question}. None: the column template
            of an item, where there is none "An image of {}.".
        templates: Several instead, by prompt_id: one output for each.
        nota: "text": None of the above is encoded like every option, though an image-text model was never
            shown what it means. "threshold": its logit is a number fitted on controls, see `fit_nota`.
        root: The folder of relative image paths.
        model_id: None: the backbone's name, with "prompt" for a prompt.
        batch_size: Images encoded at once.

    Source: option likelihoods of CLIP (Radford et al. 2021) on multiple choice; the threshold is the rule of
        open-set recognition with the largest logit (Vaze et al. 2022, 2110.06207).
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        prompt: Prompt | None = None,
        template: str | None = None,
        templates: Mapping[str, str] | None = None,
        nota: str = "text",
        root: str | Path | None = None,
        model_id: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if nota not in NOTA_WAYS:
            raise unknown_name("way of None of the above", nota, NOTA_WAYS)
        if backbone is None and prompt is None:
            raise ValueError("A backbone or a prompt is needed: calib.create_backbone, calib.load.")
        if prompt is not None:
            check_kind(prompt, Prompt, "prompt", "calib.load returns one.")
            backbone = prompt.restore_backbone() if backbone is None else backbone
            prompt.check_backbone(backbone)
        check_kind(backbone, Backbone, "backbone", "calib.create_backbone returns one.")
        assert backbone is not None
        if template is not None and templates is not None:
            raise ValueError("template or templates, not both.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        for text in [*([template] if template else []), *(templates or {}).values()]:
            _check_template(text)
        self.backbone, self.prompt, self.nota, self.root = backbone, prompt, nota, root
        self.templates: dict[str, str | None] = {**templates} if templates else {"default": template}
        self.model_id = model_id or (backbone.name if prompt is None else f"{backbone.name}-prompt")
        self.batch_size, self.threshold = batch_size, None if nota == "text" else math.nan
        self._classes = {} if prompt is None else {name_key(n): c for c, n in enumerate(prompt.class_names)}
        self._texts: dict[str, Tensor] = {}
        self._features: dict[str, Tensor] = {}

    def describe(self) -> Mapping[str, Any]:
        """Return what decides about its answers.

        Raises:
            ValueError: The threshold is not fitted yet.
        """
        self._check_fitted()
        return {
            "answerer": "zero_shot",
            "model_id": self.model_id,
            "backbone": self.backbone.describe(),
            "prompt": None if self.prompt is None else self.prompt.doubt_digest(),
            "templates": self.templates,
            "nota": self.nota,
            "threshold": None if self.nota == "text" else self.threshold,
            "batch_size": self.batch_size,
            "root": root_name(self.root),
        }

    def fit_nota(self, controls: Items, *, false_rate: float = 0.05) -> ZeroShot:
        """Fit the logit of None of the above so that it is rarely chosen where the right option is there.

        Args:
            controls: Items whose right option is there, not those that results are reported on. Best of
                condition nota_control: originals have one option more, so that under nota_control more than
                `false_rate` are answered by None of the above.
            false_rate: At most this share of them may be answered by None of the above.

        Raises:
            ValueError: `nota` is not "threshold", a share that is none, or there are too few controls: of
                1 / false_rate at least one may be answered so.

        Returns:
            Itself.
        """
        if self.nota != "threshold":
            raise ValueError('fit_nota needs nota="threshold".')
        if not 0 < false_rate < 1:
            raise ValueError(f"false_rate must lie between 0 and 1, not {false_rate:g}.")
        if len(controls) < 1 / false_rate:
            raise ValueError(
                f"A rate of {false_rate:g} needs at least {math.ceil(1 / false_rate)} controls; there are "
                f"{len(controls)}."
            )
        if (controls.correct == controls.places(NOTA)).any():
            raise ValueError("Controls are items whose right option is there, not None of the above.")
        self.threshold = -math.inf
        highest: list[float] = []
        rows = controls.rows()
        for start in range(0, len(rows), self.batch_size):
            for output in self.answer(rows[start : start + self.batch_size]):
                logits = [value for value in output["option_logit"] or () if value is not None]
                highest += [max(logits)] if logits else []
        if not highest:
            raise ValueError("No control has an image.")
        ordered = np.sort(np.asarray(highest))
        # Chosen where all options lie below it: floor(rate n) of the controls at most.
        self.threshold = float(np.nextafter(ordered[int(false_rate * len(ordered))], -np.inf))
        return self

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the outputs of items; see `calib.vqa.answerers.base.Answerer`."""
        self._check_fitted()
        features = self._images([row["image"] for row in rows])
        made = []
        for name, template in self.templates.items():
            self._encode_texts(rows, template)
            made += [self._output(row, name, template, features.get(row["image"] or "")) for row in rows]
        return made

    def _check_fitted(self) -> None:
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError('nota="threshold" is not fitted yet: fit_nota(controls).')

    def _output(
        self, row: Mapping[str, Any], name: str, template: str | None, image: Tensor | None
    ) -> dict[str, Any]:
        about = {"model_id": self.model_id, "prompt_id": name, "item_id": row["item_id"]}
        if image is None:
            return {**about, "pred_index": -1, "answer_status": "non_answer", "option_logit": None}
        logits: list[float | None] = []
        for option, option_id in zip(row["options"], row["option_ids"], strict=True):
            if option_id == NOTA and self.threshold is not None:
                logits.append(None if math.isinf(self.threshold) else self.threshold)
            elif self.prompt is not None and name_key(option) in self._classes:
                logits.append(float(self.prompt.logits(image[None])[0, self._classes[name_key(option)]]))
            else:
                text = self._texts[self._sentence(row, option, template)]
                logits.append(float(math.exp(float(self.backbone.logit_scale)) * (image @ text)))
        known = [-math.inf if value is None else value for value in logits]
        return {
            **about,
            "pred_index": int(np.argmax(known)),
            "answer_status": "option",
            "option_logit": logits,
        }

    def _sentence(self, row: Mapping[str, Any], option: str, template: str | None) -> str:
        text = template or row.get("template") or TEMPLATE
        return filled(text, row["question"], row["options"]).replace("{option}", option).replace("{}", option)

    def _encode_texts(self, rows: Sequence[Mapping[str, Any]], template: str | None) -> None:
        wanted: dict[str, None] = {}
        for row in rows:
            if row["options"] is None:
                raise ValueError(
                    f"The item '{row['item_id']}' has no texts of options: it cannot be answered."
                )
            for option, option_id in zip(row["options"], row["option_ids"], strict=True):
                if option_id == NOTA and self.nota == "threshold":
                    continue
                if self.prompt is not None and name_key(option) in self._classes:
                    continue
                if self.prompt is not None:
                    self._check_beside(row, option)
                sentence = self._sentence(row, option, template)
                if sentence not in self._texts:
                    wanted[sentence] = None
        for sentence in wanted:  # one by one: what a text becomes must not depend on those beside it
            tokens = self.backbone.tokenize([sentence])
            with torch.inference_mode():
                self._texts[sentence] = self.backbone.encode_sentences(tokens)[0].float().cpu()

    def _check_beside(self, row: Mapping[str, Any], option: str) -> None:
        """Refuse an option beside a prompt's classes whose logit would not be comparable with theirs."""
        assert self.prompt is not None
        if (
            self.prompt.calibration is not None
            or self.prompt.context is not None
            or self.prompt.temperature != 1
        ):
            raise ValueError(
                f"The item '{row['item_id']}' has the option '{option}', which is no class of the prompt "
                f"({', '.join(self.prompt.class_names)}): of it there is no logit that compares with learned "
                'or calibrated ones. None of the above: nota="threshold".'
            )

    def _images(self, images: Sequence[str | None]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        pixels: dict[str, Tensor] = {}
        for image in dict.fromkeys(images):
            if not image:
                continue
            if image.startswith(PACKAGED):
                found[image] = self._packaged(image)
            else:
                opened = item_image(image, self.root)
                assert opened is not None
                pixels[image] = self.backbone.preprocess(opened)
        if pixels:
            size = self.batch_size  # always the same number: a feature must not depend on those beside it
            filler = [next(iter(pixels.values()))] * (size - len(pixels))
            batch = torch.stack([*pixels.values(), *filler]).to(self.backbone.device)
            with torch.inference_mode():
                encoded = self.backbone.encode_image(batch)[: len(pixels)].float().cpu()
            found |= dict(zip(pixels, encoded, strict=True))
        return found

    def _packaged(self, image: str) -> Tensor:
        if image not in self._features:
            task, split, _ = image.removeprefix(PACKAGED).split("/", 2)
            table = load_data(task).splits().get(split)
            if not isinstance(table, FeatureTable):
                raise ValueError(f"There are no packaged features of {image.removeprefix(PACKAGED)}.")
            table.check_backbone(self.backbone)
            for id_, feature in zip(table.ids, table.image_features, strict=True):
                self._features[f"{PACKAGED}{task}/{split}/{id_}"] = feature
        if image not in self._features:
            raise ValueError(f"There is no packaged image {image.removeprefix(PACKAGED)}.")
        return self._features[image]


def _check_template(text: str) -> None:
    if ("{option}" in text) + ("{}" in text) != 1:
        raise ValueError(f"A template needs {{option}} or {{}} for the option, once; got {text!r}.")

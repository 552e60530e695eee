"""Vision-language models of the transformers library that answer items: scores of options, drawn answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from calib.core.errors import first_line
from calib.core.hashing import stable_hash
from calib.core.optional import OPTIONAL
from calib.vqa.answerers.base import device_of
from calib.vqa.answerers.generation import Drawn, check_settings, drawn_answers, processing_digest
from calib.vqa.answerers.requests import PLAIN, filled
from calib.vqa.answerers.scoring import SCORING, OptionScorer, letter_ids
from calib.vqa.images import item_image, root_name
from calib.vqa.parsing import LETTERS, parse_answer, parse_confidence
from calib.vqa.perturbations import order_of

HUB = "hf://"
P_TRUE = (
    "{question}\n{options}\nPossible answer: {answer}\nIs the possible answer right?\nA. True\nB. False\n"
    "Answer with the letter of the right option only."
)
SURE = (
    "{question}\n{options}\nPossible answer: {answer}\nHow sure are you that the possible answer is right? "
    "Give a number from 0 to 100 only."
)
NOISE_SD = 25.0  # of 255, of the distorted images of noisy samples


class HuggingFaceVLM:
    """A model of `AutoModelForImageTextToText` with its processor, that answers items.

    Args:
        model: The model.
        processor: Its processor, with a chat template.
        model_id: Its name in the table of outputs.
        scoring: "letters": logits and log-probabilities of the options' letters at the answer's place;
            "texts": sums of token log-probabilities of the options' texts, prompt computed once.
        greedy: Whether an answer is generated (token log-probabilities and entropies, text, parsed).
        samples: Answers drawn, each with the options in an order of its own.
        noisy_samples: The same with noise on the image (N(0, 25) of 255).
        p_true: Whether it is asked if its answer is true: logits of True and False.
        verbalized: Whether it is asked how sure it is.
        prior: Whether options' texts are scored without image and question, too.
        temperature: Of drawn answers.
        top_p: Likewise.
        max_new_tokens: Of an answer.
        prompt: The question as it is put, see `calib.vqa.answerers.requests`.
        seed: Of drawn answers and orders.
        root: The folder of relative image paths.
        batch_size: Prompts generated from at once.

    Raises:
        ValueError: A setting is none, the processor has no chat template, or a letter is no token.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        model_id: str,
        scoring: Sequence[str] = SCORING,
        greedy: bool = True,
        samples: int = 0,
        noisy_samples: int = 0,
        p_true: bool = False,
        verbalized: bool = False,
        prior: bool = False,
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_new_tokens: int = 16,
        prompt: str = PLAIN,
        seed: int = 0,
        root: str | Path | None = None,
        batch_size: int = 4,
    ) -> None:
        self.settings: dict[str, Any] = {
            "scoring": list(scoring),
            "greedy": greedy,
            "samples": samples,
            "noisy_samples": noisy_samples,
            "p_true": p_true,
            "verbalized": verbalized,
            "prior": prior,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "prompt": prompt,
            "seed": seed,
            "batch_size": batch_size,
        }
        check_settings(self.settings)
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                f"The processor of {model_id} has no chat template; it is needed to put questions."
            )
        self.model, self.processor, self.model_id = model.eval(), processor, model_id
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.letters = letter_ids(self.tokenizer, LETTERS)
        self.batch_size, self.root = batch_size, root
        self.scorer = OptionScorer(self.model, self.tokenizer, self.letters)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        **settings: Any,
    ) -> HuggingFaceVLM:
        """Return the model in a folder, or hf://owner/name on the hub; its own code is never run.

        Args:
            path: A folder written by `save_pretrained`, or hf://owner/name.
            model_id: Its name. None: the folder's, or owner/name.
            revision: Commit or tag on the hub.
            dtype: "auto", "float32", "bfloat16", ...
            device: None: a GPU where there is one.
            settings: Those of the class.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It is no such model, a setting is none, or a device or package is not here.
        """
        check_settings(settings)  # before gigabytes are read
        from transformers import AutoModelForImageTextToText, AutoProcessor, __version__

        name = str(path)
        local = not name.startswith(HUB)
        if local and not Path(name).is_dir():
            raise FileNotFoundError(f"There is no folder {name}. On the hub: {HUB}owner/name.")
        source = name.removeprefix(HUB)
        where = device_of(device)
        common: dict[str, Any] = {"local_files_only": local, "revision": revision, "trust_remote_code": False}
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype is 'auto' or a floating-point type such as bfloat16, not {dtype!r}.")
        try:
            processor = AutoProcessor.from_pretrained(source, **common)
            kind = "auto" if dtype == "auto" else getattr(torch, dtype)
            named = "dtype" if [int(n) for n in __version__.split(".")[:2]] >= [4, 56] else "torch_dtype"
            common |= {named: kind, "use_safetensors": True}  # no pickle
            model = AutoModelForImageTextToText.from_pretrained(source, **common)
        except ImportError as error:
            raise ValueError(f"{name}: {first_line(error)} {OPTIONAL['vqa'].missing()}") from error
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{name} is no vision-language model that transformers can load: {error}"
            ) from error
        return cls(
            model.to(where),
            processor,
            model_id=model_id or (Path(name).name if local else source),
            **settings,
        )

    def describe(self) -> Mapping[str, Any]:
        """Return what decides about its answers."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            part = parameter.detach().reshape(-1)[:64].float().cpu()
            digest.update(f"{name}:{tuple(parameter.shape)}:".encode() + part.numpy().tobytes())
        return {
            "answerer": "hf",
            "model_id": self.model_id,
            "architecture": type(self.model).__name__,
            "weights": digest.hexdigest(),
            "dtype": str(next(self.model.parameters()).dtype),
            "processing": processing_digest(self.processor),
            "root": root_name(self.root),
            **self.settings,
        }

    @torch.inference_mode()
    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the outputs of items; see `calib.vqa.answerers.base.Answerer`."""
        for row in rows:
            if row["options"] is None or not 2 <= len(row["options"]) <= len(LETTERS):
                raise ValueError(
                    f"The item '{row['item_id']}' needs the texts of 2 to {len(LETTERS)} options."
                )
        images = [item_image(row["image"], self.root) for row in rows]
        made = [{"model_id": self.model_id, "item_id": row["item_id"]} for row in rows]
        if self.settings["scoring"]:
            for row, image, output in zip(rows, images, made, strict=True):
                output |= self._scores(row, image)
        if self.settings["greedy"]:
            self._greedy(rows, images, made)
        for name, noisy in (("samples", False), ("noisy_samples", True)):
            if self.settings[name]:
                for output, samples in zip(made, self._samples(rows, images, noisy=noisy), strict=True):
                    output[name] = samples
        return made

    def _scores(self, row: Mapping[str, Any], image: Image.Image | None) -> dict[str, Any]:
        options = row["options"]
        inputs = self._inputs([self._put(row)], [image])
        texts = options if "texts" in self.settings["scoring"] else None
        found = self.scorer(inputs, len(options), texts)
        scores: dict[str, Any] = {}
        if "letters" in self.settings["scoring"]:
            scores |= {"option_logit": found.logits, "option_letter_logprob": found.letters}
        if texts is not None:
            scores |= {"option_loglik": found.sums, "option_n_tokens": found.counts}
            if self.settings["prior"]:
                bare = self._inputs(["Answer:"], [None])
                scores["option_prior_loglik"] = self.scorer(bare, len(options), texts).sums
        return scores

    def _greedy(
        self,
        rows: Sequence[Mapping[str, Any]],
        images: Sequence[Image.Image | None],
        made: Sequence[dict[str, Any]],
    ) -> None:
        answers = self._drawn([self._put(row) for row in rows], images, None)
        for row, output, answer in zip(rows, made, answers, strict=True):
            said = parse_answer(answer.text, row["options"])
            output |= {
                "answer_text": answer.text,
                "answer_token_logprobs": answer.logprobs,
                "answer_token_entropies": answer.entropies,
                "answer_status": said.status,
                "pred_index": said.place,
            }
        if self.settings["p_true"]:
            for row, image, output in zip(rows, images, made, strict=True):
                inputs = self._inputs([self._about(P_TRUE, row, output)], [image])
                output["p_true_logits"] = self.scorer(inputs, 2, None).logits
        if self.settings["verbalized"]:
            asked = [self._about(SURE, row, output) for row, output in zip(rows, made, strict=True)]
            for output, answer in zip(made, self._drawn(asked, images, None), strict=True):
                output["verbalized_text"] = answer.text
                output["verbalized_confidence"] = parse_confidence(answer.text)

    def _samples(
        self, rows: Sequence[Mapping[str, Any]], images: Sequence[Image.Image | None], *, noisy: bool
    ) -> Iterator[list[dict[str, Any]]]:
        seed, count = self.settings["seed"], self.settings["noisy_samples" if noisy else "samples"]
        for row, image in zip(rows, images, strict=True):
            orders = [order_of(len(row["options"]), "sample", seed, row["base_id"], k) for k in range(count)]
            seeds = [
                stable_hash("noisy" if noisy else "drawn", seed, row["item_id"], k) for k in range(count)
            ]
            shown = [_with_noise(image, each) if noisy else image for each in seeds]
            answers = self._drawn([self._put(row, order) for order in orders], shown, seeds)
            yield [
                self._sample(row, order, each, answer)
                for order, each, answer in zip(orders, seeds, answers, strict=True)
            ]

    def _sample(
        self, row: Mapping[str, Any], order: Sequence[int], seed: int, answer: Drawn
    ) -> dict[str, Any]:
        said = parse_answer(answer.text, [row["options"][k] for k in order])
        return {
            "text": answer.text,
            "pred_id": row["option_ids"][order[said.place]] if said.place >= 0 else None,
            "logprob_sum": sum(answer.logprobs),
            "n_tokens": len(answer.logprobs),
            "option_order": [row["option_ids"][k] for k in order],
            "seed": seed,
        }

    def _drawn(
        self, prompts: Sequence[str], images: Sequence[Image.Image | None], seeds: Sequence[int] | None
    ) -> list[Drawn]:
        """Return an answer to each prompt, in batches of those with and of those without an image."""
        found: dict[int, Drawn] = {}
        for with_image in (True, False):
            asked = [k for k, image in enumerate(images) if (image is not None) == with_image]
            for start in range(0, len(asked), self.batch_size):
                part = asked[start : start + self.batch_size]
                inputs = self._inputs([prompts[k] for k in part], [images[k] for k in part])
                answers = drawn_answers(
                    self.model,
                    self.tokenizer,
                    inputs,
                    max_new_tokens=self.settings["max_new_tokens"],
                    seeds=None if seeds is None else [seeds[k] for k in part],
                    temperature=self.settings["temperature"],
                    top_p=self.settings["top_p"],
                )
                found |= dict(zip(part, answers, strict=True))
        return [found[k] for k in range(len(prompts))]

    def _put(self, row: Mapping[str, Any], order: Sequence[int] | None = None) -> str:
        options = row["options"] if order is None else [row["options"][k] for k in order]
        return filled(self.settings["prompt"], row["question"], options)

    def _about(self, text: str, row: Mapping[str, Any], output: Mapping[str, Any]) -> str:
        place = output["pred_index"]
        answer = row["options"][place] if place >= 0 else output["answer_text"]
        return filled(text, row["question"], row["options"]).replace("{answer}", answer)

    def _inputs(self, prompts: Sequence[str], images: Sequence[Image.Image | None]) -> dict[str, Any]:
        """Return the model's inputs for prompts that all have an image, or all have none."""
        texts = []
        for prompt, image in zip(prompts, images, strict=True):
            content = [{"type": "image"}] if image is not None else []
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
            texts.append(
                self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
        given = {"images": [[image] for image in images]} if images[0] is not None else {}
        made = self.processor(text=texts, padding=True, return_tensors="pt", **given)
        parameter = next(self.model.parameters())
        return {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if isinstance(value, torch.Tensor)
        }


def _with_noise(image: Image.Image | None, seed: int) -> Image.Image | None:
    if image is None:
        return None
    import numpy as np

    noise = np.random.default_rng(seed).normal(0, NOISE_SD, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float64) + noise, 0, 255).astype(np.uint8))

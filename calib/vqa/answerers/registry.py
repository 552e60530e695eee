"""The models that answer by the name a setting gives them, made of the settings of `calib vqa answer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calib.vqa.answerers.base import Answerer, device_of
from calib.vqa.answerers.hf import HuggingFaceVLM
from calib.vqa.answerers.requests import PLAIN
from calib.vqa.answerers.zero_shot import ZeroShot
from calib.vqa.tables import read_items

PROMPT = "prompt.safetensors"
OF_ALL = ("root", "model_id", "device")
# What only models of the transformers library read; `calib vqa` refuses it for others.
OF_HF = (
    "scoring",
    "greedy",
    "samples",
    "noisy_samples",
    "p_true",
    "verbalized",
    "prior",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "revision",
    "dtype",
    "prompt",
)


def zero_shot(settings: Mapping[str, Any]) -> Answerer:
    """Return a backbone by name, or a prompt's file or run folder, as a model that answers.

    Args:
        settings: Those of `calib vqa answer`.

    Raises:
        ValueError: There is no such backbone or prompt.
    """
    from calib.backbones import create_backbone
    from calib.prompts.export import Prompt

    model, where = (
        str(settings["model"]),
        {"weights": settings["weights"], "tokenizer": settings["tokenizer"]},
    )
    device, prompt, path = device_of(settings["device"]), None, Path(model)
    if path.is_dir() or path.suffix == ".safetensors":
        prompt = Prompt.load(path / PROMPT if path.is_dir() else path)
        backbone = prompt.restore_backbone(**where)
    else:
        backbone = create_backbone(model, **where)
    made = ZeroShot(
        backbone.to(device),
        prompt=prompt,
        template=settings["template"],
        nota=settings["nota"],
        root=settings["root"],
        model_id=settings["model_id"],
        batch_size=settings["batch_size"] or 32,
    )
    if settings["controls"] is not None:
        made.fit_nota(read_items(settings["controls"]), false_rate=settings["false_rate"])
    return made


def hf(settings: Mapping[str, Any]) -> Answerer:
    """Return a model of the transformers library as one that answers.

    Args:
        settings: Those of `calib vqa answer`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is no vision-language model.
    """
    read = {name: settings[name] for name in (*OF_HF, *OF_ALL)}
    read["prompt"] = (settings["prompt"] or PLAIN).replace("\\n", "\n")
    return HuggingFaceVLM.load(settings["model"], batch_size=settings["batch_size"] or 4, **read)


# `recorded` is no model that is asked; `calib.vqa.read_recorded` reads its answers.
ANSWERERS: dict[str, Callable[[Mapping[str, Any]], Answerer]] = {"zero_shot": zero_shot, "hf": hf}

"""Two vision-language models with random weights, built offline from configurations: Qwen2-VL, LLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

pytest.importorskip("transformers", minversion="5.0")  # with which answerer=hf is tested
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
KINDS = ("qwen2_vl", "llava")


def tokenizer(image_token: str) -> PreTrainedTokenizerFast:
    """Bytes as tokens, so that any text can be read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: k for k, token in enumerate([*SPECIAL, *alphabet])}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.image_token, made.video_token = image_token, "<|video_pad|>"
    return made


def tiny_vlm(kind: str, seed: int = 0) -> tuple[Any, Any]:
    """Return a model and its processor."""
    tokens = tokenizer("<image>" if kind == "llava" else "<|image_pad|>")
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "llava":
        vision = CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**text),
            image_token_index=3,
            vision_feature_layer=-1,
        )
        model: Any = LlavaForConditionalGeneration(config)
        processor: Any = LlavaProcessor(
            CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
            tokens,
            patch_size=14,
            vision_feature_select_strategy="default",
            chat_template=TEMPLATE.replace("IMAGE", "<image>"),
            image_token="<image>",
            num_additional_image_tokens=1,
        )
    else:
        config = Qwen2VLConfig(
            text_config={
                **text,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            },
            vision_config={
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 14,
            },
            image_token_id=6,
            video_token_id=7,
            vision_start_token_id=4,
            vision_end_token_id=5,
        )
        model = Qwen2VLForConditionalGeneration(config)
        size = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
        processor = Qwen2VLProcessor(
            Qwen2VLImageProcessor(size=size),
            tokens,
            Qwen2VLVideoProcessor(),
            chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        )
    with torch.no_grad():  # else every token is about as likely as any other
        model.lm_head.weight.mul_(20)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model.eval(), processor


def save_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write one as `save_pretrained` does."""
    model, processor = tiny_vlm(kind, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

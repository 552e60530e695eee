"""The numbers of the published models, so that they can be built without a network.

Sources: github.com/openai/CLIP (ViT-B/32); the BiomedCLIP configuration in github.com/mlfoundations/open_clip
issue 772; github.com/RyanWangZf/MedCLIP; `config.json` of the named BERT and Swin models.
"""

from __future__ import annotations

from typing import Any

# open_clip's ViT-B-32-quickgelu: 302 tensors, 151.28 M parameters.
CLIP_VIT_B32: dict[str, Any] = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}

_BERT_BASE: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
PUBMEDBERT: dict[str, Any] = {**_BERT_BASE, "vocab_size": 30522}
CLINICALBERT: dict[str, Any] = {**_BERT_BASE, "vocab_size": 28996}

# The hub names under which open_clip configurations mention text towers whose numbers are above.
TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": PUBMEDBERT,
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": PUBMEDBERT,
}

# 351 tensors, 195.90 M parameters.
BIOMEDCLIP: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}

SWIN_TINY: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}

# 136.62 M parameters.
MEDCLIP_VIT: dict[str, Any] = {
    "embed_dim": 512,
    "image_tower": SWIN_TINY,
    "text_tower": CLINICALBERT,
    "context_length": 25,
    "hidden_states": [1, 2, -1],
}

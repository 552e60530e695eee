"""Small models of every kind, with the structure of the published ones and random weights."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["short_runs", "forked_jobs"]
collect_ignore_glob = ["scripts/*"]  # programs that tests start, not modules

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As commands do before torch is imported: a run in here and one in a process of its own are then the same.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers are as many as the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _no_network(event: str, arguments: tuple) -> None:
    """Stop what reaches for another machine; processes of this one may talk to each other."""
    if event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else ""  # else a socket file
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    here = {"", "localhost", "127.0.0.1", "0.0.0.0", "::1", "::", socket.gethostname()}
    if host not in here and not host.startswith("127."):
        raise OSError(f"Tests have no network: {event} {host}")


sys.addaudithook(_no_network)

WORDS = {10: "x", 11: ".", 12: ",", 20: "covid", 21: "normal", 22: "lung", 23: "opacity", 24: "##s", 25: "a"}
# Properties: the same examples on every machine; thousands of new ones with --hypothesis-profile thorough.
settings.register_profile(
    "calib",
    derandomize=True,
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", max_examples=2000, deadline=None, database=None)
settings.load_profile("calib")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(WORDS.get(i, f"[unused{i}]") for i in range(4, 30))]

CLIP_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 22, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 3},
}
BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
BIOMEDCLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 20,
    },
}
MEDCLIP_CONFIG = {
    "embed_dim": 16,
    "image_tower": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 12,
        "depths": [1, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "text_tower": BERT,
    "context_length": 14,
    "hidden_states": [1, 2, -1],
}
# Of every entry of BACKBONES, the kind of small model that stands for it in the contract test.
KINDS = {
    **dict.fromkeys(("embedded", "clip", "plip", "quiltnet"), "clip"),
    "biomedclip": "biomedclip",
    "medclip": "medclip",
}
IMAGE_SIZES = {"clip": 64, "biomedclip": 160, "medclip": 32}


@pytest.fixture(autouse=True)
def loggers() -> None:
    """Let the loggers speak in every test: what ran before it may have silenced them for its process."""
    for name in ["calib", *(name for name in logging.root.manager.loggerDict if name.startswith("calib."))]:
        logger = logging.getLogger(name)
        logger.disabled = False
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small(vocab: Path):
    """Return a function (kind, **options) -> small backbone; weights are random unless said."""
    from calib.backbones.medclip import create_medclip
    from calib.backbones.openclip import create_open_clip
    from calib.backbones.options import BackboneOptions

    def build(kind: str, **options):
        given = {"weights": "random", **({} if kind == "clip" else {"tokenizer": vocab}), **options}
        if kind == "medclip":
            return create_medclip(MEDCLIP_CONFIG, BackboneOptions(**given))
        config, tower = (CLIP_CONFIG, None) if kind == "clip" else (BIOMEDCLIP_CONFIG, BERT)
        return create_open_clip(
            config, BackboneOptions(**given), name=kind, published="here", text_tower=tower
        )

    return build


@pytest.fixture(scope="session")
def kinds() -> dict[str, str]:
    return KINDS


@pytest.fixture(scope="session")
def configs() -> SimpleNamespace:
    return SimpleNamespace(clip=CLIP_CONFIG, biomedclip=BIOMEDCLIP_CONFIG, medclip=MEDCLIP_CONFIG, bert=BERT)


@pytest.fixture(scope="module", params=sorted(set(KINDS.values())))
def backbone(request, small):
    return small(request.param)


@pytest.fixture
def images(backbone):
    import torch

    generator = torch.Generator().manual_seed(5)
    size = IMAGE_SIZES[backbone.name]
    return torch.randn(5, 3, size, size, generator=generator)

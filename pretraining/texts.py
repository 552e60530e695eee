"""Text side of the pretraining: sentences, byte-level BPE tokenizer, sentence teacher, text tower."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

log = logging.getLogger(__name__)

PAD, SOS, EOT = "<pad>", "<start>", "<end>"
WORD_FRAMES = ("{a}", "{a} {b}", "a photo of a {a}.", "an image of {a} and {b}.", "{a} in {b}")


def whole_words(teacher_dir: Path) -> list[str]:
    """Return the lower-case words of three letters or more in the teacher's vocabulary, sorted.

    Args:
        teacher_dir: Folder of the sentence model, with vocab.txt.
    """
    lines = (teacher_dir / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return sorted({w for w in lines if len(w) >= 3 and w.isascii() and w.isalpha()})


def fill_frames(texts: dict[str, Any], count: int, rng: random.Random) -> list[str]:
    """Return random medical sentences: a frame, each slot filled independently.

    Args:
        texts: The mapping of captions.yaml.
        count: How many.
        rng: Source of randomness.
    """
    sentences = []
    for _ in range(count):
        sentence = rng.choice(texts["frames"])
        for slot in ("modality", "organ", "finding"):
            while f"{{{slot}}}" in sentence:
                sentence = sentence.replace(f"{{{slot}}}", rng.choice(texts[slot]), 1)
        sentences.append(sentence)
    return sentences


def word_sentences(words: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Return short phrases of ordinary words, so that every piece of the tokenizer is seen.

    Args:
        words: Ordinary words.
        count: How many phrases.
        rng: Source of randomness.
    """
    return [rng.choice(WORD_FRAMES).format(a=rng.choice(words), b=rng.choice(words)) for _ in range(count)]


def build_sentences(
    texts: dict[str, Any], words: Sequence[str], medical: int, ordinary: int, seed: int
) -> list[str]:
    """Return the distillation sentences: captions, phrases, filled frames, ordinary words; each once, sorted.

    Args:
        texts: The mapping of captions.yaml.
        words: Ordinary words.
        medical: Filled frames to draw.
        ordinary: Word phrases to draw.
        seed: Of the draws.
    """
    rng = random.Random(seed)
    captions = [c for group in texts["captions"].values() for c in group]
    phrases = [p for slot in ("modality", "organ", "finding") for p in texts[slot]]
    framed = [f"a photo of {c}." for c in captions] + [f"{c}." for c in captions + phrases]
    drawn = fill_frames(texts, medical, rng) + word_sentences(words, ordinary, rng)
    return sorted({*captions, *phrases, *framed, *drawn})


def train_tokenizer(sentences: Sequence[str], words: Sequence[str], vocab_size: int) -> Tokenizer:
    """Return a lower-casing byte-level BPE tokenizer; pad is id 0, the end token the last id.

    A space is put before the first word, so that a class name has the same pieces alone and after a context.

    Args:
        sentences: The corpus.
        words: Ordinary words, counted once each.
        vocab_size: Number of ids with the three special ones.

    Raises:
        ValueError: If the corpus does not yield that many pieces.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[PAD, SOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz" for _ in range(200)]  # "X" is one piece
    tokenizer.train_from_iterator([*sentences, *words, *letters], trainer)
    tokenizer.add_special_tokens([EOT])
    if tokenizer.get_vocab_size() != vocab_size or tokenizer.token_to_id(EOT) != vocab_size - 1:
        raise ValueError(f"Expected {vocab_size} tokens, the corpus gave {tokenizer.get_vocab_size()}.")
    ids = [(token, tokenizer.token_to_id(token)) for token in (SOS, EOT)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{SOS} $A {EOT}", special_tokens=ids)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them.

    Args:
        tokenizer: From `train_tokenizer`.
        out: Folder.
        context_length: Longest text in tokens.
    """
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SOS,
        "eos_token": EOT,
        "pad_token": PAD,
        "model_max_length": context_length,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def encode_teacher(teacher_dir: Path, sentences: Sequence[str], batch_size: int = 128) -> Tensor:
    """Return the sentence embeddings of the frozen teacher, mean-pooled and unit norm, (S, 384).

    Args:
        teacher_dir: Folder of the sentence model.
        sentences: S texts.
        batch_size: Sentences per forward pass.
    """
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir, local_files_only=True)
    model = AutoModel.from_pretrained(teacher_dir, local_files_only=True).eval()
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # little padding
    out = torch.empty(len(sentences), model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([sentences[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
        states = model(**batch).last_hidden_state  # (b, L, 384)
        mask = batch["attention_mask"].unsqueeze(-1).float()
        out[rows] = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    return out


def encode_embeddings(model: nn.Module, tokens: Tensor, embeddings: Tensor) -> Tensor:
    """Return unit-norm text features (B, D) of an open_clip CLIP, given the output of its token embedding.

    Args:
        model: open_clip CLIP with a causal text tower and argmax pooling.
        tokens: (B, L), L up to the context length; a shorter L gives the same result under the causal mask.
        embeddings: (B, L, E).
    """
    length = tokens.shape[1]
    x = embeddings + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]  # (B, E)
    return F.normalize(x @ model.text_projection, dim=-1)


def insert_noise(
    model: nn.Module, tokens: Tensor, count: int, std: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return (tokens, embeddings) with noise vectors where a learned context will be.

    Half of the rows get normal vectors, half the embeddings of random tokens. They stand after the first
    token in most batches and at a random place in the others, as a context around or after a name does.

    Args:
        model: open_clip CLIP.
        tokens: (B, L).
        count: Number of vectors M to insert.
        std: Standard deviation of the normal vectors.
        generator: Source of randomness.
    """
    batch, length = tokens.shape
    room = length if torch.rand((), generator=generator) < 0.2 else 2
    place = int(torch.randint(1, max(room, 2), (), generator=generator))
    # The end token of a short row may stand before the place; it could not see the noise then.
    place = min(place, int(tokens.argmax(dim=-1).min()))
    filler = torch.randint(2, model.vocab_size - 1, (batch, count), generator=generator)
    longer = torch.cat([tokens[:, :place], filler, tokens[:, place:]], dim=1)  # (B, L + M)
    embeddings = model.token_embedding(longer)
    noise = torch.randn(batch, count, embeddings.shape[-1], generator=generator) * std
    normal = torch.rand(batch, 1, 1, generator=generator) < 0.5
    context = torch.where(normal, noise, embeddings[:, place : place + count])
    return longer, torch.cat([embeddings[:, :place], context, embeddings[:, place + count :]], dim=1)


def rows_of_like_length(lengths: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the rows (count,) of one batch, drawn from sentences of similar length (little padding).

    Args:
        lengths: (S,) number of tokens of each sentence.
        count: Batch size.
        generator: Source of randomness.
    """
    order = (lengths + torch.rand(len(lengths), generator=generator)).argsort()  # ties in random order
    width = min(8 * count, len(order))
    start = int(torch.randint(len(order) - width + 1, (), generator=generator))
    return order[start : start + width][torch.randperm(width, generator=generator)[:count]]


def student_loss(student: Tensor, target: Tensor, relation_weight: float) -> Tensor:
    """Return mean(1 - cos(student, target)) + relation_weight * mean((S S^T - T T^T)^2) as ().

    Args:
        student: (B, D) unit norm.
        target: (B, D) unit norm, of the teacher.
        relation_weight: Weight of the second term.
    """
    relation = (student @ student.T - target @ target.T).square().mean()
    return (1 - (student * target).sum(-1)).mean() + relation_weight * relation


def distill(
    model: nn.Module, tokens: Tensor, lengths: Tensor, targets: Tensor, cfg: Any, seed: int
) -> list[float]:
    """Train the text tower of the model to give the targets; return the loss every 100 steps.

    Args:
        model: open_clip CLIP; only its text side gets gradients.
        tokens: (S, L).
        lengths: (S,) number of tokens before the padding.
        targets: (S, D) unit norm.
        cfg: The `distill` section.
        seed: Of batches and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [
        p for n, p in model.named_parameters() if not n.startswith("visual.") and n != "logit_scale"
    ]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=cfg.steps, pct_start=0.1)
    room = tokens.shape[1] - cfg.context_length
    history, running = [], 0.0
    for step in range(cfg.steps):
        rows = rows_of_like_length(lengths, cfg.batch_size, generator)
        noisy = bool(torch.rand((), generator=generator) < cfg.context_share)
        if noisy:
            rows = rows[lengths[rows] <= room]
        batch = tokens[rows, : int(lengths[rows].max())]
        if noisy:
            batch, embeddings = insert_noise(model, batch, cfg.context_length, cfg.context_std, generator)
        else:
            embeddings = model.token_embedding(batch)
        loss = student_loss(encode_embeddings(model, batch, embeddings), targets[rows], cfg.relation_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        running += float(loss.detach()) / 100
        if (step + 1) % 100 == 0:
            history.append(round(running, 5))
            log.info("distillation step %d of %d: loss %.4f", step + 1, cfg.steps, running)
            running = 0.0
    return history

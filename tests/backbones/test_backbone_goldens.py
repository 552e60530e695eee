"""Features, logits and context gradients of the official CalibPrompt code on small models."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from golden_models import CLIP, GOLDEN, by_rule, golden_clip, randn
from torch import nn

from calib.backbones.medclip import create_medclip
from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions

BERT = json.loads((GOLDEN / "models_bert.json").read_text())
CLOSE = {"atol": 1e-5, "rtol": 0}


def objective(logits, text_features, labels, alpha, as_weight):
    """LS + SMAC + AS as CalibPrompt trains with, for the gradient only."""
    n_classes, probs = logits.shape[1], logits.softmax(dim=-1)
    hot = F.one_hot(labels, n_classes).float()
    smooth = hot * (1 - alpha) + (1 - hot) * alpha / (n_classes - 1)
    ls = -(smooth * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    smac = (probs.mean(dim=0) - smooth.mean(dim=0)).abs().mean()
    cosines = text_features @ text_features.T
    spread = (cosines.sum() - cosines.trace()) / (n_classes * (n_classes - 1))
    return ls + smac + as_weight * spread


@pytest.fixture(scope="module")
def clip():
    return golden_clip()


def rows(backbone, names, n_ctx, position):
    """Return tokens (C, L) and context positions (C, M) with the class name at end, middle or front."""
    tokens, positions = [], []
    for name in names:
        ids, stop = backbone.piece_ids(name), backbone.piece_ids(".")
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        filler = [backbone.filler_id]
        tokens.append(backbone.assemble(filler * before + ids + filler * (n_ctx - before) + stop))
        at = [*range(before), *range(before + len(ids), n_ctx + len(ids))]
        positions.append(torch.tensor(at) + backbone.start_length)
    return torch.stack(tokens), torch.stack(positions)


@pytest.mark.parametrize("dataset", sorted(CLIP["tokens"]))
def test_clip_tokens(clip, dataset):
    golden = CLIP["tokens"][dataset]
    for text, row in golden["zero_shot"].items():
        tokens = clip.tokenize([text])
        assert tokens.shape == (1, 77)
        assert tokens[0].tolist() == row + [0] * (77 - len(row))
    for name, row in golden["learned16"].items():
        tokens = clip.assemble([clip.filler_id] * 16 + clip.piece_ids(f" {name}."))
        assert tokens.tolist() == row + [0] * (77 - len(row))


@pytest.mark.parametrize("case", CLIP["cases"], ids=lambda case: case["name"])
def test_clip_features_logits_and_context_gradient(clip, case):
    names, n_ctx, size = case["classnames"], case["n_ctx"], CLIP["arch"]["text_width"]
    shape = (len(names), n_ctx, size) if case["csc"] else (n_ctx, size)
    context = (randn(778, *shape).double() * 0.02).float().requires_grad_()
    tokens, positions = rows(clip, names, n_ctx, case["class_token_position"])
    text = clip.encode_prompts(context, tokens, positions)
    image = clip.encode_image(randn(777, case["B"], 3, 64, 64))
    torch.testing.assert_close(text, torch.tensor(case["text_features"]), **CLOSE)
    golden_images = torch.tensor(case["image_features"])  # the first ones only, where there are many
    torch.testing.assert_close(image[: len(golden_images)], golden_images, **CLOSE)

    logits = clip.logit_scale.exp() * image @ text.T
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=CLIP["tolerance"], rtol=0)
    labels = torch.arange(case["B"]) % len(names)
    loss = objective(logits, text, labels, case["alpha"], case["as_weight"])
    assert loss.item() == pytest.approx(case["losses"]["loss"], abs=CLIP["tolerance"])
    loss.backward()
    assert context.grad.norm().item() == pytest.approx(case["grad_ctx_norm"], rel=1e-3)
    golden = torch.tensor(case["grad_ctx"])
    # Some cases store the first context token only.
    gradient = context.grad if golden.ndim == context.ndim else context.grad[0]
    torch.testing.assert_close(gradient, golden, atol=2e-3, rtol=1e-3)

    zero_shot = clip.encode_text(clip.tokenize(list(CLIP["tokens"][case["dataset"]]["zero_shot"])))
    logits = clip.logit_scale.exp() * image @ zero_shot.T
    torch.testing.assert_close(logits, torch.tensor(case["zero_shot_logits"]), atol=CLIP["tolerance"], rtol=0)


NUMBERS = BERT["bert"]
TOWER = {
    "model_type": "bert",
    "vocab_size": NUMBERS["vocab_size"],
    "hidden_size": NUMBERS["hidden_size"],
    "num_hidden_layers": NUMBERS["layers"],
    "num_attention_heads": NUMBERS["heads"],
    "intermediate_size": NUMBERS["intermediate"],
    "max_position_embeddings": NUMBERS["max_pos"],
    "hidden_act": NUMBERS["act"],
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def bert_vocab(tmp_path_factory):
    words = {
        0: "[PAD]",
        1: "[UNK]",
        2: "[CLS]",
        3: "[SEP]",
        10: "x",
        11: ".",
        20: "first",
        21: "second",
        22: "third",
    }
    path = tmp_path_factory.mktemp("golden") / "vocab.txt"
    path.write_text("\n".join(words.get(i, f"[unused{i}]") for i in range(NUMBERS["vocab_size"])))
    return path


def text_parameters(model: nn.Module, tower: str) -> dict[str, torch.Tensor]:
    """Return the parameters that come first in the official root module; those of images sort last."""
    return {
        name: value
        for name, value in model.named_parameters()
        if name == "logit_scale" or name.startswith(tower)
    }


@pytest.fixture(scope="module")
def medclip(bert_vocab, configs):
    config = {**configs.medclip, "text_tower": TOWER, "context_length": 25}
    options = BackboneOptions("random", tokenizer=bert_vocab)
    backbone = create_medclip(config, options, with_pooler=NUMBERS["pooling_layer"])
    by_rule(text_parameters(backbone.model, "text_model."))
    return backbone


@pytest.fixture(scope="module")
def biomedclips(bert_vocab, configs):
    """Return the right BiomedCLIP and the one that embeds fixed tokens twice."""
    return tuple(
        golden_biomedclip(bert_vocab, configs, parity) for parity in ({}, {"official_double_embedding": True})
    )


def golden_biomedclip(bert_vocab, configs, parity):
    config = {**configs.biomedclip, "text_cfg": {**configs.biomedclip["text_cfg"], "context_length": 24}}
    options = BackboneOptions("random", tokenizer=bert_vocab, parity=parity)
    backbone = create_open_clip(config, options, name="biomedclip", published="", text_tower=TOWER)
    # The golden model keeps the hidden size of the published projection, 640 = (768 + 512) / 2.
    projection = nn.Sequential(nn.Linear(768, 640, bias=False), nn.GELU(), nn.Linear(640, 16, bias=False))
    backbone.model.text.proj = projection.requires_grad_(False)
    by_rule(text_parameters(backbone.model, "text."))
    return backbone


def bert_case(backbone, case):
    names = ["first", "second", "third"][: len(case["classnames"])]
    tokens, positions = rows(backbone, names, case["n_ctx"], "end")
    assert tokens.tolist() == case["input_ids"]
    context = (randn(778, case["n_ctx"], NUMBERS["hidden_size"]).double() * 0.02).float().requires_grad_()
    text = backbone.encode_prompts(context, tokens, positions)
    logits = backbone.logit_scale.exp() * torch.tensor(case["image_features"]) @ text.T
    loss = objective(logits, text, torch.arange(case["B"]) % len(names), alpha=0.2, as_weight=1.0)
    loss.backward()
    return text, logits, loss, context.grad


def check_official(case, text, logits, loss, gradient):
    torch.testing.assert_close(text, torch.tensor(case["text_features"]), **CLOSE)
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=BERT["tolerance"], rtol=0)
    assert loss.item() == pytest.approx(case["losses"]["loss"], abs=BERT["tolerance"])
    assert gradient.norm().item() == pytest.approx(case["grad_ctx_norm"], rel=1e-3)
    torch.testing.assert_close(
        gradient.flatten()[:16], torch.tensor(case["grad_ctx_first16"]), atol=1e-3, rtol=1e-3
    )


CASES = {kind: [case for case in BERT["cases"] if case["kind"] == kind] for kind in ("medclip", "biomedclip")}


@pytest.mark.parametrize("case", CASES["medclip"], ids=lambda case: f"{len(case['classnames'])}-classes")
def test_medclip_is_the_official_one(medclip, case):
    check_official(case, *bert_case(medclip, case))


@pytest.mark.parametrize("case", CASES["biomedclip"], ids=lambda case: f"{len(case['classnames'])}-classes")
def test_biomedclip_embeds_once_unless_the_official_quirk_is_wanted(biomedclips, case):
    """The official code embeds fixed tokens twice; here that turns the features by a cosine of 0.998."""
    backbone, official = biomedclips
    check_official(case, *bert_case(official, case))
    assert official.describe()["parity"] == {"official_double_embedding": True}

    text, *_ = bert_case(backbone, case)
    torch.testing.assert_close(text, torch.tensor(case["text_features_if_word_embeddings_only"]), **CLOSE)
    cosine = F.cosine_similarity(text, torch.tensor(case["text_features"]))
    expected = torch.tensor(case["cosine_official_vs_word_embeddings_only"])
    torch.testing.assert_close(cosine, expected, atol=1e-5, rtol=0)

    tokens = backbone.tokenize(["first.", "second."])  # whole texts go the right way in both
    assert torch.equal(official.encode_text(tokens), backbone.encode_text(tokens))

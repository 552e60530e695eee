"""What every backbone promises, on small models of the three kinds."""

from __future__ import annotations

import copy
import json
import math
import threading

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from calib.backbones import BACKBONES
from calib.backbones.placing import replaced_output
from calib.backbones.same import check_same_backbone

TEXTS = ["a normal lung.", "covid", "lung opacity, not normal."]
NAMES = [" normal lung.", " covid.", " lung opacity, not normal."]
N_CTX = 4


def prompt_rows(backbone, n_ctx=N_CTX):
    rows = [backbone.assemble([backbone.filler_id] * n_ctx + backbone.piece_ids(name)) for name in NAMES]
    positions = backbone.start_length + torch.arange(n_ctx)
    return torch.stack(rows), positions.expand(len(NAMES), -1)


def filler_context(backbone, n_ctx=N_CTX):
    return backbone.token_embeddings(torch.tensor([[backbone.filler_id] * n_ctx]))[0].detach().clone()


def random_context(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9)) * 0.5


def test_a_small_model_stands_for_every_backbone(kinds):
    assert kinds.keys() == BACKBONES.keys()  # a new one needs a kind in tests/conftest.py


def test_features_are_unit_norm_float32(backbone, images):
    text, image = backbone.encode_text(backbone.tokenize(TEXTS)), backbone.encode_image(images)
    assert text.shape == (3, backbone.embed_dim)
    assert image.shape == (5, backbone.embed_dim)
    for features in (text, image):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)), atol=1e-6, rtol=0)
        assert not torch.allclose(features[0], features[1], atol=1e-4)


def test_images_are_encoded_one_by_one(backbone, images):
    alone = torch.cat([backbone.encode_image(images[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(backbone.encode_image(images), alone, atol=1e-6, rtol=0)
    assert not backbone.encode_image(images).requires_grad


def test_text_equals_the_library(backbone):
    tokens = backbone.tokenize(TEXTS)
    model = backbone.model
    if backbone.name == "medclip":
        bert = model.text_model.model
        states = bert(tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True).hidden_states
        pooled = torch.stack([states[1], states[2], states[-1]]).mean(2).mean(0)
        expected = pooled @ model.text_model.projection_head.weight.T
    else:
        expected = model.encode_text(tokens)
    torch.testing.assert_close(backbone.encode_text(tokens), F.normalize(expected, dim=-1), atol=1e-6, rtol=0)


def test_hook_with_own_embeddings_changes_nothing(backbone):
    tokens = backbone.tokenize(TEXTS)
    hooked = backbone.encode_text(tokens, backbone.token_embeddings(tokens))
    assert torch.equal(hooked, backbone.encode_text(tokens))


def test_filler_context_equals_hard_tokens_and_gets_a_gradient(backbone):
    tokens, positions = prompt_rows(backbone)
    context = filler_context(backbone).requires_grad_()
    features = backbone.encode_prompts(context, tokens, positions)
    torch.testing.assert_close(features, backbone.encode_text(tokens), atol=1e-6, rtol=0)
    features[:, 0].sum().backward()
    assert (context.grad.abs().sum(dim=-1) > 1e-6).all()  # every context token
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_context_gradient_matches_finite_differences(backbone):
    tokens, positions = prompt_rows(backbone, n_ctx=2)
    context = random_context(2, backbone.token_width).requires_grad_()
    weight = random_context(len(NAMES), backbone.embed_dim)
    direction = F.normalize(random_context(2, backbone.token_width), dim=(0, 1))

    def value(step: float):
        moved = context + step * direction
        return (backbone.encode_prompts(moved, tokens, positions) * weight).sum()

    (gradient,) = torch.autograd.grad(value(0.0), context)
    numeric = (value(0.02) - value(-0.02)).item() / 0.04
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=0.05, abs=2e-3)


def test_context_of_one_class_moves_that_class_only(backbone):
    tokens, positions = prompt_rows(backbone)
    shared = filler_context(backbone)
    specific = shared.expand(3, -1, -1).clone()
    specific[1] += random_context(N_CTX, backbone.token_width)
    before = backbone.encode_prompts(shared, tokens, positions)
    after = backbone.encode_prompts(specific, tokens, positions)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], atol=1e-6, rtol=0)
    assert (after[1] - before[1]).abs().max() > 1e-3


def test_positions_decide_where_the_context_goes(backbone):
    name = backbone.piece_ids(NAMES[0])
    pieces = [*name[:-1], backbone.filler_id, backbone.filler_id, name[-1]]
    tokens = backbone.assemble(pieces)[None]
    at = backbone.start_length + len(name) - 1
    context = random_context(2, backbone.token_width)
    expected = backbone.token_embeddings(tokens).clone()
    expected[0, at], expected[0, at + 1] = context[1], context[0]
    positions = torch.tensor([[at + 1, at]])
    found = backbone.encode_prompts(context, tokens, positions)
    torch.testing.assert_close(found, backbone.encode_text(tokens, expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("specific", [False, True])
def test_sets_equal_one_after_the_other(backbone, specific):
    tokens, positions = prompt_rows(backbone)
    shape = (2, 3, N_CTX, backbone.token_width) if specific else (2, N_CTX, backbone.token_width)
    contexts = random_context(*shape).requires_grad_()
    together = backbone.encode_prompts(contexts, tokens, positions, sets=True)
    single = torch.stack([backbone.encode_prompts(context, tokens, positions) for context in contexts])
    assert together.shape == (2, 3, backbone.embed_dim)
    torch.testing.assert_close(together, single, atol=1e-6, rtol=0)
    weight = random_context(*together.shape)
    (gradient,) = torch.autograd.grad((together * weight).sum(), contexts)
    (expected,) = torch.autograd.grad((single * weight).sum(), contexts)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_wrong_shapes_are_refused(backbone):
    tokens, positions = prompt_rows(backbone)
    width = backbone.token_width
    with pytest.raises(ValueError, match=r"context of shape \(4, \d+\) or \(3, 4, \d+\), got \(5, \d+\)"):
        backbone.encode_prompts(torch.zeros(5, width), tokens, positions)
    with pytest.raises(ValueError, match=r"context of shape \(S, 4, "):
        backbone.encode_prompts(torch.zeros(4, width), tokens, positions, sets=True)
    with pytest.raises(ValueError, match=r"positions of shape \(3, M\)"):
        backbone.encode_prompts(torch.zeros(4, width), tokens, positions[:2])
    with pytest.raises(ValueError, match=r"tokens of shape \(C, \d+\) and type int64"):
        backbone.encode_text(tokens[:, :-1])
    with pytest.raises(ValueError, match="embeddings of shape"):
        backbone.encode_text(tokens, torch.zeros(3, 2, width))
    with pytest.raises(ValueError, match=r"images of shape \(B, 3, H, W\)"):
        backbone.encode_image(torch.zeros(3, 8, 8))


def test_frozen_and_always_in_evaluation_mode(backbone):
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())
    nn.ModuleDict({"inside": backbone}).train()
    assert not any(module.training for module in backbone.modules())
    tokens = backbone.tokenize(TEXTS)
    assert torch.equal(backbone.encode_text(tokens), backbone.encode_text(tokens))  # no dropout


def test_logit_scale_is_a_frozen_scalar(backbone):
    assert backbone.logit_scale.shape == ()
    assert backbone.logit_scale.dtype == torch.float32
    assert backbone.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)


def test_autocast_gives_unit_norm_float32(backbone, images):
    tokens, positions = prompt_rows(backbone)
    context = random_context(N_CTX, backbone.token_width).requires_grad_()
    exact = backbone.encode_prompts(context, tokens, positions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text, image = backbone.encode_prompts(context, tokens, positions), backbone.encode_image(images)
    for features in (text, image):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)), atol=1e-6, rtol=0)
    assert (F.cosine_similarity(text, exact) > 0.999).all()
    text[:, 0].sum().backward()
    assert context.grad.abs().sum() > 0


def test_hook_is_gone_after_an_error(backbone, monkeypatch):
    tokens = backbone.tokenize(TEXTS)

    def fails(tokens):
        raise KeyError("tower")

    monkeypatch.setattr(backbone, "_text_features", fails)
    with pytest.raises(KeyError, match="tower"):
        backbone.encode_text(tokens, backbone.token_embeddings(tokens))
    assert not backbone.token_embedding._forward_hooks


def test_tower_that_skips_its_token_table_is_refused(backbone, monkeypatch):
    tokens = backbone.tokenize(TEXTS)
    monkeypatch.setattr(backbone, "_text_features", lambda tokens: torch.ones(3, backbone.embed_dim))
    with pytest.raises(RuntimeError, match="looked tokens up 0 times"):
        backbone.encode_text(tokens, backbone.token_embeddings(tokens))


def test_tower_that_looks_its_tokens_up_again_is_refused(backbone, monkeypatch):
    """What it looks up the second time would be the prompts as well, whatever it asked for."""
    tokens, whole = backbone.tokenize(TEXTS), backbone._text_features

    def twice(tokens):
        backbone.token_embedding(tokens)
        return whole(tokens)

    monkeypatch.setattr(backbone, "_text_features", twice)
    with pytest.raises(RuntimeError, match="looked tokens up 2 times"):
        backbone.encode_text(tokens, backbone.token_embeddings(tokens))


def test_hook_of_one_thread_leaves_others_alone(backbone):
    tokens = backbone.tokenize(TEXTS)
    expected, found = backbone.encode_text(tokens), []
    with replaced_output(backbone.token_embedding, torch.zeros(*tokens.shape, backbone.token_width)):
        other = threading.Thread(target=lambda: found.append(backbone.encode_text(tokens)))
        other.start()
        other.join()
        assert not torch.allclose(backbone.encode_text(tokens), expected, atol=1e-3)  # ours is replaced
    assert torch.equal(found[0], expected)


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone(backbone, small):
    state = torch.random.get_rng_state()
    same, other = small(backbone.name), small(backbone.name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same.weights_digest == backbone.weights_digest != other.weights_digest
    assert other.describe()["weights"]["source"] == "random (seed 1)"


def test_digest_follows_every_weight(small):
    backbone = small("medclip")
    before = backbone.weights_digest
    weight = backbone.model.text_model.projection_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 2] += 1
    assert backbone.weights_digest != before
    with torch.no_grad():
        weight.copy_(kept)
    assert backbone.weights_digest == before


def test_digest_follows_a_weight_that_was_exchanged(small):
    """It was asked of names, types and changes in place, which are the same of another parameter."""
    backbone = small("medclip")
    before, head = backbone.weights_digest, backbone.model.text_model.projection_head
    kept = head.weight
    head.weight = torch.nn.Parameter(kept.detach() * 2, requires_grad=False)
    while head.weight._version < kept._version:
        head.weight.mul_(1)
    assert backbone.weights_digest != before
    assert copy.deepcopy(backbone).weights_digest == backbone.weights_digest
    head.weight = kept
    assert backbone.weights_digest == before


def test_a_description_of_another_shape_is_another_backbone():
    """Such as in a file of others: it was an AttributeError."""
    ours = {"name": "plip", "weights": {"digest": "5e1f" * 16}}
    for said in ("other", ["digest"], 3):
        with pytest.raises(
            ValueError, match="Made for plip with weights 5e1f5e1f5e1f, and the backbone at hand"
        ):
            check_same_backbone(ours, {"weights": said}, what="Made for")


def test_description_is_plain_json(backbone):
    described = backbone.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["context_length"] == backbone.tokenize(["a"]).shape[1]
    assert described["weights"]["digest"] == backbone.weights_digest
    assert described["parameters"] == sum(weight.numel() for weight in backbone._named_weights().values())
    assert described["architecture"]["activation"] == ("quick_gelu" if backbone.name == "clip" else "gelu")


def test_context_positions(backbone):
    family = ("end", "middle", "front") if backbone.name == "clip" else ("end",)
    assert backbone.supports_positions == family


def test_biomedclip_ignores_padding_and_medclip_does_not(small, configs, vocab):
    from calib.backbones.medclip import create_medclip
    from calib.backbones.openclip import create_open_clip
    from calib.backbones.options import BackboneOptions

    def gap(backbone, longer):
        texts = ["covid", "a normal lung."]
        difference = backbone.encode_text(backbone.tokenize(texts)) - longer.encode_text(
            longer.tokenize(texts)
        )
        return difference.abs().max().item()

    short = small("biomedclip")
    text = {**configs.biomedclip["text_cfg"], "context_length": 31}
    options = BackboneOptions("random", tokenizer=vocab)
    longer = create_open_clip(
        {**configs.biomedclip, "text_cfg": text},
        options,
        name="biomedclip",
        published="",
        text_tower=configs.bert,
    )
    assert gap(short, longer) < 1e-6
    longer = create_medclip({**configs.medclip, "context_length": 25}, options)
    assert gap(small("medclip"), longer) > 1e-3


def test_attention_kernels_agree(small):
    backbone = small("medclip")
    tokens, images = backbone.tokenize(TEXTS), torch.randn(2, 3, 32, 32)
    text, image = backbone.encode_text(tokens), backbone.encode_image(images)
    for tower in (backbone.model.text_model.model, backbone.model.vision_model.model):
        if not hasattr(tower, "set_attn_implementation"):
            pytest.skip("this version of transformers has no switch")
        tower.set_attn_implementation("eager")
    torch.testing.assert_close(backbone.encode_text(tokens), text, atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone.encode_image(images), image, atol=1e-6, rtol=0)

"""The faster ways of text towers give what the library's own tower gives: values and gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions
from calib.prompts.learner import PromptLearner

NAMES = ["lung opacity", "covid", "lung", "a normal lung, not covid"]
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 3}
VISION = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32}


def open_clip_backbone(*, quick_gelu=False, custom=False, seed=0, **text):
    config = {"embed_dim": 16, "quick_gelu": quick_gelu, "vision_cfg": VISION, "text_cfg": {**TEXT, **text}}
    if custom:
        config["custom_text"] = True
    built = create_open_clip(config, BackboneOptions("random", seed=seed), name="tower", published="")
    with torch.no_grad():  # the library starts biases at zero and norms at one
        generator = torch.Generator().manual_seed(3)
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return built


@pytest.fixture(scope="module")
def clip():
    return open_clip_backbone(quick_gelu=True)


def random_like(shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_ways(backbone, learner, *, specific=False, n_sets=None):
    """Return features and context gradients of the library's way and of the faster one."""
    n_classes, n_ctx = learner.positions.shape
    shape = (n_classes, n_ctx) if specific else (n_ctx,)
    shape = (*shape, backbone.token_width) if n_sets is None else (n_sets, *shape, backbone.token_width)
    found = []
    for encode in (backbone.encode_prompts_by_hook, backbone.encode_prompts):
        context = (random_like(shape) * 0.3).requires_grad_()
        features = encode(context, learner.tokens, learner.positions, sets=n_sets is not None)
        (features * random_like(features.shape, seed=2)).sum().backward()
        found += [features.detach(), context.grad]
    return found


def assert_same(backbone, learner, **how):
    features, gradient, fast_features, fast_gradient = both_ways(backbone, learner, **how)
    torch.testing.assert_close(fast_features, features, atol=1e-6, rtol=0)
    assert gradient.norm() > 1e-3
    assert (fast_gradient - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.fixture(params=["plain", "packed"])
def kernel(request, monkeypatch):
    monkeypatch.setenv("CALIB_LINEAR", request.param)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("n_sets", [None, 1, 3])
@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_causal_tower_equals_the_hook(clip, position, specific, n_sets):
    learner = PromptLearner(clip, NAMES, n_ctx=5, class_position=position)
    assert clip._fast_tower.is_known()
    assert_same(clip, learner, specific=specific, n_sets=n_sets)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("n_sets", [None, 3])
@pytest.mark.parametrize("specific", [False, True])
def test_every_kind_of_backbone_equals_the_hook(backbone, specific, n_sets):
    """The fixture is the contract test's: clip, biomedclip, medclip."""
    assert backbone._fast_tower.is_known()
    assert_same(backbone, PromptLearner(backbone, NAMES, n_ctx=4), specific=specific, n_sets=n_sets)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("config", [
    {"quick_gelu": False},
    {"custom": True},
    {"custom": True, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    {"pool_type": "last"},
    {"proj_type": "none", "width": 16},
    {"layers": 1},
    {"mlp_ratio": 3.0, "heads": 3},
], ids=str)  # fmt: skip
def test_every_known_causal_tower_equals_the_hook(config):
    backbone = open_clip_backbone(**config)
    assert backbone._fast_tower.is_known()
    assert_same(backbone, PromptLearner(backbone, NAMES, n_ctx=4))


@pytest.mark.parametrize("config", [
    {"qk_norm": True},
    {"scale_attn": True},
    {"ls_init_value": 0.1},
    {"custom": True, "no_causal_mask": True},
    {"custom": True, "embed_cls": True},
    {"custom": True, "embed_cls": True, "no_causal_mask": True},
], ids=str)  # fmt: skip
def test_unknown_towers_take_the_hook(config):
    backbone = open_clip_backbone(**config)
    assert not backbone._fast_tower.is_known()
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    features, gradient, fast_features, fast_gradient = both_ways(backbone, learner)
    assert torch.equal(features, fast_features)
    assert torch.equal(gradient, fast_gradient)


def test_padding_is_left_out_where_nobody_looks_at_it(small):
    for kind, kept in (("biomedclip", False), ("medclip", True)):
        backbone = small(kind)
        learner = PromptLearner(backbone, NAMES, n_ctx=4)
        rows = backbone._fast_tower.prompts(learner.tokens, learner.positions, specific=False).rows
        assert len(rows.classes) == (learner.tokens.numel() if kept else (learner.tokens != 0).sum())


def test_the_double_embedding_equals_the_hook(small):
    backbone = small("biomedclip", parity={"official_double_embedding": True})
    assert_same(backbone, PromptLearner(backbone, NAMES, n_ctx=4), n_sets=2)


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_other_poolings_of_a_bert_take_the_hook(configs, vocab, pooler):
    config = {**configs.biomedclip, "text_cfg": {**configs.biomedclip["text_cfg"], "hf_pooler_type": pooler}}
    options = BackboneOptions("random", tokenizer=vocab)
    backbone = create_open_clip(config, options, name="biomedclip", published="", text_tower=configs.bert)
    assert not backbone._fast_tower.is_known()
    features, gradient, fast_features, fast_gradient = both_ways(
        backbone, PromptLearner(backbone, NAMES, n_ctx=4)
    )
    assert torch.equal(features, fast_features)
    assert torch.equal(gradient, fast_gradient)


@pytest.mark.parametrize("kind", ["biomedclip", "medclip"])
@pytest.mark.parametrize("part", ["encoder.layer.1", "encoder.layer.2.output.dense", "embeddings", ""])
def test_a_hooked_bert_takes_the_hook(small, kind, part):
    backbone = small(kind)
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    before = learner(backbone)
    assert backbone._fast_tower.is_known()
    backbone._fast_tower.bert.get_submodule(part).register_forward_pre_hook(lambda module, args: None)
    assert not backbone._fast_tower.is_known()
    torch.testing.assert_close(learner(backbone), before, atol=1e-6, rtol=0)


def test_recorders_of_transformers_do_not_count_as_hooks(small):
    backbone = small("medclip")
    backbone.encode_text(backbone.tokenize(["covid"]))  # asks for hidden states
    assert backbone._fast_tower.is_known()


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def exchange_a_layer(text):
    mlp = text.transformer.resblocks[1].mlp
    mlp.c_fc.__class__ = Doubled


def hook_a_norm(text):
    text.ln_final.register_forward_hook(lambda module, args, output: output + args[0])


def hook_an_input(text):
    text.transformer.resblocks[0].attn.register_forward_pre_hook(lambda module, args: None)


def replace_a_forward(text):
    block = text.transformer.resblocks[2]
    block.forward = lambda x, attn_mask=None: x


def open_the_mask(text):
    text.attn_mask[0, 1] = 0


def checkpoint_gradients(text):
    text.transformer.grad_checkpointing = True


@pytest.mark.parametrize(
    "change",
    [exchange_a_layer, hook_a_norm, hook_an_input, replace_a_forward, open_the_mask, checkpoint_gradients],
)
def test_a_tower_changed_later_takes_the_hook(change):
    backbone = open_clip_backbone()
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    before = learner(backbone)
    change(backbone._text)
    assert not backbone._fast_tower.is_known()
    after = learner(backbone)
    assert torch.equal(
        after, backbone.encode_prompts_by_hook(learner.context, learner.tokens, learner.positions)
    )
    if change not in (hook_an_input, checkpoint_gradients):
        assert (after - before).abs().max() > 1e-4


@pytest.mark.usefixtures("kernel")
def test_changed_weights_are_seen(clip):
    backbone = copy.deepcopy(clip)
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    before = learner(backbone)
    with torch.no_grad():
        backbone._text.transformer.resblocks[1].mlp.c_proj.weight.mul_(1.5)
    assert (learner(backbone) - before).abs().max() > 1e-4
    assert_same(backbone, learner)
    weight = backbone._text.transformer.resblocks[0].attn.out_proj.weight
    weight.data = weight.data * 2
    assert_same(backbone, learner)


@pytest.mark.usefixtures("kernel")
def test_changed_prompts_are_seen(clip):
    learner = PromptLearner(clip, NAMES, n_ctx=4)
    learner(clip)
    learner.tokens[0], learner.positions[0] = learner.tokens[3].clone(), learner.positions[3].clone()
    features = learner(clip)
    assert torch.equal(features[0], features[3])
    assert_same(clip, learner)


def test_classes_that_read_the_same_share_all_their_rows(clip):
    learner = PromptLearner(clip, NAMES, n_ctx=4)
    learner.tokens[0] = learner.tokens[3].clone()
    assert_same(clip, learner)
    assert_same(clip, learner, specific=True)


@pytest.mark.usefixtures("kernel")
def test_weights_that_train_get_their_gradient(clip):
    backbone = copy.deepcopy(clip)
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    weight = backbone._text.transformer.resblocks[0].mlp.c_fc.weight.requires_grad_()
    gradients = []
    for encode in (backbone.encode_prompts_by_hook, backbone.encode_prompts):
        loss = encode(learner.context, learner.tokens, learner.positions)[:, 0].sum()
        gradients += torch.autograd.grad(loss, weight)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_autocast_equals_the_hook_under_autocast(clip):
    learner = PromptLearner(clip, NAMES, n_ctx=5)
    exact = both_ways(clip, learner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, gradient, fast_features, fast_gradient = both_ways(clip, learner)
    assert (features - exact[0]).abs().max() > 1e-4  # autocast is on
    assert fast_features.dtype == torch.float32
    torch.testing.assert_close(fast_features, exact[0], atol=2e-2, rtol=0)
    assert (fast_gradient - exact[1]).norm() < 2 * (gradient - exact[1]).norm() + 1e-3


@pytest.mark.usefixtures("kernel")
def test_half_precision_weights_equal_the_hook(clip):
    backbone = copy.deepcopy(clip).to(torch.bfloat16)
    learner = PromptLearner(backbone, NAMES, n_ctx=5)
    features, _, fast_features, _ = both_ways(backbone, learner)
    torch.testing.assert_close(fast_features, features, atol=3e-2, rtol=0)


@pytest.mark.usefixtures("kernel")
def test_prompts_first_encoded_without_a_graph_can_be_trained(clip):
    backbone = copy.deepcopy(clip)
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    with torch.inference_mode():
        before = learner(backbone)
    learner(backbone)[:, 0].sum().backward()
    assert learner.context.grad.abs().sum() > 0
    torch.testing.assert_close(learner(backbone), before)


@pytest.mark.usefixtures("kernel")
def test_prompts_made_in_inference_mode_are_encoded(clip):
    with torch.inference_mode():
        learner = PromptLearner(clip, NAMES, n_ctx=4)
        found = learner(clip)
    torch.testing.assert_close(found, PromptLearner(clip, NAMES, n_ctx=4)(clip))


@pytest.mark.usefixtures("kernel")
def test_a_used_backbone_can_be_copied_and_pickled(clip):
    backbone = copy.deepcopy(clip)
    learner = PromptLearner(backbone, NAMES, n_ctx=4)
    expected = learner(backbone)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(learner(other), expected)
        assert other._fast_tower.text is other._text
        assert_same(other, learner)


def test_sentences_equal_whole_texts(backbone):
    tokens = backbone.tokenize(["covid", "lung opacity, a lung", "lung", "lung opacity"])
    torch.testing.assert_close(
        backbone.encode_sentences(tokens), backbone.encode_text(tokens), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match=r"tokens of shape \(C, \d+\)"):
        backbone.encode_sentences(tokens[:, :-1])


def test_quirks_of_prompts_do_not_concern_sentences(small):
    backbone = small("biomedclip", parity={"official_double_embedding": True})
    tokens = backbone.tokenize(["covid", "lung opacity"])
    assert torch.equal(backbone.encode_sentences(tokens), backbone.encode_text(tokens))


def test_memory_of_prompts_is_bounded(clip):
    learners = [PromptLearner(clip, NAMES[:n], n_ctx=4) for n in (2, 3, 4)] * 4
    for learner in [copy.deepcopy(learner) for learner in learners]:
        learner(clip)
    assert len(clip._prompts._kept) == clip._prompts.limit


@pytest.mark.parametrize("branch_rows", [1, 7, 128])
def test_large_trees_attend_in_branches(clip, monkeypatch, branch_rows):
    monkeypatch.setattr("calib.backbones.fast.packing.BRANCH", branch_rows)
    names = [f"{organ} {finding}" for organ in ("lung", "colon") for finding in NAMES[:2]] + [
        "covid",
        "lungs",
    ]
    learner = PromptLearner(clip, names, n_ctx=3)
    rows = len(clip._fast_tower.prompts(learner.tokens, learner.positions, specific=False).tree.places)
    assert rows < sum((learner.tokens != 0).sum(dim=1).tolist()) - 5 * 3  # start and context are there once
    assert_same(clip, learner)
    assert_same(clip, learner, n_sets=2)


def test_sets_get_no_gradient_of_each_other(clip):
    learner = PromptLearner(clip, NAMES, n_ctx=4)
    contexts = random_like((3, 4, clip.token_width)).requires_grad_()
    clip.encode_prompts(contexts, learner.tokens, learner.positions, sets=True)[1].square().sum().backward()
    assert contexts.grad[1].abs().sum() > 0
    assert not contexts.grad[[0, 2]].any()


@pytest.fixture(scope="module", params=["biomedclip", "medclip"])
def published_bert(request, vocab):
    from calib.backbones import create_backbone

    return create_backbone(request.param, weights="random", tokenizer=vocab)


@pytest.fixture(scope="module")
def published_plip():
    from calib.backbones import create_backbone

    return create_backbone("plip", weights="random")


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
def test_bert_at_its_size(published_bert):
    backbone = copy.deepcopy(published_bert)  # which keeps nothing of another kernel
    learner = PromptLearner(backbone, NAMES, n_ctx=8)
    features, gradient, fast_features, fast_gradient = both_ways(backbone, learner)
    assert (fast_features - features).abs().max() < 1e-6
    assert (fast_gradient - gradient).norm() < 1e-5 * gradient.norm()


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("position", ["end", "middle"])
def test_plip_at_its_size(position, published_plip):
    from calib.data import DATASETS

    backbone = copy.deepcopy(published_plip)
    names = list(DATASETS["kather"].class_names.values())
    learner = PromptLearner(backbone, names, class_position=position)
    for n_sets in (None, 2):
        features, gradient, fast_features, fast_gradient = both_ways(backbone, learner, n_sets=n_sets)
        assert (fast_features - features).abs().max() < 3e-7
        assert (fast_gradient - gradient).norm() < 3e-6 * gradient.norm()

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from calib.failure.vilu import ViLU
from calib.scores.logits import log_odds

B, C, D = 5, 3, 8
SCALE = math.log(20.0)


def unit(seed, rows, dtype=torch.float32):
    features = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(features, dim=1).to(dtype)


def build(seed=0, **options):
    torch.manual_seed(seed)
    return ViLU(D, logit_scale=SCALE, hidden=(7, 4), **options)


OPTIONS = [
    {"use_attention": attention, "concat": concat, "use_predicted_caption": predicted}
    for attention in (True, False)
    for concat in (True, False)
    for predicted in (True, False)
]


@pytest.mark.parametrize(
    ("options", "width"), list(zip(OPTIONS, [3, 2, 2, 1, 2, 1, 2, 1], strict=True)), ids=str
)
def test_the_option_table_gives_the_official_widths(options, width):
    head = build(**options)
    assert head.mlp[0].in_features == width * D
    assert hasattr(head, "in_proj_v") == options["use_attention"]


def test_published_sizes():
    vilu = ViLU(512, logit_scale=SCALE)
    lvu = ViLU(512, logit_scale=SCALE, use_attention=False, use_predicted_caption=False)
    assert sum(p.numel() for p in vilu.parameters()) == 1_475_585
    assert sum(p.numel() for p in lvu.parameters()) == 427_009
    assert [tuple(p.shape) for p in lvu.parameters()][::2] == [(512, 512), (256, 512), (128, 256), (1, 128)]


def test_the_mlp_sees_image_attention_and_prediction_in_this_order():
    head = build()
    v, t = unit(1, B), unit(2, C)
    logits = 20 * v @ t.T
    x = torch.cat([v, logits.softmax(1) @ t, t[logits.argmax(1)]], dim=1)
    assert torch.allclose(head(v, t), -head.mlp(x)[:, 0], atol=1e-6)
    assert head(v, t).shape == (B,)


def test_given_predictions_replace_the_argmax_but_not_the_attention():
    head = build()
    v, t = unit(1, B), unit(2, C)
    predictions = (20 * v @ t.T).argmin(1)
    parts = head.inputs(v, t, predictions).parts()
    assert torch.equal(parts["predicted"], t[predictions])
    assert torch.equal(parts["alternatives"], head.inputs(v, t).parts()["alternatives"])
    assert not torch.allclose(head(v, t, predictions), head(v, t))
    assert torch.equal(head(v, t, (20 * v @ t.T).argmax(1)), head(v, t))


def test_lvu_sees_only_the_image():
    head = build(use_attention=False, use_predicted_caption=False)
    v = unit(1, B)
    assert torch.equal(head(v), head(v, unit(2, C)))
    assert torch.equal(head(v), -head.mlp(v)[:, 0])
    head.train()(v)
    assert int(head.iteration_count) == 0  # as in the release, only attention counts


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_order_of_the_classes_does_not_matter(options):
    head = build(**options).double()
    v, t = unit(1, B, torch.float64), unit(2, C, torch.float64)
    assert torch.allclose(head(v, t), head(v, t[[2, 0, 1]]), atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_folded_first_layer_changes_nothing(options, residual, monkeypatch):
    rows = 260
    heads = [build(**options, residual=residual, keep_frozen=False, n_iter_freeze_proj=0) for _ in range(2)]
    v, t = unit(1, rows, torch.float64), unit(2, C, torch.float64)
    for head in heads:
        head.double().iteration_count += 1
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(3))
    whole = heads[0](v, t)
    monkeypatch.setattr("calib.failure.vilu_mlp.FOLD_FROM", rows + 1)
    joined = heads[1](v, t)
    assert torch.allclose(whole, joined, atol=1e-12)
    assert torch.allclose(whole[:B], heads[0](v[:B], t), atol=1e-12)  # few rows take the other way
    for value in (whole, joined):
        (value**2).mean().backward()
    for (name, ours), other in zip(heads[0].named_parameters(), heads[1].parameters(), strict=True):
        assert torch.allclose(ours.grad, other.grad, atol=1e-12), name


def test_captions_of_the_batch_are_candidates_like_classes():
    head = build()
    v, captions = unit(1, B), unit(2, B)
    out = head(v, captions)
    one_by_one = torch.cat([head(v[i : i + 1], captions) for i in range(B)])
    assert torch.allclose(out, one_by_one, atol=1e-6)
    assert not torch.allclose(out[:3], head(v[:3], captions[:3]))  # fewer candidates, another task


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients(options):
    head = build(**options, keep_frozen=False, n_iter_freeze_proj=0, activation="leaky_relu").double()
    head.iteration_count += 1
    assert head.projects == options["use_attention"]
    names, values = zip(*head.named_parameters(), strict=True)

    def run(v, t, *values):
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (v, t))

    generator = torch.Generator().manual_seed(4)
    given = [x.detach() + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in values]
    arguments = [x.requires_grad_() for x in (unit(1, 2, torch.float64), unit(2, C, torch.float64), *given)]
    assert torch.autograd.gradcheck(run, arguments, atol=1e-6)


def test_gradients_of_the_residual_form():
    head = build(residual=True, activation="leaky_relu").double()
    v, t = unit(1, B, torch.float64), unit(2, C, torch.float64)
    scale, offset = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, -0.2))

    def run(scale, offset, v):
        return torch.func.functional_call(head, {"mcp_scale": scale, "mcp_offset": offset}, (v, t))

    assert torch.autograd.gradcheck(run, (scale, offset, v.requires_grad_()), atol=1e-6)


def test_frozen_projections_neither_learn_nor_decay():
    for keep_frozen in (True, False):
        head = build(keep_frozen=keep_frozen).train()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        before = head.mlp[0].weight.detach().clone()
        for _ in range(3):
            optimizer.zero_grad()
            head(unit(1, B), unit(2, C)).sum().backward()
            optimizer.step()
        assert torch.equal(head.in_proj_v.weight, torch.eye(D))
        assert torch.equal(head.in_proj_t.weight, torch.eye(D))
        assert not torch.equal(head.mlp[0].weight, before)
        assert head.in_proj_v.weight.requires_grad != keep_frozen


def test_the_release_lets_frozen_projections_decay():
    head = build(official_decay=True).train()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        head(unit(1, B), unit(2, C)).sum().backward()
        optimizer.step()
    assert torch.allclose(head.in_proj_v.weight, 0.95**3 * torch.eye(D))


# Residual form


def test_log_odds_by_hand():
    logits = torch.tensor([[math.log(6), math.log(3), math.log(1)], [0.0, 0.0, 0.0]])
    assert log_odds(logits).tolist() == pytest.approx([math.log(6 / 4), math.log(1 / 2)], abs=1e-6)
    assert log_odds(logits, torch.tensor([2, 1])).tolist() == pytest.approx(
        [math.log(1 / 9), math.log(1 / 2)], abs=1e-6
    )


def test_log_odds_do_not_saturate_where_probabilities_do():
    logits = torch.tensor([[200.0, 0.0, 0.0], [100.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    assert (logits.softmax(1).max(1).values == 1).all()
    assert log_odds(logits).tolist() == pytest.approx([x - math.log(2) for x in (200, 100, 60)])


def test_log_odds_of_one_class_are_refused():
    with pytest.raises(ValueError, match=r"C >= 2, not \(5, 1\)"):
        log_odds(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="C >= 2"):
        build(residual=True)(unit(1, B), unit(2, 1))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_untrained_residual_head_is_mcp(options):
    head = build(**options, residual=True)
    v, t = unit(1, 300), unit(2, C)
    out = head(v, t)
    assert torch.equal(out, -log_odds(20 * v @ t.T))
    mcp = (20 * v @ t.T).double().softmax(1).max(1).values
    assert len(set(mcp.tolist())) == 300
    assert torch.equal(out.argsort(descending=True), mcp.argsort())
    # and to the last digit: sigmoid(log-odds) is the probability
    assert torch.allclose(out.double().sigmoid(), 1 - mcp, atol=1e-6)


def test_a_residual_head_learns_from_the_first_step():
    head = build(residual=True)
    head(unit(1, B), unit(2, C)).sum().backward()
    assert head.mlp[-1].weight.grad.abs().sum() > 0
    assert head.mcp_scale.grad != 0
    fixed = build(residual=True, learn_mcp=False)
    fixed(unit(1, B), unit(2, C)).sum().backward()
    assert fixed.mcp_scale.grad is None
    assert fixed.mcp_offset.grad is None


def test_the_scale_of_mcp_does_not_decay():
    head = build(residual=True)
    groups = head.parameter_groups(0.5)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert {id(p) for p in groups[1]["params"]} == {id(head.mcp_scale), id(head.mcp_offset)}
    grouped = {id(p) for group in groups for p in group["params"]}
    assert grouped == {id(p) for p in head.parameters() if p.requires_grad}
    assert len(build().parameter_groups(0.5)) == 1


def test_half_precision_does_not_change_the_prediction():
    t = torch.eye(C, D)
    v = normalize(torch.tensor([[1.0, 1.0001, 0.0, 0, 0, 0, 0, 0]]), dim=1)
    head = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.inputs(v, t).predictions.tolist() == [1]
        assert torch.isfinite(head(v, t)).all()
    assert v.bfloat16()[0, 0] == v.bfloat16()[0, 1]  # where bfloat16 sees a tie


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(B, 7), unit(2, C)), r"image_features must be \(B, 8\).*not \(5, 7\)"),
        ((torch.zeros(D), unit(2, C)), r"image_features must be \(B, 8\)"),
        ((torch.zeros(B, D, dtype=torch.int64), unit(2, C)), "floats"),
        ((unit(1, B), torch.zeros(C, 7)), r"text_features must be \(C, 8\).*not \(3, 7\)"),
        ((unit(1, B), torch.zeros(0, D)), r"text_features must be"),
        ((unit(1, B),), "needs text_features"),
        ((unit(1, B), unit(2, C), torch.zeros(4, dtype=torch.int64)), r"must be \(5,\) int64"),
        ((unit(1, B), unit(2, C), torch.zeros(B)), r"int64.*float32"),
        ((unit(1, B), unit(2, C), torch.full((B,), 3)), r"lie in 0\.\.2, got 3"),
        ((unit(1, B), unit(2, C), torch.full((B,), -1)), r"lie in 0\.\.2, got -1"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build()(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_scale": 100.0}, "log of the scale"),
        ({"logit_scale": math.nan}, "log of the scale"),
        ({"activation": "rellu"}, "Did you mean 'relu'"),
        ({"hidden": []}, "hidden width"),
        ({"dim": 0}, "dim and at least one"),
        ({"n_iter_freeze_proj": -1}, "n_iter_freeze_proj"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViLU(**{"dim": D, "logit_scale": SCALE, **options})


def test_the_options_make_the_same_head():
    head = build(activation="leaky_relu", negative_slope=0.2, residual=True, concat=False, learn_mcp=False)
    again = ViLU(**head.options, logit_scale=head.logit_scale)
    again.load_state_dict(head.state_dict())
    assert torch.equal(head(unit(1, B), unit(2, C)), again(unit(1, B), unit(2, C)))
    assert again.options == head.options

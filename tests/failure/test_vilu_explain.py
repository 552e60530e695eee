from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from calib.failure.explain import shapley_values
from calib.failure.vilu import ViLU

B, C, D = 5, 4, 8


def unit(seed, rows):
    features = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(features, dim=1)


def build(**options):
    torch.manual_seed(0)
    head = ViLU(D, logit_scale=math.log(20.0), hidden=(7, 4), **options).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


V, T, TRAIN = unit(1, B), unit(2, C), unit(3, 11)
OPTIONS = [
    {"use_attention": attention, "concat": concat, "use_predicted_caption": predicted, "residual": residual}
    for attention, concat in ((True, True), (True, False), (False, True))
    for predicted in (True, False)
    for residual in (True, False)
]


def test_shapley_values_by_hand():
    """f = x y + 2 z from means (1, 0, 0) to (2, 3, 5): y alone adds 3, with x 6, so y has 4.5 and x 1.5."""
    parts = {"x": torch.tensor([[2.0]]), "y": torch.tensor([[3.0]]), "z": torch.tensor([[5.0]])}
    means = {"x": torch.ones(1), "y": torch.zeros(1), "z": torch.zeros(1)}
    values, average, whole = shapley_values(
        lambda given: (given["x"] * given["y"] + 2 * given["z"])[:, 0], parts, means
    )
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {"x": 1.5, "y": 4.5, "z": 10.0}
    )
    assert average == 0.0
    assert whole.item() == 16.0


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_contributions_are_complete(options):
    head = build(**options)
    why = head.explain(V, T, means=head.part_means(TRAIN, T))
    assert torch.allclose(why.failure_logit, head(V, T), atol=1e-12)
    assert torch.allclose(why.baseline + sum(why.contributions.values()), why.failure_logit, atol=1e-12)
    expected = {"image", *["alternatives"] * options["use_attention"]}
    expected |= {*["predicted"] * options["use_predicted_caption"], *["confidence"] * options["residual"]}
    assert why.contributions.keys() == expected


def test_a_part_the_head_ignores_contributes_nothing():
    head = build()
    with torch.no_grad():
        head.mlp[0].weight[:, D : 2 * D] = 0  # the attention's slot
    why = head.explain(V, T, means=head.part_means(TRAIN, T))
    assert torch.allclose(why.contributions["alternatives"], torch.zeros(B, dtype=torch.float64))
    assert why.contributions["image"].abs().min() > 0


def test_the_average_case_itself_has_nothing_to_explain():
    head = build(use_attention=False, use_predicted_caption=False)
    why = head.explain(V[:1], T, means={"image": V[0]})
    assert why.contributions["image"].item() == 0
    assert why.baseline == pytest.approx(head(V[:1]).item())


def test_an_untrained_residual_head_is_explained_by_its_confidence_alone():
    head = ViLU(D, logit_scale=math.log(20.0), hidden=(7, 4), residual=True).double()
    means = head.part_means(TRAIN, T)
    why = head.explain(V, T, means=means)
    for name in ("image", "alternatives", "predicted"):
        assert not why.contributions[name].any()
    assert torch.allclose(why.contributions["confidence"], why.failure_logit + means["confidence"])


def test_alternatives_are_the_largest_weights_besides_the_predicted_class():
    head = build()
    predictions = torch.tensor([0, 1, 2, 3, 0])
    why = head.explain(V, T, predictions, means=head.part_means(TRAIN, T), top=2)
    weights = (20 * V @ T.T).softmax(1)
    assert torch.allclose(why.weights, weights)
    for i in range(B):
        order = [c for c in weights[i].argsort(descending=True).tolist() if c != predictions[i]]
        assert why.alternatives[i].tolist() == order[:2]
        assert why.alternative_weights[i].tolist() == pytest.approx(weights[i, order[:2]].tolist())
    everything = head.explain(V, T, means=head.part_means(TRAIN, T), top=9)
    assert everything.alternatives.shape == (B, C - 1)


def test_explaining_leaves_the_freeze_counter_and_the_gradients_alone():
    head = build().train()
    head.explain(V, T, means=head.part_means(TRAIN, T))
    assert int(head.iteration_count) == 0
    assert head.mlp[0].weight.grad is None


def test_sentences_name_the_rival_and_every_part_with_its_number():
    t = torch.eye(3, D, dtype=torch.float64)
    v = normalize(torch.tensor([[0.52, 0.5, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64), dim=1)
    v = torch.nn.functional.pad(v, (0, D - 3))
    names = ["tumour", "stroma", "debris"]
    untrained = ViLU(D, logit_scale=math.log(20.0), hidden=(7, 4), residual=True).double()
    why = untrained.explain(v, t, means=untrained.part_means(v, t), top=1)
    doubtful, sure = why.sentences(names)
    ours, other = why.weights[0, :2].tolist()
    change = float(why.contributions["confidence"][0])
    assert doubtful.startswith(f"Predicted tumour, score for being wrong {1 - ours:.0%}; weighed against ")
    assert doubtful.endswith(
        f" stroma (attention {other:.0%}). Against the average training image, doubt is raised by the "
        f"model's probability of {ours:.0%} against {other:.0%} for stroma ({change:+.2f})."
    )
    assert (
        f"doubt is lowered by the model's probability of 100% against 0% for stroma ({-change:+.2f})" in sure
    )
    head = build(residual=True)
    why = head.explain(v, t, means=head.part_means(TRAIN, T), top=1)
    words = {
        "image": "the image itself",
        "alternatives": "the classes it resembles, stroma first",
        "predicted": "the prediction tumour as such",
        "confidence": "for stroma",
    }
    for i, sentence in enumerate(why.sentences(names)):
        raised, lowered = sentence.split("; lowered by")
        for part, text in words.items():
            value = float(why.contributions[part][i])
            assert abs(value) > 0.005, "choose other weights: this part would not be named"
            assert f"{text} ({value:+.2f})" in (raised if value > 0 else lowered)
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        why.sentences(["a", "b"])


def test_the_rival_is_the_models_own_where_trained_projections_attend_to_another_class():
    head = build(keep_frozen=False, n_iter_freeze_proj=0, residual=True)
    head.iteration_count += 1
    why = head.explain(V, T, means=head.part_means(TRAIN, T), top=1)
    logits = 20 * V @ T.T
    second = logits.topk(2, dim=1).indices[:, 1]
    assert torch.equal(why.rivals, second)
    assert not torch.equal(why.alternatives[:, 0], second)
    assert torch.allclose(why.probs, logits.softmax(1).topk(2, dim=1).values)


def test_an_image_like_the_average_has_an_unchanged_doubt():
    head = build(use_attention=False, use_predicted_caption=False)
    text = head.explain(V[:1], T, means={"image": V[0]}).sentences(["a", "b", "c", "d"])[0]
    assert text.endswith("Against the average training image, doubt is unchanged.")
    assert "attention" not in text  # which this head has not: what it weighs are probabilities
    assert text.count("(probability ") == 3


def test_bad_means_are_refused():
    head = build()
    means = head.part_means(TRAIN, T)
    with pytest.raises(ValueError, match=r"means must hold \['alternatives', 'image', 'predicted'\]"):
        head.explain(V, T, means={"image": means["image"]})
    with pytest.raises(ValueError, match=r"means of image must be \(D,\)"):
        head.explain(V, T, means={**means, "image": torch.zeros(3)})
    with pytest.raises(ValueError, match="top must be at least 1"):
        head.explain(V, T, means=means, top=0)

"""Scores from a few labelled images: by hand, against independent formulas, one shot, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch.nn.functional import normalize, softplus

from calib.metrics.failure import auroc
from calib.scores import mcp
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling, _Batch


def clusters(shots=6, *, classes=3, dim=8, seed=0, spread=0.25):
    """Return unit features of classes around fixed directions, and their labels."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(shots)
    features = normalize(centres, dim=1)[labels]
    features = features + spread * torch.randn(len(labels), dim, generator=noise, dtype=torch.float64)
    return normalize(features, dim=1), labels


def task(n=80, seed=1):
    """Return features, labels, and logits that often confuse classes 0 and 1, with features of 3 texts."""
    features, labels = clusters(n // 3 + 1, seed=seed)
    noise = torch.Generator().manual_seed(seed + 1)
    logits = 4 * torch.nn.functional.one_hot(labels, 3) + 0.3 * torch.randn(
        len(labels), 3, generator=noise, dtype=torch.float64
    )
    logits[::4, 0] += 8.0  # wrong for classes 1 and 2, and as sure of it as of the rest
    return features, labels, logits, normalize(torch.eye(3, 8), dim=1).double()


TRAINING_FREE = [ImagePrototypes, ClassGaussians]


def test_prototypes_by_hand():
    shots = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    score = ImagePrototypes(weight=0.5).fit(shots, torch.tensor([0, 0, 1]))
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    images = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    rest = 1 / (1 + math.e)
    # prototypes: (1, 1) / sqrt 2 and (-1, 0)
    expected = [rest + 0.5 * (1 - 0), rest + 0.5 * (1 - 1 / math.sqrt(2))]
    assert score(images, logits).tolist() == pytest.approx(expected)


def test_prototypes_are_the_released_confidence():
    features, labels = clusters()
    images, _, logits, _ = task()
    ours = ImagePrototypes(weight=0.7).fit(features, labels)(images, logits)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    closeness = (images * normalize(means, dim=1)[logits.argmax(1)]).sum(1)
    confidence = logits.softmax(1).max(1).values + 0.7 * closeness
    torch.testing.assert_close(ours, 1.7 - confidence)


def test_without_weight_prototypes_are_mcp():
    features, labels = clusters()
    images, _, logits, _ = task()
    ours = ImagePrototypes(weight=0.0).fit(features, labels)(images, logits)
    torch.testing.assert_close(ours, mcp(logits).sigmoid())


def test_gaussians_approach_the_release_with_many_shots():
    features, labels = clusters(400)
    images, _, logits, _ = task()
    ours = ClassGaussians(components=5, strength=1e-6).fit(features, labels)(images, logits)
    pca = PCA(n_components=5).fit(features.numpy())
    shots, queries = pca.transform(features.numpy()), pca.transform(images.numpy())
    densities = []
    for c in range(3):
        of_class = shots[labels.numpy() == c]
        covariance = np.cov(of_class, rowvar=False) + 1e-8 * np.eye(5)
        densities.append(multivariate_normal(of_class.mean(0), covariance).logpdf(queries))
    q = torch.from_numpy(np.stack(densities, axis=1)).softmax(1)
    rows = torch.arange(len(images))
    confidence = (logits.softmax(1).max(1).values + q[rows, logits.argmax(1)]) / 2
    torch.testing.assert_close(ours.exp(), 1 - confidence, atol=1e-5, rtol=1e-4)


def test_shrinkage_is_the_documented_one():
    features, labels = clusters(4, dim=5)
    score = ClassGaussians(components=2, strength=3.0).fit(features, labels)
    pca = PCA(n_components=2).fit(features.numpy())
    x = pca.transform(features.numpy())
    scatters = [3 * np.cov(x[labels.numpy() == c], rowvar=False) for c in range(3)]
    within = sum(scatters)
    pooled = (within + 3 * np.trace(within) / (2 * 9) * np.eye(2)) / (9 + 3)
    expected = [
        multivariate_normal(x[labels.numpy() == c].mean(0), (scatters[c] + 3 * pooled) / 6).logpdf(x)
        for c in range(3)
    ]
    ours = score.log_density(features).numpy() - math.log(2 * math.pi)
    np.testing.assert_allclose(ours, np.stack(expected, axis=1), rtol=1e-9)


def test_gaussian_score_does_not_saturate():
    features, labels = clusters(20, spread=0.01)
    logits = 1e5 * torch.nn.functional.one_hot(labels, 3)
    values = ClassGaussians().fit(features, labels)(features, logits)
    assert len(values.unique()) == len(values)
    assert (values < -36).all()  # 1 - confidence is below what float64 keeps next to 1


@pytest.mark.parametrize("shots", [1, 2, 8, 50])
@pytest.mark.parametrize("kind", TRAINING_FREE)
def test_few_shots_are_enough_and_beat_misled_logits(kind, shots):
    features, labels = clusters(shots)
    images, true, logits, _ = task()
    wrong = logits.argmax(1) != true
    values = kind().fit(features, labels)(images, logits)
    assert values.isfinite().all()
    assert float(auroc(values, wrong)) > max(0.85, float(auroc(mcp(logits), wrong)))


@pytest.mark.parametrize("kind", TRAINING_FREE)
def test_order_of_the_shots_and_rotations_change_nothing(kind):
    features, labels = clusters()
    images, _, logits, _ = task()
    values = kind().fit(features, labels)(images, logits)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    again = kind().fit(features[order], labels[order])(images, logits)
    torch.testing.assert_close(again, values)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(4)).double())[0]
    turned = kind().fit(features @ turn, labels)(images @ turn, logits)
    torch.testing.assert_close(turned, values)


def test_copies_of_one_shot_are_one_shot():
    features, labels = clusters(1)
    images, _, logits, _ = task()
    once = ClassGaussians().fit(features, labels)(images, logits)
    copies = ClassGaussians().fit(features.repeat(2, 1), labels.repeat(2))(images, logits)
    assert copies.isfinite().all()
    assert torch.corrcoef(torch.stack([once, copies]))[0, 1] > 0.9


def test_float32_features_are_fine():
    features, labels = clusters()
    images, _, logits, _ = task()
    for kind in TRAINING_FREE:
        exact = kind().fit(features, labels)(images, logits)
        short = kind().fit(features.float(), labels)(images.float(), logits.float())
        assert short.dtype == torch.float64
        torch.testing.assert_close(short, exact, atol=1e-4, rtol=1e-3)


# Logit scaling


def test_scaling_starts_at_mcp_and_learns():
    images, labels, logits, texts = task(60)
    wrong = logits.argmax(1) != labels
    start = LogitScaling(learning_rate=1e-12).fit(images, labels, logits=logits, text_features=texts)
    torch.testing.assert_close(start(images, logits), mcp(logits), atol=1e-6, rtol=1e-6)
    other_images, other_labels, other_logits, _ = task(200, seed=11)
    fitted = LogitScaling().fit(images, labels, logits=logits, text_features=texts)
    values = fitted(other_images, other_logits)
    other_wrong = other_logits.argmax(1) != other_labels
    assert wrong.any()
    assert float(auroc(values, other_wrong)) > float(auroc(mcp(other_logits), other_wrong)) + 0.1


def scaling_loss(factors, logits, labels, *, beta, width):
    """Return the mean loss as the docstring of LogitScaling has it."""
    probs = (factors[:, None] * logits).softmax(dim=1)
    top = probs.max(dim=1).values
    low, value, high = (1 / (1 + torch.exp(-(x - 0.5) / width)) for x in (torch.zeros(1), top, torch.ones(1)))
    psi = (value - low) / (high - low)
    right = probs.argmax(dim=1) == labels
    losses = torch.where(
        right, -probs.log()[range(len(labels)), labels] + beta * (1 - psi), -probs.log().mean(1) + beta * psi
    )
    return losses.mean()


def test_scaling_loss_by_hand_and_its_gradient():
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]], dtype=torch.float64)
    psi = (1 / (1 + math.exp(-1)) - 1 / (1 + math.exp(2))) / (1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(2)))
    right = -math.log(0.75) + 0.5 * (1 - psi)
    wrong = -(math.log(0.75) + math.log(0.25)) / 2 + 0.5 * psi
    loss = scaling_loss(torch.ones(2), logits, torch.tensor([0, 1]), beta=0.5, width=0.25)
    assert loss.item() == pytest.approx((right + wrong) / 2)
    images, labels, logits, texts = task(30)
    predicted, settings = logits.argmax(1), {"beta": 0.5, "width": 0.25}
    batch = _Batch.of(images, logits, float(logits.std()), texts, labels, predicted == labels)
    draw = torch.Generator().manual_seed(0)
    shapes = [(batch.width, 5), (5,), (5,), ()]
    weights = [
        torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]
    centred = (logits - logits.mean(dim=1, keepdim=True)) / logits.std()
    inputs = torch.cat([centred, images, texts[predicted]], dim=1)
    factors = softplus((inputs @ weights[0] + weights[1]).relu() @ weights[2] + weights[3])
    scaling_loss(factors, logits, labels, **settings).backward()
    found = batch.gradient([weight.detach().numpy() for weight in weights], **settings)
    for ours, weight in zip(found, weights, strict=True):
        assert weight.grad.abs().max() > 1e-3
        assert np.allclose(ours, weight.grad.numpy(), atol=1e-12)


def test_scaling_is_trained_by_adam_with_decoupled_weight_decay():
    images, labels, logits, texts = task(30)
    settings = {"steps": 3, "learning_rate": 0.05, "weight_decay": 0.3, "hidden": 5}
    found = LogitScaling(**settings).fit(images, labels, logits=logits, text_features=texts)
    start = LogitScaling(**{**settings, "steps": 1, "learning_rate": 1e-300}).fit(
        images, labels, logits=logits, text_features=texts
    )
    names = ("_matrix", "_output", "_bias", "_offset")  # the first two decay
    weights = {name: getattr(start, name).clone().requires_grad_() for name in names}
    groups = [
        {"params": [weights[name] for name in names[:2]], "weight_decay": 0.3},
        {"params": [weights[name] for name in names[2:]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    inputs = start._inputs(images, logits)
    for _ in range(3):
        optimizer.zero_grad()
        raw = (inputs @ weights["_matrix"] + weights["_bias"]).relu() @ weights["_output"]
        scaling_loss(softplus(raw + weights["_offset"]), logits, labels, beta=0.6, width=0.05).backward()
        optimizer.step()
    for name in names:
        assert torch.allclose(getattr(found, name), weights[name].detach(), atol=1e-10), name


def test_scaling_is_reproducible_and_leaves_the_random_state_alone():
    images, labels, logits, texts = task(60)
    state = torch.random.get_rng_state()
    first, second = (
        LogitScaling(steps=20).fit(images, labels, logits=logits, text_features=texts) for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first(images, logits), second(images, logits))
    other = LogitScaling(steps=20, seed=1).fit(images, labels, logits=logits, text_features=texts)
    assert not torch.equal(other(images, logits), first(images, logits))
    with torch.inference_mode():
        third = LogitScaling(steps=2).fit(images, labels, logits=logits, text_features=texts)
        assert not third(images, logits).requires_grad
    flat = LogitScaling(steps=2).fit(images, labels, logits=torch.ones_like(logits), text_features=texts)
    assert flat(images, logits).isfinite().all()  # logits without any spread


# Bad input


@pytest.mark.parametrize("kind", TRAINING_FREE)
def test_bad_shots(kind):
    features, labels = clusters(2)
    nan = features.clone()
    nan[4, 0] = math.nan
    for given, of, size, message in [
        (2 * features, labels, None, r"row 0 has norm 2 \(6 such rows of 6\)"),
        (nan, labels, None, "NaN or infinite values in rows 4"),
        (features, labels + 1, None, "classes without: 0"),
        (features, labels, 5, "classes without: 3, 4"),
        (features, labels, 2, "below the number of classes, 2"),
        (features[:2], labels[:2], None, "at least 2 classes"),
        (features, labels[:5], None, "6 samples but 5 labels"),
        (features[0], labels, None, r"\(rows, D\)"),
        (features[:0], labels[:0], None, "empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind().fit(given, of, None if size is None else torch.zeros(len(given), size))


@pytest.mark.parametrize("kind", TRAINING_FREE)
def test_bad_queries(kind):
    score = kind().fit(*clusters())
    images, _, logits, _ = task()
    for given, of, message in [
        (images[:, :5], logits, "width of the others, 8, got 5"),
        (images * 1.1, logits, "unit norm"),
        (images, logits[:, :2], r"logits must be \(81, 3\)"),
        (images[:3], logits, r"logits must be \(3, 3\)"),
        (images, logits * math.nan, "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(given, of)


def test_what_a_method_alone_refuses():
    both_ways, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match="features of class 0 cancel out"):
        ImagePrototypes().fit(both_ways, labels)
    with pytest.raises(ValueError, match="the same features"):
        ClassGaussians().fit(torch.eye(2)[[0, 0]], torch.tensor([0, 1]))
    images, labels, logits, texts = task(60)
    with pytest.raises(ValueError, match="All 63 predictions are right"):
        LogitScaling().fit(images, logits.argmax(1), logits=logits, text_features=texts)
    with pytest.raises(ValueError, match="text_features must have unit norm"):
        LogitScaling().fit(images, labels, logits=logits, text_features=3 * texts)
    for build, message in [
        (lambda: ImagePrototypes(weight=-1.0), "weight"),
        (lambda: ClassGaussians(components=0), "components"),
        (lambda: ClassGaussians(strength=0.0), "strength"),
        (lambda: LogitScaling(steps=0), "steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()

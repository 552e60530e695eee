"""Sets from the shots and sets of a batch: the official numbers, refits done one by one, exact coverage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.posthoc import FullConformal, PredictionSets, TransductiveSets
from calib.posthoc.few_shot_conformal import ss_text
from calib.posthoc.transductive_sets import smoothed_probs, transported_probs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "few_shot_peers.json").read_text("utf-8"))
SCALE = math.log(20.0)
C, D = 3, 6


def images(n: int, seed: int, spread: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % C
    centres = torch.eye(D)[:C].double()
    noise = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return normalize(centres[labels] + spread * noise, dim=1), labels


TEXTS = normalize(torch.eye(D)[:C].double() + 0.2, dim=1)


def told(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64)


def test_ss_text_is_the_official_one() -> None:
    features, labels = normalize(told("features"), dim=1), torch.tensor(GOLDEN["labels"])
    weights = ss_text(features, labels, normalize(told("texts"), dim=1), math.log(50))
    assert torch.allclose(weights, told("prototypes"), atol=1e-4)
    probs = (50 * features @ normalize(weights, dim=1).T).softmax(dim=1)
    assert torch.allclose(probs, told("probs"), atol=2e-5)


def test_conf_ot_is_the_official_one() -> None:
    found = transported_probs(told("logits"), epsilon=0.8)
    assert torch.allclose(found, told("codes"), atol=1e-5)
    found = transported_probs(told("logits"), epsilon=0.8, shares=[0.4, 0.3, 0.2, 0.1])
    assert torch.allclose(found, told("codes_marginal"), atol=1e-5)


def refitted(shots: Tensor, labels: Tensor, new: Tensor, y: int, left_out: bool) -> tuple[Tensor, Tensor]:
    """The probabilities of the shots and of a new image, by fitting anew for each of them."""
    every, classes = torch.cat([shots, new[None]]), torch.cat([labels, torch.tensor([y])])
    rows = []
    for i in range(len(every)):
        keep = torch.arange(len(every)) != i if left_out else torch.ones(len(every), dtype=torch.bool)
        weights = normalize(ss_text(every[keep], classes[keep], TEXTS, SCALE), dim=1)
        rows.append((math.exp(SCALE) * every[i] @ weights.T).softmax(dim=0))
    return torch.stack(rows[:-1]), rows[-1]


@pytest.mark.parametrize("left_out", [False, True])
def test_refits_in_closed_form_are_refits(left_out: bool) -> None:
    shots, labels = images(9, 0)
    new, _ = images(4, 1)
    full = FullConformal(PredictionSets(), left_out=left_out).fit(shots, labels, TEXTS, SCALE)
    for y in range(C):
        theirs, own = full._augmented(new, y)
        for j in range(4):
            shot_probs, probs = refitted(shots, labels, new[j], y, left_out)
            assert torch.allclose(theirs[j], shot_probs, atol=1e-10)
            assert torch.allclose(own[j], probs, atol=1e-10)


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_whichever_image_is_the_new_one_the_share_asked_for_is_covered(
    per_class: bool, left_out: bool
) -> None:
    """Exact, without chance: of a pool each image in turn is new, and the others are the shots."""
    pool, labels = images(21, 2, spread=1.0)
    coverage = 0.7
    sets = PredictionSets("aps", coverage, per_class=per_class)
    hits = []
    for i in range(21):
        rest = torch.arange(21) != i
        full = FullConformal(sets, left_out=left_out).fit(pool[rest], labels[rest], TEXTS, SCALE)
        hits.append(bool(full(pool[i : i + 1])[0, labels[i]]))
    covered = torch.tensor(hits).double()
    assert float(covered.mean()) >= coverage
    assert float(covered.mean()) < 1
    if per_class:
        assert all(float(covered[labels == c].mean()) >= coverage for c in range(C))


def test_too_few_shots_make_full_sets_and_the_guarantee_says_what_holds() -> None:
    shots, labels = images(30, 3)
    new, _ = images(60, 4)
    enough = FullConformal(PredictionSets(coverage=0.8)).fit(shots, labels, TEXTS, SCALE)
    assert float(enough(new).all(dim=1).double().mean()) < 0.5
    few = FullConformal(PredictionSets(coverage=0.95)).fit(*images(9, 5), TEXTS, SCALE)
    assert bool(few(new).all())
    assert "needs at least 19, and 9 allow an error of 10 %" in few.guarantee
    assert "balanced, 3 of each class" in few.guarantee
    assert "holds if the shots are of different patients" in few.guarantee
    by_class = FullConformal(PredictionSets(per_class=True)).fit(shots, labels, TEXTS, SCALE)
    assert "of each class" in by_class.guarantee
    assert "balanced" not in by_class.guarantee
    assert "cannot be stored" in by_class.guarantee


def test_predictions_are_ss_texts_own_and_near_the_mean_of_candidates() -> None:
    shots, labels = images(30, 3)
    new, _ = images(5, 4)
    left = FullConformal(PredictionSets()).fit(shots, labels, TEXTS, SCALE).probs(new)
    weights = normalize(ss_text(shots, labels, TEXTS, SCALE), dim=1)
    assert torch.allclose(left, (20 * new @ weights.T).softmax(dim=1))
    fca = FullConformal(PredictionSets(), left_out=False).fit(shots, labels, TEXTS, SCALE).probs(new)
    assert torch.allclose(fca.sum(dim=1), torch.ones(5).double())


def test_smoothing_by_hand_and_its_limits() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).double()
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    one = smoothed_probs(probs, features, neighbours=1, strength=0.5, steps=1, prior=0.0)
    by_hand = torch.tensor([0.9 * math.exp(0.25), 0.1 * math.exp(0.25)]).double()
    assert torch.allclose(one[0], by_hand / by_hand.sum(), atol=1e-6)
    pulled = torch.tensor([0.5 * math.exp(0.45), 0.5 * math.exp(0.05)]).double()
    assert torch.allclose(one[1], pulled / pulled.sum(), atol=1e-6)
    assert torch.allclose(smoothed_probs(probs, features, strength=0.0, prior=0.0), probs, atol=1e-9)
    order = torch.tensor([2, 0, 1])
    moved = smoothed_probs(probs[order], features[order], neighbours=1)
    assert torch.allclose(moved, smoothed_probs(probs, features, neighbours=1)[order])


@pytest.mark.parametrize("way", ["conf_ot", "lata"])
def test_in_a_batch_the_share_asked_for_is_covered_whichever_image_is_new(way: str) -> None:
    """With one new image per window and each of a pool in turn, exactly."""
    pool, labels = images(31, 6, spread=1.0)
    logits = 5 * pool @ TEXTS.T
    doubt = torch.rand(31, generator=torch.Generator().manual_seed(7))
    transductive = TransductiveSets(
        way, PredictionSets("aps", 0.8), **({} if way == "conf_ot" else {"neighbours": 5})
    )
    hits = []
    for i in range(31):
        rest = torch.arange(31) != i
        sets = transductive(
            logits[rest],
            labels[rest],
            logits[i : i + 1],
            features=pool[rest],
            new_features=pool[i : i + 1],
            doubt=doubt[rest],
            new_doubt=doubt[i : i + 1],
            plausible=logits[rest].softmax(dim=1),
            new_plausible=logits[i : i + 1].softmax(dim=1),
        )
        hits.append(bool(sets[0, labels[i]]))
    assert sum(hits) / 31 >= 0.8
    assert "transductive" in transductive.guarantee
    with pytest.raises(ValueError, match="none is stored"):
        transductive.to_record()


def test_a_class_of_its_own_and_several_windows() -> None:
    pool, labels = images(60, 8)
    logits = 5 * pool @ TEXTS.T
    sets = TransductiveSets("conf_ot", PredictionSets(coverage=0.8, per_class=True), window=7)
    found = sets(logits[:30], labels[:30], logits[30:])
    assert found.shape == (30, C)
    first = sets(logits[:30], labels[:30], logits[30:37])
    assert torch.equal(found[:7], first)


def test_what_is_refused() -> None:
    shots, labels = images(9, 0)
    with pytest.raises(ValueError, match="confidence"):
        FullConformal(PredictionSets(confidence=0.9))
    with pytest.raises(ValueError, match="sets must be PredictionSets, not str"):
        FullConformal("lac")
    full = FullConformal(PredictionSets())
    with pytest.raises(ValueError, match="not fitted"):
        full(shots)
    with pytest.raises(ValueError, match="no shot of class 2"):
        full.fit(shots, labels % 2, TEXTS, SCALE)
    with pytest.raises(ValueError, match="log of the scale"):
        full.fit(shots, labels, TEXTS, 100.0)
    with pytest.raises(ValueError, match="unit norm"):
        full.fit(2 * shots, labels, TEXTS, SCALE)
    with pytest.raises(ValueError, match="do not fit"):
        full.fit(shots[:, :4] / shots[:, :4].norm(dim=1, keepdim=True), labels, TEXTS, SCALE)
    full.fit(shots, labels, TEXTS, SCALE)
    with pytest.raises(ValueError, match=r"\(M, 6\)"):
        full(shots[:0])
    logits = shots @ TEXTS.T
    with pytest.raises(ValueError, match="Did you mean 'lata'"):
        TransductiveSets("lta", PredictionSets())
    with pytest.raises(ValueError, match="shares are for"):
        TransductiveSets("lata", PredictionSets(), shares=[0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match="Did you mean 'epsilon'"):
        TransductiveSets("conf_ot", PredictionSets(), epsilo=2.0)
    with pytest.raises(ValueError, match="Unknown setting of way 'lata' 'epsilon'"):
        TransductiveSets("lata", PredictionSets(), epsilon=2.0)
    with pytest.raises(ValueError, match="Logits need a softmax"):
        smoothed_probs(logits, shots)
    with pytest.raises(ValueError, match="needs features"):
        TransductiveSets("lata", PredictionSets())(logits, labels, logits)
    with pytest.raises(ValueError, match="go together"):
        TransductiveSets("conf_ot", PredictionSets())(logits, labels, logits, doubt=torch.zeros(9))
    with pytest.raises(ValueError, match="doubt must lie in"):
        TransductiveSets("conf_ot", PredictionSets())(
            logits, labels, logits, doubt=torch.full((9,), math.nan), new_doubt=torch.zeros(9)
        )
    with pytest.raises(ValueError, match="3 classes, and new_logits 2"):
        TransductiveSets("conf_ot", PredictionSets())(logits, labels, logits[:, :2])
    with pytest.raises(ValueError, match="epsilon"):
        transported_probs(logits, epsilon=0)

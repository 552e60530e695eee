"""The doubt of a prediction: parts that judge what they have not seen, one file, one explanation."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.failure.cases import FailureCases
from calib.failure.data import FrozenClassifier
from calib.failure.doubt import HEAD, PARTS, parts_of
from calib.failure.doubt_fit import doubt_folds, fit_doubt, fold_of
from calib.failure.export import FailureHead
from calib.failure.fit import fit_failure_head, fit_head, new_head
from calib.failure.module import FailurePredictionModule
from calib.io.tensors import load_tensors, save_tensors
from calib.metrics.failure import auroc
from calib.prompts.export import Prompt
from calib.scores import SCORES

N, C, D = 60, 3, 8
SCALE = math.log(8.0)
BACKBONE = {"name": "toy", "weights": {"digest": "a" * 64}}
SMALL: dict[str, Any] = {"epochs": 2, "hidden": (4,)}
OPTIMIZER = {"name": "adamw", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}


def prompt() -> Prompt:
    return Prompt(torch.eye(C, D), ["a", "b", "c"], logit_scale=SCALE, backbone=BACKBONE)


def table(n: int = N, seed: int = 0, noise: float = 0.8, **more: Any) -> FeatureTable:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % C
    images = normalize(torch.eye(C, D)[labels] + noise * torch.randn(n, D, generator=draw), dim=1)
    names = [str(row) for row in range(n)]
    return FeatureTable(images, labels, ids=names, names=names, **more)


def cases(n: int = N, **more: Any) -> FailureCases:
    return FailureCases.of_prompt(prompt(), table(n, **more))


class Memory:
    """Knows by heart which of the images it was fitted on are wrong."""

    def fit(self, image_features: Tensor, labels: Tensor, logits: Tensor) -> Memory:
        wrong = logits.argmax(dim=1) != labels
        self.known = {tuple(row): float(w) for row, w in zip(image_features.tolist(), wrong, strict=True)}
        return self

    def __call__(self, image_features: Tensor) -> Tensor:
        return torch.tensor([self.known.get(tuple(row), 0.0) for row in image_features.tolist()]).double()


def test_a_score_that_learned_its_cases_by_heart_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "memory", Memory)
    seen = cases()
    assert 8 < int(seen.failure.sum()) < N - 8
    texts = seen.text_features[0]
    found = fit_doubt(seen, doubt_folds(seen, 5), ["mcp", "memory"], texts)
    assert found.stack.centre[1] == 0  # it recognised none of the images it was asked about
    assert found.scores["memory"](seen, text_features=texts).sum() == seen.failure.sum()
    twice = FailureCases.join([seen, seen])
    honest = replace(twice, owners=[str(row) for row in range(N)] * 2)
    leaking = replace(twice, owners=None)
    for given, recognises in ((honest, False), (leaking, True)):
        folds = doubt_folds(given, 5)
        found = fit_doubt(given, folds, ["mcp", "memory"], texts)
        assert bool(found.stack.centre[1] > 0) == recognises
    assert found.stack.weights[1] > 1  # so the test above can fail


def test_folds_keep_groups_together_and_spread_wrong_and_right() -> None:
    seen = replace(cases(120), owners=[str(row // 2) for row in range(120)])
    folds = doubt_folds(seen, 4)
    where = fold_of(folds, 120)
    assert sorted(row for fold in folds for row in fold) == list(range(120))
    assert torch.equal(where[0::2], where[1::2])
    wrong = torch.tensor([int(seen.failure[fold].sum()) for fold in folds])
    assert int(wrong.max() - wrong.min()) <= 3
    with pytest.raises(ValueError, match="of one group"):
        doubt_folds(replace(seen, owners=["same"] * 120), 4)


def test_of_many_images_some_folds_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib.failure.doubt_fit.ENOUGH", 200)
    monkeypatch.setattr("calib.failure.doubt_fit.ENOUGH_OF_A_KIND", 10)
    many = cases(600)
    folds = doubt_folds(many, 5)
    judged = [row for fold in folds for row in fold]
    assert len(folds) == 2
    assert 200 <= len(judged) < 260
    assert int(many.failure[judged].sum()) >= 10
    few_wrong = replace(many, predictions=many.labels[None].clone())
    few_wrong.predictions[0, :5] += 1
    assert len(doubt_folds(replace(few_wrong, predictions=few_wrong.predictions % C), 5)) == 5
    texts = many.text_features[0]
    stack = fit_doubt(many, folds, ["mcp", "entropy"], texts).stack
    assert stack.rows == len(judged)
    assert stack.how == "cross_validated"


def trained(seen: FailureCases, folds: list[list[int]], **options: Any) -> FailurePredictionModule:
    heads = [
        new_head(D, logit_scale=SCALE, seed=k, hidden=(4,), residual=True) for k in range(1 + len(folds))
    ]
    module = FailurePredictionModule(
        heads[0],
        seen.text_features,
        optimizer=OPTIMIZER,
        folds=heads[1:],
        fold_of=fold_of(folds, len(seen)) if folds else None,
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet, **options)
    trainer.fit(module, seen.batches(16, seed=1))
    return module


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.01}], ids=["plain", "clipped"])
def test_a_head_of_a_fold_never_sees_it_and_changes_nothing_for_the_others(options: dict[str, Any]) -> None:
    seen = cases()
    folds = doubt_folds(seen, 3)
    alone, together = trained(seen, [], **options), trained(seen, folds, **options)
    for name, value in alone.head.state_dict().items():
        assert torch.equal(value, together.head.state_dict()[name])
    changed = replace(seen, labels=seen.labels.clone(), image_features=seen.image_features.clone())
    changed.labels[folds[1]] = (changed.labels[folds[1]] + 1) % C
    changed.image_features[0, folds[1]] = changed.image_features[0, folds[1]].flip(0)
    other = trained(changed, folds, **options)
    same = [
        all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
        for one, two in zip([together.head, *together.folds], [other.head, *other.folds], strict=True)
    ]
    assert same == [False, False, True, False]


@pytest.fixture(scope="module")
def head() -> FailureHead:
    return fit_failure_head(prompt(), table(), **SMALL)


def test_the_default_is_a_stack_of_all_parts_and_orders_better_than_chance(head: FailureHead) -> None:
    assert head.doubt.stack.names == [*PARTS, HEAD]
    assert head.doubt.stack.rows == N
    test = cases(400, seed=5)
    probs = head.uncertainty(test.image_features[0], test.predictions[0])
    assert 0 < float(probs.min()) < float(probs.max()) < 1
    assert float(auroc(probs, test.failure)) > 0.6
    assert abs(float(probs.mean()) - float(test.failure.double().mean())) < 0.15


def test_single_scores_are_there_by_name(head: FailureHead) -> None:
    test = cases(seed=5)
    images, picked = test.image_features[0], test.predictions[0]
    for name in PARTS:
        expected = head.doubt.scores[name](test, text_features=head.text_features)
        assert torch.allclose(head.uncertainty(images, picked, by=name), expected, atol=1e-5), name
    own = replace(head, doubt=None).uncertainty(images, picked)
    assert torch.equal(head.uncertainty(images, picked, by="head"), own)
    assert not torch.allclose(head.uncertainty(images, picked), own)
    with pytest.raises(ValueError, match=r"Unknown part of this doubt 'mpc'\. Did you mean 'mcp'"):
        head.uncertainty(images, by="mpc")


def test_the_explanation_adds_up_to_the_probability(head: FailureHead) -> None:
    test = cases(seed=5)
    images, picked = test.image_features[0], test.predictions[0]
    why = head.explain(images, picked)
    assert list(why.contributions) == [*PARTS, HEAD]
    total = why.baseline + sum(why.contributions.values())
    assert torch.allclose(total, why.failure_logit)
    assert torch.allclose(total.sigmoid(), head.uncertainty(images, picked))
    text = why.sentences(head.class_names)
    risk = float(head.uncertainty(images, picked)[0])
    assert text[0].startswith(f"Predicted {'abc'[int(picked[0])]}, probability of being wrong {risk:.0%}. ")
    for part, words in (("mcp", "the model's probability of"), ("image_prototypes", "average image of a ")):
        told = any(words in sentence for sentence in text)
        assert told == bool((why.contributions[part].abs() > 0.005)[picked == 0].any()), part


def test_the_reason_says_near_which_class_an_image_lies(head: FailureHead) -> None:
    test = cases(seed=5)
    images, picked = test.image_features[0], test.predictions[0]
    why = head.explain(images, picked)
    alike = why.likeness["class_gaussians"]
    densities = head.doubt.scores["class_gaussians"].call.function.log_density(images)
    assert torch.equal(alike.argmax(dim=1), densities.argmax(dim=1))
    said = set()
    for i, sentence in enumerate(why.sentences("abc")):
        ours, nearest = "abc"[int(picked[i])], "abc"[int(densities[i].argmax())]
        value = float(why.contributions["class_gaussians"][i])
        kind = (ours == nearest, value > 0)
        words = {
            (False, True): f"raised by .*the image lying nearer to {nearest} than to the predicted {ours} ",
            (True, False): f"lowered by .*the image lying nearest to the predicted {ours} ",
        }.get(kind, rf"the image's likeness to {ours} \({float(alike[i, picked[i]]):.0%}\) and the model's ")
        if abs(value) >= 0.005:
            said.add(kind)
            assert re.search(words, sentence), sentence
    assert said >= {(False, True), (True, False)}


def test_where_the_head_looks_is_said_last_and_only_where_it_counts(head: FailureHead) -> None:
    images = cases(seed=5).image_features[0]
    for weight, told in ((0.0, False), (0.5, True)):
        stack = copy.copy(head.doubt.stack)
        stack.weights = torch.tensor([0.1, 1.0, 0.0, 0.0, weight], dtype=torch.float64)
        changed = replace(head, doubt=replace(head.doubt, stack=stack))
        why = changed.explain(images)
        assert set(why.likeness) == {"class_gaussians"}  # a part without weight has no reasons
        for sentence in why.sentences("abc"):
            assert ("attention" in sentence) == told
            assert bool(re.search(r"\. The head looks most at . \(attention \d+%\)", sentence)) == told


@pytest.mark.parametrize("doubt", ["stack", *SCORES])
def test_every_doubt_comes_back_from_its_file(doubt: str, head: FailureHead, tmp_path: Path) -> None:
    seen, test = cases(), cases(seed=5)
    made = head.doubt
    if doubt != "stack":
        made = fit_doubt(seen, doubt_folds(seen, 3), parts_of(doubt), seen.text_features[0])
    saved = replace(head, doubt=made)
    saved.save(tmp_path / "failure.safetensors")
    again = FailureHead.load(tmp_path / "failure.safetensors")
    images = test.image_features[0]
    assert torch.equal(again.uncertainty(images), saved.uncertainty(images))
    assert again.doubt.sentences() == made.sentences()
    assert bool((again.uncertainty(images) <= 1).all())


def test_a_file_that_was_changed_is_refused_by_name(head: FailureHead, tmp_path: Path) -> None:
    path = tmp_path / "failure.safetensors"
    head.save(path)
    tensors, record = load_tensors(path, kind="failure")
    stack = record["doubt"]["stack"]
    factors = "score.class_gaussians.factors"

    def changed(to: Any) -> dict[str, Any]:
        return {"doubt": {**record["doubt"], "stack": {**stack, **to}}}

    for more, facts, message in [
        ({"doubt.weights": -tensors["doubt.weights"] - 1}, {}, "at least 0"),
        ({factors: 0 * tensors[factors]}, {}, "factors of ClassGaussians must be above 0"),
        ({factors: tensors[factors][:2]}, {}, "factors of ClassGaussians must be"),
        ({"score.mcp.x": torch.zeros(1)}, {}, "has the tensors"),
        ({"score.energy.x": torch.zeros(1)}, {}, "no part of it"),
        ({}, changed({"names": ["mcp", "no", *stack["names"][2:]]}), "Unknown score 'no'"),
        ({}, {"doubt": None}, "its record none"),
        ({}, {"doubt": {}}, "has the keys"),
    ]:
        save_tensors(path, {**tensors, **more}, {**record, **facts})
        with pytest.raises(ValueError, match=message) as caught:
            FailureHead.load(path)
        assert "failure.safetensors" in str(caught.value)


def test_a_file_of_an_earlier_version_has_the_uncertainty_of_its_head(
    head: FailureHead, tmp_path: Path
) -> None:
    path = tmp_path / "failure.safetensors"
    plain = replace(head, doubt=None)
    plain.save(path)
    tensors, record = load_tensors(path, kind="failure")
    del record["doubt"]
    save_tensors(path, tensors, {**record, "version": 2})
    images = table(seed=5).image_features
    assert torch.equal(FailureHead.load(path).uncertainty(images), plain.uncertainty(images))
    assert not FailureHead.load(path).explain(images).of_stack


def test_eight_images_per_class_are_enough_and_two_are(caplog: pytest.LogCaptureFixture) -> None:
    for n in (24, 6):
        seen = cases(n, seed=2, noise=0.7)
        assert bool(seen.failure.any())
        made = fit_doubt(seen, doubt_folds(seen, 5), PARTS, seen.text_features[0])
        assert {"mcp", "class_gaussians", "image_prototypes"} <= {*made.stack.names, *made.left_out}
        assert bool(made.stack(made.values(**parts(seen))).isfinite().all())
    one = cases(3, seed=1, noise=2.0)
    made = fit_doubt(one, doubt_folds(one, 5), PARTS, one.text_features[0])
    assert made.stack.names == ["mcp"]
    assert "some class would have none" in made.left_out["class_gaussians"]
    assert "Without class_gaussians: most images cannot be left out" in " ".join(made.sentences())


def parts(seen: FailureCases) -> dict[str, Tensor]:
    plain = seen.plain
    return {
        "image_features": plain.image_features,
        "logits": plain.logits,
        "predictions": plain.predictions,
        "text_features": seen.text_features[0],
        "head": plain.logits[:, 0],
    }


def test_a_class_of_one_patient_is_not_left_out_and_the_others_are_judged() -> None:
    seen = cases(90)
    owners = [("patient" if label == 2 else str(row)) for row, label in enumerate(seen.labels.tolist())]
    seen = replace(seen, owners=owners)
    made = fit_doubt(seen, doubt_folds(seen, 5), PARTS, seen.text_features[0])
    assert made.stack.names == list(PARTS)
    assert made.stack.rows <= 60
    assert made.left_out == {}


def test_where_all_predictions_are_right_the_parts_weigh_the_same_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    easy = table(24, noise=0.05)
    with caplog.at_level("WARNING"):
        made = fit_failure_head(prompt(), easy, **SMALL)
    assert "All 24 predictions to learn from are right" in caplog.text
    assert made.training["trained"] is False
    assert made.doubt.stack.how == "prior"
    assert set(made.doubt.stack.names) == {"mcp", "class_gaussians", "image_prototypes", HEAD}
    assert "logit_scaling" in made.doubt.left_out  # it learns from wrong ones
    probs = made.uncertainty(easy.image_features)
    assert 0.001 < float(probs.mean()) < 0.1
    for doubt in ("head", "mcp"):
        with pytest.raises(ValueError, match="All 24 training predictions are right"):
            fit_failure_head(prompt(), easy, doubt=doubt, **SMALL)
    with pytest.raises(ValueError, match="All 24 training predictions are right"):
        fit_failure_head(prompt(), easy, residual=False, **SMALL)


def test_a_head_alone_or_a_single_score_trains_no_heads_of_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    start = FailurePredictionModule.__init__

    def counted(self: FailurePredictionModule, *given: Any, **more: Any) -> None:
        made.append(len(more["folds"]))
        start(self, *given, **more)

    monkeypatch.setattr(FailurePredictionModule, "__init__", counted)
    alone = fit_failure_head(prompt(), table(), doubt="head", **SMALL)
    assert alone.doubt is None
    single = fit_failure_head(prompt(), table(), doubt="entropy", **SMALL)
    assert single.doubt.stack.names == ["entropy"]
    both = fit_failure_head(prompt(), table(), folds=3, **SMALL)
    assert made == [0, 0, 3]
    heads = [replace(each, doubt=None).uncertainty(table().image_features) for each in (alone, single, both)]
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])
    with pytest.raises(ValueError, match=r"Unknown doubt 'stak'\. Did you mean 'stack'"):
        fit_failure_head(prompt(), table(), doubt="stak", **SMALL)
    with pytest.raises(ValueError, match="folds must be a whole number of at least 2"):
        fit_failure_head(prompt(), table(), folds=1, **SMALL)


def test_images_of_one_patient_leave_the_head_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        made = fit_failure_head(prompt(), table(groups=["one"] * N), **SMALL)
    assert made.doubt is None
    assert "The doubt is the head's own. All 60 images are of one group" in caplog.text


def test_the_part_of_the_head_is_what_heads_say_that_did_not_see_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[Any] = []

    def train(module: FailurePredictionModule, *_: Any) -> None:
        for number, head in enumerate(module.folds):
            torch.nn.init.constant_(head.mlp[-1].bias, float(number))
        kept.append(module)

    monkeypatch.setattr("calib.failure.fit.fit_doubt", lambda *given, **more: kept.append(more["head"]))
    seen = cases()
    plain = new_head(D, logit_scale=SCALE, seed=0, hidden=(4,), residual=True)
    fit_head(plain, seen, FrozenClassifier.of(prompt()), train=train)
    module, told = kept
    with torch.no_grad():
        confidence = -plain(seen.image_features[0], seen.text_features[0])
    expected = -(confidence + module.fold_of.float())
    assert torch.allclose(told.float(), expected, atol=1e-4)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_images_of_a_patient_stay_together_where_the_ridge_is_chosen(n_folds: int) -> None:
    owners = [str(row // 3) for row in range(N)]
    seen = replace(cases(), owners=owners)
    folds = doubt_folds(seen, n_folds)
    found = fit_doubt(seen, folds, ["mcp"], seen.text_features[0]).seen
    assert found is not None
    rows = [row for fold in folds for row in fold]  # in the order of what was seen
    pairs = {(owners[row], fold) for row, fold in zip(rows, found.folds.tolist(), strict=True)}
    assert len(pairs) == N // 3
    assert len({fold for _, fold in pairs}) == 5

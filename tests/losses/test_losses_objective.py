import math

import pytest
import torch

from calib.losses import LOSSES, Objective, angular_separation, check_finite, cross_entropy, smac


def toy():
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(3, 8, generator=generator)
    return {
        "logits": torch.randn(5, 3, generator=generator),
        "labels": torch.tensor([0, 2, 1, 1, 0]),
        "text_features": torch.nn.functional.normalize(text, dim=1),
    }


TERMS = {"ce": {"weight": 0.5}, "smac": {"weight": 2.0, "alpha": 0.2}, "as": {"weight": 0.01}}


def test_terms_are_unweighted_and_total_is_their_weighted_sum():
    given = toy()
    values = Objective(TERMS)(**given)
    ce = cross_entropy(given["logits"], given["labels"])
    calibration = smac(given["logits"], given["labels"], alpha=0.2)
    separation = angular_separation(given["text_features"])
    assert list(values) == ["ce", "smac", "as", "total"]
    torch.testing.assert_close(values["ce"], ce)
    torch.testing.assert_close(values["smac"], calibration)
    torch.testing.assert_close(values["as"], separation)
    torch.testing.assert_close(values["total"], 0.5 * ce + 2 * calibration + 0.01 * separation)


def test_gradients_reach_every_trained_tensor_through_the_total():
    given = toy()
    for name in ("logits", "text_features"):
        given[name].requires_grad_()
    Objective(TERMS)(**given)["total"].backward()
    assert given["logits"].grad.abs().max() > 0.01
    assert 0 < given["text_features"].grad.abs().max() < 0.01


def test_the_needed_tensors_are_known_beforehand():
    assert Objective(TERMS).needs == {"logits", "labels", "text_features"}
    assert Objective({"penalty": {}}).needs == {"logits", "zero_shot_logits"}
    assert Objective({"text_moment_matching": {}}).needs == {"text_features", "zero_shot_text_features"}


def test_a_term_of_weight_zero_is_neither_computed_nor_asked_for():
    objective = Objective({"ce": {}, "penalty": {"weight": 0}, "as": {"weight": 0.0}})
    assert objective.needs == {"logits", "labels"}
    assert objective.weights == {"ce": 1.0}
    assert list(objective(**toy())) == ["ce", "total"]


def test_a_new_loss_is_one_line(monkeypatch):
    def spread(logits, *, power=2.0):
        return logits.abs().pow(power).mean()

    monkeypatch.setitem(LOSSES, "spread", spread)
    given = toy()
    value = Objective({"spread": {"weight": 3.0, "power": 1.0}})(**given)["total"]
    torch.testing.assert_close(value, 3 * given["logits"].abs().mean())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"smack": {}}, r"Unknown loss 'smack'. Did you mean 'smac'\? Known: as, ce"),
        (
            {"smac": {"alhpa": 0.1}},
            r"setting of loss 'smac' 'alhpa'. Did you mean 'alpha'\? Known: alpha, n_bins, soft, weight",
        ),
        ({"ce": {"wieght": 0.1}}, r"setting of loss 'ce' 'wieght'. Did you mean 'weight'\?"),
        ({"ce": {}, "smac": {"weight": 0, "alhpa": 0.1}}, r"Did you mean 'alpha'\?"),
        ({"smac": {"alpha": "0.1"}}, r"Setting 'alpha' of loss 'smac' must be a finite number, got '0.1'"),
        ({"ce": 1.0}, r"loss 'ce' must be a mapping such as \{'weight': 1.0\}, got 1.0"),
        ({"ce": {"weight": -1}}, r"weight of loss 'ce' must be a finite number of at least 0, got -1"),
        ({"ce": {"weight": math.nan}}, r"weight of loss 'ce' must be a finite number"),
        ({"ce": {"weight": math.inf}}, r"weight of loss 'ce' must be a finite number"),
        ({"ce": {"weight": "1"}}, r"weight of loss 'ce' must be a finite number of at least 0, got '1'"),
        ({"ce": {"weight": None}}, r"weight of loss 'ce' must be a finite number of at least 0, got None"),
        ({}, r"objective is empty: no loss has a weight above 0 \(losses given: none\)"),
        ({"ce": {"weight": 0}}, r"objective is empty: .* \(losses given: ce\)"),
    ],
)
def test_wrong_terms_are_refused_when_the_objective_is_made(terms, message):
    with pytest.raises(ValueError, match=message):
        Objective(terms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features": None}, r"loss 'as' needs text_features; given: labels, logits"),
        (
            {"labels": torch.tensor([0, 1])},
            r"labels must have shape \(B\) with B = 5 as in logits, got \(2,\)",
        ),
        ({"labels": torch.zeros(5, 3, dtype=torch.int64)}, r"labels must have shape \(B\), got \(5, 3\)"),
        ({"labels": torch.zeros(5)}, r"labels must be class indices of dtype torch.int64, got torch.float32"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0])}, r"labels must lie in 0..2 \(C = 3\), got 3"),
        ({"labels": torch.tensor([0, 1, 2, -100, 0])}, r"labels must lie in 0..2 \(C = 3\), got -100"),
        ({"logits": torch.zeros(3)}, r"logits must have shape \(B, C\), got \(3,\)"),
        ({"logits": torch.zeros(5, 3, dtype=torch.int64)}, r"logits must be floating point, got torch.int64"),
        ({"logits": torch.zeros(0, 3)}, r"logits is empty: shape \(0, 3\)"),
        (
            {"text_features": torch.zeros(4, 8)},
            r"text_features must have shape \(C, D\) with C = 3 as in logits",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Objective(TERMS)(**(toy() | changes))


def test_zero_shot_logits_of_another_batch_are_refused():
    with pytest.raises(
        ValueError, match=r"zero_shot_logits must have shape \(B, C\) with B = 5 as in logits"
    ):
        Objective({"penalty": {}})(**toy(), zero_shot_logits=torch.zeros(4, 3))


def test_tensors_no_term_needs_are_not_looked_at():
    given = toy() | {"text_features": torch.zeros(7), "images": "anything"}
    assert Objective({"ce": {}})(**given)["total"] > 0


def test_half_precision_is_computed_in_float32():
    given = toy()
    rounded = given | {"logits": given["logits"].half(), "text_features": given["text_features"].bfloat16()}
    upcast = {name: t.float() if t.is_floating_point() else t for name, t in rounded.items()}
    values, expected = Objective(TERMS)(**rounded), Objective(TERMS)(**upcast)
    assert all(value.dtype == torch.float32 for value in values.values())
    torch.testing.assert_close(values, expected, rtol=0, atol=0)


def test_terms_of_different_precision_are_summed():
    given = toy()
    given["logits"] = given["logits"].double()
    values = Objective(TERMS)(**given)
    expected = 0.5 * values["ce"] + 2 * values["smac"] + 0.01 * values["as"]
    torch.testing.assert_close(values["total"], expected)


def test_check_finite_names_the_terms():
    given = toy()
    check_finite(Objective(TERMS)(**given))
    given["logits"][3, 1] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"not finite: ce = nan, smac = nan, total = nan \(finite: as = "
    ):
        check_finite(Objective(TERMS)(**given))
    with pytest.raises(FloatingPointError, match=r"not finite: ce = inf \(finite: none\)"):
        check_finite({"ce": torch.tensor(math.inf, requires_grad=True)})


def test_it_prints_as_the_terms_that_make_it():
    assert repr(Objective({"ce": {}, "smac": {"alpha": 0.1}, "as": {"weight": 0}})) == (
        "Objective({'ce': {'weight': 1.0}, 'smac': {'weight': 1.0, 'alpha': 0.1}})"
    )

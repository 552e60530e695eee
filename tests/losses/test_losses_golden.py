"""Values and gradients of the released losses (numbers in tests/golden, see their `meta`)."""

import json
import math
from pathlib import Path

import pytest
import torch

from calib.core.byname import bind
from calib.losses import LOSSES, Objective, angular_separation, text_moment_matching

GOLDEN = Path(__file__).parents[1] / "golden"
LOGITS = json.loads((GOLDEN / "losses_logits.json").read_text())
FEATURES = json.loads((GOLDEN / "losses_features.json").read_text())
PEERS = json.loads((GOLDEN / "losses_peers.json").read_text())

# Name in the golden file -> name and settings here that reproduce the release.
OFFICIAL = {
    "CE": ("ce", {}),
    "LS[nocfg=0.1]": ("ls", {"alpha": 0.1}),
    "LS[0.05]": ("ls", {}),
    "LS[0.2]": ("ls", {"alpha": 0.2}),
    "LS[0.0]": ("ls", {"alpha": 0.0}),
    "FL[3]": ("fl", {}),
    "FL[1]": ("fl", {"gamma": 1.0}),
    "FL[0]": ("fl", {"gamma": 0.0}),
    "SMAC[0.05]": ("smac", {}),
    "SMAC[0.2]": ("smac", {"alpha": 0.2}),
    "SMAC[0.0]": ("smac", {"alpha": 0.0}),
    "MDCA": ("mdca", {}),
    "DCA": ("dca", {}),
    "MMCE": ("mmce", {"official": True}),
    "ECCV_PENALTY": ("penalty", {}),
    "ECCV_ZS": ("zs_norm", {}),
    "MBLS[10,0.1]": ("mbls", {}),
    "MBLS[0,0.1]": ("mbls", {"margin": 0.0}),
    "MBLS[2,1.0]": ("mbls", {"margin": 2.0, "alpha": 1.0}),
    "LOGITNORM[1.0]": ("logitnorm", {"min_norm": 0.0}),
    "LOGITNORM[0.04]": ("logitnorm", {"min_norm": 0.0, "temperature": 0.04}),
    "MARGIN_MEAN_VAR": ("margin_mean_var", {}),
}
WITHOUT_ZERO_SHOT = {"ECCV_PENALTY[nozs]", "ECCV_ZS[nozs]"}
MMCE_FAILS = {"K3_B2_all_correct", "K3_B2_all_wrong"} | {c["name"] for c in LOGITS["cases"] if c["B"] == 1}
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}  # the release sums MMCE, SMAC and DCA partly in float32


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradient(case, name, settings):
    logits = double(case["logits"]).requires_grad_()
    given = {"labels": torch.tensor(case["label"]), "zero_shot_logits": double(case["zs_logits"])}
    value = bind(LOSSES[name], settings, name=name)(logits=logits, **given)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def ids(case):
    return case["name"]


def test_the_golden_file_holds_what_is_compared_here():
    assert len(LOGITS["cases"]) == 34
    assert all(case["out"].keys() == OFFICIAL.keys() | WITHOUT_ZERO_SHOT for case in LOGITS["cases"])


@pytest.mark.parametrize("case", LOGITS["cases"], ids=ids)
def test_losses_on_logits_are_the_released_ones(case):
    for key, (name, settings) in OFFICIAL.items():
        expected = case["out"][key]
        if key == "MMCE" and case["name"] in MMCE_FAILS:
            continue
        value, gradient = value_and_gradient(case, name, settings)
        close = dict(TOLERANCE, msg=lambda message, key=key: f"{key}: {message}")
        torch.testing.assert_close(value, double(expected["v"]), **close)
        if "g" in expected:
            torch.testing.assert_close(gradient, double(expected["g"]), **close)
        else:
            torch.testing.assert_close(gradient.abs().sum(), double(expected["g_l1"]), **close)
            torch.testing.assert_close(gradient.norm(), double(expected["g_l2"]), **close)


@pytest.mark.parametrize("case", [c for c in LOGITS["cases"] if c["name"] in MMCE_FAILS], ids=ids)
def test_mmce_is_defined_where_the_release_fails(case):
    official = case["out"]["MMCE"]
    assert official.get("error") == "RuntimeError" or math.isnan(float(official["v"]))
    repaired, _ = value_and_gradient(case, "mmce", {"official": True})
    value, gradient = value_and_gradient(case, "mmce", {})
    confidence, predictions = double(case["logits"]).softmax(1).max(1)
    error = (
        predictions == torch.tensor(case["label"])
    ).double() - confidence  # of one sign: one group is empty
    kernel = torch.exp(-(confidence[:, None] - confidence[None]).abs() / 0.4)
    assert repaired == 0
    assert gradient.isfinite().all()
    torch.testing.assert_close(value, (error[:, None] * error[None] * kernel).mean().sqrt())


@pytest.mark.parametrize("case", LOGITS["cases"], ids=ids)
def test_logitnorm_is_the_released_one_unless_logits_are_tiny(case):
    shortest = min(math.hypot(*row) for row in case["logits"])
    value, gradient = value_and_gradient(case, "logitnorm", {})
    if shortest > 0.01:
        torch.testing.assert_close(value, double(case["out"]["LOGITNORM[1.0]"]["v"]), **TOLERANCE)
        torch.testing.assert_close(gradient, double(case["out"]["LOGITNORM[1.0]"]["g"]), **TOLERANCE)
    else:
        assert case["name"] in {"K2_B8_near_uniform", "K3_B8_near_uniform", "K3_B4_zeros"}


@pytest.mark.parametrize("case", LOGITS["cases"][:3], ids=ids)
def test_without_zero_shot_logits_the_release_goes_on_and_this_raises(case):
    assert case["out"]["ECCV_PENALTY[nozs]"]["v"] == 0.0
    assert case["out"]["ECCV_ZS[nozs]"]["v"] == pytest.approx(case["out"]["CE"]["v"])
    tensors = {"logits": double(case["logits"]), "labels": torch.tensor(case["label"])}
    for name in ("penalty", "zs_norm"):
        with pytest.raises(ValueError, match=f"loss '{name}' needs zero_shot_logits"):
            Objective({name: {}})(**tensors, zero_shot_logits=None)


@pytest.mark.parametrize("case", FEATURES["cases"], ids=ids)
def test_losses_on_class_embeddings_are_the_released_ones(case):
    def unit(rows):
        return rows / rows.norm(dim=1, keepdim=True)

    zero_shot = unit(double(case["Z"]))
    calls = {
        "AS_unit": lambda x: angular_separation(unit(x)),
        "AS_raw": angular_separation,
        "TMM": lambda x: text_moment_matching(unit(x), zero_shot),
    }
    assert case["out"].keys() == calls.keys()
    for key, call in calls.items():
        expected, rows = case["out"][key], double(case["X"]).requires_grad_()
        if case["K"] == 1 and key != "TMM":
            assert math.isnan(float(expected["v"]))
            with pytest.raises(ValueError, match="at least 2 classes, got 1"):
                call(rows)
            continue
        value = call(rows)
        (gradient,) = torch.autograd.grad(value, rows)
        torch.testing.assert_close(value.detach(), double(expected["v"]), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, double(expected["g"]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PEERS["losses"])
def test_borrowed_losses_are_also_those_of_their_own_authors(name):
    expected = PEERS["losses"][name]
    factor = 10.0 if name == "penalty" else 1.0  # released with its weight
    given = {key: torch.tensor(rows) for key, rows in PEERS["tensors"].items()}
    trained = given["text_features" if name == "text_moment_matching" else "logits"].requires_grad_()
    value = factor * bind(LOSSES[name], {}, name=name)(**given)
    (gradient,) = torch.autograd.grad(value, trained)
    assert value.item() == pytest.approx(expected["value"], rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor(expected["gradient"]), rtol=1e-4, atol=1e-6)

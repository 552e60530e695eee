import copy

import pytest
import torch

from calib.losses import PRESETS, Objective, check_finite, resolve_terms


def toy():
    generator = torch.Generator().manual_seed(6)

    def unit():
        return torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=1)

    return {
        "logits": torch.randn(5, 3, generator=generator, requires_grad=True),
        "labels": torch.tensor([0, 2, 1, 1, 0]),
        "zero_shot_logits": torch.randn(5, 3, generator=generator),
        "text_features": unit().requires_grad_(),
        "zero_shot_text_features": unit(),
    }


PUBLISHED = {  # weight per term, as the released YAML files have them
    "calibprompt": {"ce": 1.0, "smac": 1.0, "as": 0.01},
    "calibprompt-ls": {"ls": 1.0, "smac": 1.0, "as": 0.01},
    "calibprompt-fl": {"fl": 1.0, "smac": 1.0, "as": 0.01},
    "coop": {"ce": 1.0},
    "ls": {"ls": 1.0},
    "fl": {"fl": 1.0},
    "ce+mdca": {"ce": 1.0, "mdca": 1.0},
    "ce+dca": {"ce": 1.0, "dca": 1.0},
    "ce+mmce": {"ce": 1.0, "mmce": 2.0},
    "ce+smac": {"ce": 1.0, "smac": 1.0},
    "ls+mdca": {"ls": 1.0, "mdca": 1.0},
    "ls+dca": {"ls": 1.0, "dca": 1.0},
    "ls+mmce": {"ls": 1.0, "mmce": 2.0},
    "ls+smac": {"ls": 1.0, "smac": 1.0},
    "fl+mdca": {"fl": 1.0, "mdca": 1.0},
    "fl+dca": {"fl": 1.0, "dca": 1.0},
    "fl+mmce": {"fl": 1.0, "mmce": 2.0},
    "fl+smac": {"fl": 1.0, "smac": 1.0},
    "zs-norm": {"zs_norm": 1.0},
    "penalty": {"ce": 1.0, "penalty": 1.0},
    "mbls": {"mbls": 1.0},
    "logitnorm": {"logitnorm": 1.0},
    "margin-mean-var": {"ce": 1.0, "margin_mean_var": 1.0},
    "text-moment-matching": {"ce": 1.0, "text_moment_matching": 5.0},
    "tcpt": {"ce": 1.0, "margin_mean_var": 1.0, "text_moment_matching": 5.0},
}


def test_presets_are_the_published_methods_with_their_weights():
    assert PRESETS.keys() == PUBLISHED.keys() | {"none"}
    for name, weights in PUBLISHED.items():
        assert {term: options["weight"] for term, options in PRESETS[name].items()} == weights, name


@pytest.mark.parametrize("name", ["calibprompt", "calibprompt-ls", "calibprompt-fl"])
def test_smoothing_is_that_of_the_released_configuration(name):
    alphas = {term: options["alpha"] for term, options in PRESETS[name].items() if "alpha" in options}
    assert alphas == {term: 0.05 for term in PRESETS[name] if term in {"ls", "smac"}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_trains_a_batch(name):
    given = toy()
    objective = Objective(resolve_terms(name))
    values = objective(**{key: given[key] for key in objective.needs})
    check_finite(values)
    values["total"].backward()
    assert list(values) == [*PUBLISHED[name], "total"]
    assert given["logits"].grad.abs().max() > 1e-3
    uses_text = "text_features" in objective.needs
    assert (given["text_features"].grad is not None) == uses_text


def test_changes_are_merged_setting_by_setting():
    terms = resolve_terms(
        "calibprompt", {"smac": {"alpha": 0.2}, "as": {"weight": 0}, "mdca": {}, "dca": {"weight": 3}}
    )
    assert terms == {
        "ce": {"weight": 1.0},
        "smac": {"weight": 1.0, "alpha": 0.2},
        "as": {"weight": 0},
        "mdca": {"weight": 1.0},
        "dca": {"weight": 3},
    }
    assert list(Objective(terms).weights) == ["ce", "smac", "mdca", "dca"]


def test_none_starts_from_nothing():
    assert resolve_terms("none") == {}
    assert resolve_terms("none", {"fl": {"gamma": 2.0}}) == {"fl": {"weight": 1.0, "gamma": 2.0}}


def test_resolving_leaves_the_presets_as_they_are():
    before = copy.deepcopy(PRESETS)
    resolve_terms("calibprompt", {"smac": {"alpha": 0.4}})["as"]["weight"] = 9.0
    assert before == PRESETS


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("calibpromt", {}, r"Unknown loss preset 'calibpromt'. Did you mean 'calibprompt'\? Known: "),
        ("coop", {"smack": {"weight": 1}}, r"Unknown loss 'smack'. Did you mean 'smac'\?"),
        ("coop", {"smac": 0.5}, r"loss 'smac' must be a mapping such as \{'weight': 1.0\}, got 0.5"),
    ],
)
def test_unknown_presets_and_losses_are_refused(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        resolve_terms(preset, overrides)

"""What holds for every calibrator of the table, whatever it fits."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import torch
from torch import Tensor
from toy_outputs import C, N, outputs

from calib.core.tables import names_in
from calib.posthoc import CALIBRATORS, Calibrator, calibrator_from_record, make_calibrator
from calib.posthoc.shares import check_shares, class_weights, mixed


@cache
def fitted(name: str) -> Calibrator:
    return make_calibrator(name).fit(*outputs())


def nll(probs: Tensor, labels: Tensor) -> float:
    return float(-probs.gather(1, labels[:, None]).log().mean())


def test_the_table_is_read_without_torch_and_names_each_class_as_it_names_itself() -> None:
    assert names_in("calib.posthoc.registry", "CALIBRATORS") == [*CALIBRATORS]
    assert {name: row.name for name, row in CALIBRATORS.items()} == {name: name for name in CALIBRATORS}
    with pytest.raises(ValueError, match=r"Unknown calibrator 'temprature'\. Did you mean 'temperature'"):
        make_calibrator("temprature")


@pytest.mark.parametrize("name", CALIBRATORS)
def test_it_gives_probabilities_that_are_better_than_those_before(name: str) -> None:
    test, labels = outputs(2000, seed=1)
    probs = fitted(name)(test)
    assert probs.shape == (2000, C)
    assert probs.dtype == torch.float64
    assert torch.allclose(probs.sum(dim=1), torch.ones(2000, dtype=torch.float64), atol=1e-12)
    assert bool((probs >= 0).all())
    assert nll(probs, labels) < nll(test.double().softmax(dim=1), labels) - 0.1
    assert fitted(name).keeps_argmax == torch.equal(probs.argmax(dim=1), test.argmax(dim=1))


@pytest.mark.parametrize("name", CALIBRATORS)
def test_only_the_probabilities_of_a_row_matter(name: str) -> None:
    """Logits, shifted logits and log-probabilities are the same outputs; so is another order of the rows."""
    logits, labels = outputs()
    other = logits.double().log_softmax(dim=1) - 7 * torch.arange(N)[:, None]
    again = make_calibrator(name).fit(other.flip(0), labels.flip(0))
    for key, value in fitted(name).parameters.items():
        # float64 sums of other rows in another order, and minima found to a slope of 1e-9
        assert torch.allclose(again.parameters[key], value, rtol=1e-4, atol=1e-5), key
    assert torch.allclose(again(other), fitted(name)(logits), atol=1e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_it_survives_json_and_refuses_what_no_fit_has_written(name: str) -> None:
    record = json.loads(json.dumps(fitted(name).to_record(), allow_nan=False))
    again = calibrator_from_record(record)
    logits, _ = outputs(50, seed=2)
    assert type(again) is CALIBRATORS[name]
    assert torch.equal(again(logits), fitted(name)(logits))
    assert again.to_record() == record
    first = next(iter(record["parameters"]))
    for change, message in (
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"name": "tempreature"}, "Unknown calibrator"),
        ({"name": ["temperature"]}, "calibrator"),
        ({"classes": 1}, "classes"),
        ({"rows": 0}, "rows"),
        ({"settings": {"steps": 3}}, "setting"),
        ({"settings": []}, "mapping"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {**record["parameters"], "more": 1}}, "parameters"),
        ({"parameters": {**record["parameters"], first: "x"}}, "numbers"),
        ({"parameters": {**record["parameters"], first: [[1.0], []]}}, "numbers|length|shape"),
        ({"parameters": {**record["parameters"], first: math.nan}}, "numbers"),
        ({"parameters": {**record["parameters"], first: 10**400}}, "numbers"),
        ({"extra": 1}, "keys"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrator_from_record({**record, **change})
    without = {key: value for key, value in record.items() if key != "rows"}
    for wrong in (without, None, [], "temperature"):
        with pytest.raises(ValueError, match="keys"):
            calibrator_from_record(wrong)
    with pytest.raises(ValueError, match="is of the calibrator"):
        CALIBRATORS["platt" if name != "platt" else "beta"].from_record(record)


def test_parameters_that_no_fit_could_find_are_refused() -> None:
    for name, key, value in (
        ("temperature", "temperature", 0.0),
        ("svs", "temperature", -1.0),
        ("beta", "coefficients", [[-1.0, 1.0, 0.0]] * C),
        ("isotonic", "y", [2.0] * len(fitted("isotonic").parameters["y"])),
        ("isotonic", "x", fitted("isotonic").parameters["x"].flip(0).tolist()),
        ("histogram", "sizes", [1.5, 1.5, 1.0]),
        ("histogram", "sizes", [0.0, 1.0, 1.0]),
    ):
        record = fitted(name).to_record()
        record["parameters"][key] = value
        with pytest.raises(ValueError, match=key.replace("coefficients", "a and b")):
            calibrator_from_record(record)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_it_raises_unfitted_and_on_other_classes_or_broken_numbers(name: str) -> None:
    fresh = make_calibrator(name)
    logits, labels = outputs()
    for act in (lambda: fresh(logits), fresh.to_record, lambda: fresh.linear_map()):
        with pytest.raises(ValueError, match=f"'{name}' is not fitted"):
            act()
    with pytest.raises(ValueError, match=r"fitted on 3 classes, and the logits have 4"):
        fitted(name)(torch.zeros(2, 4))
    for broken in (math.nan, math.inf, -math.inf):
        spoilt = logits.clone()
        spoilt[3, 1] = broken
        for act in (lambda spoilt=spoilt: fresh.fit(spoilt, labels), lambda s=spoilt: fitted(name)(s)):
            with pytest.raises(ValueError, match="finite"):
                act()
    for wrong in (labels[:-1], labels.float(), labels + 1, labels - 1):
        with pytest.raises(ValueError, match="labels"):
            fresh.fit(logits, wrong)
    with pytest.raises(ValueError, match="empty"):
        fresh.fit(logits[:0], labels[:0])
    assert fresh.classes is None  # what could not be fitted is not half fitted


@pytest.mark.parametrize("name", CALIBRATORS)
def test_hard_rows_end_in_a_fit_or_in_a_reason(name: str) -> None:
    """All right, one row a class, a class without rows, ties, logits of any size."""
    fresh, logits = make_calibrator(name), 30 * torch.eye(C).repeat(4, 1)
    right = logits.argmax(dim=1)
    if name == "temperature":
        with pytest.raises(ValueError, match=r"is right.*temperature_prior"):
            fresh.fit(logits, right)
    else:
        probs = fresh.fit(logits, right)(logits)
        assert bool(probs.isfinite().all())
        assert torch.equal(probs.argmax(dim=1), right)
        assert bool(
            (make_calibrator(name).fit(logits[:3], right[:3])(logits).sum(dim=1) - 1).abs().max() < 1e-9
        )
    absent, labels = outputs()
    labels = labels.clamp_max(1)  # class 2 never occurs
    probs = make_calibrator(name).fit(absent, labels)(absent)
    assert bool(probs.isfinite().all())
    if name not in ("temperature", "temperature_prior", "ts_mix"):
        assert float(probs[:, 2].mean()) < 0.05  # as rare as it is here
    tied = torch.zeros(8, C)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    if name == "temperature":
        with pytest.raises(ValueError, match="no higher than those of all classes"):
            make_calibrator(name).fit(tied, labels)
    else:
        assert torch.allclose(
            make_calibrator(name).fit(tied, labels)(tied).std(dim=0), torch.zeros(1).double()
        )
    huge = 1e6 * torch.randn(40, C, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(40) % C
    assert bool(make_calibrator(name).fit(huge, labels)(huge).isfinite().all())


@pytest.mark.parametrize("name", CALIBRATORS)
def test_labels_of_one_class_teach_nothing_about_the_others(name: str) -> None:
    logits, _ = outputs()
    labels = torch.ones(N, dtype=torch.int64)
    if CALIBRATORS[name].needs_two_classes:
        with pytest.raises(ValueError, match=f"All 240 labels are of class 1: .*'{name}'"):
            make_calibrator(name).fit(logits, labels)
    else:
        assert make_calibrator(name).fit(logits, labels).keeps_argmax


@pytest.mark.parametrize("name", sorted({*CALIBRATORS} - {"histogram"}))  # repeated rows move its bins
def test_stated_shares_count_rows_as_repeating_them_does(name: str) -> None:
    logits, labels = outputs()
    counts = torch.bincount(labels)
    twice = torch.cat([torch.arange(N), (labels == 1).nonzero()[:, 0]])  # class 1 counts double
    share = counts * torch.tensor([1.0, 2.0, 1.0])
    settings = {"strength": N / len(twice)} if name in ("svs", "sms") else {}
    weighted = CALIBRATORS[name]().fit(logits, labels, shares=share / share.sum())
    repeated = CALIBRATORS[name](**settings).fit(logits[twice], labels[twice])
    tolerance = 1e-6
    if name in ("ts_mix", "svs", "sms", "isotonic", "platt", "temperature_prior"):
        tolerance = 0.03  # the number of rows itself is in their formula, or decides the bins
    assert torch.allclose(weighted(logits), repeated(logits), atol=max(tolerance, 1e-4))
    plain = make_calibrator(name).fit(logits, labels)
    even = make_calibrator(name).fit(logits, labels, shares=counts / N)
    assert torch.allclose(even(logits), plain(logits), atol=1e-6)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_class_of_share_0_is_left_out(name: str) -> None:
    logits, labels = outputs()
    kept = labels != 2
    left = make_calibrator(name).fit(logits, labels, shares=[0.5, 0.5, 0.0])
    weights = 0.5 * int(kept.sum()) / torch.bincount(labels)[labels[kept]].double()
    alone = make_calibrator(name).fit_weighted(logits[kept], labels[kept], weights)
    assert left.rows == alone.rows == int(kept.sum())
    # Not as if its rows were there beside a prior, or among the counts of Platt's targets.
    assert torch.allclose(left(logits), alone(logits), atol=1e-9)


def test_shares_must_be_one_share_per_class_and_sum_to_1() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    for shares, message in (
        ([0.5, 0.5], "3 numbers, one per class"),
        ([0.5, 0.6, -0.1], "at least 0"),
        ([0.5, math.nan, 0.5], "at least 0"),
        ([0.5, math.inf, 0.5], "sum to 1"),
        ([0.5, 0.2, 0.2], r"sum to 1 .* sum to 0\.9"),
        ([[0.5, 0.2, 0.3]], "one per class"),
    ):
        with pytest.raises(ValueError, match=message):
            class_weights(labels, 3, shares)
    with pytest.raises(ValueError, match=r"Class 1 has a share of 0\.2 and no labelled row"):
        class_weights(torch.tensor([0, 0, 2]), 3, [0.5, 0.2, 0.3])
    assert check_shares([0.333, 0.333, 0.333], 3).sum() == 1  # typed by hand
    weights = class_weights(labels, 3, [0.2, 0.3, 0.5])
    assert weights.tolist() == pytest.approx([0.4, 0.4, 1.2, 2.0])


def test_mixing_is_the_published_formula_and_keeps_the_order() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]], dtype=torch.float64)
    assert mixed(probs, 9)[0].tolist() == pytest.approx([0.9 + 1 / 30, 1 / 30, 1 / 30])
    logits, labels = outputs()
    plain, mix = (
        CALIBRATORS["vector"]().fit(logits, labels),
        CALIBRATORS["vector"](mix=True).fit(logits, labels),
    )
    assert torch.equal(mix(logits), mixed(plain(logits), N))
    assert mix.linear_map() is None
    with pytest.raises(ValueError, match="mix must be True or False"):
        CALIBRATORS["vector"](mix=1)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_linear_ones_are_one_linear_map_of_logits(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(60, C, generator=generator).double()
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    calibrator = make_calibrator(name).fit(logits, labels)
    found = calibrator.linear_map()
    assert (found is not None) == (name in ("temperature", "temperature_prior", "vector", "matrix"))
    if found is not None:
        matrix, offsets = found
        assert (matrix.shape, offsets.shape) == ((C, C), (C,))
        assert torch.allclose((logits @ matrix.T + offsets).softmax(dim=1), calibrator(logits), atol=1e-12)


def test_settings_are_checked() -> None:
    for name, settings in (
        ("temperature", {"prior_sd": 0.0}),
        ("temperature", {"prior_sd": True}),
        ("temperature", {"prior_sd": "weak"}),
        ("vector", {"prior_sd": -1.0}),
        ("svs", {"strength": math.inf}),
        ("svs", {"strength": None}),
        ("dirichlet", {"off_diagonal": -0.1}),
        ("histogram", {"n_bins": 0}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
            CALIBRATORS[name](**settings)

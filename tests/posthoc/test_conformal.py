"""Prediction sets: thresholds by hand and by other programs, what is promised, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from toy_outputs import outputs

from calib.core.tables import names_in
from calib.posthoc import SETS, PredictionSets
from calib.posthoc.set_levels import corrected_rank, fewest_cases, rank_of, realised_interval, thresholds
from calib.posthoc.set_scores import aps, aps_randomized, row_noise

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "conformal_peers.json").read_text("utf-8"))
C = 3


def toy(n: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    logits, labels = outputs(n, seed, 1.0)
    return logits.double().softmax(dim=1), labels


def one_threshold(own: Tensor, coverage: float) -> float:
    ones = torch.ones(len(own), dtype=torch.float64)
    return float(thresholds(own.double(), ones, torch.ones(1, dtype=torch.float64), coverage)[0])


# Thresholds


def test_a_threshold_is_the_score_of_the_rank_and_takes_all_equal_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 9, 10, 19, 40):
        for coverage in (0.5, 0.8, 0.9, 0.95):
            for own in (torch.rand(n, generator=generator), torch.randint(4, (n,), generator=generator) / 4):
                rank = rank_of(n, coverage)
                wanted = math.inf if rank > n else float(own.double().sort().values[rank - 1])
                assert one_threshold(own, coverage) == pytest.approx(wanted, abs=1e-11), (n, coverage)


def test_rounding_never_costs_a_case() -> None:
    """(9 + 1) * 0.9 is 9, and 1 - 0.9 is a little less than 0.1: nine cases are enough, eight are not."""
    for coverage, n in ((0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99), (0.7, 3), (0.93, 14)):
        if abs(n - (1 / (1 - coverage) - 1)) < 1e-9:
            assert fewest_cases(coverage) == n
        assert math.isfinite(one_threshold(torch.rand(fewest_cases(coverage)), coverage))
        assert one_threshold(torch.rand(fewest_cases(coverage) - 1), coverage) == math.inf


@pytest.mark.parametrize("ties", [False, True])
def test_of_cases_drawn_in_any_order_the_share_asked_for_is_covered(ties: bool) -> None:
    """The guarantee without chance: each of n + 1 cases in turn is the new one, and the others calibrate."""
    generator = torch.Generator().manual_seed(1)
    for n in (8, 16, 31):
        pool = torch.rand(n + 1, generator=generator).double()
        pool = (pool * 4).round() / 4 if ties else pool
        for coverage in (0.5, 0.75, 0.9):
            covered = [
                float(pool[i]) <= one_threshold(torch.cat([pool[:i], pool[i + 1 :]]), coverage) + 1e-11
                for i in range(n + 1)
            ]
            exact = rank_of(n, coverage) / (n + 1)
            assert sum(covered) / (n + 1) >= exact - 1e-12 >= coverage - 1e-9
            if not ties:
                assert sum(covered) / (n + 1) == pytest.approx(exact)


def test_weighted_cases_in_any_order_cover_what_their_weights_say() -> None:
    """The same for known weights of the classes: the new case is i as often as w_i says."""
    generator = torch.Generator().manual_seed(2)
    pool = torch.rand(24, generator=generator).double()
    labels = torch.arange(24) % 3
    weight = torch.tensor([0.2, 1.0, 3.0]).double()
    w = weight[labels]
    for coverage in (0.6, 0.9):
        missed = 0.0
        for i in range(24):
            rest = torch.arange(24) != i
            limit = thresholds(pool[rest], w[rest], weight, coverage)[labels[i]]
            missed += float(w[i]) * float(pool[i] > limit)
        assert missed / float(w.sum()) <= 1 - coverage + 1e-9


def test_a_group_counts_as_one_case() -> None:
    """Lee, Barber and Willett's weights: each of m + 1 groups in turn is new; its images count alike."""
    generator = torch.Generator().manual_seed(3)
    sizes = [1, 5, 2, 1, 9, 3, 1, 2, 4, 1, 1, 2]
    groups = [
        torch.rand(size, generator=generator).double() * 0.2 + 0.1 * i % 1 for i, size in enumerate(sizes)
    ]
    for coverage in (0.5, 0.8):
        covered = []
        for i, mine in enumerate(groups):
            rest = [each for j, each in enumerate(groups) if j != i]
            weights = torch.cat([torch.full_like(each, 1 / len(each)) for each in rest])
            limit = thresholds(torch.cat(rest), weights, torch.ones(1).double(), coverage)
            covered.append(float((mine <= limit + 1e-11).double().mean()))
        assert sum(covered) / len(covered) >= coverage - 1e-9


def test_groups_of_one_are_rows_and_copies_of_a_patient_are_one_case() -> None:
    probs, labels = toy(40)
    plain = PredictionSets(coverage=0.8).fit(probs, labels)
    alone = PredictionSets(coverage=0.8).fit(probs, labels, groups=list(range(40)))
    assert torch.equal(plain.cells.thresholds, alone.cells.thresholds)
    copies = torch.arange(40).repeat_interleave(torch.arange(40) % 3 + 1)
    many = PredictionSets(coverage=0.8).fit(probs[copies], labels[copies], groups=copies)
    assert torch.equal(many.cells.thresholds, plain.cells.thresholds)
    assert many.interval() == plain.interval()
    stated = [
        PredictionSets(coverage=0.8).fit(probs[rows], labels[rows], groups=groups, shares=[0.6, 0.3, 0.1])
        for rows, groups in ((torch.arange(40), None), (copies, copies))
    ]
    assert torch.allclose(stated[0].cells.thresholds, stated[1].cells.thresholds)
    assert torch.allclose(stated[0].cells.cases, stated[1].cells.cases)  # they were more than the patients
    assert stated[0].interval() == pytest.approx(stated[1].interval())
    assert "each group (patient, slide) counts once" in many.guarantee
    assert "with a probability of about 95 %, and below 80 % with one of about" in many.guarantee
    assert "with a probability of 95 %, and below 80 % with one of" in alone.guarantee
    sure = PredictionSets(coverage=0.8, confidence=0.9)
    assert "of about 90 % over" in sure.fit(probs[copies], labels[copies], groups=copies).guarantee
    assert "of 90 % over" in sure.fit(probs, labels).guarantee


# What is known of the coverage


def test_the_coverage_of_sets_from_n_cases_has_the_distribution_that_is_said() -> None:
    generator = torch.Generator().manual_seed(4)
    for n, coverage in ((24, 0.9), (64, 0.8)):
        draws = torch.rand(4000, n, generator=generator).double().sort(dim=1).values
        realised = draws[:, rank_of(n, coverage) - 1].numpy()  # of uniform scores, the threshold itself
        rank = rank_of(n, coverage)
        assert stats.kstest(realised, stats.beta(rank, n + 1 - rank).cdf).pvalue > 0.01
        low, high = realised_interval(n, rank, 0.9)
        assert np.mean((realised >= low) & (realised <= high)) == pytest.approx(0.9, abs=0.02)
        corrected = draws[:, corrected_rank(n, coverage, 0.9) - 1].numpy()
        assert np.mean(corrected >= coverage) >= 0.9 - 0.015
        assert np.mean(realised >= coverage) < 0.75  # which is why there is a correction
        assert corrected_rank(n, coverage, 0.01) == rank  # a confidence in little takes nothing away


def test_the_small_sample_correction_is_that_of_the_published_table() -> None:
    wanted = {24: 0.040, 40: 0.049, 72: 0.055, 128: 0.070, 256: 0.078, 512: 0.084}
    found = {n: (n + 1 - corrected_rank(n, 0.9, 0.9)) / (n + 1) for n in wanted}
    assert {n: round(alpha, 3) for n, alpha in found.items()} == wanted
    assert corrected_rank(16, 0.9, 0.9) == 17
    assert fewest_cases(0.9, 0.9) == 22
    assert corrected_rank(22, 0.9, 0.9) == 22
    assert corrected_rank(21, 0.9, 0.9) == 22


def test_too_few_cases_make_full_sets_and_say_how_many_are_needed() -> None:
    probs, labels = toy(8)
    sets = PredictionSets(coverage=0.9).fit(probs, labels)
    assert bool(sets(probs).all())
    assert sets.interval() == (1.0, 1.0)
    assert "needs at least 9 cases, and 8 allow an error of 11.1 %" in sets.guarantee
    surely = PredictionSets(coverage=0.9, confidence=0.9).fit(*toy(21))
    said = "of 90 % with a probability of 90 % needs at least 22 cases, and 21 allow an error of 10.4 %"
    assert said in surely.guarantee  # 1 - 0.1^(1 / 21), not 1 / 22, which would be enough
    enough = PredictionSets(coverage=0.88).fit(probs, labels)
    assert not bool(enough(toy(50, 5)[0]).all())
    rare = torch.cat([torch.zeros(30), torch.ones(30), torch.full((4,), 2)]).long()
    by_class = PredictionSets(coverage=0.9, per_class=True).fit(toy(64)[0], rare)
    assert bool(by_class(toy(50, 6)[0])[:, 2].all())
    assert "Of benign there are too few" in by_class.described(["a", "b", "benign"])
    never = PredictionSets(coverage=0.5, per_class=True).fit(toy(60)[0], rare[:60])
    assert bool(never(toy(50, 6)[0])[:, 2].all())
    assert "Of class 2 there are too few" in never.guarantee
    assert torch.equal(PredictionSets.from_record(never.to_record()).cells.rows, never.cells.rows)
    corrected = PredictionSets(coverage=0.9, confidence=0.9).fit(*toy(21))
    assert bool(corrected(probs).all())
    assert "needs at least 22 cases" in corrected.guarantee


@pytest.mark.parametrize(("counts", "shares"), [((95, 5), [0.2, 0.8]), ((2, 6), [0.5, 0.5])])
def test_few_weighted_cases_with_finite_thresholds_are_not_said_to_cover_all(
    counts: tuple[int, int], shares: list[float]
) -> None:
    """They are worth fewer cases than a threshold of as many equal ones takes: 7.8, and just 6."""
    probs = toy(sum(counts))[0][:, :2]
    labels = torch.tensor([0] * counts[0] + [1] * counts[1])
    sets = PredictionSets(coverage=0.9).fit(probs / probs.sum(dim=1, keepdim=True), labels, shares=shares)
    (row,) = sets.table()
    assert row["threshold"] is not None
    assert row["cases"] < 9
    assert 0.5 < row["low"] < 0.9 < row["high"] < 1.0
    assert "between 100 %" not in sets.guarantee
    assert "below 90 % with one of 0 %" not in sets.guarantee


def test_the_guarantee_says_how_cases_were_drawn_and_how_sure_it_is() -> None:
    probs, labels = toy(60)
    balanced = PredictionSets().fit(probs, torch.arange(60) % 3)
    assert "balanced, 20 of each class" in balanced.guarantee
    assert "balanced" not in PredictionSets().fit(probs, labels).guarantee
    low, high = balanced.interval()
    assert f"between {100 * low:.3g} % and {100 * high:.3g} %" in balanced.guarantee
    by_class = PredictionSets(per_class=True).fit(probs, torch.arange(60) % 3)
    assert "of each class, however frequent it is" in by_class.guarantee
    assert "balanced" not in by_class.guarantee
    strata = PredictionSets(coverage=0.8).fit(probs, labels, strata=["a", "b"] * 30)
    assert "of each stratum" in strata.guarantee
    sure = PredictionSets(coverage=0.8, confidence=0.95).fit(probs, labels)
    assert "with a probability of 95 % over the choice" in sure.guarantee
    shares = PredictionSets(coverage=0.8).fit(probs, labels, shares=[0.5, 0.25, 0.25])
    assert "About 80 %" in shares.guarantee
    assert "class 0 50 %, class 1 25 %, class 2 25 %" in shares.guarantee
    for sets in (balanced, by_class, strata, sure, shares):
        assert "Nothing is promised for a single case" in sets.guarantee


# Classes, strata, shares


def test_each_class_and_each_stratum_is_fitted_by_itself() -> None:
    probs, labels = toy(90)
    own = (1 - probs).gather(1, labels[:, None])[:, 0]
    by_class = PredictionSets(coverage=0.8, per_class=True).fit(probs, labels)
    for c in range(C):
        assert float(by_class.cells.thresholds[0, c]) == pytest.approx(
            one_threshold(own[labels == c], 0.8), abs=1e-11
        )
    strata = ["there" if strange else "here" for strange in (own > own.quantile(0.6)).tolist()]
    both = PredictionSets(coverage=0.8).fit(probs, labels, strata=strata)
    there = torch.tensor([name == "there" for name in strata])
    alone = PredictionSets(coverage=0.8).fit(probs[there], labels[there])
    new, _ = toy(30, 7)
    assert torch.equal(both(new, ["there"] * 30), alone(new))
    assert not torch.equal(both(new, ["here"] * 30), alone(new))
    assert {row["stratum"] for row in both.table()} == {"here", "there"}
    finest = PredictionSets(coverage=0.5, per_class=True).fit(probs, labels, strata=strata)
    assert len(finest.table()) == 6


def test_shares_as_they_are_here_change_nothing_and_others_move_the_threshold() -> None:
    probs, labels = toy(200)
    here = labels.bincount(minlength=C).double() / 200
    plain = PredictionSets(coverage=0.9).fit(probs, labels)
    same = PredictionSets(coverage=0.9).fit(probs, labels, shares=here)
    assert torch.allclose(same.cells.thresholds, plain.cells.thresholds.expand(1, C))
    assert same.table()[0]["cases"] == pytest.approx(200)
    own = (1 - probs).gather(1, labels[:, None])[:, 0]
    strangest = max(range(C), key=lambda c: float(own[labels == c].mean()))
    shares = [0.9 if c == strangest else 0.05 for c in range(C)]
    other = PredictionSets(coverage=0.9).fit(probs, labels, shares=shares)
    assert not torch.allclose(other.cells.thresholds, plain.cells.thresholds)
    assert other.table()[0]["cases"] < 100


# Scores


def test_the_table_is_read_without_torch() -> None:
    assert names_in("calib.posthoc.set_scores", "SETS") == [*SETS]


@pytest.mark.parametrize("score", SETS)
def test_the_order_of_classes_and_of_rows_does_not_matter(score: str) -> None:
    probs = toy(30)[0]
    probs[3] = torch.tensor([0.4, 0.4, 0.2])
    probs[4] = torch.tensor([1.0, 0.0, 0.0])
    sets = PredictionSets(score, never_empty=False)
    found = sets.scores(probs)
    assert torch.equal(sets.scores(probs[:, [2, 0, 1]]), found[:, [2, 0, 1]])
    assert torch.equal(sets.scores(probs.flip(0)), found.flip(0))
    assert found[3, 0] == found[3, 1]
    assert bool((found[4, 1] == found[4, 2]) & (found[4, 0] <= found[4, 1]))


def test_aps_counts_equals_together_and_its_randomised_form_lies_between() -> None:
    probs = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]).double()
    assert torch.allclose(aps(probs), torch.tensor([[1.0, 0.5, 1.0], [1.0, 1.0, 0.6]]).double())
    half = aps_randomized(probs, torch.tensor([0.5, 0.5]).double())
    assert torch.allclose(half, torch.tensor([[0.75, 0.25, 0.75], [0.8, 0.8, 0.3]]).double())


def test_noise_is_even_and_that_of_the_image_not_of_the_batch() -> None:
    probs = toy(4000)[0]
    u = row_noise(probs)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    assert torch.equal(row_noise(probs[10:20]), u[10:20])
    assert abs(np.corrcoef(u.numpy(), probs.max(dim=1).values.numpy())[0, 1]) < 0.05
    assert bool((row_noise(probs, 1) != u).all())


@pytest.mark.parametrize("score", SETS)
def test_half_of_the_cases_cover_the_other_half(score: str) -> None:
    probs, labels = toy(4000)
    sets = PredictionSets(score, coverage=0.85).fit(probs[:2000], labels[:2000])(probs[2000:])
    covered = float(sets.gather(1, labels[2000:, None]).double().mean())
    low, high = 0.85 - 0.035, 1.0 if score in ("aps", "raps") else 0.85 + 0.035  # 3 sd of both halves
    assert low < covered < high


def test_the_best_class_is_in_every_set_unless_that_is_not_wanted() -> None:
    """APS that is not random leaves the sets of the surest cases empty, and the calibration allows for it."""
    probs = torch.tensor([[0.9, 0.1]] * 19).double()
    labels = torch.tensor([0] * 18 + [1])
    doubtful = torch.tensor([[0.45, 0.55]]).double()
    bare = PredictionSets(coverage=0.9, never_empty=False).fit(probs, labels)
    assert bare(doubtful).tolist() == [[False, False]]
    kept = PredictionSets(coverage=0.9).fit(probs, labels)
    assert kept(doubtful).tolist() == [[False, True]]
    sharp, true = outputs(2000, 0, 1.0)
    sharp, new = (4 * sharp.double()).softmax(dim=1), (4 * outputs(2000, 1, 1.0)[0].double()).softmax(dim=1)
    published = PredictionSets("aps", 0.6, never_empty=False).fit(sharp, true)(new)
    surest = new.max(dim=1).values > 0.999
    assert not bool(published[surest].any())
    ours = PredictionSets("aps", 0.6).fit(sharp, true)(new)
    assert bool(ours.any(dim=1).all())
    covered = ours.gather(1, outputs(2000, 1, 1.0)[1][:, None]).double().mean()
    assert abs(float(covered) - 0.6) < 0.04  # not bought by covering more than was asked for


# Other programs


@pytest.mark.parametrize("alpha", [0.1, 0.3])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
def test_thresholds_and_sets_are_those_of_torchcp(score: str, per_class: bool, alpha: float) -> None:
    """One difference: of a class with too few cases, TorchCP's threshold is infinite as well."""
    settings = {"penalty": 0.1, "free": 1} if score == "raps" else {}
    sets = PredictionSets(score, coverage=1 - alpha, per_class=per_class, never_empty=False, **settings)
    sets.fit(torch.tensor(GOLDEN["probs"], dtype=torch.float64), torch.tensor(GOLDEN["labels"]))
    wanted = GOLDEN["torchcp"][f"{score}{' per class' if per_class else ''} {alpha}"]
    limits = wanted["threshold"] if per_class else [wanted["threshold"]] * 4
    numbers = [math.inf if value is None else value for value in limits]
    assert sets.cells.thresholds[0].tolist() == pytest.approx(numbers, abs=1e-7)
    found = sets(torch.tensor(GOLDEN["test_probs"], dtype=torch.float64)).int().tolist()
    assert ["".join(map(str, row)) for row in found] == wanted["sets"]


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_lac_is_that_of_mapie_and_its_aps_has_the_threshold_of_our_randomised_one(alpha: float) -> None:
    """MAPIE calibrates APS with random numbers also where its sets are not random (include_last_label)."""
    probs, labels = torch.tensor(GOLDEN["probs"], dtype=torch.float64), torch.tensor(GOLDEN["labels"])
    sets = PredictionSets("lac", coverage=1 - alpha, never_empty=False).fit(probs, labels)
    wanted = GOLDEN["mapie"][f"lac {alpha}"]
    assert float(sets.cells.thresholds[0, 0]) == pytest.approx(wanted["threshold"], abs=1e-9)
    found = sets(torch.tensor(GOLDEN["test_probs"], dtype=torch.float64)).int().tolist()
    assert ["".join(map(str, row)) for row in found] == wanted["sets"]
    u = torch.tensor(GOLDEN["mapie_u"], dtype=torch.float64)
    own = aps_randomized(probs, u).gather(1, labels[:, None])[:, 0]
    theirs = GOLDEN["mapie"][f"aps {alpha} include_last_label=True"]
    assert one_threshold(own, 1 - alpha) == pytest.approx(theirs["threshold"], abs=1e-9)
    assert theirs["threshold"] < float(
        PredictionSets("aps", 1 - alpha, never_empty=False).fit(probs, labels).cells.thresholds[0, 0]
    )


# Records


def fitted(**settings: object) -> PredictionSets:
    kinds = {key: settings.pop(key) for key in ("strata", "shares", "groups", "left_out") if key in settings}
    return PredictionSets(**settings).fit(*toy(60), **kinds)


@pytest.mark.parametrize(
    "settings",
    [
        {"coverage": 0.8},
        {"score": "raps_randomized", "penalty": 0.2, "free": 2, "seed": 3, "never_empty": False},
        {"coverage": 0.97, "per_class": True},
        {"coverage": 0.9, "strata": ["a", "b", "c"] * 20, "confidence": 0.8},
        {"coverage": 0.9, "shares": [0.7, 0.2, 0.1]},
        {"coverage": 0.9, "groups": [i // 2 for i in range(60)], "left_out": True},
    ],
)
def test_it_survives_json(settings: dict) -> None:
    sets = fitted(**settings)
    record = json.loads(json.dumps(sets.to_record(), allow_nan=False))
    again = PredictionSets.from_record(record)
    new = toy(40, 8)[0]
    strata = ["a", "b"] * 20 if "strata" in settings else None
    assert torch.equal(again(new, strata), sets(new, strata))
    assert again.to_record() == record
    assert again.guarantee == sets.guarantee
    assert again.interval() == sets.interval()


def test_a_record_that_no_fit_has_written_is_refused() -> None:
    record = fitted(coverage=0.8).to_record()
    for change, message in (
        ({"name": "calibrator"}, "name 'prediction_sets'"),
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"classes": 1}, "classes"),
        ({"classes": 4}, "shape"),
        ({"settings": {}}, "settings"),
        ({"settings": {**record["settings"], "coverage": 1.0}}, "coverage"),
        ({"settings": {**record["settings"], "score": "apps"}}, "Did you mean 'aps'"),
        ({"thresholds": [[0.1, 0.2, 0.3]]}, "one number"),
        ({"thresholds": [[None, None, None]]}, "do not fit"),
        ({"thresholds": [[1.5, 1.5, 1.5]]}, "between 0 and 1"),
        ({"thresholds": [[math.nan] * 3]}, "finite"),
        ({"thresholds": "x"}, "lists"),
        ({"rows": [[1.5, 1, 1]]}, "whole"),
        ({"cases": [[1e9] * 3]}, "number of rows"),
        ({"cases": [[2.0] * 3]}, "do not fit"),
        ({"strata": ["a", "a"]}, "different"),
        ({"strata": []}, "different"),
        ({"shares": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"grouped": 1}, "grouped"),
        ({"left_out": None}, "left_out"),
        ({"more": 1}, "keys"),
    ):
        with pytest.raises(ValueError, match=message):
            PredictionSets.from_record({**record, **change})
    for wrong in (None, [], "x", {key: value for key, value in record.items() if key != "rows"}):
        with pytest.raises(ValueError, match="keys"):
            PredictionSets.from_record(wrong)


# What is refused


def test_what_cannot_be_fitted_or_applied_is_refused() -> None:
    probs, labels = toy(30)
    for coverage in (0, 1, 1.5, -0.1, math.nan, 90, True, "0.9"):
        with pytest.raises(ValueError, match="coverage must be a number above 0 and below 1"):
            PredictionSets(coverage=coverage)
    with pytest.raises(ValueError, match="Did you mean 'aps'"):
        PredictionSets("asp")
    with pytest.raises(ValueError, match="settings of raps"):
        PredictionSets("aps", penalty=0.1)
    with pytest.raises(ValueError, match="confidence"):
        PredictionSets(confidence=95)
    sets = PredictionSets()
    for act in (lambda: sets(probs), sets.to_record, lambda: sets.guarantee, sets.interval):
        with pytest.raises(ValueError, match="not fitted"):
            act()
    with pytest.raises(ValueError, match="All 30 labels are of class 0"):
        sets.fit(probs, torch.zeros(30).long())
    with pytest.raises(ValueError, match="empty"):
        sets.fit(probs[:0], labels[:0])
    for broken in (probs * math.nan, probs * 2, probs.log()):
        with pytest.raises(ValueError, match=r"probs must lie in|sum to 1"):
            sets.fit(broken, labels)
    with pytest.raises(ValueError, match="below the number of classes"):
        sets.fit(probs, labels + 1)
    with pytest.raises(ValueError, match="sum to 1"):
        sets.fit(probs, labels, shares=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"Class 2 has a share of 0\.2 and no labelled row"):
        sets.fit(probs, labels.clamp_max(1), shares=[0.4, 0.4, 0.2])
    with pytest.raises(ValueError, match="leave them out"):
        PredictionSets(per_class=True).fit(probs, labels, shares=[0.4, 0.4, 0.2])
    with pytest.raises(ValueError, match="leave it out"):
        PredictionSets(confidence=0.9).fit(probs, labels, shares=[0.4, 0.4, 0.2])
    for strata in (["a"] * 29, "a" * 30, [None] * 30, [math.nan] * 30, [""] * 30):
        with pytest.raises(ValueError, match="strata must be"):
            sets.fit(probs, labels, strata=strata)
    sets.fit(probs, labels)
    with pytest.raises(ValueError, match="fitted on 3 classes, and probs have 4"):
        sets(torch.full((2, 4), 0.25))
    with pytest.raises(ValueError, match="fitted without"):
        sets(probs, ["a"] * 30)
    sets.fit(probs, labels, strata=["a", "b"] * 15)
    with pytest.raises(ValueError, match="strata are missing"):
        sets(probs)
    with pytest.raises(ValueError, match="No calibration case was of the stratum 'c'"):
        sets(probs, ["a", "c"] * 15)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        sets.described(["a", "b"])
    with pytest.raises(ValueError, match="level"):
        sets.interval(95)

"""Review thresholds: values by hand, ties, patients, batches, what cannot be had, and records that lie."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calib.posthoc.review import ReviewThreshold
from calib.posthoc.review_words import percent, result_of
from calib.stats.bounds import enough_accepted, fewest_cases, p_value

RNG = np.random.default_rng(3)
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "review_peers.json").read_text())
N = 400
DOUBT = torch.from_numpy(np.sort(0.6 * RNG.random(N) ** 2))
WRONG = torch.from_numpy(RNG.random(N) < DOUBT.numpy())


def fitted(**settings: Any) -> ReviewThreshold:
    return ReviewThreshold(**{"max_error": 0.1, **settings}).fit(DOUBT, WRONG)


def test_the_loosest_of_the_thresholds_that_passed_before_the_first_that_did_not() -> None:
    # 60 right ones below 10 wrong ones: 22 suffice at r = delta = 0.1, and it stops among the wrong ones.
    doubt, wrong = torch.arange(70.0), torch.arange(70) >= 60
    found = ReviewThreshold(0.1, 0.1, points=70).fit(doubt, wrong)
    passes = [m for m in range(22, 71) if p_value(max(0, m - 60), m, 0.1) <= 0.1]
    assert found.threshold == passes[-1] == 62
    assert [each.n for each in found.tested] == [*range(22, 64)]
    assert found(torch.tensor([61.0, 62.0, 61.999])).tolist() == [True, False, True]
    assert found.at is not None
    assert (found.at.n, found.at.wrong, found.at.error) == (62, 2, 2 / 62)


def test_it_stops_at_the_first_that_fails_also_where_a_later_one_would_pass() -> None:
    wrong = torch.zeros(300, dtype=torch.bool)
    wrong[20:29] = True  # the least doubtful are wrong: of the 45 that are accepted first, too many
    found = ReviewThreshold(0.05, 0.1).fit(torch.arange(300.0), wrong)
    assert p_value(9, 300, 0.05) < 0.1
    assert found.threshold is None
    assert len(found.tested) == 1


def test_without_an_error_all_are_accepted() -> None:
    found = ReviewThreshold(0.05, 0.1).fit(DOUBT, torch.zeros(N, dtype=torch.bool))
    assert found.threshold == math.inf
    assert bool(found(torch.tensor([5.0, 1e30])).all())
    assert found(torch.tensor([math.inf])).tolist() == [False]  # never accepted
    assert ReviewThreshold.from_record(found.to_record()).threshold == math.inf


def test_where_all_are_wrong_nothing_is_accepted_and_more_cases_would_not_help() -> None:
    found = ReviewThreshold(0.05, 0.1).fit(DOUBT, torch.ones(N, dtype=torch.bool))
    assert (found.threshold, found.achievable, found.needed) == (None, False, None)
    assert not bool(found(DOUBT).any())
    assert "takes a better model or doubt" in found.guarantee


def test_two_patients_are_too_few_whatever_their_images() -> None:
    groups = ["a", "b"] * (N // 2)
    found = ReviewThreshold(0.05, 0.1).fit(DOUBT, torch.zeros(N, dtype=torch.bool), groups=groups)
    assert (found.units, found.achievable) == (2, False)
    assert "not achievable with 2 labelled patients" in found.guarantee
    assert "It takes 45 accepted patients even if all of them are right" in found.guarantee


def test_ties_are_accepted_together_or_not_at_all() -> None:
    doubt = (DOUBT * 10).round() / 10
    found = ReviewThreshold(0.1, 0.1).fit(doubt, WRONG)
    assert found.threshold in {*doubt.tolist(), math.inf}
    accepted = found(doubt)
    assert found.at is not None
    assert int(accepted.sum()) == found.at.n
    assert len({each.threshold for each in found.tested}) == len(found.tested)
    assert all(each.n >= fewest_cases(0.1, 0.1) for each in found.tested)  # fewer could not pass


def test_one_doubt_for_all_accepts_all_or_none() -> None:
    same = torch.full((100,), 0.25)
    right = torch.zeros(100, dtype=torch.bool)
    assert ReviewThreshold(0.05).fit(same, right).threshold == math.inf
    assert ReviewThreshold(0.05).fit(same, ~right).threshold is None


def test_thresholds_come_from_unlabelled_doubts_where_there_are_some() -> None:
    others = torch.linspace(0, 0.6, 50).double()
    found = ReviewThreshold(0.1, 0.1).fit(DOUBT, WRONG, unlabelled=others)
    assert {each.threshold for each in found.tested} <= {*others.tolist(), math.inf}
    assert "quantiles of the labelled cases' own doubts" not in found.guarantee
    assert "quantiles of the labelled cases' own doubts" in fitted().guarantee


def test_with_unlabelled_doubts_nothing_of_the_labelled_ones_has_a_part_in_the_thresholds() -> None:
    others = torch.linspace(0, 0.6, 200).double()
    first = [
        ReviewThreshold(0.1).fit(doubt, WRONG, unlabelled=others).tested[0].threshold
        for doubt in (DOUBT, 0.5 * DOUBT, 2 * DOUBT)
    ]
    assert len({*first}) == 1
    assert float((others < first[0]).double().mean()) * N >= 52  # of so many two may be wrong


def test_the_first_of_them_accepts_more_than_are_needed_as_how_many_is_left_to_chance() -> None:
    others, few = (
        torch.linspace(0, 0.6, 600).double(),
        slice(0, 240, 4),
    )  # 60 labelled, of which 22 are needed
    found = ReviewThreshold(0.1, 0.1).fit(DOUBT[few], WRONG[few], unlabelled=others).tested[0].threshold
    assert float((others < found).double().mean()) * 60 >= 25.9  # 22 and a standard deviation


def test_no_label_has_a_part_in_the_thresholds() -> None:
    flipped = ReviewThreshold(0.1, 0.1).fit(DOUBT, WRONG.flip(0))
    first = fitted().tested[0]
    assert flipped.tested[0][:2] == first[:2]
    assert [each.threshold for each in flipped.curve()] == [each.threshold for each in fitted().curve()]


def test_a_patient_is_wrong_where_any_accepted_case_is() -> None:
    # a: 0.1 right, 0.5 wrong; b: 0.2 wrong; c: 0.3 right
    doubt, wrong = torch.tensor([0.1, 0.5, 0.2, 0.3]), torch.tensor([False, True, True, False])
    curve = ReviewThreshold().fit(doubt, wrong, groups=["a", "a", "b", "c"]).curve()
    seen = {round(each.threshold, 3): (each.n, each.wrong, each.accepted) for each in curve}
    assert seen == {0.2: (1, 0, 0.25), 0.3: (2, 1, 0.5), 0.5: (3, 1, 0.75), math.inf: (3, 2, 1.0)}


def test_one_case_of_each_patient_is_drawn_without_looking_at_doubt_or_outcome() -> None:
    groups = [f"p{row // 4}" for row in range(N)]
    one = ReviewThreshold(0.1, patients="one").fit(DOUBT, WRONG, groups=groups)
    assert one.units == N // 4
    last = one.curve()[-1]
    rows = [row for row in range(N) if row % 4 == 0]
    assert last.n == N // 4
    assert last.wrong != int(WRONG[rows].sum())  # not the first of each
    mirrored = ReviewThreshold(0.1, patients="one").fit(-DOUBT + 1, ~WRONG, groups=groups)
    assert mirrored.curve()[-1].wrong == N // 4 - last.wrong  # the same cases, whatever is said of them
    other = ReviewThreshold(0.1, patients="one", seed=1).fit(DOUBT, WRONG, groups=groups)
    assert other.curve() != one.curve()


def test_a_workload_is_kept_and_its_bound_is_exact_at_a_threshold_no_label_chose() -> None:
    found = fitted(rule="workload", workload=0.3)
    assert int((~found(DOUBT)).sum()) == round(0.3 * N)
    assert found.at is not None
    assert found.at.upper == pytest.approx(found.curve()[34].upper)  # that of 70 %
    assert "At most 30 % of the 400 labelled cases go to review" in found.guarantee
    assert percent(found.at.upper) in found.guarantee
    everything = fitted(rule="workload", workload=0.0)
    assert everything.threshold == math.inf


def test_more_than_the_workload_is_said_where_so_much_is_unlike() -> None:
    doubt = torch.linspace(0.01, 0.7, 100).double()
    doubt[70:] = torch.inf
    found = ReviewThreshold(0.1, rule="workload", workload=0.2).fit(doubt, torch.arange(100) < 3)
    assert "30 % of the 100 labelled cases go to review, more than 20 %" in found.guarantee
    assert "interval" not in found.guarantee


def test_a_workload_among_ties_is_not_exceeded() -> None:
    doubt = (DOUBT * 5).round() / 5
    found = ReviewThreshold(0.1, rule="workload", workload=0.3).fit(doubt, WRONG)
    assert float((~found(doubt)).double().mean()) <= 0.3
    assert "the bound is approximate" in found.guarantee


def test_the_batch_rule_is_its_formula() -> None:
    new = torch.from_numpy(0.6 * np.random.default_rng(5).random(150) ** 2)
    found = fitted(rule="batch", max_error=0.06)
    best = None  # by the formula, at each doubt of the batch
    for t in new.tolist():
        wrong, accepted = int((DOUBT[WRONG] <= t).sum()), int((new <= t).sum())
        if (1 + wrong) / max(1, accepted) * len(new) / (N + 1) <= 0.06:
            best = t if best is None else max(best, t)
    assert best is not None
    assert torch.equal(found(new), new <= best)
    again = ReviewThreshold.from_record(found.to_record())
    assert torch.equal(again(new), found(new))
    assert not bool(found(torch.tensor([0.9, 0.8])).any())
    assert not ReviewThreshold(0.05, rule="batch").fit(DOUBT[:18], WRONG[:18]).achievable
    least = ReviewThreshold(0.05, rule="batch").fit(DOUBT[:19], torch.zeros(19, dtype=torch.bool))
    assert least.achievable
    assert bool(least(new[:8]).all())  # (1 + 0) / 8 * 8 / (19 + 1) is 0.05


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"at {case['max_error']}")
def test_a_batch_is_decided_as_by_stratcp(case: dict[str, Any]) -> None:
    doubt, batch = (torch.tensor(case[key], dtype=torch.float64) for key in ("doubt", "batch"))
    rule = ReviewThreshold(case["max_error"], rule="batch").fit(doubt, torch.tensor(case["wrong"]).bool())
    assert rule(batch).nonzero()[:, 0].tolist() == case["selected"]


def test_what_is_needed_is_about_enough() -> None:
    rng = np.random.default_rng(11)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        doubt = 0.5 * rng.random(n) ** 2
        return torch.from_numpy(doubt), torch.from_numpy(rng.random(n) < doubt)

    needed = ReviewThreshold(0.05, 0.1).fit(*draw(2000)).needed
    assert needed is not None
    found = [ReviewThreshold(0.05, 0.1).fit(*draw(2 * needed)).achievable for _ in range(20)]
    assert sum(found) >= 10


@pytest.mark.parametrize(
    ("patients", "images", "said"),
    [("any", 2, "wrong if any accepted case of theirs is"), ("one", 2, "one case of each"), ("any", 1, None)],
)
def test_what_makes_a_patient_wrong_is_said_where_one_has_several_images(
    patients: str, images: int, said: str | None
) -> None:
    doubt, failure = torch.linspace(0, 0.9, 60), torch.zeros(60, dtype=torch.bool)
    groups = [str(row // images) for row in range(60)]
    for max_error in (0.2, 0.01):  # achievable and not
        review = ReviewThreshold(max_error, patients=patients).fit(doubt, failure, groups=groups)
        found = dict(result_of(review))
        assert review.achievable is (max_error == 0.2)
        assert said in found["Counted"] if said else "Counted" not in found


def test_what_would_pass_with_so_many_is_that_of_the_point_they_are_counted_at() -> None:
    doubt = torch.arange(100, dtype=torch.float64) / 100
    failure = torch.zeros(100, dtype=torch.bool)
    failure[[30, 60, 70, 75, 80, 85, 90, 95]] = True
    review = ReviewThreshold(0.04, 0.1).fit(doubt, failure)
    at = review.foreseen
    assert at is not None
    assert review.needed == math.ceil(
        (enough_accepted((at.wrong + 0.5) / (at.n + 1), 0.04, 0.1) or 0) / at.accepted
    )
    assert f"; then about {100 * at.accepted:.0f} % of the cases pass" in dict(result_of(review))["Needed"]


@pytest.mark.parametrize("ties", [False, True])
def test_the_guarantee_is_kept(ties: bool) -> None:
    """Of 300 draws of 150 at r = 0.1 and delta = 0.2; more of them: benchmarks/review_study.py."""
    broken = 0
    for seed in range(300):
        rng = np.random.default_rng([seed, 17])
        chance = 0.523 * rng.random(150) ** 1.274
        doubt = np.round(chance / 0.04) * 0.04 if ties else chance
        wrong = torch.from_numpy(rng.random(150) < chance)
        at = ReviewThreshold(0.1, 0.2).fit(torch.from_numpy(doubt), wrong).threshold
        if at is not None:
            largest = at - 0.02 if ties else at  # chance to be wrong among what is accepted
            share = min(1.0, largest / 0.523) ** (1 / 1.274)
            broken += 0.23 * share**1.274 > 0.1
    assert broken / 300 <= 0.2 + 3 * (0.2 * 0.8 / 300) ** 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error": 0}, "max_error must be a number above 0 and below 1, not 0"),
        ({"max_error": 1.5}, "max_error must be"),
        ({"delta": 1}, "delta must be"),
        ({"delta": float("nan")}, "delta must be"),
        ({"rule": "treshold"}, "Did you mean 'threshold'"),
        ({"patients": "all"}, "Unknown way to count patients 'all'"),
        ({"workload": 0.2}, "workload is the share reviewed at most"),
        ({"rule": "workload"}, "workload is the share reviewed at most"),
        ({"rule": "workload", "workload": 1}, "from 0 to below 1"),
        ({"points": 1}, "points"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReviewThreshold(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doubt": torch.tensor([math.nan] * N)}, "400 of 400 are NaN or -inf"),
        ({"doubt": torch.zeros(0), "failure": WRONG[:0]}, "doubt is empty"),
        ({"doubt": torch.zeros(N, 2)}, r"doubt must be \(N,\) floats"),
        ({"doubt": torch.zeros(N, dtype=torch.int64)}, r"doubt must be \(N,\) floats"),
        ({"failure": WRONG.long()}, r"failure must be \(400,\) bool"),
        ({"failure": WRONG[1:]}, r"failure must be \(400,\) bool"),
        ({"groups": ["a"]}, "400 doubts and 1 groups"),
        ({"groups": [None] * N}, "Every case needs a group"),
        ({"groups": ["a", math.nan] * (N // 2)}, "Every case needs a group"),
        ({"unlabelled": torch.tensor([math.nan])}, "unlabelled must be numbers"),
    ],
)
def test_what_is_no_doubt_or_outcome_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"doubt": DOUBT, "failure": WRONG, **change}
    with pytest.raises(ValueError, match=message):
        ReviewThreshold().fit(given.pop("doubt"), given.pop("failure"), **given)


def test_what_is_not_fitted_says_so() -> None:
    for use in ("threshold", "guarantee", "achievable", "needed"):
        with pytest.raises(ValueError, match="not fitted"):
            getattr(ReviewThreshold(), use)
    with pytest.raises(ValueError, match="not fitted"):
        ReviewThreshold()(DOUBT)


@pytest.mark.parametrize("settings", [{}, {"rule": "workload", "workload": 0.25}, {"rule": "batch"}])
def test_a_record_brings_back_what_was_fitted(settings: dict[str, Any]) -> None:
    found = fitted(**settings)
    again = ReviewThreshold.from_record(found.to_record())
    assert again.to_record() == found.to_record()
    assert (again.threshold, again.guarantee, again.curve()) == (
        found.threshold,
        found.guarantee,
        found.curve(),
    )
    assert torch.equal(again(DOUBT), found(DOUBT))


def _loosen(record: dict[str, Any]) -> None:
    record["tested"][-1][0] = 0.9
    record["tested"] = [*record["tested"], [0.95, N, N, 90]]


TAMPERED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("curve"), "has the keys"),
    (lambda r: r.update(version=2), "version 2"),
    (lambda r: r.update(name="sets"), "has the keys"),
    (lambda r: r["settings"].update(max_error=2), "max_error must be"),
    (lambda r: r["settings"].update(extra=2), "Unknown setting"),
    (lambda r: r["settings"].pop("delta"), "has the settings"),
    (_loosen, "tested after one that did not pass"),
    (lambda r: r["tested"][0].__setitem__(2, N + 1), "contradicts itself"),
    (lambda r: r["tested"][1].__setitem__(0, -1.0), "contradicts itself"),
    (lambda r: r["tested"].append([0.5]), "must be lists of a threshold"),
    (lambda r: r.update(cases=0), "cases of a review threshold must be"),
    (lambda r: r.update(grouped=1), "grouped of a review threshold must be true or false"),
    (lambda r: r.update(wrong=[0.5]), "contradicts itself"),
    (lambda r: r["settings"].update(rule="batch"), "contradicts itself"),
    (lambda r: r.update(curve=[]), "lacks its curve"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED)
def test_a_record_that_was_changed_is_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    record = copy.deepcopy(fitted().to_record())
    change(record)
    with pytest.raises(ValueError, match=message):
        ReviewThreshold.from_record(record)


@pytest.mark.parametrize(
    ("settings", "n", "wrong", "lines"),
    [
        (
            {},
            400,
            slice(320, None),
            ["below 0.8625", "86.2 % of the labelled", "25 of 345 .* at most 10 % with"],
        ),
        ({}, 400, slice(0), ["all", "100 % of", r"0 of 400 accepted cases \(0 %\); at most 10 % with"]),
        (
            {"rule": "workload", "workload": 0.2},
            400,
            slice(0),
            ["below 0.8", "80 %", "0 of 320 .* at most 0.7 %"],
        ),
        (
            {"max_error": 0.05},
            20,
            slice(0, 1),
            ["nothing: at most 5 % .* with 20", "0 %", "at least 45 .* so few"],
        ),
        ({"max_error": 0.05}, 60, slice(0, 30), ["nothing", "0 %", "^how many cannot be told from so few$"]),
        (
            {"max_error": 0.05},
            20,
            slice(0),
            ["nothing", "0 %", "about 260 .*; then about 100 % of the cases pass"],
        ),
        ({"max_error": 0.05}, 400, slice(0, None, 2), ["nothing", "0 %", "more cases alone will not do"]),
        ({"rule": "batch"}, 400, slice(0), ["when one comes", "at most 10 % wrong, on average"]),
        ({"rule": "batch", "max_error": 0.01}, 20, slice(0), ["at most 1 % .* with 20", "at least 99 cases"]),
    ],
)
def test_the_result_comes_first_in_a_few_short_lines(
    settings: dict[str, Any], n: int, wrong: slice, lines: list[str]
) -> None:
    failure = torch.zeros(n, dtype=torch.bool)
    failure[wrong] = True
    review = ReviewThreshold(**{"max_error": 0.1, **settings}).fit(torch.linspace(0, 1, n + 1)[:-1], failure)
    found = result_of(review)
    assert len(found) == len(lines)
    for (_, said), pattern in zip(found, lines, strict=True):
        assert re.search(pattern, said)
        assert len(said) < 100

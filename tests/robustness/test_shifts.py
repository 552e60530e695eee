"""Measures under shift: by hand and against the house's own, paired draws, columns, what sees nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from calib.data.features import FeatureTable
from calib.metrics import summarize
from calib.metrics.failure import summarize_failure
from calib.metrics.sets import set_coverage
from calib.robustness import (
    Condition,
    Draws,
    Protocol,
    Said,
    changes,
    effective_robustness,
    findings,
    glance,
    judge,
    relative_robustness,
    sanity_baselines,
    severity_picture,
    split_by_column,
    tables,
)
from calib.robustness.assess import some_of
from calib.robustness.measures import measured, of_counts
from calib.robustness.shift import class_mix
from calib.robustness.tables import as_record, csv_rows, heading, strengths
from calib.robustness.words import _sees_nothing

N, C, D = 40, 3, 8


def table(*, seed: int = 0, groups: list[str] | None = None) -> FeatureTable:
    rng = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(N, D, generator=rng), dim=1)
    labels = torch.arange(N) % C
    return FeatureTable(
        features, labels, [f"{row:064x}" for row in range(N)], [f"{row}.png" for row in range(N)], groups
    )


def said_of(features: FeatureTable, *, full: bool = True) -> Said:
    logits = 6 * features.image_features[:, :C].double()
    logits[torch.arange(len(features)), features.labels] += 1.0
    probs = logits.softmax(dim=1)
    if not full:
        return Said(logits, features.labels)
    entropy = -(probs * probs.log()).sum(dim=1)
    sets, accepted = probs > 0.2, probs.max(dim=1).values > 0.6
    return Said(logits, features.labels, entropy, {"margin": -probs.max(dim=1).values}, sets, accepted)


def noisy(features: FeatureTable, amount: float) -> FeatureTable:
    moved = features.image_features + amount * torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    return replace(features, image_features=torch.nn.functional.normalize(moved, dim=1))


def test_measures_are_those_of_the_house_and_resamples_repeat_rows() -> None:
    said = said_of(table())
    function, names = of_counts(said), measured(said)
    counts = np.stack([np.ones(N), np.arange(N) % 3])
    found = function(counts)
    for row, count in enumerate(counts.astype(int)):
        again = torch.repeat_interleave(torch.arange(N), torch.from_numpy(count))
        assert said.doubt is not None
        assert said.sets is not None
        assert said.accepted is not None
        logits, labels, failure = said.logits[again], said.labels[again], said.failure[again]
        known, failed = summarize(logits, labels), summarize_failure(said.doubt[again], failure)
        ok = said.accepted[again]
        expected = {
            **{name: known[name] for name in ("accuracy", "ece", "nll")},
            "confidence": float(logits.softmax(dim=1).max(dim=1).values.mean()),
            **{name: failed[name] for name in ("auroc", "aurc")},
            "coverage": float(set_coverage(said.sets[again], labels)),
            "set_size": float(said.sets[again].sum(dim=1).double().mean()),
            "error": float((failure & ok).sum() / ok.sum()),
            "accepted": float(ok.double().mean()),
        }
        values = dict(zip(names, found[row], strict=True))
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, abs=1e-6), name
        margin = summarize_failure(said.others["margin"][again], failure)
        assert values["aurc:margin"] == pytest.approx(margin["aurc"])


def test_relative_robustness_of_both_directions() -> None:
    assert relative_robustness("accuracy", 0.8, 0.6) == pytest.approx(0.75)
    # An error of accepted that doubles from 0.2 keeps as much as an accuracy that falls from 0.8 to 0.6.
    assert relative_robustness("error", 0.2, 0.4) == pytest.approx(0.75)
    assert relative_robustness("nll", 0.5, 0.5 + np.log(2)) == pytest.approx(0.5)
    assert relative_robustness("auroc:margin", 0.5, 0.6) == pytest.approx(1.2)
    assert np.isnan(relative_robustness("accuracy", [0.0, np.nan], [0.5, 0.5])).all()
    assert np.isnan(relative_robustness("confidence", 0.5, 0.4))


def test_draws_keep_groups_whole_and_pair_what_both_sides_have() -> None:
    first, second = list("aabbc"), list("cddde")
    draws = Draws(first, second, n_resamples=300, seed=3)
    ours, theirs = ([*draws.blocks(side)][1] for side in (0, 1))
    assert (ours[:, 0] == ours[:, 1]).all()
    assert (ours[:, 4] == theirs[:, 0]).all()
    assert set((ours[:, 0] + ours[:, 2]).astype(int)) == {2}  # a and b are drawn among themselves
    assert set((theirs[:, 1] + theirs[:, 4]).astype(int)) == {2}
    with pytest.raises(ValueError, match="at least 2 groups"):
        Draws(["a", "a"])
    with pytest.raises(ValueError, match="no images on one side"):
        Draws(["a", "b"], [])


def test_nothing_changed_is_no_change_and_a_shift_is_seen() -> None:
    usual = table(groups=[f"p{row // 2}" for row in range(N)])
    systems = {"toy": {1: said_of, 2: said_of}, "bare": {1: lambda each: said_of(each, full=False)}}
    protocol = Protocol(systems, usual, n_resamples=200)
    protocol.corrupted(Condition.of_corruption("same", 1), usual)
    for name, amount in (("blur", 0.4), ("noise", 1.0)):
        for severity in (1, 5):
            protocol.corrupted(Condition.of_corruption(name, severity), noisy(usual, amount * severity))
    halves = np.arange(N) < 20
    protocol.shifted("site", halves, {"B": ~halves})
    found = protocol.finished(sanity=sanity_baselines(lambda x: x[:, :C], usual, n_classes=C, labelled=usual))
    for measure in ("accuracy", "ece", "auroc", "coverage", "error"):
        row = found.find("toy", "same 1", measure)
        assert row is not None
        assert row.change is not None
        assert (row.change.value, row.change.low, row.change.high) == (0, 0, 0)
        assert row.kept is not None
        assert row.kept.value == pytest.approx(1)
    assert found.find("bare", "as it is", "coverage") is None
    mean = found.find("toy", "all corruptions", "accuracy")
    single = [
        found.find("toy", name, "accuracy") for name in ("same 1", "blur 1", "blur 5", "noise 1", "noise 5")
    ]
    assert mean is not None
    assert mean.value.value == pytest.approx(np.mean([row.value.value for row in single if row is not None]))
    assert found.effective["toy"].accuracy == pytest.approx(mean.change.value if mean.change else np.nan)
    usually, other = (found.find("toy", name, "accuracy") for name in ("site: usual", "site: B"))
    assert usually is not None
    assert other is not None
    assert other.change is not None
    assert usually.n == other.n == 20
    assert other.change.value == pytest.approx(other.value.value - usually.value.value)
    text = glance(found)
    assert all(word in text for word in ("toy", "bare", "(class prior)", "→", "confidence %"))
    accuracy = changes(found).splitlines()[2].split("|")
    assert mean.change is not None
    assert mean.kept is not None
    assert [cell.strip() for cell in accuracy[1:4:2]] == ["accuracy %", f"{100 * mean.value.value:.1f}"]
    assert accuracy[4].split()[0] == f"{100 * mean.change.value:+.1f}"
    assert accuracy[5].split()[0] == f"{mean.kept.value:.3f}"
    ece = next(line for line in changes(found).splitlines() if line.startswith("| ECE"))
    assert (
        ece.split("|")[5].strip() == ""
    )  # the share that is left of 1 - ECE misleads: the change stands alone
    by_strength = strengths(found)
    assert [line.split("|")[1].strip() for line in by_strength.splitlines()[2:]] == [
        "as it is",
        "all corruptions 1",
        "all corruptions 5",
    ]
    assert by_strength in tables(found)
    assert any("worst under" in line for line in findings(found))
    whole = tables(found)
    assert "## toy: relative robustness" in whole
    lines = list(csv_rows(found))
    assert len(lines) == 1 + len(found.rows)
    assert all(len(line) == len(lines[0]) for line in lines)
    assert len(as_record(found)["rows"]) == len(found.rows)
    assert heading(found).endswith(
        "at severities 1, 5. In brackets: what sees nothing, on all images as they are."
    )
    assert "Each cell: images as they are → mean over 3 corruptions at" in heading(found)
    shifted = Protocol(systems, usual, n_resamples=50)
    shifted.shifted("site", halves, {"B": ~halves})
    alone = shifted.finished(about={"shifts": {"site": {"usual": ["A"]}}})
    assert "Each cell: site A (usual) (20 images) → site B (20 images)." in heading(alone)
    assert f"{100 * other.value.value:.1f} |" in changes(alone)
    told = " ".join(findings(alone))
    assert "site B (20 images) against site A (usual) (20): accuracy" in told
    assert strengths(alone) == ""
    figure = severity_picture(found)
    assert figure is not None
    assert [line.get_label() for line in figure.axes[0].lines] == ["toy (95 % interval)", "bare"]
    assert severity_picture(judge(systems, usual, n_resamples=50)) is None


def test_a_mean_over_corruptions_leaves_out_where_nothing_is_accepted() -> None:
    usual = table()

    def careful(features: FeatureTable) -> Said:
        said = said_of(features)
        assert said.accepted is not None
        return said if features is not strict else replace(said, accepted=torch.zeros(N, dtype=torch.bool))

    strict = noisy(usual, 0.5)
    same = Condition.of_corruption("same", 1)
    given = [(same, usual), (Condition.of_corruption("blur", 1), strict)]
    found = judge({"toy": {0: careful}}, usual, given, n_resamples=50)
    rows = [found.find("toy", name, "error") for name in ("same 1", "blur 1", "all corruptions")]
    values = [row.value.value for row in rows if row is not None]
    assert np.isnan(values[1])
    assert values[2] == values[0]
    promised = replace(found, promised={"toy": {"error": 0.4}})
    told = next(line for line in findings(promised) if line.startswith("Of what the review threshold"))
    assert "Under same 1 " in told
    assert told.endswith("; at blur 1 nothing is accepted.")
    never = [row for row in promised.rows if row.measure != "error" or not np.isfinite(row.value.value)]
    told = " ".join(findings(replace(promised, rows=tuple(never))))
    assert "at most 40 % is to be wrong. At blur 1 nothing is accepted." in told


def test_what_one_seed_lacks_is_left_out_and_a_promise_is_that_of_all_seeds() -> None:
    """Review thresholds and sets are added run by run: seeds may differ in what they hold."""

    class Promising:
        sets = type("Sets", (), {"coverage": 0.9})()

        def __call__(self, features: FeatureTable) -> Said:
            return said_of(features)

    class Less(Promising):
        sets = type("Sets", (), {"coverage": 0.8})()

    usual = table()
    conditions = [(Condition.of_corruption("noise", 5), noisy(usual, 9.0))]
    full, less = Promising(), lambda features: said_of(features, full=False)
    found = judge({"toy": {1: full, 2: less}}, usual, conditions, n_resamples=20)
    assert found.find("toy", "noise 5", "coverage") is None
    assert found.find("toy", "noise 5", "auroc:margin") is None
    row = found.find("toy", "as it is", "accuracy")
    alone = judge({"toy": {1: full}}, usual, conditions, n_resamples=20).find("toy", "as it is", "accuracy")
    assert row is not None
    assert alone is not None
    assert row.value.value == alone.value.value
    assert found.promised == {"toy": {}}
    assert judge({"toy": {1: full, 2: Less()}}, usual, n_resamples=20).promised == {"toy": {}}
    assert "In brackets" not in heading(found)


def test_images_that_are_fewer_than_any_group_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images=3 is less than any group .*: give at least images=20"):
        some_of(table(groups=["a"] * 20 + ["b"] * 20), 3)


def test_broken_promises_are_counted() -> None:
    class Toy:
        sets = type("Sets", (), {"coverage": 0.9})()
        review = type("Review", (), {"rule": "threshold", "max_error": 0.4})()

        def __call__(self, features: FeatureTable) -> Said:
            return said_of(features)

    usual = table()
    conditions = [
        (Condition.of_corruption("noise", 5), noisy(usual, 9.0)),
        (Condition.of_corruption("same", 1), usual),
    ]
    found = judge({"toy": {0: Toy()}}, usual, conditions, n_resamples=100)
    assert found.promised == {"toy": {"coverage": 0.9, "error": 0.4}}
    told = " ".join(findings(found))
    assert "Prediction sets are to hold the true class of at least 90 % of images. As the images are" in told
    assert (
        "Of what the review threshold accepts at most 40 % is to be wrong. As the images are, it is" in told
    )
    assert "of 2 shifts; the worst is noise 5" in told
    found = judge({"toy": {0: Toy()}}, usual, conditions[:1], n_resamples=100)
    assert "Under noise 5 " in " ".join(findings(found))
    assert "(≥ 90)" in glance(found)
    assert "(≤ 40)" in glance(found)


def test_confidence_that_follows_and_one_that_does_not() -> None:
    cells = [(name, severity) for name in "abcd" for severity in (1, 2)]
    loss = {cell: -0.1 * (index + 1) for index, cell in enumerate(cells)}
    follows = effective_robustness({cell: (value, value) for cell, value in loss.items()})
    assert follows.followed == pytest.approx(1)
    assert follows.gap == pytest.approx(0)
    assert follows.ranks is not None
    assert follows.ranks.rho == pytest.approx(1)
    assert "Confidence follows:" in follows.sentence()
    rises = effective_robustness({cell: (value, 0.05) for cell, value in loss.items()})
    assert rises.followed is not None
    assert rises.followed < 0
    assert rises.ranks is None  # no confidence differs
    assert "does not follow" in rises.sentence()
    better = effective_robustness({("a", 1): (0.1, 0.0)})
    assert better.followed is None
    assert "does not fall" in better.sentence()


def test_what_sees_nothing() -> None:
    usual = table()
    found = sanity_baselines(
        lambda x: 5 * x[:, :C],
        usual,
        n_classes=C,
        labelled=usual.subset(range(4)),
        counts=torch.tensor([1, 7, 1]),
        validation=usual,
        blank=usual.image_features[:1],
    )
    assert list(found) == ["class prior", "mean image", "shuffled images", "shuffled labels", "text only"]
    prior = found["class prior"].plain.probs[0]
    assert prior.tolist() == pytest.approx([2 / 12, 8 / 12, 2 / 12])
    own = 5 * usual.image_features[:, :C].double()
    shuffled = found["shuffled images"].plain.logits
    assert sorted(shuffled[:, 0].tolist()) == pytest.approx(sorted(own[:, 0].tolist()))
    assert not (shuffled == own).all(dim=1).any()  # each is another image's
    for each in found.values():
        assert each.calibrated is not None
        before, after = (summarize(said.logits, said.labels)["nll"] for said in (each.plain, each.calibrated))
        assert after <= before + 1e-9  # validation and test are the same here
    alone = sanity_baselines(lambda x: x[:, :C], usual, n_classes=C)
    assert list(alone) == ["shuffled images"]
    assert alone["shuffled images"].calibrated is None


SITES = ["A"] * 30 + ["B"] * 30 + ["C"] * 3


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (["A"] * 9, {}, "All 9 images have the same value of 'site', 'A': there is no shift"),
        (
            [str(age) for age in range(99)],
            {},
            "99 different values among 99 images.*Put numbers such as ages",
        ),
        (
            SITES,
            {"usual": ["a"]},
            r"Unknown value of the column 'site' \(usual\) 'a'\. Did you mean 'A'\? Known: A, B, C",
        ),
        (SITES, {"usual": ["A", "B", "C"]}, "Every value of 'site' is usual"),
        (SITES, {"usual": ["A", "B"]}, "Too few images.*60 usual images, 3 of 'C', and at least 20.*least=N"),
        (
            SITES,
            {},
            r"the training images are not at hand: say usual=\[VALUE\]. There are: A \(30\), B \(30\)",
        ),
        (
            SITES,
            {"trained": ["A", "B", "C"]},
            r"none is new to the model.*say which value is usual: usual=\[A\]",
        ),
        (SITES, {"trained": ["D"]}, r"that the training images have \(D\)"),
        (["A"] * 30 + ["usual"] * 30, {"usual": ["A"]}, "has a value 'usual', which is what several"),
    ],
)
def test_columns_that_are_no_shift_are_refused(
    values: list[str], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_column(values, "site", **given)


def test_a_shift_by_site_and_what_is_said_of_it() -> None:
    groups = [f"p{row % 30}" for row in range(63)]
    shift = split_by_column(SITES + ["D"] * 25, "site", trained=["A"], groups=[*groups, *["q"] * 25])
    assert shift.usual_values == ("A",)
    assert list(shift.others) == ["B", "D", "all others"]
    assert int(shift.others["all others"].sum()) == 55
    assert any("left out, with fewer than 20 images: C (3)" in note for note in shift.notes)
    assert any("30 of 31 groups" in note for note in shift.notes)
    asked = split_by_column(SITES, "site", ["A"], trained=["A", "B"])
    assert any("these are subgroups, not unseen ones" in note for note in asked.notes)


def test_a_shift_that_is_a_mix_of_classes_is_called_so() -> None:
    shift = split_by_column([*"A" * 40, *"B" * 20, *"C" * 20], "site", ["A"])
    labels = torch.tensor([0, 1] * 20 + [1] * 20 + [0] * 9 + [1] * 11)
    told = class_mix(shift, labels, ["normal", "ill"])
    assert told[:3] == [
        "site A (usual), 40 images: normal 50 %, ill 50 %.",
        "site B, 20 images: normal 0 %, ill 100 %.",
        "site C, 20 images: normal 45 %, ill 55 %.",
    ]
    assert told[3].startswith(
        "The classes differ strongly between site A (usual) and B (no image of normal there; 50 % of its"
    )
    labels[40:42] = 0
    assert (
        "and B (40 % of its images would" in class_mix(shift, labels)[3]
    )  # no class lacks: by total variation
    labels[42:48] = 0
    assert len(class_mix(shift, labels)) == 3


def test_the_lowest_ece_of_what_sees_nothing_is_one_that_the_table_shows() -> None:
    own = SimpleNamespace(value=SimpleNamespace(value=0.076))
    sanity = {"mean image": {"ece": (0.004, 0.067)}, "class prior": {"ece": (0.137, None)}}
    found = cast(Any, SimpleNamespace(sanity=sanity, find=lambda *_: own))
    said = "nothing has an ECE of 6.7 % (mean image, calibrated), mine of 7.6 %"
    assert said in next(_sees_nothing(found, "mine"))
    sanity["mean image"]["ece"] = (0.004, 0.2)
    assert "nothing has an ECE of 13.7 % (class prior)" in next(_sees_nothing(found, "mine"))

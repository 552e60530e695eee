"""The report: what stands on the page and in its files, for any input; nothing leaves it, all is escaped."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import calib
from calib.data.features import FeatureTable
from calib.data.predictions import Predictions
from calib.metrics import net_benefit
from calib.posthoc import PredictionSets, ReviewThreshold, make_calibrator
from calib.report.sections.review import review
from calib.report.sections.steps import MOST_STEPS, steps_of
from calib.report.subject import Parts, subject_of
from calib.stats import proportion_interval

NAMES = ["benign", "malignant", "other"]
QUICK = {"n_resamples": 40}
NASTY = "<script>alert(1)</script>\"'&|\x1b[2J"
VOID = {"meta", "img", "input", "br"}


def said(
    n: int = 60, *, seed: int = 1, method: str = "mine", strength: float = 2.0, **changes: Any
) -> Predictions:
    fixed = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (n,), generator=fixed)
    own = torch.Generator().manual_seed(100 * seed + len(method))
    logits = torch.randn(n, 3, generator=own) + strength * torch.eye(3)[labels]
    given = {
        "logits": logits,
        "labels": labels,
        "image_features": torch.ones(n, 2),
        "ids": [f"{i:064x}" for i in range(n)],
        "names": [f"scan_{i}.png" for i in range(n)],
        "class_names": NAMES,
        "groups": [f"patient_{i // 2}" for i in range(n)],
        "about": {"method": method, "seed": seed, "data": "toy"},
    }
    return Predictions(**{**given, **changes})


class Pictures:
    def __init__(self, ids: Sequence[str], broken: Sequence[int] = ()) -> None:
        self.ids, self._broken = list(ids), set(broken)

    def open(self, index: int) -> Image.Image:
        if index in self._broken:
            raise ValueError("damaged")
        return Image.new("L" if index % 2 else "RGB", (300, 200), index)


class Page(HTMLParser):
    """What is checked of a page: its elements, that they are closed, ids, texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def written(tmp_path: Path, predictions: Any, **how: Any) -> tuple[str, dict[str, Any], Page]:
    path = calib.report(predictions, tmp_path / "report.html", **{**QUICK, **how})
    text = path.read_text(encoding="utf-8")
    return text, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), Page(text)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Page]:
    """Return a report with everything there is: seeds, methods, thresholds, sets, images, subgroups."""
    by_method = {
        "mine": {seed: said(seed=seed) for seed in (1, 2, 3)},
        "zero-shot": {seed: said(seed=seed, method="zero-shot", strength=1.0) for seed in (1, 2, 3)},
    }
    ids = by_method["mine"][1].ids
    return written(
        tmp_path_factory.mktemp("report"),
        by_method,
        review=fitted_review(0.4),
        sets=fitted_sets(),
        images=Pictures(ids, broken=[3]),
        slices={"scanner": ["A" if i % 3 else "B" for i in range(60)]},
        others={"entropy": said().probs.log().mul(said().probs).sum(1).neg()},
    )


def fitted_review(threshold: float | None, needed: int | None = 120) -> Any:
    class Fitted(SimpleNamespace):
        def __call__(self, doubt: Tensor) -> Tensor:
            return doubt < (-1 if threshold is None else threshold)

    point = {"threshold": 0.2, "accepted": 0.5, "error": 0.1, "upper": 0.2, "n": 30}
    return Fitted(
        achievable=threshold is not None,
        threshold=threshold,
        guarantee="At most 5 % of the accepted are wrong, with probability 90 %.",
        needed=needed,
        curve=lambda: [point],
    )


def fitted_sets() -> Any:
    class Fitted(SimpleNamespace):
        def __call__(self, probs: Tensor, strata: Any = None) -> Tensor:
            return probs > 0.25

    return Fitted(guarantee="The set holds the true class in 90 of 100 cases.")


def test_every_part_stands_on_the_page_and_in_the_files(full: Any) -> None:
    text, content, page = full
    sections = [
        *("overview", "comparison", "reliability", "review", "sets", "decisions", "classes", "groups"),
        *("cases", "provenance", "checklist"),
    ]
    assert list(content["sections"]) == sections
    links = {attributes["href"] for attributes in page.all("a")}
    assert {f"#{name}" for name in sections} <= links
    for words in ("At most 5 % of the accepted are wrong", "The set holds the true class in 90 of 100"):
        assert words in text.replace("\N{NO-BREAK SPACE}", " ")
    tables = {name for section in content["sections"].values() for name in section["tables"]}
    assert {
        "comparison",
        "differences",
        "reliability",
        "workload",
        "doubt",
        "net_benefit",
        "classes",
    } <= tables
    assert {"confusion", "by scanner", "set_sizes", "threshold_curve", "software"} <= tables
    assert sum(len(found) for found in content["sections"]["cases"]["cases"].values()) > 12
    assert text.count("data:image/jpeg;base64,") > 10


def test_the_page_is_sound_and_says_its_pictures_in_words(full: Any) -> None:
    _, _, page = full  # elements are closed in order
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    named = [
        name
        for _, attributes in page.elements
        for key in ("aria-labelledby", "aria-describedby", "for")
        for name in (attributes.get(key) or "").split()
    ]
    assert len(named) > 30
    assert set(named) <= ids.keys()
    assert all(attributes["alt"] for attributes in page.all("img"))
    drawn = [each for each in page.all("svg") if each.get("aria-hidden") != "true"]
    assert len(drawn) >= 9
    assert all(each["role"] == "img" and each["aria-labelledby"] for each in drawn)
    assert [each["lang"] for each in page.all("html")] == ["en"]
    headings = [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_nothing_leaves_the_page(full: Any) -> None:
    text, _, page = full
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "poster", "data", "srcset", "xlink:href"):
            if (value := attributes.get(key)) is not None:
                assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, key, value[:80])
        assert not any(key.startswith("on") or key == "style" for key in attributes), (tag, attributes)
    assert not re.findall(r"url\((?!#)|@import|https?://[^\s<]*\.(?:js|css|png)", text)
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "link", "base", "form"} == set()


def test_the_browser_is_told_so_by_the_digests_of_style_and_script(full: Any) -> None:
    text, _, page = full
    policy = next(
        each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert (len(scripts), len(styles)) == (1, 1)
    for content, key in ((scripts[0], "script-src"), (styles[0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{key} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_threshold_that_was_taken_is_among_those_it_was_chosen_from(tmp_path: Path) -> None:
    predictions = said()
    doubt = torch.arange(160, dtype=torch.float64) / 200
    fitted = ReviewThreshold(max_error=0.2).fit(doubt, doubt > 0.5)
    _, content, _ = written(tmp_path, predictions, review=fitted, sets=fitted_sets())
    rows = content["sections"]["review"]["tables"]["threshold_curve"]["rows"]
    taken = {name: row for name, row in rows.items() if name.endswith("(taken)")}
    assert [row["threshold"] for row in taken.values()] == [fitted.threshold]
    seen = [row["threshold"] for row in rows.values() if row["threshold"] != "any"]
    assert seen == sorted(set(seen))
    at = fitted.at
    assert at is not None
    assert next(iter(taken.values()))["n"] == at.n
    for section in ("review", "sets"):  # whether it was fitted on these images is not known here
        assert "are among these images, this is no test" in " ".join(content["sections"][section]["said"])


def test_what_was_found_tells_the_difference_in_calibration_error(full: Any) -> None:
    content = full[1]["sections"]
    found = content["comparison"]["tables"]["differences"]["rows"]["mine"]["ece"]
    low, high = (f"{100 * found[end]:+.1f}" for end in ("low", "high"))
    text = " ".join(content["overview"]["said"])
    assert f"calibration error (ECE) {100 * found['value']:+.1f} points ({low} to {high}" in text


def test_what_users_name_things_is_escaped_everywhere(tmp_path: Path) -> None:
    nasty = said(
        class_names=[NASTY, "=1+1", "c"],
        names=[f"{NASTY}{i}" for i in range(60)],
        groups=[f"{NASTY}{i % 3}" for i in range(60)],
        about={"method": NASTY, "seed": 1, "data": NASTY},
    )
    text, _, page = written(
        tmp_path,
        nasty,
        title=NASTY,
        doubt=nasty.confidence.neg() + 1,
        doubt_name=NASTY,
        why=[NASTY] * 60,
        slices={NASTY: [NASTY] * 60},
        images=Pictures(nasty.ids),
        origin=calib_origin(),
    )
    assert "<script>alert" not in text
    assert page.all("script") == [
        {"type": "application/json", "id": "review-steps"},
        {},
    ]
    for ending in (".md", ".json", ".csv"):
        content = (tmp_path / f"report{ending}").read_text(encoding="utf-8")
        assert "\x1b" not in content.replace("\\u001b", "")
    assert "<script" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO((tmp_path / "report.csv").read_text(encoding="utf-8"))))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+cmd"))]


def calib_origin() -> Any:
    from calib.report.sections.provenance import Origin

    return Origin(data={"source": NASTY}, notes=[NASTY], settings={NASTY: NASTY}, files={NASTY: "x"})


def test_the_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    predictions = said()
    _, content, _ = written(tmp_path, predictions)
    expected = predictions.metrics()
    row = content["sections"]["comparison"]["tables"]["comparison"]["rows"]["mine"]
    for name in ("accuracy", "ece", "nll", "brier", "null_ece"):
        assert row[name]["value"] == pytest.approx(expected[name], abs=1e-12)
    assert row["accuracy"]["low"] < expected["accuracy"] < row["accuracy"]["high"]
    classes = content["sections"]["classes"]["tables"]
    for label, each in enumerate(expected["per_class"]):
        cell = classes["classes"]["rows"][each["class"]]
        assert cell["recall"]["value"] == pytest.approx(each["recall"])
        inside = predictions.labels == label
        share = proportion_interval(
            (~predictions.failure)[inside].numpy(), np.array(predictions.groups)[inside.numpy()]
        )
        assert (cell["recall"]["low"], cell["recall"]["high"]) == pytest.approx(share[1:])
    counts = classes["confusion"]["rows"]
    assert sum(counts[name][name] for name in NAMES) == int((~predictions.failure).sum())
    assert sum(counts["benign"].values()) == int((predictions.labels == 0).sum())
    benefit = content["sections"]["decisions"]["tables"]["net_benefit"]["rows"]["malignant at 20 %"]
    found = net_benefit(predictions.probs[:, 1], predictions.labels == 1, torch.tensor([0.2]))
    assert benefit["model"]["value"] == pytest.approx(float(found), abs=1e-9)
    assert benefit["model"]["low"] < benefit["model"]["value"] < benefit["model"]["high"]


def test_json_csv_and_markdown_hold_the_same_tables(full: Any, tmp_path: Path) -> None:
    _, content, _ = written(tmp_path, [said(), said(method="coop", strength=1)])
    long = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text(encoding="utf-8"))))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    tables = {name: t for section in content["sections"].values() for name, t in section["tables"].items()}
    assert {row["table"] for row in long} == tables.keys()
    cells = {(row["table"], row["row"], row["column"]): row for row in long}
    for name, table in tables.items():
        assert f"**{table['title']}**" in markdown
        for row, values in table["rows"].items():
            for column, value in values.items():
                said_there = cells[name, row, column]["value"]
                number = value["value"] if isinstance(value, dict) else value
                if isinstance(number, int | float):
                    assert float(said_there) == pytest.approx(number, rel=1e-7)


def test_features_without_images_are_said_to_have_none(tmp_path: Path) -> None:
    predictions = said()
    features = FeatureTable(torch.eye(2)[[0] * 60], predictions.labels, predictions.ids, predictions.names)
    _, content, _ = written(tmp_path, predictions, images=features)
    assert content["sections"]["cases"]["notes"] == [
        "There are no thumbnails. These are packaged features without images."
    ]
    with pytest.raises(ValueError, match="images=str: expected where images are looked up"):
        calib.report(predictions, tmp_path / "x.html", images="scans/", **QUICK)


def test_the_same_input_makes_the_same_page(tmp_path: Path) -> None:
    first = calib.report(said(), tmp_path / "a.html", **QUICK).read_bytes()
    assert calib.report(said(), tmp_path / "b.html", **QUICK).read_bytes() == first


def test_names_can_be_left_out(tmp_path: Path) -> None:
    sites = said(groups=[f"hospital_{i % 3}" for i in range(60)])
    text, content, _ = written(tmp_path, sites)
    assert "scan_" in text
    assert content["sections"]["groups"]["tables"]["by group"]["rows"].keys() == {
        f"hospital_{i}" for i in range(3)
    }
    written(tmp_path, sites, names=False, images=Pictures(sites.ids))
    for ending in (".html", ".json", ".csv", ".md"):
        content_of = (tmp_path / f"report{ending}").read_text(encoding="utf-8")
        assert "scan_" not in content_of
        assert "hospital_" not in content_of
    patients = written(tmp_path, said())[0]
    assert "patient_" not in patients  # of whom there are too many to be shown one by one


def test_the_slider_has_exact_numbers_for_ties_too() -> None:
    rng = np.random.default_rng(0)
    doubt, wrong = rng.integers(0, 12, 200) / 12, rng.random(200) < 0.3
    steps = steps_of(doubt, wrong, None)
    assert steps.threshold.tolist() == sorted(set(doubt.tolist()))
    for at, accepted, errors, low, high in zip(
        steps.threshold, steps.accepted, steps.errors, steps.low, steps.high, strict=True
    ):
        inside = doubt <= at
        assert (accepted, errors) == (inside.sum(), (inside & wrong).sum())
        assert (errors / accepted, low, high) == pytest.approx(proportion_interval(wrong[inside]))
    many = steps_of(rng.random(5000), rng.random(5000) < 0.1, None)
    assert len(many.accepted) <= MOST_STEPS
    assert many.accepted[-1] == 5000
    assert np.diff(many.accepted).max() <= 5000 / MOST_STEPS + 2


def test_a_fitted_threshold_is_applied_to_the_images_of_the_page(tmp_path: Path) -> None:
    predictions = said()
    _, content, _ = written(tmp_path, predictions, review=fitted_review(0.4))
    accepted = predictions.confidence > 0.6
    text = " ".join(content["sections"]["review"]["said"])
    assert f"it accepts {int(accepted.sum())} of 60" in text
    start = content["sections"]["review"]["steps"]["start"]
    assert content["sections"]["review"]["steps"]["steps"][start][1] == int(accepted.sum())
    _, content, _ = written(tmp_path, predictions, review=fitted_review(None))
    text = " ".join(content["sections"]["review"]["said"])
    assert (
        "No threshold keeps the promise with the cases it was fitted on. About 120 would be needed." in text
    )
    _, content, _ = written(tmp_path, predictions)
    assert "No review threshold was fitted." in content["sections"]["review"]["notes"][-1]


def test_the_slider_stands_on_the_doubts_that_predict_judges() -> None:
    predictions = said()
    doubt = 1 - predictions.confidence.double()
    unlike = torch.arange(60) % 10 == 0
    judged = doubt.mul(100).round().div(100).masked_fill(unlike, torch.inf)
    subject = subject_of(
        {"mine": {1: predictions}}, parts=Parts(judged=judged, review=fitted_review(0.4), n_resamples=20)
    )
    section = review(subject)
    assert section.slider is not None
    steps, wrong = section.slider["steps"], ~predictions.labels.eq(predictions.logits.argmax(1))
    assert section.slider["n"] == 60
    assert steps[-1][1] == 54  # the six that are unlike go to a reader at any threshold
    for at, accepted, errors, *_ in steps:
        inside = judged <= at + 1e-9
        assert (accepted, errors) == (int(inside.sum()), int((inside & wrong).sum()))
    assert steps[section.slider["start"]][1] == int((judged < 0.4).sum())
    assert "6 of 60 are unlike the images seen" in " ".join(section.said)
    workload = next(table for table in section.tables if table.name == "workload")
    assert next(iter(workload.rows)) == "10.0 %"  # no row promises less review
    none = replace(subject.parts, judged=torch.full((60,), torch.inf, dtype=torch.float64))
    section = review(replace(subject, parts=none))
    assert section.slider is None
    assert "60 of 60 are unlike the images seen" in " ".join(section.said)


def test_sets_are_judged_on_the_images_of_the_page(tmp_path: Path) -> None:
    predictions = said()
    _, content, _ = written(tmp_path, predictions, sets=fitted_sets())
    inside = predictions.probs > 0.25
    holds = inside[torch.arange(60), predictions.labels]
    tables = content["sections"]["sets"]["tables"]
    assert tables["set_classes"]["rows"]["other"]["coverage"]["value"] == pytest.approx(
        float(holds[predictions.labels == 2].double().mean())
    )
    assert sum(row["n"] for row in tables["set_sizes"]["rows"].values()) == 60
    assert f"has {inside.sum(1).double().mean():.2f} classes on average" in " ".join(
        content["sections"]["sets"]["said"]
    )
    with pytest.raises(ValueError, match=r"The sets are \(60, 2\)"):
        calib.report(predictions, tmp_path / "x.html", sets=lambda probs: probs[:, :2] > 0)


def test_a_calibrator_stands_beside_what_it_calibrates(tmp_path: Path) -> None:
    predictions = said(logits=said().logits * 5)
    calibrator = make_calibrator("temperature").fit(predictions.logits, predictions.labels)
    _, content, _ = written(tmp_path, predictions, calibrator=calibrator)
    rows = content["sections"]["comparison"]["tables"]["comparison"]["rows"]
    assert list(rows) == ["mine calibrated afterwards", "mine"]
    assert rows["mine calibrated afterwards"]["nll"]["value"] < rows["mine"]["nll"]["value"]
    assert rows["mine calibrated afterwards"]["accuracy"]["value"] == rows["mine"]["accuracy"]["value"]
    differences = content["sections"]["comparison"]["tables"]["differences"]
    assert differences["title"].startswith("Minus mine,")
    sure = content["sections"]["review"]["steps"]["steps"]
    assert max(step[0] for step in sure) == pytest.approx(
        1 - float(calibrator(predictions.logits).amax(1).min()), rel=1e-4
    )


def test_thumbnails_are_small_plain_and_only_where_they_can_be_read(tmp_path: Path) -> None:
    predictions = said()
    text, content, _ = written(tmp_path, predictions, images=Pictures(predictions.ids, broken=range(60)))
    assert "data:image/jpeg;base64" not in text
    text, content, _ = written(tmp_path, predictions)
    assert content["sections"]["cases"]["notes"] == ["There are no thumbnails. No images were given."]
    text, content, _ = written(tmp_path, predictions, images=Pictures(predictions.ids[::-1]))
    pictures = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    for each in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(each)))
        assert max(image.size) == 144
        assert not image.getexif()
    shown = content["sections"]["cases"]["cases"]["Mistakes with the least doubt: what a threshold lets pass"]
    wrong = predictions.failure.nonzero().flatten().tolist()
    surest = sorted(wrong, key=lambda row: -float(predictions.confidence[row]))[:12]
    assert [case["title"] for case in shown] == [predictions.names[row] for row in surest]
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    value = first.convert("L").getpixel((5, 5))
    assert abs(value - (59 - surest[0]) * (1 if (59 - surest[0]) % 2 else 0.299)) <= 3  # by content id


def test_seeds_show_how_far_they_lie_apart(full: Any, tmp_path: Path) -> None:
    text, content, _ = full
    assert "3 seeds, one by one" in text
    assert content["sections"]["comparison"]["tables"]["comparison"]["rows"]["mine"]["nll"]["sd"] > 0
    alone = written(tmp_path, said())[1]
    assert "it takes 3 seeds, or 3 groups of 10 images" in alone["sections"]["reliability"]["notes"][0]


def test_the_checklist_names_what_is_not_reported(full: Any, tmp_path: Path) -> None:
    for content, subgroups, thresholds in (
        (full[1], True, True),
        (written(tmp_path, said())[1], False, False),
    ):
        for rows in content["sections"]["checklist"]["checklist"].values():
            assert {row["state"] for row in rows} == {"reported", "partly", "not reported"}
            assert all(row["where"] for row in rows)
        tripod, claim = content["sections"]["checklist"]["checklist"].values()
        items = {row["item"]: row["state"] for row in tripod}
        assert items["12e"] == "reported"
        assert items["17"] == "not reported"  # ethical approval: nobody can know it here
        assert items["23a"] == ("reported" if subgroups else "partly")
        assert items["15"] == ("reported" if thresholds else "partly")
        assert [row["item"] for row in claim] == [str(number) for number in range(1, 45)]
        assert {row["item"]: row["state"] for row in claim}["33"] == "not reported"  # external testing
        assert len(tripod) == 52


def test_the_checklist_ticks_nothing_that_is_not_written(tmp_path: Path) -> None:
    def states(methods: Sequence[str]) -> dict[str, str]:
        content = written(tmp_path, {name: {1: said()} for name in methods})[1]
        tripod, claim = content["sections"]["checklist"]["checklist"].values()
        found = {row["item"]: row["state"] for row in tripod}
        missing = next(row for row in claim if row["item"] == "12")
        assert missing["state"] == found["11"] == "not reported"
        assert "Provenance" not in missing["where"]
        assert found["12f"] == found["24"]
        return found

    for others in (["mine", "coop"], ["mine calibrated", "coop"], ["mine calibrated (experts)"]):
        assert states(others)["24"] == "not reported"
    for twins in (["mine calibrated (experts) shots=4", "mine shots=4"], ["mine + temperature", "mine"]):
        assert states(twins)["24"] == "reported"


@pytest.mark.parametrize("kind", ["one image", "all right", "one class", "one group", "two classes", "many"])
def test_small_and_odd_sets_have_a_report(kind: str, tmp_path: Path) -> None:
    n = 1 if kind == "one image" else 30
    odd = said(n)
    if kind == "all right":
        odd = replace(odd, logits=10 * torch.eye(3)[odd.labels])
    elif kind == "one class":
        odd = replace(odd, labels=torch.zeros(n, dtype=torch.int64))
    elif kind == "one group":
        odd = replace(odd, groups=["a"] * n)
    elif kind == "two classes":
        odd = replace(odd, logits=odd.logits[:, :2], labels=odd.labels.clamp_max(1), class_names=NAMES[:2])
    elif kind == "many":
        logits = torch.randn(n, 40, generator=torch.Generator().manual_seed(0))
        odd = replace(odd, logits=logits, class_names=[f"c{i}" for i in range(40)])
    text, content, _ = written(tmp_path, odd)
    assert content["title"] == "mine on toy"
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower().split()
    if kind == "one image":
        assert "No intervals but those of the accuracy: Resampling needs at least 2" in text
    if kind == "all right":
        check_that_nothing_reads_as_certain(text, content["sections"], odd)
    if kind == "many":
        assert "more classes are left out" in text


def check_that_nothing_reads_as_certain(text: str, sections: dict[str, Any], right: Predictions) -> None:
    """The accuracy had a bootstrap interval from 100 to 100 %, the AURC one from 0 to 0 %."""
    row = sections["comparison"]["tables"]["comparison"]["rows"]["mine"]
    expected = proportion_interval((~right.failure).numpy(), right.groups)
    found = row["accuracy"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(expected)
    assert found["low"] < 0.8 < found["high"] == 1
    assert f"interval {100 * found['low']:.1f} to 100.0 %)" in sections["overview"]["said"][1]
    for name in ("balanced_accuracy", "macro_f1"):
        assert set(row[name]) == {"value"}
    assert "Where no brackets stand, every resample gives the same" in sections["comparison"]["notes"][0]
    for section in sections.values():
        for table in section["tables"].values():
            for cells in table["rows"].values():
                for cell in cells.values():
                    assert not isinstance(cell, dict) or "low" not in cell or cell["low"] < cell["high"]
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"Only 0 | 0 of the 0 |below inf", shown)
    assert "No prediction is wrong: what is said of sorting wrong ones out says little" in shown
    for name in ("overview", "review"):
        assert "No prediction is wrong: these images cannot say" in " ".join(sections[name]["said"])


def test_a_share_of_one_seed_has_the_same_interval_in_sentence_and_table(tmp_path: Path) -> None:
    sections = written(tmp_path, {"mine": {1: said()}, "zero-shot": {1: said(strength=1), 2: said(seed=2)}})[
        1
    ]["sections"]
    rows = sections["comparison"]["tables"]["comparison"]["rows"]
    one = proportion_interval((~said().failure).numpy(), said().groups)
    assert (rows["mine"]["accuracy"]["low"], rows["mine"]["accuracy"]["high"]) == pytest.approx(one[1:])
    assert f"(95 % interval {100 * one[1]:.1f} to {100 * one[2]:.1f} %)" in sections["overview"]["said"][1]
    assert rows["zero-shot"]["accuracy"]["sd"] > 0  # that of two seeds draws seeds
    assert "that of the accuracy, of one seed, is exact" in sections["comparison"]["said"][0]


def test_a_guarantee_is_led_by_a_short_sentence_and_its_conditions_are_points(tmp_path: Path) -> None:
    predictions = said()
    fitted = ReviewThreshold(max_error=0.2).fit(torch.arange(160) / 200, torch.arange(160) > 150)
    sets = PredictionSets(coverage=0.8).fit(predictions.probs, predictions.labels)
    _, content, page = written(tmp_path, predictions, review=fitted, sets=sets)
    review, of_sets = content["sections"]["review"], content["sections"]["sets"]
    assert review["said"][1].startswith("The fitted threshold: accept ")
    (points,) = review["points"].values()
    assert points[0].startswith("Passes: ")
    assert " ".join(points[2:]) == fitted.guarantee
    assert of_sets["said"][0].endswith("that shall hold the true one for 80 % of new cases.")
    (points,) = of_sets["points"].values()
    assert " ".join(points) == sets.described(NAMES)
    for paragraph in (*review["said"], *of_sets["said"]):
        assert len(paragraph.split()) < 60
    assert len(page.all("ul")) == 3
    assert f"- {points[-1]}" in (tmp_path / "report.md").read_text(encoding="utf-8")
    every = ReviewThreshold(max_error=0.2).fit(torch.arange(160) / 200, torch.zeros(160, dtype=torch.bool))
    assert every.threshold == torch.inf
    _, content, _ = written(tmp_path, predictions, review=every)
    told = content["sections"]["review"]
    assert "it accepts 60 of 60 (100.0 %; whatever their doubt)" in " ".join(told["said"])
    assert {row["threshold"] for row in told["tables"]["threshold_curve"]["rows"].values()} >= {"any"}


def test_what_cannot_stand_in_one_report_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    with pytest.raises(ValueError, match=r"must be a file that ends in \.html"):
        calib.report(said(), tmp_path / "report.pdf")
    with pytest.raises(ValueError, match="at least one prediction"):
        calib.report([], page)
    with pytest.raises(ValueError, match=r"both of 'mine' with seed 1. Give them names"):
        calib.report([said(), said()], page)
    with pytest.raises(ValueError, match=r"'coop' \(seed 1\) is of other images"):
        calib.report([said(), said(method="coop", ids=["z" * 64] * 60)], page)
    with pytest.raises(ValueError, match=r"'coop' \(seed 1\) predicts a, b, c, and the first benign"):
        calib.report([said(), said(method="coop", class_names=["a", "b", "c"])], page)
    with pytest.raises(ValueError, match=r"doubt must be \(60,\) finite numbers"):
        calib.report(said(), page, doubt=torch.full((60,), float("nan")))
    with pytest.raises(ValueError, match="60 predictions, and 2 values of 'site'"):
        calib.report(said(), page, slices={"site": ["a", "b"]})
    with pytest.raises(ValueError, match=r"Unknown method 'min'. Did you mean 'mine'"):
        calib.report(said(), page, main="min")
    with pytest.raises(ValueError, match=r"Unknown baseline 'coop'"):
        calib.report(said(), page, baseline="coop")
    with pytest.raises(ValueError, match=r"'mine' \(seeds \[1\]\) and 'coop' \(seeds \[2\]\) share no seed"):
        calib.report([said(), said(method="coop", seed=2)], page, baseline="coop")
    with pytest.raises(ValueError, match=r"The calibrator returned \(60, 2\)"):
        calib.report(said(), page, calibrator=lambda logits: logits[:, :2])
    assert not list(tmp_path.iterdir())


def test_methods_without_a_common_seed_stand_beside_each_other_unpaired(tmp_path: Path) -> None:
    _, content, _ = written(tmp_path, [said(seed=1), said(seed=2, method="coop")])
    assert set(content["sections"]["comparison"]["tables"]) == {"comparison"}
    subject = subject_of([said(), said(method="zero-shot"), said(method="coop")], parts=Parts())
    assert (subject.main, subject.baseline) == ("mine", "zero-shot")


def sentences(tmp_path: Path, predictions: Any) -> str:
    return " ".join(written(tmp_path, predictions)[1]["sections"]["overview"]["said"])


def test_the_sentences_say_what_the_numbers_say(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()  # as probable as it says
    fair = said(400, logits=logits, labels=labels)
    assert "nothing here says that its confidences are wrong" in sentences(tmp_path, fair)
    bold, shy = (said(400, logits=logits * scale, labels=labels) for scale in (4.0, 0.3))
    assert "off by more than chance explains, on the whole too high" in sentences(tmp_path, bold)
    assert "off by more than chance explains, on the whole too low" in sentences(tmp_path, shy)
    text = sentences(tmp_path, fair)
    right, wrong = int((~fair.failure).sum()), int(fair.failure.sum())
    assert f"It was right in {100 * right / 400:.1f} %" in text
    assert f"and wrong in {wrong}." in text
    order = (1 - fair.confidence).argsort(stable=True)
    kept = int(fair.failure[order[:320]].sum())
    assert f"(80 images), {100 * kept / 320:.1f} % of the others are wrong" in text
    assert f"{wrong - kept} of the {wrong} mistakes" in text
    better = sentences(tmp_path, [said(seed=1, strength=4), said(seed=1, method="zero-shot", strength=0)])
    assert "Beside zero-shot, on the same images: accuracy +" in better
    assert "may be chance" not in better
    rescaled = said(400, logits=logits * 1.01, labels=labels, method="other")
    same = sentences(tmp_path, [fair, rescaled])
    assert "images: accuracy the same; calibration error (ECE)" in same
    assert "which may be chance" in same


@pytest.mark.parametrize("ending", ["json", "csv", "md", "html"])
def test_nothing_but_an_earlier_report_is_replaced(tmp_path: Path, ending: str) -> None:
    mine = tmp_path / f"outputs.{ending}"
    mine.write_text("<!doctype html><title>mine</title>", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"outputs\.{ending}', which is not of an earlier .* another out="):
        calib.report(said(), tmp_path / "outputs.html", **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]
    assert mine.read_text(encoding="utf-8") == "<!doctype html><title>mine</title>"


def test_a_report_is_written_again_in_its_own_place(tmp_path: Path) -> None:
    page = calib.report(said(), tmp_path / "report.html", title="Before", **QUICK)
    page.with_suffix(".csv").unlink()  # as one that ended early
    calib.report(said(), page, title="After", **QUICK)
    assert all("After" in (tmp_path / f"report.{each}").read_text("utf-8") for each in ("html", "json", "md"))
    assert page.with_suffix(".csv").is_file()


def test_the_threshold_is_applied_to_the_doubts_that_it_judges(tmp_path: Path) -> None:
    predictions = said()
    judged = (1 - predictions.confidence).round(decimals=6)
    judged[:7] = torch.inf
    subject = subject_of(predictions, parts=Parts(review=fitted_review(0.3), judged=judged, n_resamples=40))
    accepted = int((judged < 0.3).sum())
    first, *_, sentence = review(subject).said
    assert f"accepts {accepted} of 60 " in sentence
    assert f"; {60 - accepted} go to a reader." in sentence
    assert "7 of 60 are unlike the images seen: a reader sees them at any threshold." in first

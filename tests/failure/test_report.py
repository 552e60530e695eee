"""The list of doubtful images says one confidence, in its column and in words."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.failure.data import FailureData, FrozenClassifier, cases_of
from calib.failure.export import FailureHead
from calib.failure.fit import new_head
from calib.failure.report import failures_csv
from calib.prompts.export import Prompt

N, C, D = 30, 3, 8


def prompt(temperature: float) -> Prompt:
    return Prompt(torch.eye(C, D), ["a", "b", "c"], math.log(12.0), {"name": "toy"}, temperature=temperature)


def rows_of(judged: Prompt, made_for: Prompt, **options: Any) -> list[dict[str, str]]:
    labels = torch.arange(N) % C
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    images = normalize(torch.eye(C, D)[labels] + 0.5 * noise, dim=1)
    names = [str(row) for row in range(N)]
    test = judged.predict(FeatureTable(images, labels, ids=names, names=names))
    classifier = FrozenClassifier.of(made_for)
    vilu = new_head(D, logit_scale=classifier.logit_scale, seed=0, hidden=(6,), **options)
    means = vilu.part_means(images, made_for.text_features)
    head = FailureHead(vilu, made_for.text_features, made_for.class_names, means)
    head.check_prompt(judged)
    data = FailureData(
        judged=classifier,
        cases=None,
        val=None,
        test=test,
        test_cases=cases_of(test, judged.text_features),
        record={},
    )
    return list(csv.DictReader(io.StringIO(failures_csv(data, head))))


@pytest.mark.parametrize("made_for", [1.0, 2.0], ids=["fitted-later", "fitted-before"])
def test_column_and_sentence_quote_the_same_confidence(made_for: float) -> None:
    rows = rows_of(prompt(2.0), prompt(made_for), residual=True)
    quoted = [re.search(r"the model's probability of (\d+)%", row["why"]) for row in rows]
    found = [(float(row["confidence"]), int(m[1])) for row, m in zip(rows, quoted, strict=True) if m]
    assert len(found) > N // 2
    assert all(percent == round(100 * confidence) for confidence, percent in found)
    cold = {row["name"]: float(row["confidence"]) for row in rows_of(prompt(1.0), prompt(1.0), residual=True)}
    warm = {row["name"]: float(row["confidence"]) for row in rows}
    assert max(cold[name] - warm[name] for name in cold) > 0.1  # the temperature shows


def test_what_a_head_without_attention_weighs_is_not_changed_by_a_later_temperature() -> None:
    options = {"use_attention": False, "use_predicted_caption": False}
    later, before = (rows_of(prompt(t), prompt(1.0), **options) for t in (2.0, 1.0))
    assert [row["weighed against"] for row in later] == [row["weighed against"] for row in before]
    assert [row["confidence"] for row in later] != [row["confidence"] for row in before]

"""Models of transformers that answer, two architectures with random weights: scores, draws, going on."""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vqa.tiny_vlms import KINDS, save_tiny, tiny_vlm

from calib.vqa import HuggingFaceVLM, Items, answer, read_outputs
from calib.vqa.answerers.generation import SeededDraw, kept_mass
from calib.vqa.answerers.scoring import letter_ids

CWD = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=KINDS)
def vlm(request: pytest.FixtureRequest) -> Any:
    return request.param, *tiny_vlm(request.param)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (40 + 9 * k, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        options = ["CT", "MRI scan", "US"][: 3 - (k == 2)]
        rows.append(
            {
                "item_id": f"q{k}#original",
                "question": "What is it?" + " Really?" * k,
                "options": options,
                "option_ids": [f"o{place}" for place in range(len(options))],
                "correct_index": 0,
                "image": None if k == 1 else str(folder / f"{k}.png"),
            }
        )
    return Items.of_rows(rows)


def model_of(vlm: Any, **settings: Any) -> HuggingFaceVLM:
    kind, model, processor = vlm
    given = {"greedy": False, "max_new_tokens": 3, "prompt": "{question} {options}", **settings}
    return HuggingFaceVLM(model, processor, model_id=kind, **given)


def test_scores_are_those_of_whole_sequences(vlm: Any, items: Items) -> None:
    """With and without an image, one after the other: positions of one prompt are not those of the next."""
    model = model_of(vlm)
    outputs = answer(model, items)
    assert model.scorer.cached == {True: True, False: True}
    for k, row in enumerate(items.rows()):
        image = None if row["image"] is None else Image.open(row["image"])
        inputs = model._inputs([model._put(row)], [image])
        with torch.inference_mode():
            logits = model.model(**inputs).logits[0, -1].double()
            sums = [model.scorer._whole(inputs, model.scorer._ids(text)) for text in row["options"]]
        letters = [model.tokenizer.convert_tokens_to_ids(letter) for letter in "ABC"[: len(sums)]]
        assert outputs.cell("option_logit", k) == pytest.approx(logits[letters].tolist(), abs=1e-4)
        expected = logits.log_softmax(0)[letters].tolist()
        assert outputs.cell("option_letter_logprob", k) == pytest.approx(expected, abs=1e-4)
        assert outputs.cell("option_loglik", k) == pytest.approx(sums, abs=1e-3)
        assert outputs.cell("option_n_tokens", k) == [
            len(text) for text in row["options"]
        ]  # bytes are tokens


def test_a_cache_that_gives_other_scores_is_not_used(
    vlm: Any, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(model_of(vlm), items.take([0])).cell("option_loglik", 0)
    model = model_of(vlm)
    right = model.scorer._with_cache
    monkeypatch.setattr(model.scorer, "_with_cache", lambda *given: [x - 1 for x in right(*given)])
    found = answer(model, items.take([0, 2]))
    assert model.scorer.cached == {True: False}
    assert found.cell("option_loglik", 0) == pytest.approx(expected, abs=1e-3)


def test_greedy_answers_are_those_of_generate_and_their_log_probabilities_the_models(
    vlm: Any, items: Items
) -> None:
    model = model_of(vlm, greedy=True, scoring=(), p_true=True, verbalized=True)
    outputs = answer(model, items.take([0]))
    row = items.rows()[0]
    inputs = model._inputs([model._put(row)], [Image.open(row["image"])])
    with torch.inference_mode():
        made = model.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        tokens = made[0, inputs["input_ids"].shape[1] :].tolist()
        expected = [
            model.scorer._whole(inputs, tokens[: t + 1])
            - (model.scorer._whole(inputs, tokens[:t]) if t else 0)
            for t in range(len(tokens))
        ]
    assert outputs.cell("answer_text", 0) == model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert outputs.cell("answer_token_logprobs", 0) == pytest.approx(expected, abs=1e-3)
    assert all(0 <= h <= math.log(len(model.tokenizer)) for h in outputs.cell("answer_token_entropies", 0))
    assert len(outputs.cell("p_true_logits", 0)) == 2
    assert outputs.texts("verbalized_text")[0] is not None


def test_a_draw_depends_on_its_seed_and_not_on_the_batch(vlm: Any, items: Items) -> None:
    settings = {"scoring": (), "samples": 3, "temperature": 1.0, "top_p": 1.0, "seed": 5}
    together = answer(model_of(vlm, **settings, batch_size=3), items)
    alone = answer(model_of(vlm, **settings, batch_size=1), items)
    drawn = [[(each["text"], each["seed"]) for each in row["samples"]] for row in together.rows()]
    assert drawn == [[(each["text"], each["seed"]) for each in row["samples"]] for row in alone.rows()]
    orders = [tuple(each["option_order"]) for row in together.rows() for each in row["samples"]]
    assert len(set(orders)) > 1
    other = answer(model_of(vlm, **{**settings, "seed": 6}), items)
    assert [[each["text"] for each in row["samples"]] for row in other.rows()] != [
        [text for text, _ in row] for row in drawn
    ]


def test_noise_changes_the_image_and_the_prior_has_none(vlm: Any, items: Items) -> None:
    settings = {"scoring": ("texts",), "prior": True, "noisy_samples": 1, "samples": 1, "temperature": 1.0}
    outputs = answer(model_of(vlm, **settings), items.take([0, 1]))
    prior = outputs.padded("option_prior_loglik")
    assert prior[0] == pytest.approx(prior[1], abs=1e-4)
    assert abs(outputs.padded("option_loglik")[0] - prior[0]).max() > 1e-3
    assert outputs.cell("noisy_samples", 0)[0]["seed"] != outputs.cell("samples", 0)[0]["seed"]


def test_draws_have_the_probabilities_of_the_model() -> None:
    """10,000 draws of three tokens of which the last is cut off: within four standard errors."""
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    draw = SeededDraw(range(10_000), 0, 1.0, 0.85)
    tokens = draw(torch.zeros(10_000, 0), logits.expand(10_000, 3)).argmax(1)
    share = torch.bincount(tokens, minlength=3) / 10_000
    assert abs(float(share[0]) - 2 / 3) < 4 * math.sqrt(2 / 9 / 10_000)
    assert float(share[2]) == 0
    assert kept_mass(logits, 1.0) is logits
    cold = SeededDraw(range(10), 0, 1e-3, 1.0)
    assert cold(torch.zeros(10, 0), logits.expand(10, 3)).argmax(1).tolist() == [0] * 10


def test_letters_are_tokens_of_their_own() -> None:
    _, processor = tiny_vlm("llava")
    ids = letter_ids(processor.tokenizer, "AB")
    assert [processor.tokenizer.decode(each) for each in ids] == ["A", "B"]
    with pytest.raises(ValueError, match="The letter é is no token"):
        letter_ids(processor.tokenizer, "é")  # two bytes


def test_what_cannot_be_is_refused(vlm: Any, items: Items) -> None:
    for settings, said in (
        ({"scoring": ("words",)}, "Unknown way of scoring 'words'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"samples": -1}, "samples must be at least 0"),
        ({"p_true": True}, "ask about the greedy answer"),
    ):
        with pytest.raises(ValueError, match=said):
            model_of(vlm, **settings)
    bare = Items.of_rows([{"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 0}])
    with pytest.raises(ValueError, match="needs the texts of 2 to 26 options"):
        answer(model_of(vlm), bare)
    with pytest.raises(FileNotFoundError, match=r"hf://owner/name"):
        HuggingFaceVLM.load("nowhere/at-all")


def test_a_package_that_a_model_lacks_is_named_with_its_installation(tmp_path: Path, monkeypatch) -> None:
    def smol(*_: Any, **__: Any) -> None:
        raise ImportError("Package `num2words` is required to run SmolVLM processor.\nSecond line")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", smol)
    with pytest.raises(
        ValueError, match=r"required to run SmolVLM processor\. A.*pip install 'num2words.*\.$"
    ):
        HuggingFaceVLM.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_command_goes_on_and_two_processes_share_the_work(
    kind: str, items: Items, tmp_path: Path
) -> None:
    folder = save_tiny(kind, tmp_path / kind)
    rows = items.rows()
    many = Items.of_rows([{**rows[k % 3], "item_id": f"{k}#original", "base_id": f"{k}"} for k in range(24)])
    many.write(tmp_path / "items.parquet")
    words = ["answerer=hf", f"model={folder}", "samples=2", "max_new_tokens=4", "chunk=2", "device=cpu"]

    def command(out: str, *more: str) -> list[str]:
        line = [sys.executable, "-m", "calib.cli", "vqa", "answer", str(tmp_path / "items.parquet")]
        return [*line, *words, *more, f"out={tmp_path / out}"]

    subprocess.run(command("whole"), cwd=CWD, check=True, capture_output=True)
    killed = subprocess.Popen(
        command("killed"), cwd=CWD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed" / "parts").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "outputs.parquet").exists()
    subprocess.run(command("killed"), cwd=CWD, check=True, capture_output=True)
    subprocess.run(command("shared", "processes=2"), cwd=CWD, check=True, capture_output=True)
    whole = read_outputs(tmp_path / "whole" / "outputs.parquet", items=many)
    for name in ("killed", "shared"):
        found = read_outputs(tmp_path / name / "outputs.parquet", items=many)
        assert found.table.equals(whole.table), name


def test_how_questions_and_images_are_put_is_part_of_what_is_described(vlm: Any, tmp_path: Path) -> None:
    kind, model, processor = vlm
    before = model_of(vlm).describe()
    assert model_of((kind, model, copy.deepcopy(processor))).describe() == before
    assert before["root"] is None
    assert model_of(vlm, root=tmp_path).describe()["root"] == str(tmp_path.resolve())
    asked, shown = copy.deepcopy(processor), copy.deepcopy(processor)
    asked.chat_template += " "
    shown.image_processor.image_mean = [0.1, 0.2, 0.3]
    digests = {model_of((kind, model, each)).describe()["processing"] for each in (processor, asked, shown)}
    assert len(digests) == 3


def test_settings_are_refused_before_a_model_is_read(tmp_path: Path) -> None:
    for settings, told in (
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        ({"scoring": ["letter"]}, "Did you mean 'letters'"),
        ({"p_true": True, "greedy": False}, "ask about the greedy answer"),
    ):
        with pytest.raises(ValueError, match=told):  # the folder is no model: that would be said next
            HuggingFaceVLM.load(tmp_path, **settings)  # type: ignore[arg-type]

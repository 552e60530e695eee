"""Backbones and prompts that answer: as the zero-shot prompt does, offline, in a folder that goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import calib
from calib.vqa import Items, ZeroShot, answer, from_task, join_items, perturb
from calib.vqa.answerers.base import device_of
from calib.vqa.run import PARTS, RESULT


@pytest.fixture(scope="module")
def backbone() -> Any:
    return calib.create_backbone("embedded")


@pytest.fixture(scope="module")
def task() -> Any:
    return calib.load_data("cxr3")


@pytest.fixture(scope="module")
def items(task: Any) -> Items:
    return from_task(task, options=None, limit=60)


def test_all_classes_as_options_give_the_zero_shot_prompts_logits(
    backbone: Any, task: Any, items: Items
) -> None:
    outputs = answer(ZeroShot(backbone), items)
    expected = calib.zero_shot(backbone, task).predict(task.test)
    rows = {id_: row for row, id_ in enumerate(expected.ids)}
    for k, row in enumerate(items.rows()):
        logits = expected.logits[rows[row["image_id"]]]
        mine = outputs.cell("option_logit", k)
        assert mine == pytest.approx([float(logits[int(id_[1:])]) for id_ in row["option_ids"]], abs=1e-4)
        assert row["option_ids"][row["correct_index"]] == f"c{int(expected.labels[rows[row['image_id']]])}"
    prompted = answer(ZeroShot(backbone, prompt=calib.zero_shot(backbone, task)), items)
    assert prompted.padded("option_logit") == pytest.approx(outputs.padded("option_logit"), abs=1e-4)


def test_an_answer_does_not_depend_on_those_beside_it(backbone: Any, items: Items, tmp_path: Path) -> None:
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    own = Items.of_rows([{**row, "image": f"{k}.png"} for k, row in enumerate(items.take(range(2)).rows())])
    dark = perturb(own.take([0]), "black_image")
    model = ZeroShot(backbone, root=tmp_path, batch_size=3)
    together, alone = answer(model, join_items([own, dark])), answer(model, own.take([1]))
    assert together.cell("option_logit", 1) == alone.cell("option_logit", 0)
    assert together.cell("option_logit", 2) != together.cell("option_logit", 0)
    blind = answer(ZeroShot(backbone), perturb(items.take([0]), "no_image"))
    assert (blind.choices.tolist(), blind.texts("answer_status").tolist()) == ([-1], ["non_answer"])
    with pytest.raises(FileNotFoundError, match=r"There is no image 0.png. Relative paths need root=FOLDER"):
        answer(ZeroShot(backbone), own)


def test_a_threshold_answers_few_controls_by_none_of_the_above(
    backbone: Any, task: Any, items: Items
) -> None:
    controls = perturb(from_task(task, split="val", options=None, limit=100), "replace_distractor")
    model = ZeroShot(backbone, nota="threshold")
    with pytest.raises(ValueError, match="not fitted yet"):
        answer(model, items)
    model.fit_nota(controls, false_rate=0.1)
    said = answer(model, controls)
    false = said.choices == controls.places()
    assert false.sum() == int(0.1 * len(controls)) > 0  # exactly: the lowest tenth of the largest logits
    nota = answer(model, perturb(items, "replace_correct"))
    assert (nota.choices == nota.items.places()).mean() > 0
    with pytest.raises(ValueError, match=r"A rate of 0\.001 needs at least 1000 controls"):
        model.fit_nota(controls, false_rate=0.001)
    with pytest.raises(ValueError, match="whose right option is there"):
        model.fit_nota(perturb(items, "replace_correct"))


def test_what_a_prompt_cannot_compare_is_refused(backbone: Any, task: Any, items: Items) -> None:
    prompt = calib.zero_shot(backbone, task)
    prompt.temperature = 2.0
    nota = perturb(items, "replace_correct")
    with pytest.raises(
        ValueError, match=r"'None of the above', which is no class of the prompt .*nota=.threshold"
    ):
        answer(ZeroShot(backbone, prompt=prompt), nota)
    with pytest.raises(ValueError, match="Unknown way of None of the above 'txt'"):
        ZeroShot(backbone, nota="txt")
    with pytest.raises(ValueError, match="A template needs"):
        ZeroShot(backbone, template="An image.")


def test_devices_that_are_none_or_not_here_are_refused() -> None:
    assert device_of("cpu").type == "cpu"
    for name, told in (
        ("cdua", "expected cpu, cuda"),
        ("meta", "expected cpu"),
        ("cuda:64", "can be used here"),
    ):
        with pytest.raises(ValueError, match=told):
            device_of(name)


def test_prompts_with_other_calibrations_are_other_models(backbone: Any, task: Any) -> None:
    prompt = calib.zero_shot(backbone, task)
    whole = prompt.linear_map()
    tilted = dataclasses.replace(whole, bias=whole.bias + torch.tensor([1.0, 0.0, 0.0]))
    described = [
        ZeroShot(backbone, prompt=dataclasses.replace(prompt, calibration=each)).describe()["prompt"]
        for each in (None, whole, tilted)
    ]
    assert len(set(described)) == 3  # a stated prevalence shifts the bias alone


def test_several_templates_are_several_prompts(backbone: Any, items: Items) -> None:
    both = {"plain": "{option}", "asked": "{question} {option}"}
    outputs = answer(ZeroShot(backbone, templates=both), items.take(range(4)))
    assert sorted(set(outputs.texts("prompt_id").tolist())) == ["asked", "plain"]
    assert len(outputs) == 8


class Counting(ZeroShot):
    """Counts what it is asked, and fails when it was asked often enough."""

    asked, last = 0, 10**9

    def answer(self, rows: Any) -> Any:
        self.asked += 1
        if self.asked > self.last:
            raise KeyboardInterrupt
        return super().answer(rows)


def test_an_interrupted_run_goes_on_and_is_the_same(backbone: Any, items: Items, tmp_path: Path) -> None:
    whole = answer(ZeroShot(backbone, batch_size=8), items, tmp_path / "whole", chunk=8)
    stopped = Counting(backbone, batch_size=8)
    stopped.last = 3
    with pytest.raises(KeyboardInterrupt):
        answer(stopped, items, tmp_path / "part", chunk=8)
    parts = sorted((tmp_path / "part" / PARTS).glob("*.parquet"))
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:200])  # a damaged part is made anew
    going_on = Counting(backbone, batch_size=8)
    again = answer(going_on, items, tmp_path / "part", chunk=8)
    assert going_on.asked == 8 - 2
    assert again.table.equals(whole.table)
    assert not (tmp_path / "part" / PARTS).exists()
    finished = Counting(backbone, batch_size=8)
    assert answer(finished, items, tmp_path / "part", chunk=8).table.equals(whole.table)
    assert finished.asked == 0


def test_a_folder_of_another_run_is_refused(backbone: Any, items: Items, tmp_path: Path) -> None:
    few = items.take(range(3))
    answer(ZeroShot(backbone), few, tmp_path)
    with pytest.raises(ValueError, match="holds answers of another run: templates is"):
        answer(ZeroShot(backbone, template="{}"), few, tmp_path)
    with pytest.raises(ValueError, match="holds answers of another run: items is"):
        answer(ZeroShot(backbone), items.take([2, 1, 0]), tmp_path)
    with pytest.raises(ValueError, match="another run: chunk is 64 there, 2 here"):
        answer(ZeroShot(backbone), few, tmp_path, chunk=2)
    rows = few.rows()
    for change in ({"template": "An X-ray of {}."}, {"base_id": "another"}):
        with pytest.raises(ValueError, match="holds answers of another run: items is"):
            answer(ZeroShot(backbone), Items.of_rows([{**row, **change} for row in rows]), tmp_path)
    with pytest.raises(ValueError, match="holds answers of another run: root is None there"):
        answer(ZeroShot(backbone, root=tmp_path), few, tmp_path)
    (tmp_path / RESULT).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"outputs\.parquet cannot be read"):
        answer(ZeroShot(backbone), few, tmp_path)


def test_questions_from_a_task_depend_on_seed_and_image(task: Any, tmp_path: Path) -> None:
    two = from_task(task, options=2, limit=20, seed=3)
    same = from_task(task, options=2, limit=20, seed=3)
    assert two.table.equals(same.table)
    assert not two.table.equals(from_task(task, options=2, limit=20, seed=4).table)
    assert two.n_options.tolist() == [2] * 20
    names = {f"c{k}": name for k, name in enumerate(task.class_names)}
    assert all(
        names[id_] == text
        for row in two.rows()
        for id_, text in zip(row["option_ids"], row["options"], strict=True)
    )
    assert 0 < two.correct.mean() < 1  # the right option has no place of its own
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        from_task(task, split="dev")


def test_images_without_files_are_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    labels = np.arange(8)[:, None] % 2
    arrays = {
        f"{split}_{kind}": value
        for split in ("train", "val", "test")
        for kind, value in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    task = calib.load_data("pneumoniamnist", tmp_path / "pneumoniamnist.npz")
    with pytest.raises(ValueError, match="say where they may be written as PNG"):
        from_task(task)
    made = from_task(task, folder=tmp_path / "png")
    opened = calib.open_image(made.cell("image", 3))
    assert np.array_equal(np.asarray(opened)[:, :, 0], images[3])
    shutil.rmtree(tmp_path / "png")


def test_the_record_of_a_run_is_json_without_weights(backbone: Any, items: Items, tmp_path: Path) -> None:
    answer(ZeroShot(backbone), items.take([0]), tmp_path)
    record = json.loads((tmp_path / "answers.json").read_text())
    assert record["answerer"]["backbone"]["name"] == "embedded"
    assert record["count"] == 1
    assert torch.is_grad_enabled()

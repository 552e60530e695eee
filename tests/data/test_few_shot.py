import hashlib
import json
import logging
import random
import re

import pytest
import torch
from torch import Tensor

from calib.data import FewShotSplit, few_shot_split


def make(counts: list[int]) -> tuple[Tensor, list[str]]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return torch.tensor(labels), [hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(labels))]


def classes(labels: Tensor, rows: Tensor) -> list[int]:
    return labels[rows].bincount(minlength=int(labels.max()) + 1).tolist()


def test_the_draw_by_hand() -> None:
    labels, ids = torch.tensor([1, 0, 0, 1, 0]), ["e", "d", "c", "b", "a"]
    order = sorted(ids, key=lambda id_: hashlib.sha256(f"7:{id_}".encode()).digest())
    assert order == ["c", "e", "a", "d", "b"]
    split = few_shot_split(labels, ids, 1, val_shots=1, seed=7)
    assert split.train_ids == ["c", "e"]  # class 0, then class 1
    assert split.val_ids == ["a", "b"]
    assert (split.train.tolist(), split.val.tolist()) == ([2, 0], [4, 3])


def test_the_draw_does_not_depend_on_the_order_of_the_files() -> None:
    labels, ids = make([20, 9, 30])
    order = list(range(len(ids)))
    random.Random(0).shuffle(order)
    shuffled = few_shot_split(labels[order], [ids[row] for row in order], 4, val_shots=2, seed=3)
    plain = few_shot_split(labels, ids, 4, val_shots=2, seed=3)
    assert (shuffled.train_ids, shuffled.val_ids) == (plain.train_ids, plain.val_ids)
    assert shuffled.train.tolist() != plain.train.tolist()


def test_counts_disjointness_and_seeds() -> None:
    labels, ids = make([20, 9, 30])
    draws = [few_shot_split(labels, ids, 5, val_shots=3, seed=seed) for seed in (0, 1, -1, 10**12)]
    for split in draws:
        assert classes(labels, split.train) == [5, 5, 5]
        assert classes(labels, split.val) == [3, 3, 3]
        assert not set(split.train.tolist()) & set(split.val.tolist())
    assert len({tuple(split.train_ids) for split in draws}) == 4  # seed 0 is a seed like any other
    again = few_shot_split(labels, ids, 5, val_shots=3, seed=0)
    assert again.train.equal(draws[0].train)


def test_more_shots_contain_the_fewer_and_validation_does_not_change_them() -> None:
    labels, ids = make([20, 25, 30])
    eight = few_shot_split(labels, ids, 8, seed=1)
    assert set(few_shot_split(labels, ids, 4, val_shots=4, seed=1).train_ids) < set(eight.train_ids)
    assert few_shot_split(labels, ids, 8, val_shots=6, seed=1).train_ids == eight.train_ids


def test_all_shots_are_what_validation_leaves() -> None:
    labels, ids = make([6, 4, 5])
    split = few_shot_split(labels, ids, None, val_shots=2, seed=0)
    assert classes(labels, split.val) == [2, 2, 2]
    assert classes(labels, split.train) == [4, 2, 3]
    assert sorted([*split.train.tolist(), *split.val.tolist()]) == list(range(15))


def test_groups_are_spread_and_never_shared() -> None:
    labels, ids = make([12, 12])
    groups = [f"p{row // 3}" for row in range(24)]  # 4 patients of 3 images per class
    for seed in range(10):
        split = few_shot_split(labels, ids, 2, val_shots=2, seed=seed, groups=groups)
        train, val = ([groups[row] for row in rows.tolist()] for rows in (split.train, split.val))
        assert len(set(train)) == len(set(val)) == 4  # one image per patient
        assert not set(train) & set(val)


def test_few_groups_give_several_images_each_and_some_are_kept_for_validation() -> None:
    labels, ids = make([20, 20])
    groups = [f"p{row // 5}" for row in range(40)]  # 4 patients of 5 images per class, 8 + 4 shots wanted
    split = few_shot_split(labels, ids, 8, val_shots=4, seed=2, groups=groups)
    assert classes(labels, split.train) == [8, 8]
    assert classes(labels, split.val) == [4, 4]
    train, val = ({groups[row] for row in rows.tolist()} for rows in (split.train, split.val))
    assert (len(train), len(val)) == (6, 2)
    assert not train & val


def test_groups_of_very_different_size_are_divided_so_that_both_sides_have_enough() -> None:
    labels, ids = make([12, 12])
    groups = [*["large"] * 10, "small", "tiny", *["b"] * 3, *["c"] * 3, *["d"] * 3, *["e"] * 3]
    for seed in range(10):
        split = few_shot_split(labels, ids, 4, val_shots=2, seed=seed, groups=groups)
        of_first_class = {groups[row] for row in split.train.tolist() if labels[row] == 0}
        assert of_first_class == {"large"}  # only it has 4 images
        assert classes(labels, split.val) == [2, 2]


def test_a_group_with_images_of_two_classes_stays_on_one_side() -> None:
    labels, ids = make([30, 30])
    groups = [f"p{row % 15}" for row in range(60)]  # every patient has images of both classes
    for seed in range(20):
        split = few_shot_split(labels, ids, 4, val_shots=3, seed=seed, groups=groups)
        train, val = ({groups[row] for row in rows.tolist()} for rows in (split.train, split.val))
        assert not train & val
        everything = few_shot_split(labels, ids, None, val_shots=3, seed=seed, groups=groups)
        train, val = ({groups[row] for row in rows.tolist()} for rows in (everything.train, everything.val))
        assert train | val == set(groups)
        assert not train & val


def test_copies_are_drawn_once() -> None:
    labels, ids = make([4, 4])
    doubled = torch.cat([labels, labels])
    split = few_shot_split(doubled, ids + ids, 2, val_shots=2, seed=0)
    assert len(set(split.train_ids + split.val_ids)) == 8
    assert max(split.train.tolist() + split.val.tolist()) < 8  # of copies, the first
    assert len(few_shot_split(doubled, ids + ids, None, seed=0).train) == 8
    with pytest.raises(ValueError, match="Class 0 has 4 different images in the training split; 5 training"):
        few_shot_split(doubled, ids + ids, 5, seed=0)


def test_an_image_under_two_labels_is_not_drawn(caplog: pytest.LogCaptureFixture) -> None:
    labels, ids = make([3, 3])
    with caplog.at_level(logging.WARNING):
        split = few_shot_split(torch.cat([labels, torch.tensor([1])]), [*ids, ids[0]], None, seed=0)
    assert ids[0] not in split.train_ids
    assert len(split.train) == 5
    assert "1 images stand under more than one label" in caplog.text


def test_a_small_class_is_named_with_its_numbers() -> None:
    labels, ids = make([20, 5, 20])
    message = (
        r"Class 1 \('STR'\) has 5 different images in the training split; 4 training and 2 validation shots"
    )
    with pytest.raises(ValueError, match=message):
        few_shot_split(labels, ids, 4, val_shots=2, seed=0, class_names=["A", "STR", "C"])
    message = r"Class 0 has 20 different images in 1 groups .*; 2 training and 2 .* without a shared group"
    with pytest.raises(ValueError, match=message):
        few_shot_split(labels, ids, 2, val_shots=2, seed=0, groups=["p"] * 45)


@pytest.mark.parametrize(
    ("counts", "shots", "val_shots", "groups", "advice"),
    [
        ([20, 5, 4], 4, 2, None, "Enough for every class: data.shots=2, or data.val_shots=0."),
        ([20, 5, 20], 4, 2, None, "Enough for every class: data.shots=3, or data.val_shots=1."),
        (
            [20, 5, 20],
            9,
            2,
            None,
            "Enough for every class: data.shots=4 data.val_shots=1, or data.shots=5 data.val_shots=0.",
        ),
        ([20, 2, 20], 9, 2, None, "Enough for every class: data.shots=2 data.val_shots=0."),
        ([20, 5, 20], None, 6, None, "Enough for every class: data.val_shots=4."),
        ([20, 0, 20], 4, 2, None, "Add images of this class, or leave it out of the data set."),
        ([3, 3], 2, 2, ["p"] * 3 + ["q", "r", "s"], "Enough for every class: data.val_shots=0."),
    ],
)
def test_too_few_images_say_which_numbers_would_do(
    counts: list[int], shots: int | None, val_shots: int, groups: list[str] | None, advice: str
) -> None:
    labels, ids = make(counts)
    with pytest.raises(ValueError, match="were asked for") as error:
        few_shot_split(labels, ids, shots, val_shots=val_shots, seed=0, groups=groups)
    last = " Or keep the numbers for the others: data.at_most=true takes what a class has."
    assert str(error.value).endswith(advice + last * advice.startswith("Enough"))
    for choice in re.findall(r"data[^,]*\d", advice):  # each of them does work
        said = {name: int(number) for name, number in re.findall(r"data\.(\w+)=(\d+)", choice)}
        wanted = {"shots": shots, "val_shots": val_shots, **said}
        few_shot_split(labels, ids, wanted.pop("shots"), **wanted, seed=0, groups=groups)


def test_a_class_without_any_image_is_named() -> None:
    labels, ids = make([4, 0, 4])
    with pytest.raises(
        ValueError, match=r"Class 1 has 0 different images.*Add images of this class, or leave"
    ):
        few_shot_split(labels, ids, None, seed=0)
    with pytest.raises(ValueError, match=r"Class 1 \('b'\) has 0 .*Add images"):  # not class 0, with 8
        few_shot_split(*make([8]), 8, val_shots=4, seed=0, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"Class 3 \('d'\) has 0 different images"):
        few_shot_split(*make([4, 4, 4]), 2, seed=0, class_names=["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("shots", "val_shots", "groups", "message"),
    [
        (0, 0, None, "data.shots must be at least 1, or null"),
        (2, -1, None, "data.val_shots must be at least 0; got -1"),
        (2, 0, ["p"], r"got \(6,\) labels, 6 ids, 1 groups"),
    ],
)
def test_wrong_arguments_are_explained(
    shots: int, val_shots: int, groups: list[str] | None, message: str
) -> None:
    labels, ids = make([3, 3])
    with pytest.raises(ValueError, match=message):
        few_shot_split(labels, ids, shots, val_shots=val_shots, seed=0, groups=groups)


def test_a_split_written_as_json_is_found_again_in_another_order() -> None:
    labels, ids = make([9, 9, 9])
    split = few_shot_split(labels, ids, 3, val_shots=2, seed=0)
    record = json.loads(json.dumps(split.to_dict()))
    assert record["digest"] == split.digest()
    backwards = ids[::-1]
    found = FewShotSplit.from_dict(record, backwards)
    assert [backwards[row] for row in found.train.tolist()] == split.train_ids
    assert found.digest() == split.digest()
    assert few_shot_split(labels, ids, 3, val_shots=2, seed=1).digest() != split.digest()
    with pytest.raises(ValueError, match="10 of the split's 15 images are not in this data set"):
        FewShotSplit.from_dict(record, ids[:9])
    for other in (3, None, [[1]]):
        with pytest.raises(ValueError, match="must say val as a list of content ids"):
            FewShotSplit.from_dict({**record, "val": other}, ids)
    with pytest.raises(ValueError, match="needs seed, val"):
        FewShotSplit.from_dict({key: record[key] for key in ("shots", "val_shots", "grouped", "train")}, ids)


def test_names_stand_beside_the_ids_and_change_nothing() -> None:
    labels, ids = make([5, 5])
    names = [f"{row}.png" for row in range(10)]
    named = few_shot_split(labels, ids, 2, val_shots=1, seed=0, names=names)
    plain = few_shot_split(labels, ids, 2, val_shots=1, seed=0)
    assert named.train_names == [names[row] for row in named.train.tolist()]
    assert named.val_names == [names[row] for row in named.val.tolist()]
    assert (named.train_ids, named.digest()) == (plain.train_ids, plain.digest())
    record = json.loads(json.dumps(named.to_dict()))
    assert (record.pop("train_names"), record.pop("val_names")) == (named.train_names, named.val_names)
    assert record == plain.to_dict()
    found = FewShotSplit.from_dict(named.to_dict(), ids[::-1])
    assert (found.train_names, found.val_names) == (named.train_names, named.val_names)
    with pytest.raises(ValueError, match=r"got \(10,\) labels, 10 ids, 9 names"):
        few_shot_split(labels, ids, 2, seed=0, names=names[1:])


def test_advice_offers_the_most_images_that_a_class_has() -> None:
    labels, ids = make([20, 5, 20])
    message = (
        r"class: data\.shots=3 data\.val_shots=1, or data\.shots=5 data\.val_shots=0\. .*data\.at_most=true"
    )
    with pytest.raises(ValueError, match=message):
        few_shot_split(labels, ids, 8, val_shots=4, seed=0)


def test_upper_limits_take_what_a_class_has_and_leave_the_others_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels, ids = make([20, 8, 10, 4])
    names = ["A", "B", "C", "D"]
    split = few_shot_split(labels, ids, 8, val_shots=4, at_most=True, seed=1, class_names=names)
    assert classes(labels, split.train) == [8, 8, 8, 4]
    assert [int((labels[split.val] == label).sum()) for label in range(4)] == [4, 0, 2, 0]
    assert (
        "fewer than 8 training and 4 validation shots: 'B' 8 and 0, 'C' 8 and 2, 'D' 4 and 0" in caplog.text
    )
    usual = few_shot_split(*make([20]), 8, val_shots=4, seed=1)
    assert (split.train_ids[:8], split.val_ids[:4]) == (usual.train_ids, usual.val_ids)
    caplog.clear()
    enough = few_shot_split(*make([12, 12]), 8, val_shots=4, at_most=True, seed=1)
    assert enough.digest() == few_shot_split(*make([12, 12]), 8, val_shots=4, seed=1).digest()
    assert not caplog.records
    with pytest.raises(ValueError, match="Class 1 has 0 different images"):
        few_shot_split(*make([12, 0, 12]), 8, val_shots=4, at_most=True, seed=1)


@pytest.mark.parametrize("shots", [4, None])
def test_upper_limits_never_share_a_group_and_never_leave_training_empty(shots: int | None) -> None:
    labels, ids = make([20, 6])
    groups = [f"p{row}" for row in range(20)] + ["q"] * 6  # one patient has a whole class
    for seed in range(5):
        split = few_shot_split(labels, ids, shots, val_shots=2, at_most=True, seed=seed, groups=groups)
        train, val = ({groups[row] for row in rows.tolist()} for rows in (split.train, split.val))
        assert not train & val
        assert [int((labels[split.val] == label).sum()) for label in range(2)] == [2, 0]
        assert classes(labels, split.train) == ([4, 4] if shots else [18, 6])


def test_upper_limits_of_all_images_leave_one_to_train_on() -> None:
    labels, ids = make([5, 2, 1])
    split = few_shot_split(labels, ids, None, val_shots=4, at_most=True, seed=0)
    assert classes(labels, split.train) == [1, 1, 1]

"""What holds of every few-shot draw, whatever the groups, copies and class sizes."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import given, reject
from hypothesis import strategies as st

from calib.data.few_shot import FewShotSplit, few_shot_split


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[int], list[str], list[str]]:
    """Return labels, content ids (with copies) and groups of images."""
    n, classes = draw(st.integers(8, 40)), draw(st.integers(2, 3))
    labels = [*range(classes), *(draw(st.integers(0, classes - 1)) for _ in range(n - classes))]
    contents = [draw(st.integers(0, 60)) for _ in range(n)]
    groups = [f"p{draw(st.integers(0, 12))}" for _ in range(n)]
    return labels, [hashlib.sha256(str(content).encode()).hexdigest() for content in contents], groups


ARGUMENTS = (data_sets(), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 3), st.integers(0, 50))


def draw_split(data: tuple, shots: int | None, val_shots: int, seed: int, grouped: bool) -> FewShotSplit:
    labels, ids, groups = data
    try:
        return few_shot_split(
            torch.tensor(labels),
            ids,
            shots,
            val_shots=val_shots,
            seed=seed,
            groups=groups if grouped else None,
        )
    except ValueError as error:
        if "were asked for" not in str(error):
            raise
        return reject()  # too few images, which other tests are about


@given(*ARGUMENTS, st.booleans())
def test_both_sides_have_what_was_asked_for_and_share_nothing(
    data: tuple, shots: int | None, val_shots: int, seed: int, grouped: bool
) -> None:
    split = draw_split(data, shots, val_shots, seed, grouped)
    labels, ids, groups = data
    for label in set(labels):
        train = [row for row in split.train.tolist() if labels[row] == label]
        assert len(train) == shots if shots is not None else len(train) >= 1
        assert sum(labels[row] == label for row in split.val.tolist()) == val_shots
    drawn = split.train_ids + split.val_ids
    assert len(set(drawn)) == len(drawn)
    assert [ids[row] for row in split.train.tolist()] == split.train_ids
    if grouped:
        sides = [{groups[row] for row in side.tolist()} for side in (split.train, split.val)]
        assert not sides[0] & sides[1]
    twofold = {id_ for id_ in ids if len({labels[i] for i, each in enumerate(ids) if each == id_}) > 1}
    assert not twofold & set(drawn)


@given(*ARGUMENTS, st.randoms(use_true_random=False))
def test_the_draw_depends_on_contents_alone(
    data: tuple, shots: int | None, val_shots: int, seed: int, random
) -> None:
    split = draw_split(data, shots, val_shots, seed, False)
    order = list(range(len(data[0])))
    random.shuffle(order)
    moved = tuple([column[row] for row in order] for column in data)
    again = draw_split(moved, shots, val_shots, seed, False)
    assert (again.train_ids, again.val_ids) == (split.train_ids, split.val_ids)
    assert again.digest() == split.digest()
    found = FewShotSplit.from_dict(split.to_dict(), moved[1])
    assert found.digest() == split.digest()

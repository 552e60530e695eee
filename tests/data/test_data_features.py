from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from calib.data import FeatureTable
from calib.io.tensors import save_tensors


def make(groups: bool = True, views: int = 3) -> FeatureTable:
    generator = torch.Generator().manual_seed(0)
    return FeatureTable(
        image_features=normalize(torch.randn(5, 8, generator=generator), dim=-1),
        labels=torch.tensor([2, 0, 1, 1, 0]),
        ids=[f"{row:064x}" for row in (7, 255, 0, 2**256 - 1, 10**70)],
        names=["a/1.png", "a/2.png", "b/ü.png", "b/4.png", "b/5.png"],
        groups=["p1", "p1", "p2", "p3", "p4"] if groups else None,
        augmented_features=normalize(torch.randn(5, views, 8, generator=generator), dim=-1)
        if views
        else None,
        meta={"backbone": {"name": "fake"}, "licence": "CC BY 4.0", "class_names": ["x", "y", "z"]},
    )


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("views", [3, 0])
def test_a_saved_table_comes_back_bit_for_bit(tmp_path: Path, groups: bool, views: int) -> None:
    table = make(groups, views)
    table.save(tmp_path / "new" / "train.safetensors")
    read = FeatureTable.load(tmp_path / "new" / "train.safetensors")
    assert read.image_features.equal(table.image_features)
    assert read.labels.equal(table.labels)
    assert (read.ids, read.names, read.groups, read.meta) == (
        table.ids,
        table.names,
        table.groups,
        table.meta,
    )
    assert read.views == views
    if views:
        assert read.augmented_features is not None
        assert read.augmented_features.equal(table.augmented_features)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [
        "train.safetensors"
    ]  # no temporary file is left


def test_float16_halves_the_file_and_is_made_unit_norm_again(tmp_path: Path) -> None:
    table = make()
    table.save(tmp_path / "half.safetensors", dtype=torch.float16)
    stored = load_file(tmp_path / "half.safetensors")
    assert stored["image_features"].dtype == stored["augmented_features"].dtype == torch.float16
    read = FeatureTable.load(tmp_path / "half.safetensors")
    assert (read.image_features - table.image_features).abs().max() < 1e-3
    torch.testing.assert_close(read.image_features.norm(dim=-1), torch.ones(5), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"float32 or float16, not torch\.bfloat16"):
        table.save(tmp_path / "x.safetensors", dtype=torch.bfloat16)


@pytest.mark.parametrize("mask", [torch.tensor([True, False, True, False]), [True, False], np.array([True])])
def test_a_mask_is_not_taken_for_the_rows_1_and_0(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"by their numbers, not by true and false: give mask\.nonzero"):
        make().subset(mask)


def test_a_subset_takes_every_column_along() -> None:
    table = make()
    some = table.subset([3, 1])
    assert some.image_features.equal(table.image_features[[3, 1]])
    assert some.augmented_features is not None
    assert some.augmented_features.equal(table.augmented_features[[3, 1]])  # type: ignore[index]
    assert (some.labels.tolist(), some.names, some.groups) == ([1, 0], ["b/4.png", "a/2.png"], ["p3", "p1"])
    assert some.ids == [table.ids[3], table.ids[1]]


def test_the_first_views_can_be_kept() -> None:
    table = make()
    fewer = table.with_views(2).augmented_features
    assert fewer is not None
    assert fewer.equal(table.augmented_features[:, :2])  # type: ignore[index]
    assert table.with_views(0).views == 0
    with pytest.raises(
        ValueError, match=r"8 augmented views were asked for, but these features hold 3. Set data.views=3"
    ):
        table.with_views(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_features": torch.ones(5, 8)},
            r"image_features must have unit norm; row 0 has norm 2\.828 \(5 such",
        ),
        ({"image_features": torch.full((5, 8), float("nan"))}, "image_features holds NaN"),
        ({"image_features": torch.eye(5, 8).double()}, "image_features must be float32"),
        ({"image_features": torch.zeros(0, 8)}, r"\(N, D\) with N > 0"),
        ({"image_features": torch.eye(4, 8)}, r"labels must be int64 of shape \(4,\)"),
        ({"labels": torch.tensor([0.0] * 5)}, r"labels must be int64"),
        ({"labels": torch.tensor([0, 0, 0, 0, -1])}, "the smallest is -1"),
        ({"ids": ["0" * 64]}, "5 images, but 1 ids"),
        ({"groups": ["a"], "names": []}, "5 images, but 0 names, 1 groups"),
        ({"augmented_features": torch.ones(5, 2, 7)}, r"augmented_features must be \(5, V, 8\)"),
        ({"augmented_features": torch.ones(5, 2, 8)}, "augmented_features must have unit norm"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    table = make()
    parts = {name: getattr(table, name) for name in table.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        FeatureTable(**{**parts, **change})


def test_ids_must_be_digests(tmp_path: Path) -> None:
    table = FeatureTable(torch.eye(2, 8), torch.tensor([0, 1]), ["abc", "abd"], ["a", "b"])
    with pytest.raises(ValueError, match="Ids must be SHA-256 digests"):
        table.save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read as safetensors"):
        FeatureTable.load(path)


def damage(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, object]) -> None:
    parts = load_file(path)
    whole = {"kind": "features", "schema": 1, "names": make().names, "groups": None, "meta": {}}
    kept = {name: tensor for name, tensor in {**parts, **tensors}.items() if len(tensor)}
    save_tensors(path, kept, {**whole, **record})


@pytest.mark.parametrize(
    ("tensors", "record", "message"),
    [
        ({}, {"schema": 2}, "has schema 2; this version reads 1"),
        ({}, {"kind": "prompt"}, "is not a calib features file"),
        ({}, {"names": [1, 2, 3, 4, 5]}, "names, groups or meta .* wrong type"),
        ({}, {"names": ["a"]}, "5 images, but 1 names"),
        ({}, {"groups": "p"}, "names, groups or meta"),
        ({}, {"meta": None}, "names, groups or meta"),
        ({"ids": torch.zeros(0)}, {}, "has no tensor 'ids'"),
        ({"ids": torch.zeros(5, 31, dtype=torch.uint8)}, {}, r"'ids' must have shape \(any, 32\)"),
        ({"ids": torch.zeros(5, 32, dtype=torch.int32)}, {}, "ids must be uint8"),
        ({"labels": torch.zeros(5)}, {}, "'labels' has type torch.float32"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, {}, r"labels must be int64 of shape \(5,\)"),
        ({"image_features": torch.ones(5, 8)}, {}, "must have unit norm"),
        ({"image_features": torch.ones(5, 8).half()}, {}, "must have unit norm"),
        ({"image_features": torch.eye(5, 8).bfloat16()}, {}, "must be float32 or float16"),
        ({"augmented_features": torch.full((5, 3, 8), float("inf"))}, {}, "NaN or infinite"),
    ],
)
def test_a_wrong_file_is_named_once(
    tmp_path: Path, tensors: dict[str, torch.Tensor], record: dict[str, object], message: str
) -> None:
    path = tmp_path / "wrong.safetensors"
    make().save(path)
    damage(path, tensors, record)
    with pytest.raises(ValueError, match=message) as caught:
        FeatureTable.load(path)
    assert str(caught.value).count("wrong.safetensors") == 1


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_file({"image_features": torch.eye(2, 8)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors is not a calib features file"):
        FeatureTable.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        FeatureTable.load(tmp_path / "gone.safetensors")

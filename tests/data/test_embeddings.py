"""Files of embeddings, written here as a stranger would: numpy and plain safetensors, nothing of calib."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from calib.data.embeddings import load_embeddings

N, C, D = 7, 3, 5


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, D))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    values: dict[str, Any] = {
        "image_features": unit(N, 0),
        "text_features": unit(C, 1),
        "labels": np.arange(N) % C,
        "logit_scale": np.float32(math.log(100)),
    }
    return {name: np.asarray(value) for name, value in (values | changes).items() if value is not None}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_predictions_are_the_most_similar_class(tmp_path: Path) -> None:
    found = load_embeddings(written(tmp_path))
    given = arrays()
    expected = (given["image_features"] @ given["text_features"].T).argmax(axis=1)
    assert found.predictions.tolist() == expected.tolist()
    assert found.logit_scale == pytest.approx(math.log(100), abs=1e-6)
    assert found.class_names == ["class 0", "class 1", "class 2"]
    assert found.table.names[4] == "row 4"
    assert found.table.groups is None
    assert found.split is None
    assert np.allclose(found.table.image_features.numpy(), given["image_features"], atol=1e-6)


def test_npz_and_safetensors_say_the_same(tmp_path: Path) -> None:
    strings = {
        "class_names": ["a", "b", "c"],
        "groups": [f"p{i // 2}" for i in range(N)],
        "split": ["train"] * 4 + ["val"] + ["test"] * 2,
        "names": [f"{i}.png" for i in range(N)],
    }
    first = load_embeddings(written(tmp_path, **strings, predictions=np.zeros(N, dtype=np.int32)))
    path = tmp_path / "mine.safetensors"
    tensors = arrays(predictions=np.zeros(N, dtype=np.int32), logit_scale=None, scale=np.float32(100))
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in strings.items()})
    second = load_embeddings(path)
    assert torch.equal(first.table.image_features, second.table.image_features)
    assert first.table.ids == second.table.ids
    assert (first.class_names, first.split) == (second.class_names, second.split)
    assert (first.table.groups, first.table.names) == (second.table.groups, second.table.names)
    assert second.predictions.tolist() == [0] * N
    assert first.rows("test").tolist() == second.rows("test").tolist() == [5, 6]
    first.check_same_model(second)


def test_half_precision_is_brought_back_to_unit_norm(tmp_path: Path) -> None:
    found = load_embeddings(written(tmp_path, image_features=unit(N, 0).astype(np.float16)))
    assert torch.allclose(found.table.image_features.norm(dim=1), torch.ones(N), atol=1e-6)


def test_features_of_any_length_are_normalised_on_request(tmp_path: Path) -> None:
    path = written(tmp_path, image_features=7 * unit(N, 0), text_features=0.1 * unit(C, 1))
    with pytest.raises(ValueError, match=r"text_features must have unit norm; row 0 has norm 0.1 \(3 such"):
        load_embeddings(path)
    same = load_embeddings(written(tmp_path))
    path = written(tmp_path, image_features=7 * unit(N, 0), text_features=0.1 * unit(C, 1))
    found = load_embeddings(path, normalize=True)
    assert torch.allclose(found.table.image_features, same.table.image_features, atol=1e-6)


def test_ids_follow_the_content(tmp_path: Path) -> None:
    features = unit(N, 0)
    features[3] = features[1]
    ids = load_embeddings(written(tmp_path, image_features=features)).table.ids
    assert ids[3] == ids[1]
    assert len(set(ids)) == N - 1


def broken_features() -> np.ndarray:
    features = unit(N, 0)
    features[[2, 5], 1] = np.nan
    return features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_features": broken_features()}, "image_features holds NaN or infinite values in rows 2, 5"),
        ({"image_features": 2 * unit(N, 0)}, r"row 0 has norm 2 \(7 such rows of 7\).*normalize=true"),
        ({"image_features": np.eye(N, 4, dtype=np.float32)[[0, 1, 2, 3, 0, 1, 2]]}, "width 4 and text"),
        ({"image_features": np.zeros((N, D), np.float32)}, "row 0 has norm 0"),
        ({"image_features": np.ones((N, D), np.int64)}, r"must be \(rows, width\) floats"),
        ({"labels": np.array([0, 1, 2, 3, 0, 1, 2])}, r"labels must lie in 0..2.*row 3 has 3 \(1 such"),
        ({"labels": np.array([0, 1, 2, -1, 0, 1, 2])}, "row 3 has -1"),
        ({"labels": np.arange(6) % 3}, r"labels must be \(7,\) integers"),
        ({"labels": np.linspace(0, 2, N)}, r"labels must be \(7,\) integers"),
        ({"predictions": np.full(N, 3)}, r"predictions must lie in 0..2"),
        ({"text_features": unit(1, 1), "labels": np.zeros(N, np.int64)}, "one class"),
        ({"text_features": None}, "lacks text_features; it has image_features, labels, logit_scale"),
        ({"logit_scale": None}, "and has neither"),
        ({"scale": 100.0}, "not both"),
        ({"logit_scale": 100.0}, "is the log of the scale.*Name it `scale`"),
        ({"logit_scale": None, "scale": 0.0}, "scale must be above 0"),
        ({"logit_scale": np.ones(2)}, r"must be one finite number, not \(2,\) float64"),
        ({"logit_scale": "4.6"}, r"must be one finite number, not \(\) <U3"),
        ({"labels": None, "image_features": np.float32(1)}, "lacks labels"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2, np.inf])}, r"labels must be \(7,\) integers"),
        ({"lables": np.zeros(N)}, "Unknown array 'lables'. Did you mean 'labels'"),
        ({"split": ["train"] * 6 + ["tset"]}, "split of row 6: Unknown split 'tset'. Did you mean 'test'"),
        ({"groups": ["a"]}, "groups must be 7 strings"),
        ({"class_names": ["a", "b"]}, "class_names must be 3 strings"),
        ({"labels": np.array([{}] * N, dtype=object)}, "without pickled objects"),
    ],
)  # fmt: skip
def test_bad_files_name_file_and_row(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_embeddings(path)
    assert "mine.npz" in str(caught.value)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of embeddings '.*none.npz'"):
        load_embeddings(tmp_path / "none.npz")
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"mine.npz cannot be read as npz"):
        load_embeddings(path)
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a.safetensors cannot be read as safetensors"):
        load_embeddings(tmp_path / "a.safetensors")
    (tmp_path / "a.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"not '.pt'"):
        load_embeddings(tmp_path / "a.pt")
    save_file(arrays(), tmp_path / "b.safetensors", metadata={"groups": "p1, p2"})
    with pytest.raises(
        ValueError, match=r"metadata 'groups' of .*b.safetensors, to be a JSON list of strings, is not valid"
    ):
        load_embeddings(tmp_path / "b.safetensors")


def pairs(folder: Path, name: str = "mine.npz", **changes: Any) -> Path:
    path = folder / name
    np.savez(path, **arrays(**{"text_features": unit(N, 1), "labels": None, **changes}))
    return path


def test_pairs_of_images_and_captions(tmp_path: Path) -> None:
    found = load_embeddings(pairs(tmp_path), captions=True)
    assert found.captions
    assert found.class_names == []
    assert found.predictions is None
    assert found.table.labels.tolist() == list(range(N))
    assert np.allclose(found.text_features.numpy(), unit(N, 1), atol=1e-6)
    assert not load_embeddings(written(tmp_path)).captions
    other = load_embeddings(pairs(tmp_path, "b.npz", text_features=unit(N, 5)), captions=True)
    found.check_same_model(other)
    rows = np.eye(N, 6, dtype=np.float32)[[0, 1, 2, 3, 4, 5, 0]]
    wider = load_embeddings(pairs(tmp_path, "c.npz", image_features=rows, text_features=rows), captions=True)
    with pytest.raises(ValueError, match=r"are \(7, 5\) in .* and \(7, 6\)"):
        found.check_same_model(wider)


@pytest.mark.parametrize(
    ("changes", "captions", "message"),
    [
        ({}, False, "lacks labels; .* For pairs of images and captions set embeddings.captions=true"),
        ({"text_features": unit(C, 1)}, False, r"lacks labels; it has [^.]*\.$"),
        ({"text_features": unit(C, 1)}, True, "7 image_features and 3 text_features"),
        ({"labels": np.arange(N)}, True, "has labels, which pairs of images and captions have not"),
        ({"class_names": ["a"] * N}, True, "has class_names, which"),
        ({"text_features": None}, True, "lacks text_features"),
        ({"image_features": unit(1, 0), "text_features": unit(1, 1)}, True, "hold one caption"),
    ],
)
def test_pairs_and_classes_are_not_mixed_up(
    changes: dict[str, Any], captions: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_embeddings(pairs(tmp_path, **changes), captions=captions)


def test_two_files_must_be_of_one_model(tmp_path: Path) -> None:
    first = load_embeddings(written(tmp_path))
    with pytest.raises(ValueError, match="not of one model: text_features differ"):
        first.check_same_model(load_embeddings(written(tmp_path, text_features=unit(C, 9))))
    with pytest.raises(ValueError, match=r"are \(3, 5\) in .* and \(4, 5\)"):
        first.check_same_model(load_embeddings(written(tmp_path, text_features=unit(4, 9))))
    with pytest.raises(ValueError, match="logit_scale differ"):
        first.check_same_model(load_embeddings(written(tmp_path, logit_scale=np.float32(3))))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[0], [1], [0], [1], [0], [1], [0]]),
        np.array([0, 1, 0, 1, 0, 1, 0.0]),
        np.array([False, True, False, True, False, True, False]),
        np.array(
            ["no finding", "covid_19", "no_finding", "covid 19", "no finding", "covid 19", "no finding"]
        ),
    ],
)
def test_labels_of_other_types_are_read_as_elsewhere(tmp_path: Path, labels: np.ndarray) -> None:
    names = np.array(["no finding", "covid 19", "other"])
    path = written(tmp_path, labels=labels, class_names=names)
    assert load_embeddings(path).table.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_labels_that_are_no_class_names_are_refused(tmp_path: Path) -> None:
    names = np.array(["no finding", "covid 19", "other"])
    with pytest.raises(ValueError, match=r"labels: Unknown class .covid.\. Did you mean 'covid 19'"):
        load_embeddings(written(tmp_path, labels=np.array(["covid"] * N), class_names=names))
    with pytest.raises(ValueError, match=r"labels must be \(7,\) integers, one per image"):
        load_embeddings(written(tmp_path, labels=np.array(["other"] * N)))
    alike = np.array(["no finding", "no_finding", "other"])
    with pytest.raises(ValueError, match="the class names must differ and say something"):
        load_embeddings(written(tmp_path, labels=np.array(["no finding"] * N), class_names=alike))

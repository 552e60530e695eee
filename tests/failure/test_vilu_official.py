"""Checkpoints of the ViLU repository: read, refused, written."""

from __future__ import annotations

import math
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from calib.failure.official import load_official, read_official, save_official
from calib.failure.vilu import ViLU

D = 8


def build(dim=D, **options):
    torch.manual_seed(0)
    return ViLU(dim, logit_scale=math.log(20.0), hidden=(7, 4), **options)


def features(rows, seed):
    return normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def as_published(head, **changes):
    """Return what the repository writes: numpy numbers in the meter, optimiser, scheduler, settings."""
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    return {
        "epoch": 499,
        "train_meter": {"loss": 0.775, "fpr": 0.2, "auc": np.float64(0.96)},
        "state_dict": head.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"T_max": 500},
        "scaler": None,
        "args": {"engine": {"seed": 42}},
        **changes,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"concat": False},
        {"use_predicted_caption": False},
        {"use_attention": False, "use_predicted_caption": False},
    ],
    ids=str,
)
def test_a_published_file_gives_its_scores(tmp_path, options):
    path = tmp_path / "vilu_cifar10.ckpt"
    theirs = build(**options)
    torch.save(as_published(theirs), path)
    torch.manual_seed(1)
    ours = ViLU(D, logit_scale=math.log(20.0), hidden=(7, 4), **options)
    v, t = features(5, 1), features(3, 2)
    assert not torch.equal(ours(v, t), theirs(v, t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the projections are the identity: nothing to warn about
        assert load_official(ours, path, keep_frozen=True) is ours
    assert torch.equal(ours(v, t), theirs(v, t))


def test_numpys_older_name_of_a_number_is_read(tmp_path):
    """Files written with numpy 1 say numpy.core.multiarray."""
    path, old = tmp_path / "new.ckpt", tmp_path / "old.ckpt"
    torch.save(as_published(build()), path)
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(old, "w") as written:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            written.writestr(name, data)
    assert read_official(old).keys() == build().state_dict().keys()


def test_what_is_written_has_the_official_layout(tmp_path):
    path = tmp_path / "ours.ckpt"
    head = build(keep_frozen=False)
    head.iteration_count += 3
    save_official(head, path, epoch=7)
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"epoch", "train_meter", "state_dict", "optimizer", "scheduler"}
    assert content["epoch"] == 7
    assert content["state_dict"].keys() == head.state_dict().keys()
    assert int(content["state_dict"]["iteration_count"]) == 3
    assert os.listdir(tmp_path) == ["ours.ckpt"]
    torch.manual_seed(1)
    again = load_official(ViLU(D, logit_scale=math.log(20.0), hidden=(7, 4)), path, keep_frozen=False)
    for name, value in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_file_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "vilu_evil.ckpt", tmp_path / "it_ran"
    torch.save(as_published(build(), args=Payload(trace)), path)
    with pytest.raises(ValueError, match=r"vilu_evil\.ckpt is refused.*could run code"):
        load_official(build(), path, keep_frozen=True)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload is live: this is what was prevented
    assert trace.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "plain.ckpt", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps({"state_dict": Payload(trace)}))
    with pytest.raises(ValueError, match=r"plain\.ckpt cannot be read.*no zip archive"):
        read_official(path)
    assert not trace.exists()


def test_reading_leaves_the_allowed_names_as_they_were(tmp_path):
    path = tmp_path / "vilu.ckpt"
    torch.save(as_published(build()), path)
    before = set(torch.serialization.get_safe_globals())
    read_official(path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_another_width_is_refused_with_names_and_shapes(tmp_path):
    path = tmp_path / "wide.ckpt"
    torch.save(as_published(build(12)), path)
    head = build()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"in_proj_t\.weight is \(12, 12\) in the file and \(8, 8\)"
    ) as error:
        load_official(head, path, keep_frozen=True)
    assert "mlp.0.weight is (7, 36) in the file and (7, 24) here" in str(error.value)
    assert "mlp.2" not in str(error.value)  # only what differs
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_another_kind_of_head_is_refused_with_names(tmp_path):
    path = tmp_path / "lvu.ckpt"
    torch.save(as_published(build(use_attention=False, use_predicted_caption=False)), path)
    with pytest.raises(ValueError, match=r"in_proj_v\.weight is missing"):
        load_official(build(), path, keep_frozen=True)
    torch.save(as_published(build()), path)
    with pytest.raises(ValueError, match=r"in_proj_v\.weight \(8, 8\) is unexpected"):
        load_official(build(use_attention=False, use_predicted_caption=False), path, keep_frozen=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "has no 'state_dict'"),
        ([1, 2], "has no 'state_dict'"),
        ({"state_dict": {"mlp.0.weight": 3}}, "has no 'state_dict' of tensors"),
        ({"state_dict": {"mlp.0.weight": torch.tensor([math.nan])}}, r"mlp\.0\.weight hold NaN"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    path = tmp_path / "x.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_official(path)


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        read_official(tmp_path / "none.ckpt")
    path = tmp_path / "cut.ckpt"
    torch.save(as_published(build()), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.ckpt"):
        read_official(path)


def test_decayed_identities_are_warned_about_where_they_would_be_used(tmp_path):
    path = tmp_path / "decayed.ckpt"
    head = build()
    with torch.no_grad():
        head.in_proj_v.weight.mul_(0.16)
        head.in_proj_t.weight.mul_(0.16)
    head.iteration_count += 1001
    torch.save(as_published(head), path)
    with pytest.warns(UserWarning, match=r"in_proj_v\.weight = 0\.16 I.*keep_frozen=True"):
        load_official(build(), path, keep_frozen=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen = load_official(build(), path, keep_frozen=True)
    v, t = features(5, 1), features(3, 2)
    assert torch.equal(frozen(v, t), build()(v, t))  # harmless: the identity takes their place


def test_trained_projections_that_would_not_be_used_are_warned_about(tmp_path):
    path = tmp_path / "trained.ckpt"
    head = build()
    with torch.no_grad():
        head.in_proj_t.weight[0, 3] = 0.2
    torch.save(as_published(head), path)
    with pytest.warns(UserWarning, match=r"in_proj_t\.weight were trained"):
        load_official(build(), path, keep_frozen=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_official(build(), path, keep_frozen=False)


def test_a_residual_head_has_no_official_layout(tmp_path):
    with pytest.raises(ValueError, match="residual"):
        save_official(build(residual=True), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="residual"):
        load_official(build(residual=True), tmp_path / "x.ckpt", keep_frozen=True)

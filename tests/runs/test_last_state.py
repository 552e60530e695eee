from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.runs.folder import RunFolder
from calib.runs.last_state import AtomicCheckpoints, read_checkpoint
from calib.runs.trainer import fit, resume_point

CONTENT: dict[str, Any] = {
    "epoch": 1,
    "global_step": 6,
    "pytorch-lightning_version": "2.6",
    "loops": {"fit_loop": {"epoch_progress": {"current": {"started": 2, "processed": 2}}}},
    "losses": {},
    "lr_schedulers": [],
    "optimizer_states": [{"state": {0: {"momentum": torch.ones(4, 6)}}}],
    "state_dict": {"learner.context": torch.full((4, 6), 0.5)},
}


def written(tmp_path: Path, **changes: Any) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.checkpoint.parent.mkdir()
    content = {key: value for key, value in {**CONTENT, **changes}.items() if value is not None}
    torch.save(content, folder.checkpoint)
    return folder


def test_a_whole_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert read_checkpoint(folder.checkpoint)["state_dict"]["learner.context"][0, 0] == 0.5
    assert resume_point(folder) == str(folder.checkpoint)


def test_ctrl_c_says_which_epoch_is_saved(tmp_path: Path) -> None:
    class Stopped:
        max_epochs = 5

        def fit(self, *_: Any, **__: Any) -> None:
            raise SystemExit(1)  # what Lightning makes of Ctrl-C

    trainer: Any = Stopped()
    with pytest.raises(KeyboardInterrupt, match=r"^before the end of epoch 1 of 5$"):
        fit(trainer, trainer, folder=RunFolder(tmp_path))
    with pytest.raises(KeyboardInterrupt, match=r"^after epoch 2 of 5$"):
        fit(trainer, trainer, folder=written(tmp_path))
    (tmp_path / "damaged").mkdir()
    damaged = written(tmp_path / "damaged")
    trainer.fit = lambda *_, **__: (damaged.checkpoint.write_bytes(b"half a file"), sys.exit(1))
    with pytest.raises(KeyboardInterrupt, match=r"^$"):  # nothing is made up of what cannot be read
        fit(trainer, trainer, folder=damaged)


def test_a_flipped_bit_in_the_weights_is_noticed_though_torch_does_not(tmp_path: Path) -> None:
    folder = written(tmp_path)
    content = folder.checkpoint.read_bytes()
    half = torch.tensor(0.5).numpy().tobytes()
    folder.checkpoint.write_bytes(
        content.replace(half * 24, torch.tensor(0.25).numpy().tobytes() + half * 23)
    )
    assert torch.load(folder.checkpoint, weights_only=True)["state_dict"]["learner.context"][0, 0] == 0.25
    with pytest.raises(
        ValueError, match=r"last\.ckpt cannot be read.*checksum of its part .*data/1 is wrong"
    ):
        resume_point(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loops": None, "epoch": None}, "it has no epoch, loops"),
        ({"epoch": "1"}, "its epoch is '1'"),
        ({"state_dict": {"learner.context": torch.tensor([torch.nan])}}, "learner.context holds NaN"),
        ({"state_dict": {"learner.context": 3}}, "besides tensors"),
    ],
)
def test_checkpoints_that_cannot_be_gone_on_from_are_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"last\.ckpt cannot be read.*{reason}.*Delete it"):
        resume_point(written(tmp_path, **changes))


def test_a_compressed_checkpoint_could_be_a_bomb_and_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with zipfile.ZipFile(folder.checkpoint) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder.checkpoint, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read.*compressed"):
        resume_point(folder)


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_lightning_reads_checkpoints_by_the_same_door(tmp_path: Path, capsys: Any) -> None:
    folder = written(tmp_path, loops={"x": _Evil()})
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpoints().load_checkpoint(folder.checkpoint, weights_only=False)
    with pytest.raises(ValueError, match=r"last\.ckpt is refused.*Nothing was run"):
        resume_point(folder)
    assert capsys.readouterr().out == ""

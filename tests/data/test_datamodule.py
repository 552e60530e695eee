from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import normalize

from calib.core.hashing import stable_hash
from calib.data import FeatureTable, FewShotDataModule, ImageTable
from calib.data.batches import BatchOrder
from calib.data.records import FileSource


def features(n: int = 11, views: int = 0) -> FeatureTable:
    generator = torch.Generator().manual_seed(n)
    return FeatureTable(
        normalize(torch.randn(n, 8, generator=generator), dim=-1),
        torch.arange(n) % 3,
        [f"{row:064x}" for row in range(n)],
        [str(row) for row in range(n)],
        augmented_features=normalize(torch.randn(n, views, 8, generator=generator), dim=-1)
        if views
        else None,
    )


def rows(order: Any) -> list[list[int]]:
    return [batch.tolist() for batch in order]


def epochs(data: FewShotDataModule, count: int) -> list[list[list[int]]]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(count):
        loader.batch_sampler.set_epoch(epoch)
        found.append([batch["index"].tolist() for batch in loader])
    return found


def test_every_epoch_has_every_row_once_in_its_own_order() -> None:
    first, second = epochs(FewShotDataModule(features(), batch_size=4, seed=0), 2)
    assert [len(batch) for batch in first] == [4, 4, 3]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(11))
    assert first != second
    assert list(chain(*first)) == sorted(range(11), key=lambda row: stable_hash(0, 0, row))
    assert epochs(FewShotDataModule(features(), batch_size=4, seed=0), 2) == [first, second]
    assert epochs(FewShotDataModule(features(), batch_size=4, seed=1), 1) != [first]


def test_drop_last_is_the_official_rule() -> None:
    def sizes(n: int, drop_last: bool) -> list[int]:
        loader = FewShotDataModule(features(n), batch_size=16, drop_last=drop_last).train_dataloader()
        found = [len(batch["index"]) for batch in loader]
        assert len(found) == len(loader)
        return found

    assert sizes(72, drop_last=True) == [16] * 4  # Kather: 8 of 72 shots are skipped in every epoch
    assert sizes(72, drop_last=False) == [16, 16, 16, 16, 8]
    assert sizes(16, drop_last=True) == [16]
    assert sizes(9, drop_last=True) == [9]  # fewer than a batch: not dropped


def test_evaluation_is_in_order_and_complete() -> None:
    table = features(11)
    data = FewShotDataModule(features(4), table, table, eval_batch_size=4, drop_last=True)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(11))
        assert torch.cat([batch["image_features"] for batch in batches]).equal(table.image_features)
        assert torch.cat([batch["labels"] for batch in batches]).equal(table.labels)
    empty = FewShotDataModule(features(4))
    assert (empty.val_dataloader(), empty.test_dataloader()) == ([], [])


def test_epoch_e_trains_on_view_e_modulo_v() -> None:
    table = features(5, views=3)
    assert table.augmented_features is not None
    loader = FewShotDataModule(table, batch_size=2).train_dataloader()
    for epoch in (0, 2, 4):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["image_features"].equal(table.augmented_features[batch["index"], epoch % 3])
            assert batch["labels"].equal(table.labels[batch["index"]])
    plain = FewShotDataModule(table, batch_size=2, augment=False).train_dataloader()
    for batch in plain:
        assert batch["image_features"].equal(table.image_features[batch["index"]])
    validation = FewShotDataModule(table, table).val_dataloader()
    assert next(iter(validation))["image_features"].equal(table.image_features)


@pytest.fixture
def images(tmp_path: Path, write_image: Callable[..., Path]) -> ImageTable:
    files = [write_image(tmp_path / f"{number}.png", number) for number in range(5)]
    return ImageTable([FileSource(file) for file in files], [0, 1, 0, 1, 0], [file.name for file in files])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_get_a_fresh_view_every_epoch(images: ImageTable, backbone: Any, num_workers: int) -> None:
    preprocess = backbone.preprocess
    data = FewShotDataModule(
        images, images, batch_size=2, seed=3, preprocess=preprocess, num_workers=num_workers
    )
    loader = data.train_dataloader()
    for epoch in (0, 5):
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch["index"]) for batch in batches] == [2, 2, 1]
        for batch in batches:
            for image, row in zip(batch["images"], batch["index"].tolist(), strict=True):
                assert image.equal(preprocess.augment(images.open(row), stable_hash(3, epoch, row)))
    (validation,) = list(data.val_dataloader())
    assert validation["images"].equal(torch.stack([preprocess(images.open(row)) for row in range(5)]))
    plain = FewShotDataModule(images, batch_size=5, preprocess=preprocess, augment=False).train_dataloader()
    (batch,) = list(plain)
    assert batch["images"].equal(validation["images"][batch["index"]])


def test_images_need_the_preprocessing(images: ImageTable) -> None:
    with pytest.raises(ValueError, match=r"preprocess=backbone\.preprocess"):
        FewShotDataModule(features(), images)
    with pytest.raises(ValueError, match="at least 1, not 0 and 512"):
        FewShotDataModule(features(), batch_size=0)


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that makes this process number `rank` of `world_size`."""

    def become(rank: int, world_size: int) -> None:
        monkeypatch.setattr("calib.core.ranks.rank", lambda: rank)
        monkeypatch.setattr("calib.core.ranks.world_size", lambda: world_size)

    return become


@pytest.mark.parametrize("seed", [5, None])
def test_processes_share_every_batch_whatever_its_size(seed: int | None, as_rank: Any) -> None:
    whole = rows(BatchOrder(22, 9, seed=seed, shared=True))
    assert [len(batch) for batch in whole] == [9, 9, 4]
    shares = []
    for rank in range(6):
        as_rank(rank, 6)
        shares.append(rows(BatchOrder(22, 9, seed=seed, shared=True)))
        assert rows(BatchOrder(22, 9, seed=seed)) == whole  # not shared: all of it
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert list(chain(*parts)) == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1  # the last batch: 4 rows for 6 processes


def test_features_come_in_whole_batches_and_images_in_shares(
    images: ImageTable, backbone: Any, as_rank: Any
) -> None:
    data = FewShotDataModule(images, features(5), batch_size=4, seed=1, preprocess=backbone.preprocess)
    whole = epochs(data, 1)[0]
    as_rank(1, 3)
    assert epochs(data, 1)[0] == [whole[0][2:3], []]  # 4 images are shared as 2, 1, 1, and 1 as 1, 0, 0
    (validation,) = list(data.val_dataloader())
    assert validation["index"].tolist() == [0, 1, 2, 3, 4]
    last = list(data.train_dataloader())[-1]
    assert (last["images"].shape, last["labels"].shape) == ((0, 3, 0, 0), (0,))


class Recorder(lightning.LightningModule):
    """Writes down the batches it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.seen: list[tuple[int, list[int], float]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        checksum = float(batch["image_features"].sum())
        self.seen.append((self.current_epoch, batch["index"].tolist(), checksum))
        return nn.functional.cross_entropy(self.layer(batch["image_features"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["index"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path, resume: str | None = None, validate: bool = False, batch_size: int = 4, **limits: int
) -> Recorder:
    """Train, with a checkpoint after every step in `<folder>/step=....ckpt`."""
    module = Recorder()
    data = FewShotDataModule(
        features(11, views=3), features(5) if validate else None, batch_size=batch_size, seed=9
    )
    trainer = lightning.Trainer(
        **limits,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1),
            ModelCheckpoint(folder, filename="end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True),
        ],
    )
    trainer.fit(module, data, ckpt_path=str(folder / resume) if resume else None)
    return module


@pytest.mark.filterwarnings("error:.*not resumable.*")
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    "checkpoint", ["step=1.ckpt", "step=4.ckpt", "step=5.ckpt", "step=6.ckpt", "end-epoch=1.ckpt"]
)
def test_a_resumed_run_sees_the_same_batches_and_ends_with_the_same_weights(
    tmp_path: Path, checkpoint: str, validate: bool
) -> None:
    whole = fit(tmp_path, validate=validate, max_epochs=4)
    assert [epoch for epoch, _, _ in whole.seen] == sorted([0, 1, 2, 3] * 3)
    assert [seen[1] for seen in whole.seen] == list(
        chain(*epochs(FewShotDataModule(features(11), batch_size=4, seed=9), 4))
    )
    done = int(checkpoint[5]) if checkpoint.startswith("step") else 6
    resumed = fit(tmp_path, resume=checkpoint, validate=validate, max_epochs=4)
    assert resumed.seen == whole.seen[done:]
    assert resumed.layer.weight.equal(whole.layer.weight)
    if validate:
        assert whole.validated == [0, 1, 2, 3, 4] * 4


def test_resuming_with_another_batch_size_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=2)
    with pytest.raises(ValueError, match="made with batch_size=4, this run has batch_size=3"):
        fit(tmp_path, resume="step=4.ckpt", max_epochs=4, batch_size=3)

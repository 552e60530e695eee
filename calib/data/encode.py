"""From images to features, once: encode a table, and keep the result in a cache that is never stale."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import PIL
import torch
from torch import Tensor

import calib
from calib.core import ranks
from calib.core.checks import check_kind
from calib.core.hashing import stable_hash
from calib.data.ahead import read_ahead, read_side_by_side
from calib.data.cached import features_key, read_cached
from calib.data.encoding_parts import encode_in_parts
from calib.data.features import FeatureTable
from calib.data.images import READING
from calib.data.notices import ProgressLog
from calib.data.records import ImageTable
from calib.io.files import remove_unfinished
from calib.io.locks import locked

if TYPE_CHECKING:
    from calib.backbones.base import Backbone

CACHED, PARTS, LOCKS = ".safetensors", ".parts", ".locks"  # in a cache folder
logger = logging.getLogger(__name__)


def _nothing() -> None:
    """Do nothing: the default of `on_batch`."""


def encode(
    backbone: Backbone,
    table: FeatureTable | ImageTable,
    *,
    views: int = 0,
    cache: str | Path | None = ".calib_cache",
    batch_size: int = 16,
    on_batch: Callable[[], object] = _nothing,
) -> FeatureTable:
    """Return the image features of a table: encoded, from the cache, or as packaged.

    Args:
        backbone: The frozen model; images are encoded where it is.
        table: Images; or features, of which the views that are asked for are taken.
        views: Augmented views per image beside the plain one.
        cache: Folder of the cache. None: encoded for this call only.
        batch_size: Images encoded at once.
        on_batch: Called before every batch that is encoded.

    Raises:
        ValueError: The table is empty, features are of another backbone or hold fewer views, or an image
            cannot be read.
    """
    check_kind(table, (FeatureTable, ImageTable), "table", "A task's train, val and test are tables.")
    if not len(table):
        raise ValueError("There are no images to encode: `test` is empty where the data have no test split.")
    if isinstance(table, FeatureTable):
        table.check_backbone(backbone)
        return table.with_views(views)
    if cache is None:
        return encode_table(backbone, table, views=views, batch_size=batch_size, on_batch=on_batch)
    return cache_features(backbone, table, cache, views=views, batch_size=batch_size, on_batch=on_batch)


def encode_table(
    backbone: Backbone,
    table: ImageTable,
    *,
    views: int = 0,
    view_seed: int = 0,
    batch_size: int = 32,
    num_workers: int | None = None,
    meta: Mapping[str, Any] | None = None,
    on_batch: Callable[[], object] = _nothing,
) -> FeatureTable:
    """Return the features of all images of a table, on the CPU.

    Memory does not grow with the number of images, except for the features. Every batch has `batch_size`
    images (the last one is filled up and the filling thrown away), so a feature does not depend on how many
    images there are.

    Args:
        backbone: The frozen model; images are encoded where it is.
        table: N images.
        views: Augmented views per image beside the plain one. View v of an image is drawn with the seed
            SHA-256("view_seed:id:v"), whatever its place in the table.
        view_seed: Any integer.
        batch_size: Images encoded at once.
        num_workers: Processes that read and prepare images ahead. None: none where the model itself is on the
            CPU (threads prepare a batch, then it is encoded, each on all cores), else as many as there are
            cores, 8 at most.
        meta: JSON-able facts to keep with the features, e.g. class names, source and licence.
        on_batch: Called before every batch.

    Raises:
        ValueError: An image cannot be read, or the backbone returns something else than finite (B, D)
            features.
    """
    if views < 0 or batch_size < 1:
        raise ValueError(f"views must be at least 0 and batch_size at least 1, not {views} and {batch_size}.")
    looks = _Looks(backbone, table, views, view_seed, batch_size, _workers(backbone, num_workers), on_batch)
    return looks.table_of(looks.encode(0, len(looks)), meta)


def cache_features(
    backbone: Backbone,
    table: ImageTable,
    cache_dir: str | Path,
    *,
    views: int = 0,
    view_seed: int = 0,
    batch_size: int = 32,
    num_workers: int | None = None,
    meta: Mapping[str, Any] | None = None,
    on_batch: Callable[[], object] = _nothing,
) -> FeatureTable:
    """Return the features of all images of a table, from the cache if they are there.

    The file's name is a digest of the images' contents, the image tower's weights, architecture and
    preprocessing, the rules by which images are read, and the views: if any of them changes, another file is
    looked for, so a stale one is never read. Labels, names, groups and the order of the images are not part
    of it; they are taken from the table. A damaged file, or one that belongs under another name, is reported
    in the log and made anew. Files are written whole or not at all. Of jobs that want the same features one
    encodes, and the others wait for it. An interrupted encoding goes on. The processes of one job share the
    work evenly, and the file is the one that a single process makes.

    Args:
        backbone: The frozen model.
        table: N images.
        cache_dir: The folder; made if needed.
        views: Augmented views per image; see `encode_table`.
        view_seed: Any integer.
        batch_size: Images encoded at once.
        num_workers: As in `encode_table`.
        meta: JSON-able facts to add to the returned table.
        on_batch: Called before every batch that is encoded.

    Raises:
        ValueError: As `encode_table`.
    """
    first = {id_: row for row, id_ in reversed(list(enumerate(table.ids)))}  # of copies, the first
    wanted = sorted(first)
    key = features_key(_facts(backbone, table, views, view_seed, batch_size), wanted)
    path = Path(cache_dir) / f"{key}{CACHED}"
    # Of the processes of a job the first one looks, and the others read what is there in the end.
    cached = read_cached(path) if ranks.rank() == 0 else None
    if not ranks.decided(lambda: cached is not None):
        with ranks.held(lambda: _locked(path)):
            if ranks.rank() == 0:
                remove_unfinished(path.parent, f"{key}*")
                remove_unfinished(path.with_suffix(PARTS))
                cached = read_cached(path)  # another job may have made it meanwhile
            if not ranks.decided(lambda: cached is not None):
                unique = table.subset(first[id_] for id_ in wanted)
                workers = _workers(backbone, num_workers)
                looks = _Looks(backbone, unique, views, view_seed, batch_size, workers, on_batch)
                rows = encode_in_parts(looks, path.with_suffix(PARTS))
                if rows is not None:
                    cached = looks.table_of(rows)
                    cached.save(path)
                    _remove_parts(path)  # not before: until then they are all there is of the work
            ranks.meet()
    elif ranks.rank() == 0:
        with contextlib.suppress(OSError):  # a cache may be shared and read-only
            os.utime(path)  # `calib cache` says when features were last used
            _remove_parts(path)  # of an encoding that was killed just after it was saved
    if cached is None:
        cached = FeatureTable.load(path)
    place = {id_: row for row, id_ in enumerate(wanted)}
    return replace(
        cached.subset(place[id_] for id_ in table.ids),
        labels=table.labels,
        names=list(table.names),
        groups=None if table.groups is None else list(table.groups),
        meta={**cached.meta, **(meta or {})},
    )


def _remove_parts(path: Path) -> None:
    if path.with_suffix(PARTS).is_dir():
        shutil.rmtree(path.with_suffix(PARTS), ignore_errors=True)  # what is left of it does no harm


def _locked(path: Path) -> contextlib.AbstractContextManager[None]:
    waiting = f"Another process is encoding these images into {path.parent}; waiting for it."
    return locked(path.parent / LOCKS / f"{path.stem}.lock", waiting=waiting)


class _Stacked:
    """Items of looks as one tensor (n, 3, H, W) each, which other processes hand over as one piece."""

    def __init__(self, looks: _Looks) -> None:
        self.looks = looks

    def __getitem__(self, key: tuple[int, range]) -> Tensor:
        return torch.stack(self.looks[key])


class _Looks:
    """The inputs of an image tower for a table, and their features: per image the plain one, then its views.

    Args:
        backbone: The frozen model.
        table: N images.
        views: Augmented views V per image; there are N (1 + V) inputs.
        view_seed: Of the views.
        batch_size: Inputs encoded at once.
        workers: Processes that read images ahead.
        on_batch: Called before every batch.
    """

    def __init__(
        self,
        backbone: Backbone,
        table: ImageTable,
        views: int,
        view_seed: int,
        batch_size: int,
        workers: int,
        on_batch: Callable[[], object],
    ) -> None:
        self.backbone, self.table, self.on_batch = backbone, table, on_batch
        self.views, self.view_seed = views, view_seed
        self.batch_size, self.workers = batch_size, workers

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs that prepares images: no weights, which may be on a card."""
        only = SimpleNamespace(preprocess=self.backbone.preprocess)
        return {**self.__dict__, "backbone": only, "on_batch": _nothing}

    @property
    def per_image(self) -> int:
        """Inputs per image, 1 + V."""
        return 1 + self.views

    def __len__(self) -> int:
        return len(self.table) * self.per_image

    def __getitem__(self, key: tuple[int, range]) -> list[Tensor]:
        """Return n inputs (3, H, W) for (row, which looks): 0 is the plain image, v its view v - 1."""
        row, which = key
        id_ = self.table[row].id  # known from here on, so that the image opened next is the one that has it
        image, preprocess = self.table.open(row), self.backbone.preprocess
        return [
            preprocess.augment(image, stable_hash(self.view_seed, id_, look - 1))
            if look
            else preprocess(image)
            for look in which
        ]

    def encode(self, start: int, stop: int) -> Tensor:
        """Return the features (stop - start, D) of some inputs.

        Args:
            start: The first, a multiple of `batch_size`: batches are those of the whole table.
            stop: One behind the last.

        Raises:
            ValueError: An image cannot be read, or the features are not finite (B, D).
        """
        backbone, size = self.backbone, self.batch_size
        features = torch.empty(stop - start, backbone.embed_dim)
        # Views are encoded like images, so images go by so many times more slowly than without them.
        what = f"encoding images, {self.views} views of each" if self.views else "encoding images"
        progress = ProgressLog(logger, what, (stop - start) // self.per_image)
        inputs, done = self._inputs(start, stop), 0
        with torch.inference_mode():
            while batch := list(islice(inputs, size)):
                self.on_batch()
                filled = batch + [batch[-1]] * (size - len(batch))
                encoded = backbone.encode_image(torch.stack(filled))[: len(batch)].float().cpu()  # (B, D)
                if encoded.shape != (len(batch), backbone.embed_dim):
                    raise ValueError(f"'{backbone.name}' returned features of shape {tuple(encoded.shape)}.")
                bad = (~encoded.isfinite()).any(dim=1).nonzero().flatten().tolist()
                if bad:
                    name = self.table.names[(start + done + bad[0]) // self.per_image]
                    raise ValueError(
                        f"'{backbone.name}' returned NaN or infinite features for the image {name}."
                    )
                features[done : done + len(batch)] = encoded
                done += len(batch)
                progress.update(done // self.per_image)
        return features

    def table_of(self, features: Tensor, meta: Mapping[str, Any] | None = None) -> FeatureTable:
        """Return the features (N (1 + V), D) of all inputs as a table."""
        table, looks = self.table, features.view(len(self.table), self.per_image, -1)  # (N, 1 + V, D)
        facts = _facts(self.backbone, table, self.views, self.view_seed, self.batch_size)
        return FeatureTable(
            looks[:, 0].contiguous(),
            table.labels,
            table.ids,
            list(table.names),
            None if table.groups is None else list(table.groups),
            looks[:, 1:].contiguous() if self.views else None,
            {**facts, **(meta or {})},
        )

    def _inputs(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the inputs (3, H, W) from `start` to `stop`."""
        per = self.per_image
        keys = [
            (row, range(max(start - row * per, 0), min(stop - row * per, per)))
            for row in range(start // per, -(-stop // per))
        ]
        if self.workers:
            images = read_ahead(_Stacked(self), keys, workers=self.workers)
        else:
            at_once = max(self.batch_size // per, min(torch.get_num_threads(), self.batch_size))
            images = read_side_by_side(self, keys, at_once=at_once)
        return (each for image in images for each in image)


def _workers(backbone: Backbone, asked: int | None) -> int:
    if asked is not None:
        return asked
    return 0 if backbone.device.type == "cpu" else min(8, os.cpu_count() or 1)


def _facts(
    backbone: Backbone, table: ImageTable, views: int, view_seed: int, batch_size: int
) -> dict[str, Any]:
    versions = {"calib": calib.__version__, "torch": str(torch.__version__), "pillow": PIL.__version__}
    return {
        "backbone": backbone.describe(),
        "views": views,
        "view_seed": view_seed,
        "batch_size": batch_size,
        "grey16_max": table.grey16_max,
        "dicom": table.view.record(),
        "reading": READING,
        "versions": versions,
    }

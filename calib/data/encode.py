"""From images to features, once: encode a table, and keep the result in a cache that is never stale."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import calib
from calib.data.features import SCHEMA, TOWER, FeatureTable
from calib.data.helpers import ProgressLog, json_digest, stable_hash
from calib.data.records import ImageTable
from calib.files import remove_unfinished
from calib.locks import locked

if TYPE_CHECKING:
    from calib.backbones.base import Backbone
    from calib.backbones.preprocessing import Preprocessing

CACHED, PARTS, LOCKS = ".safetensors", ".parts", ".locks"  # in a cache folder
BATCHES_PER_PART = 32  # of images; an interrupted encoding loses one part at most
logger = logging.getLogger(__name__)


def _nothing() -> None:
    """Do nothing: the default of `on_batch`."""


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
            CPU (it needs the cores), else as many as there are cores, 8 at most.
        meta: JSON-able facts to keep with the features, e.g. class names, source and licence.
        on_batch: Called before every batch.

    Raises:
        ValueError: An image cannot be read, or the backbone returns something else than finite (B, D)
            features.
    """
    if views < 0 or batch_size < 1:
        raise ValueError(f"views must be at least 0 and batch_size at least 1, not {views} and {batch_size}.")
    per_image = 1 + views
    features = torch.empty(len(table) * per_image, backbone.embed_dim)
    progress = ProgressLog(logger, "encoding images", len(table))
    inputs = _inputs(backbone, table, views, view_seed, _workers(backbone, num_workers))
    start = 0
    with torch.inference_mode():
        while batch := list(islice(inputs, batch_size)):
            on_batch()
            filled = batch + [batch[-1]] * (batch_size - len(batch))
            encoded = backbone.encode_image(torch.stack(filled))[: len(batch)].float().cpu()  # (B, D)
            if encoded.shape != (len(batch), backbone.embed_dim):
                raise ValueError(f"'{backbone.name}' returned features of shape {tuple(encoded.shape)}.")
            bad = (~encoded.isfinite()).any(dim=1).nonzero().flatten().tolist()
            if bad:
                name = table.names[(start + bad[0]) // per_image]
                raise ValueError(f"'{backbone.name}' returned NaN or infinite features for the image {name}.")
            features[start : start + len(batch)] = encoded
            start += len(batch)
            progress.update(start // per_image)
    features = features.view(len(table), per_image, -1)  # (N, 1 + V, D)
    return FeatureTable(
        features[:, 0].contiguous(),
        table.labels,
        table.ids,
        list(table.names),
        None if table.groups is None else list(table.groups),
        features[:, 1:].contiguous() if views else None,
        {**_facts(backbone, table, views, view_seed, batch_size), **(meta or {})},
    )


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
    preprocessing, and the views: if any of them changes, another file is looked for, so a stale one is never
    read. Labels, names, groups and the order of the images are not part of it; they are taken from the table.
    A damaged file is reported in the log and made anew. Files are written whole or not at all. Of processes
    that want the same features one encodes, and the others wait for it. An interrupted encoding goes on.

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
        WriteError: The features cannot be kept.
    """
    first = {id_: row for row, id_ in reversed(list(enumerate(table.ids)))}  # of copies, the first
    wanted = sorted(first)
    tower = {what: get(backbone.describe()) for what, get in TOWER.items()}
    key = json_digest([SCHEMA, wanted, tower, views, view_seed, table.grey16_max])
    path = Path(cache_dir) / f"{key}{CACHED}"
    cached = _read_cache(path, wanted, views)
    if cached is None:
        settings = {
            "views": views,
            "view_seed": view_seed,
            "batch_size": batch_size,
            "num_workers": num_workers,
            "on_batch": on_batch,
        }
        waiting = f"Another process is encoding these images into {cache_dir}; waiting for it."
        with locked(path.parent / LOCKS / f"{key}.lock", waiting=waiting):
            remove_unfinished(path.parent, f"{key}*")
            remove_unfinished(path.with_suffix(PARTS))
            cached = _read_cache(path, wanted, views)  # another process may have made it meanwhile
            if cached is None:
                unique = table.subset(first[id_] for id_ in wanted)
                cached = _encode_in_parts(backbone, unique, path, settings)
    else:
        with contextlib.suppress(OSError):  # a cache may be shared and read-only
            os.utime(path)  # `calib cache` says when features were last used
    place = {id_: row for row, id_ in enumerate(wanted)}
    return replace(
        cached.subset(place[id_] for id_ in table.ids),
        labels=table.labels,
        names=list(table.names),
        groups=None if table.groups is None else list(table.groups),
        meta={**cached.meta, **(meta or {})},
    )


def _encode_in_parts(
    backbone: Backbone, table: ImageTable, path: Path, settings: Mapping[str, Any]
) -> FeatureTable:
    """Return the features of a table and write them; what an interrupted call encoded is taken up."""
    size = BATCHES_PER_PART * settings["batch_size"]
    if len(table) <= size:
        features = encode_table(backbone, table, **settings)
        features.save(path)
        return features
    folder = path.with_suffix(PARTS)
    parts = []
    for start in range(0, len(table), size):
        some = table.subset(range(start, min(start + size, len(table))))
        place = folder / f"{start:09d}{CACHED}"
        part = _read_cache(place, some.ids, settings["views"])
        if part is None:
            part = encode_table(backbone, some, **settings)
            part.save(place)
            logger.info("encoded %d of %d images", start + len(some), len(table))
        parts.append(part)
    features = _joined(parts)
    features.save(path)
    shutil.rmtree(folder, ignore_errors=True)  # what is left of it does no harm
    return features


def _joined(parts: Sequence[FeatureTable]) -> FeatureTable:
    """Return the rows of several tables of one kind below each other."""
    views = [part.augmented_features for part in parts if part.augmented_features is not None]
    groups = [part.groups for part in parts if part.groups is not None]
    return FeatureTable(
        torch.cat([part.image_features for part in parts]),
        torch.cat([part.labels for part in parts]),
        [id_ for part in parts for id_ in part.ids],
        [name for part in parts for name in part.names],
        [group for some in groups for group in some] if groups else None,
        torch.cat(views) if views else None,
        dict(parts[0].meta),
    )


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the image tower is given for each image of a table."""

    preprocess: Preprocessing
    table: ImageTable
    views: int
    view_seed: int

    def __getitem__(self, row: int) -> Tensor:
        """Return (1 + V, 3, H, W): the plain image, then its views."""
        image, id_ = self.table.open(row), self.table[row].id
        seeds = [stable_hash(self.view_seed, id_, view) for view in range(self.views)]
        augmented = [self.preprocess.augment(image, seed) for seed in seeds]
        return torch.stack([self.preprocess(image), *augmented])


def _inputs(
    backbone: Backbone, table: ImageTable, views: int, view_seed: int, workers: int
) -> Iterator[Tensor]:
    """Yield (3, H, W) per image: the plain one, then its views."""
    source = _Inputs(backbone.preprocess, table, views, view_seed)
    rows = range(len(table))
    if workers == 0:
        images: Iterable[Tensor] = (source[row] for row in rows)
    else:
        images = DataLoader(source, batch_size=None, sampler=rows, num_workers=workers)  # type: ignore[arg-type]
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
        "versions": versions,
    }


def _read_cache(path: Path, ids: list[str], views: int) -> FeatureTable | None:
    if not path.is_file():
        return None
    try:
        cached = FeatureTable.load(path)
    except ValueError as error:
        logger.warning("The cached features are damaged and are made anew: %s", error)
        return None
    if cached.ids != ids or cached.views != views:
        logger.warning("The cached features in %s are of other images; they are made anew.", path)
        return None
    return cached

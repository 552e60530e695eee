"""`calib cache`: what the feature cache holds, whether it is sound, and how to make room."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.backbones.same import said_precision
from calib.config import DataConfig
from calib.core.errors import meant_path
from calib.data.cached import is_of_its_key, is_read_again
from calib.data.encode import CACHED, LOCKS, PARTS
from calib.data.features import FeatureTable
from calib.io.files import remove_unfinished
from calib.io.locks import BusyError, locked
from calib.report.tables import aligned

DAY = 86_400


@dataclass(frozen=True)
class CacheEntry:
    """One file of the feature cache, or what an interrupted encoding left.

    Attributes:
        path: The file or folder.
        size: Bytes.
        used: When it was written or last read, in seconds since 1970.
        holds: What is in it, in words.
        damaged: Whether it cannot be read, or holds other features than its name says.
    """

    path: Path
    size: int
    used: float
    holds: str
    damaged: bool = False


def cache_entries(folder: str | Path) -> list[CacheEntry]:
    """Return what a cache folder holds, the longest unused first. Every file is read and checked.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no cache folder '{folder}' (data.cache_dir says where runs keep it)."
            f"{meant_path(folder)}"
        )
    entries = []
    for ending, look in ((CACHED, _file_entry), (PARTS, _parts_entry)):
        for path in folder.glob(f"*{ending}"):
            with contextlib.suppress(FileNotFoundError):  # an encoding was finished or pruned meanwhile
                entries.append(look(path))
    return sorted(entries, key=lambda entry: entry.used)


def prune(folder: str | Path, entries: Sequence[CacheEntry], *, days: float) -> list[CacheEntry]:
    """Remove damaged files and what was not used for some days, and return what was removed.

    What a process is encoding at the moment stays.

    Args:
        folder: The cache folder.
        entries: From `cache_entries`.
        days: Unused for longer than this; 0 removes all.
    """
    removed = []
    for entry in entries:
        if not entry.damaged and time.time() - entry.used < days * DAY:
            continue
        try:
            with locked(Path(folder) / LOCKS / f"{entry.path.stem}.lock"):
                remove_unfinished(folder, f"{entry.path.stem}*")
                if entry.path.is_dir():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
        except BusyError:
            continue
        removed.append(entry)
    return removed


def _file_entry(path: Path) -> CacheEntry:
    status = path.stat()
    try:
        features = FeatureTable.load(path)
    except ValueError as error:
        return CacheEntry(path, status.st_size, status.st_mtime, f"damaged: {error}", damaged=True)
    described = features.meta.get("backbone", {})
    in_ = "".join(f" in {precision}" for precision in said_precision(described).values())
    holds = f"{described.get('name', '?')}{in_}, {len(features)} images, {features.views} views"
    misplaced = not is_of_its_key(features, path)
    if misplaced:
        holds = f"wrong: {holds}, which belong under another name"
    elif not is_read_again(features):
        holds += ", by the rules of an older version: no longer used"
    return CacheEntry(path, status.st_size, status.st_mtime, holds, damaged=misplaced)


def _parts_entry(path: Path) -> CacheEntry:
    files = list(path.glob("*"))
    used = max((file.stat().st_mtime for file in files), default=path.stat().st_mtime)
    size = sum(file.stat().st_size for file in files)
    return CacheEntry(path, size, used, f"{len(files)} parts of an unfinished encoding")


def main(argv: Sequence[str]) -> int:
    """Run `calib cache`. Returns the exit status: 1 if a file is damaged or wrong and was not removed."""
    parser = argparse.ArgumentParser(
        prog="calib cache", description="List and check the cached image features, and remove old ones."
    )
    default = DataConfig().cache_dir
    parser.add_argument("folder", nargs="?", default=default, help=f"the cache folder ({default})")
    parser.add_argument(
        "--prune",
        type=float,
        metavar="DAYS",
        help="remove damaged files and what was not used for so many days; 0 removes all",
    )
    given = parser.parse_args(argv)
    if given.prune is not None and not given.prune >= 0:
        raise ValueError(f"--prune must be at least 0 days, not {given.prune}.")
    entries = cache_entries(given.folder)
    now = time.time()
    rows = [
        [entry.path.name[:16], f"{entry.size / 1e6:.1f}", f"{(now - entry.used) / DAY:.1f}", entry.holds]
        for entry in entries
    ]
    if rows:
        sys.stdout.write(aligned(["file", "MB", "days unused", "holds"], rows) + "\n")
    total = sum(entry.size for entry in entries) / 1e6
    sys.stdout.write(f"{len(entries)} entries, {total:.1f} MB in {given.folder}\n")
    removed = [] if given.prune is None else prune(given.folder, entries, days=given.prune)
    if given.prune is not None:
        freed = sum(entry.size for entry in removed) / 1e6
        sys.stdout.write(f"Removed {len(removed)} entries, {freed:.1f} MB.\n")
    return int(any(entry.damaged and entry not in removed for entry in entries))

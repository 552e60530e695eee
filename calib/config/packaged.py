"""Settings files that come with the package, found by name from any folder: `paper/plip_kather`."""

from __future__ import annotations

import difflib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "configs"
ENDING, BEFORE = ".yaml", "configs/"  # how a name may be written as well: as the path in a clone


def packaged_names() -> list[str]:
    """Return the names of all settings files that come with the package, sorted.

    Example:
        >>> [name for name in packaged_names() if "/" not in name]
        ['failure', 'prompt', 'segment']
    """
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob(f"*{ENDING}"))


def packaged_file(name: str) -> Path | None:
    """Return the settings file of a name. None: none of that name comes with the package.

    Args:
        name: E.g. "paper/plip_kather"; "configs/" before it and ".yaml" after it may be left out.

    Example:
        >>> packaged_file("paper/plip_kather") == packaged_file("configs/paper/plip_kather.yaml")
        True
        >>> packaged_file("../pyproject") is None
        True
    """
    plain = name.removeprefix(BEFORE).removesuffix(ENDING)
    return FOLDER / f"{plain}{ENDING}" if plain in packaged_names() else None


def nearest(name: str) -> str:
    """Return what is said of a name that is like one that comes with the package; empty: it is like none.

    Example:
        >>> nearest("paper/plip_kathr")
        " Did you mean 'paper/plip_kather'? 'calib configs' lists those that come with calib."
    """
    plain = name.removeprefix(BEFORE).removesuffix(ENDING)
    alike = difflib.get_close_matches(plain, packaged_names(), 1)
    listed = "'calib configs' lists those that come with calib."
    return f" Did you mean '{alike[0]}'? {listed}" if alike else ""

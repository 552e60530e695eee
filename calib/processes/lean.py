"""Lightning without what torchmetrics would import beside it and no command uses: more than a second less."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator

# torchmetrics imports these where they are installed, for metrics of images, sounds and texts.
UNUSED = ("matplotlib", "regex", "scipy", "torchvision", "transformers")


def import_lightning() -> None:
    """Import Lightning for a command, whose process uses no metric of torchmetrics.

    Not for a library: of what is passed over here, torchmetrics would say in a notebook that it is not there.
    Where this is not possible, because Lightning was imported before or another release asks in another way,
    it is imported as usual.
    """
    with _passed_over() if "torchmetrics" not in sys.modules else contextlib.nullcontext():
        importlib.import_module("lightning")


@contextlib.contextmanager
def _passed_over() -> Iterator[None]:
    """Run a block in which torchmetrics, asking whether one of `UNUSED` is there, is told that it is not."""
    try:
        from lightning_utilities.core import imports

        cache, available = imports.RequirementCache, imports.package_available
        there = cache.__bool__
    except (ImportError, AttributeError):
        yield
        return

    def is_there(self: object) -> bool:
        asked = str(getattr(self, "requirement", None) or getattr(self, "module", None))
        return not asked.startswith(UNUSED) and bool(there(self))

    def is_available(name: str) -> bool:
        return name not in UNUSED and bool(available(name))

    cache.__bool__, imports.package_available = is_there, is_available
    try:
        yield
    finally:
        cache.__bool__, imports.package_available = there, available

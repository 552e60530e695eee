"""Small helpers: hashes that are the same on every machine, lists in messages, progress in the log."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes read at once when a file is hashed
PATIENT_COLUMN = re.compile(
    r"(^|_)(patient|subject|participant|donor|case|slide|wsi)s?_?(id|key|no|nr|num|number|name|code|uid)?$"
)
LOG_EVERY = 10.0  # seconds between two lines of progress


def stable_hash(*parts: object) -> int:
    """Return an integer in [0, 2**63) made of the parts only: the first 63 bits of SHA-256 of "a:b:c".

    Every random decision about data is made with it (which shots, which order, which augmentation), because
    random generators may change between library versions and none of them is independent of the order of the
    files.

    Args:
        parts: Integers or strings.

    Example:
        >>> stable_hash(1, "scan.png")
        3739596587214155642
    """
    digest = hashlib.sha256(":".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def json_digest(value: Any) -> str:
    """Return the SHA-256 hex digest of a JSON-able value; the order of dict keys does not matter.

    Example:
        >>> json_digest({"b": 1, "a": 2}) == json_digest({"a": 2, "b": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def few(items: Sequence[object], limit: int = 5) -> str:
    """Return the first items joined by commas and, if there are more, how many more.

    Example:
        >>> few(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def warn_of_unused_groups(columns: Iterable[str]) -> None:
    """Warn of columns that seem to name patients or slides, where no column says which images go together.

    Args:
        columns: Columns that are not used.
    """
    found = []
    for column in dict.fromkeys(columns):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", "_", column).lower()  # PatientID -> patient_id
        if PATIENT_COLUMN.search(words):
            found.append(column)
    if found:
        logger.warning(
            "column %s is not used; if it names patients: data.options.columns.group=%s",
            ", ".join(found),
            found[0],
        )


class ProgressLog:
    """A line in the log at most every ten seconds, for work that takes minutes on a large data set.

    Args:
        logger: Where the lines go, at level INFO.
        what: What is being done, e.g. "encoding images".
        total: How many items there are.
    """

    def __init__(self, logger: logging.Logger, what: str, total: int) -> None:
        self._logger, self._what, self._total = logger, what, total
        self._last = time.monotonic()

    def update(self, done: int) -> None:
        """Say how many items are done, if the last line is long enough ago."""
        now = time.monotonic()
        if now - self._last >= LOG_EVERY:
            self._last = now
            self._logger.info("%s: %d of %d", self._what, done, self._total)

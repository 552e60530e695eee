"""What is said while data are read and encoded: progress, and what seems to be forgotten."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from calib.core.text import few

logger = logging.getLogger(__name__)
PATIENT_COLUMN = re.compile(
    r"(^|_)(patient|subject|participant|donor|case|slide|wsi)s?_?(id|key|no|nr|num|number|name|code|uid)?$"
)
FIRST_AFTER, LOG_EVERY = 2.0, 10.0  # seconds before the first line of progress, and between two lines


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
    """A line in the log after two seconds, then every ten, and at the end: how much is done, what is left.

    What took less than two seconds is silent throughout.

    Args:
        logger: Where the lines go, at level INFO.
        what: What is being done, e.g. "encoding images".
        total: How many items there are.

    Example:
        >>> progress = ProgressLog(logger, "encoding images", 2)
        >>> progress.update(1)  # silent: two seconds have not passed
    """

    def __init__(self, logger: logging.Logger, what: str, total: int) -> None:
        self._logger, self._what, self._total = logger, what, total
        self._began = time.monotonic()
        self._next = self._began + FIRST_AFTER
        self._said = -1  # how many items the last line told of

    def update(self, done: int) -> None:
        """Say how many items are done, if the last line is long enough ago; that all are, after any line."""
        now = time.monotonic()
        last = 0 <= self._said < self._total <= done
        if now >= self._next or last:
            self._next, self._said = now + LOG_EVERY, done
            told = pace(done, self._total, now - self._began)
            self._logger.info("%s: %d of %d%s", self._what, done, self._total, told)


def pace(done: int, total: int, seconds: float) -> str:
    """Return how fast items are done and how long the rest takes at that rate; empty: nothing is known yet.

    Args:
        done: Items that are done.
        total: Items altogether.
        seconds: How long they took.

    Example:
        >>> pace(30, 90, 10.0), pace(1, 201, 4.0), pace(9, 9, 3.0), pace(0, 9, 3.0)
        (' (3.0 a second, about 20 s left)', ' (0.25 a second, about 13 min left)', ' (3.0 a second)', '')
    """
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    left = (total - done) / rate
    shown = f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"
    if done >= total:
        return f" ({shown} a second)"
    minutes = left / 60
    if left < 100:
        span = f"{left:.0f} s"
    else:
        span = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    return f" ({shown} a second, about {span} left)"


def warn_of_absent_classes(class_names: Sequence[str], labels: Mapping[str, Tensor]) -> None:
    """Warn of classes without an image to judge them by; those without a shot are refused in the draw.

    Args:
        class_names: C names in label order.
        labels: (N,) class indices of each split.
    """
    for split in ("val", "test"):
        found = set(labels[split].tolist()) if split in labels else set()
        absent = [name for label, name in enumerate(class_names) if label not in found]
        if found and absent:
            logger.warning(
                "The %s split has no image of %s: recall is undefined there, and means over classes leave it "
                "out.",
                split,
                few([f"'{name}'" for name in absent]),
            )

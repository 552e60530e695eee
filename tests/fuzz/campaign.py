"""Spoil files by the thousand and see what reading them does.

PYTHONPATH=.:tests python -m fuzz.campaign --each 1000      # a longer campaign than the tests' own
PYTHONPATH=.:tests python -m fuzz.campaign --groups re-signed      # files whose checksum is made anew
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import resigned, subjects
from fuzz.subjects import Subject, plain
from fuzz.watching import CODE, NETWORK, OUTSIDE, watched

from calib.report.tables import aligned

GROUPS = {**subjects.GROUPS, "re-signed": resigned.subjects}
SAME, REFUSED, AS_SAID, HEALED = "same", "refused", "as it says", "made anew"
OUTCOMES = (SAME, REFUSED, AS_SAID, HEALED)
WRONG = "wrong"
ACTS = (WRONG, CODE, NETWORK, OUTSIDE)  # what must not happen, counted; other faults are those of messages
SECONDS = 10  # that one reading may take
MEMORY = 2 << 30  # bytes that the readings of a group may need beside what the process has


class TooSlow(BaseException):
    """A reading that took too long."""


@dataclass
class Result:
    """What came of the mutations of one kind of file.

    Attributes:
        kind: The kind.
        outcomes: Counts by outcome.
        messages: An example of every error message, by how it begins.
        faults: What must not happen, in words.
        slowest: Seconds of the longest reading.
        made: How many mutations were made.
        acts: Counts of what must not happen, by `ACTS`.
    """

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    made: int = 0
    acts: Counter[str] = field(default_factory=Counter)


def attack(
    subject: Subject, count: int, others: Sequence[Subject], seed: int = 0, *, folder: Path | None = None
) -> Result:
    """Return what `count` mutations of a file lead to; one in forty is another kind's file.

    Args:
        subject: The file.
        count: Mutations.
        others: Whose files may be put in its place.
        seed: Of all that is random.
        folder: Where reading may write. None: in the folder of the file.
    """
    folder = folder or subject.path.parent
    result = Result(subject.kind)
    subject.path.write_bytes(subject.original)
    expected = plain(subject.read(subject.path))
    strangers = [other for other in others if not other.family or other.family != subject.family]
    strangers = [other for other in strangers if other.original != subject.original]
    for number in range(count):
        draw = random.Random(f"{seed}:{subject.kind}:{number}")
        if number % 40 == 39 and strangers:
            how, data = "another file", draw.choice(strangers).original
        else:
            mutation = draw.choice(list(subject.mutations))
            how, data = mutation.__name__, mutation(subject.original, draw)
        subject.path.parent.mkdir(parents=True, exist_ok=True)
        subject.path.write_bytes(data)
        result.made += 1
        with watched(folder) as seen:
            _judge(subject, expected, f"{how} (number {number})", result)
        for kind, what in seen:
            result.acts[kind] += 1
            result.faults.append(f"{how} (number {number}): {kind}: {what[:300]}")
    subject.path.parent.mkdir(parents=True, exist_ok=True)
    subject.path.write_bytes(subject.original)
    return result


def _judge(subject: Subject, expected: Any, how: str, result: Result) -> None:
    started = time.monotonic()
    try:
        with _clock(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = plain(subject.read(subject.path))
    except (ValueError, FileNotFoundError) as error:
        result.outcomes[REFUSED] += 1
        message = str(error)
        if subject.named not in message:
            result.faults.append(f"{how}: {type(error).__name__} does not name the file: {message[:300]}")
        result.messages.setdefault(message.split(subject.path.name)[-1][:24], message)
    except BaseException as error:
        result.faults.append(f"{how}: {type(error).__name__}: {str(error)[:300]}")
    else:
        if found == expected:
            result.outcomes[HEALED if subject.heals else SAME] += 1
        elif subject.says is not None and _says(subject) == found:
            result.outcomes[AS_SAID] += 1
        else:
            result.acts[WRONG] += 1
            result.faults.append(f"{how}: read as something else: {str(found)[:600]}, {_says(subject)}")
    result.slowest = max(result.slowest, time.monotonic() - started)


def _says(subject: Subject) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return None if subject.says is None else plain(subject.says(subject.path))
    except Exception as error:
        return f"the independent reader refuses: {error!r}"


@contextlib.contextmanager
def _clock() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let a huge allocation fail as it would on a small machine."""
    pages = (
        int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_group(name: str, folder: Path, each: int, seed: int = 0) -> list[Result]:
    """Return the results of all kinds of a group, `each` mutations of each."""
    found = GROUPS[name](folder)
    with limited_memory():
        return [attack(subject, each, found, seed, folder=folder) for subject in found]


def table(results: Sequence[Result]) -> str:
    """Return counts by kind and outcome as a Markdown table."""
    rows = [
        [r.kind, str(r.made), *(str(r.outcomes[o]) for o in OUTCOMES), *(str(r.acts[a]) for a in ACTS),
         str(len(r.faults)), f"{1000 * r.slowest:.0f}"]
        for r in results
    ]  # fmt: skip
    sums = [str(sum(int(row[i]) for row in rows)) for i in range(1, len(rows[0]) - 1)]
    slowest = f"{1000 * max(r.slowest for r in results):.0f}"
    return aligned(
        ["file", "mutations", *OUTCOMES, *ACTS, "faults", "slowest, ms"], [*rows, ["all", *sums, slowest]]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Spoil files of every kind, and see what reading does.")
    parser.add_argument("--each", type=int, default=100, help="mutations per kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), help=", ".join(GROUPS))
    parser.add_argument("--messages", action="store_true", help="show an example of every message")
    given = parser.parse_args()
    results = []
    started = time.monotonic()
    for name in given.groups:
        with tempfile.TemporaryDirectory() as folder:
            results += run_group(name, Path(folder), given.each, given.seed)
    print(table(results))
    print(f"{time.monotonic() - started:.1f} s")
    for result in results:
        for fault in result.faults[:8]:
            print(f"FAULT {result.kind}: {fault}")
        for message in result.messages.values() if given.messages else ():
            print(f"{result.kind}: {message}")
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())

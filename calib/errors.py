"""Error messages that say what came, what is allowed and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def unknown_name(
    kind: str, name: object, allowed: Iterable[str], *, meant: Sequence[str] | None = None
) -> ValueError:
    """Return the error for a name that is not among the known ones, with the nearest known name.

    Args:
        kind: What the name stands for, e.g. "loss" or "data set".
        name: What was given.
        allowed: The names that exist.
        meant: What was probably meant, if the caller knows better than spelling does. None: the nearest of
            `allowed`.

    Example:
        >>> str(unknown_name("loss", "smack", ["ce", "smac"]))
        "Unknown loss 'smack'. Did you mean 'smac'? Known: ce, smac."
    """
    known = sorted(allowed)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5) if meant is None else meant
    hint = f" Did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
    return ValueError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, or its type where it has none.

    Example:
        >>> first_line(KeyError()), first_line(ValueError("cut off\nat byte 7"))
        ('KeyError', 'cut off')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

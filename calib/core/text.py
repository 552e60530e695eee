"""Text that is safe to show: no terminal commands, no passwords, no formulas, and not too long."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

# Where programs we use keep passwords; what they hold is never shown or saved.
SECRET_VARIABLES = (
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_TOKEN",
    "KAGGLE_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "OPENAI_API_KEY",
    "COMET_API_KEY",
)


SHORTEST = 8  # a value of fewer letters is no password but might be a common word


HIDDEN = "***"


_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # https://user:password@host
    re.compile(r"(?<=://)[^/\s@:]{16,}(?=@)"),  # https://token@host
    re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"),  # a token of the Hugging Face hub
    re.compile(
        r"(?<=[?&])((?:access_|auth_)?token|api_?key|password|sig|signature|x-amz-signature)=[^&\s]+", re.I
    ),
)


def printable(text: str) -> str:
    r"""Return text without control characters: terminals obey them, and they hide what a name really is.

    Line ends and tabs stay. Others, and the marks that turn the direction of writing, are spelt out.

    Example:
        >>> printable("a\x1b[2Jb\r\u202e")
        'a\\x1b[2Jb\\r\\u202e'
    """
    return "".join(
        letter.encode("unicode_escape").decode() if _commands(letter) else letter for letter in text
    )


def _commands(letter: str) -> bool:
    if letter.isascii():
        return (letter < " " and letter not in "\n\t") or letter == "\x7f"
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter != "\u200d"


def redacted(text: str) -> str:
    """Return text with passwords and access tokens hidden.

    Hidden are user names with passwords and signatures in addresses, tokens of the Hugging Face hub, and
    whatever the environment variables in `SECRET_VARIABLES` hold.

    Example:
        >>> redacted("https://me:1234@example.org/data")
        'https://***@example.org/data'
    """
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def few(items: Sequence[object], limit: int = 5) -> str:
    """Return the first items joined by commas and, if there are more, how many more.

    Example:
        >>> few(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


# How a cell begins that spreadsheets may run; they take full-width signs for plain ones.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: with an apostrophe before =, +, -, @, tab or return.

    A number stays as it is.

    Example:
        >>> safe_text("tumour"), safe_text("=1+1"), safe_text("+ve"), safe_text("-1")
        ('tumour', "'=1+1", "'+ve", '-1')
    """
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def safe_path(path: str | Path) -> str:
    """Return a path that no spreadsheet runs as a formula and that still names the same file.

    Example:
        >>> safe_path("scans/1.png"), safe_path("=1.png")
        ('scans/1.png', './=1.png')
    """
    text = str(path)
    return f"./{text}" if text.startswith(FORMULA) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Text that is safe to show: no terminal commands, no passwords, no formulas, and not too long."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

# How variables of the environment are called that hold passwords: what they hold is never shown or saved.
SECRET_VARIABLES = re.compile(
    r".*(?:PASSWORD|PASSWD|PASSPHRASE|_PASS|_PWD|_KEY|_APIKEY|_TOKEN|_SECRET|_PAT|_CREDENTIALS?)", re.I
)
SHORTEST = 8  # a value of fewer letters is no password but might be a common word
HIDDEN = "***"

_SECRET_WORDS = (
    r"(?:access|auth|bearer|id|refresh|session|security|api|private|personal)?[_-]?token|(?:api|access|secret|"
    r"private|account|signing|encryption)[_-]?key|(?:client|app|shared)?[_-]?secret|secret[_-]?access[_-]?key|"
    r"pass(?:word|wd|phrase)|pwd|credentials?"
)
_SECRET_KEY = re.compile(rf"(?:.*[_-])?(?:{_SECRET_WORDS})", re.I)
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # https://user:password@host
    re.compile(r"(?<=://)[^/\s@:]{16,}(?=@)"),  # https://token@host
    re.compile(  # tokens that services begin with letters of their own
        r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}"  # Hugging Face
        r"|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|dt|rt|cbt|ptt|soat)-[\w-]{16,}"
        r"|sk-(?:ant|proj|svcacct|admin|or)-[\w-]{16,}|sk-[A-Za-z0-9]{32,}|[rs]k_live_[A-Za-z0-9]{16,}"
        r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{35}|xox[abeprs]-[\w-]{10,}"
        r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|dckr_pat_[\w-]{16,}|ya29\.[\w-]{20,}"
        r"|eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]{4,})"  # JSON web tokens
    ),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"\b(?:Bearer|Basic) +(?=\S*\d)[\w.~+/=-]{16,}", re.I),
    re.compile(
        rf"(?<=[?&#;])(?:{_SECRET_WORDS}|sig|x-(?:amz|goog)-(?:signature|credential|security-token))=[^&#;\s]+",
        re.I,
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

    Hidden are user names with passwords, signatures and tokens in addresses, tokens that their service's
    letters give away, and whatever the environment variables hold that `SECRET_VARIABLES` fits: 8 letters at
    least, and no path.

    Example:
        >>> redacted("https://me:1234@example.org/data")
        'https://***@example.org/data'
    """
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_VARIABLES.fullmatch(name) and not _is_path(value):
            text = text.replace(value, HIDDEN)
    return text


def names_a_secret(key: str) -> bool:
    """Return whether what stands under a key can only be a password or an access token.

    Example:
        >>> names_a_secret("api_key"), names_a_secret("hf_token"), names_a_secret("tokenizer")
        (True, True, False)
    """
    return _SECRET_KEY.fullmatch(key) is not None


def _is_path(value: str) -> bool:
    """Return whether a variable says where a secret lies (SSH_KEY, a token's file), and is none itself."""
    return value.startswith(("/", "~", "./", "../")) or bool(re.match(r"[A-Za-z]:\\", value))


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
    """Return text for a cell of a table: no spreadsheet runs it as a formula, no terminal as a command.

    Before =, +, -, @, tab or return stands an apostrophe, but not before a number; control characters are
    spelt out as by `printable`.

    Example:
        >>> safe_text("tumour"), safe_text("=1+1"), safe_text("+ve"), safe_text("-1")
        ('tumour', "'=1+1", "'+ve", '-1')
    """
    shown = printable(text)
    return f"'{shown}" if text.startswith(FORMULA) and not _is_number(text) else shown


def safe_path(path: str | Path) -> str:
    """Return a path for a cell of a table: no spreadsheet runs it as a formula, no terminal as a command.

    It still names the same file, unless there are control characters in its name, which are spelt out.

    Example:
        >>> safe_path("scans/1.png"), safe_path("=1.png")
        ('scans/1.png', './=1.png')
    """
    text = str(path)
    return printable(f"./{text}" if text.startswith(FORMULA) else text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

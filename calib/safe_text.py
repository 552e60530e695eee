"""Text from elsewhere made safe to show: no terminal commands, no passwords."""

from __future__ import annotations

import os
import re
import unicodedata

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

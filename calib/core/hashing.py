"""Hashes that are the same on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

CHUNK = 1 << 20  # bytes read at once when a file is hashed


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

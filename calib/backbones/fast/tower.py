"""What a faster text tower offers to a backbone."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class FastTower(Protocol):
    """A text tower that computes prompts like the library's, only the rows that count."""

    def is_known(self) -> bool:
        """Return whether the tower is built, now, of the parts this class computes."""

    def prompts(self, tokens: Tensor, positions: Tensor, *, specific: bool) -> Any:
        """Return what `encode` has to know about prompts: tokens (C, L), places of the context (C, M)."""

    def encode(self, contexts: Tensor, prompts: Any) -> Tensor:
        """Return features (S, C, D), not normalised, for contexts (S, M, E) or (S, C, M, E)."""

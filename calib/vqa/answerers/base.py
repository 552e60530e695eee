"""What every model that answers offers: a name, what decides about its answers, and answers to some items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Answerer(Protocol):
    """A model that answers items.

    What it says of an item must depend on this item and its own settings alone, whatever stands beside it:
    so a run that was killed goes on exactly, and several processes can share it.

    Attributes:
        model_id: What the model is called in the table of outputs.
        batch_size: How many items it is given at once.
    """

    model_id: str
    batch_size: int

    def describe(self) -> Mapping[str, Any]:
        """Return, as JSON, everything that decides about its answers; a run goes on with the same only."""
        ...

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the outputs of items, each with its item_id; see `calib.vqa.schema.OUTPUTS`.

        Args:
            rows: Items as dictionaries, at most `batch_size`.
        """
        ...

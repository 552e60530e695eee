"""What every model that answers offers: a name, what decides about its answers, and answers to some items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda", "mps")


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


def device_of(name: str | None) -> torch.device:
    """Return the device of a name, None: a GPU where there is one.

    Args:
        name: cpu, cuda, cuda:1, mps, ...

    Raises:
        ValueError: There is no such device, or not here.

    Example:
        >>> device_of("cdua")
        Traceback (most recent call last):
        ValueError: device=cdua: expected cpu, cuda, mps, perhaps with a number (cuda:0).
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in DEVICES:
        raise ValueError(f"device={name}: expected {', '.join(DEVICES)}, perhaps with a number (cuda:0).")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there[device.type]:
        raise ValueError(
            f"device={name}: {there[device.type]} such devices can be used here; without device= a GPU is "
            "used where there is one. calib doctor says what there is."
        )
    return device

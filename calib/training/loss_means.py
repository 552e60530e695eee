"""Means of loss terms over an epoch, kept on the device: a step never waits for a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from calib.losses import check_finite


class LossMeans:
    """Sums of an objective's terms over the steps of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def reset(self) -> None:
        """Forget everything: an epoch begins."""
        self._sums, self._steps = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint in the middle of an epoch."""
        return {"sums": dict(self._sums), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums that `state_dict` returned."""
        self._sums, self._steps = dict(state["sums"]), int(state["steps"])

    def add(self, values: Mapping[str, Tensor]) -> Tensor:
        """Add the terms of one step, each (), and return their "total" with its graph."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._steps += 1
        return values["total"]

    def means(self, epoch: int) -> dict[str, Tensor]:
        """Return the mean of every term since `reset`; nothing where there was no step.

        Args:
            epoch: For the message.

        Raises:
            FloatingPointError: A mean is NaN or infinite; the message names the term.
        """
        means = {name: total / self._steps for name, total in self._sums.items()}
        if means:
            try:
                check_finite(means)
            except FloatingPointError as error:
                raise FloatingPointError(f"Training stopped in epoch {epoch}. {error}") from None
        return means

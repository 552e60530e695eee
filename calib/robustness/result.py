"""What is found of models under shifts: conditions, values with intervals, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calib.robustness.effective import Effective

AS_IT_IS = "as it is"
MEAN = "all corruptions"
CORRUPTION, SHIFT, USUAL = "corruption", "shift", "usual"


@dataclass(frozen=True)
class Condition:
    """Under what images are judged.

    Attributes:
        name: What it is called: "blur 3", "site: B", "all corruptions".
        kind: "usual", "corruption" or "shift".
        corruption: Its name, or that of the column; "" for a mean over several.
        severity: 1 to 5. None: no corruption, or a mean over severities.
        against: The condition it is compared with.
    """

    name: str
    kind: str
    corruption: str = ""
    severity: int | None = None
    against: str = AS_IT_IS

    @classmethod
    def of_corruption(cls, name: str, severity: int) -> Condition:
        """Return the condition of a corruption at a severity."""
        return cls(f"{name} {severity}", CORRUPTION, name, severity)


@dataclass(frozen=True)
class Value:
    """A number with its interval; NaN where it is undefined.

    Attributes:
        value: The number, the mean over seeds.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def as_record(self) -> list[float | None]:
        """Return [value, low, high] for JSON, None where undefined."""
        return [number if math.isfinite(number) else None for number in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Row:
    """A measure of a model under a condition.

    Attributes:
        system: The model.
        condition: Under what.
        measure: What.
        n: Images.
        value: The measure.
        sd: Its standard deviation over seeds; NaN for one.
        change: Minus its value under usual conditions, paired. None: this is usual.
        kept: Its relative robustness. None: this is usual.
    """

    system: str
    condition: Condition
    measure: str
    n: int
    value: Value
    sd: float
    change: Value | None = None
    kept: Value | None = None


@dataclass(frozen=True, eq=False)
class Robustness:
    """What was found of models under shifts.

    Attributes:
        rows: One for each model, condition and measure.
        effective: Model to how its confidence moves with its accuracy; of models under corruptions.
        sanity: Baseline to measure to values (plain, calibrated) of the images as they are.
        promised: Model to what its sets and threshold were fitted for: {"coverage": 0.9, "error": 0.1}.
        notes: What a reader has to know.
        about: Data, sizes, settings: JSON-able.
    """

    rows: tuple[Row, ...]
    effective: Mapping[str, Effective] = field(default_factory=dict)
    sanity: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(default_factory=dict)
    promised: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """The models, in order."""
        return list(dict.fromkeys(row.system for row in self.rows))

    @property
    def conditions(self) -> list[Condition]:
        """The conditions, in order."""
        return list(dict.fromkeys(row.condition for row in self.rows))

    def find(self, system: str, condition: str, measure: str) -> Row | None:
        """Return a row by names. None: there is none."""
        return self._found.get((system, condition, measure))

    @property
    def _found(self) -> dict[tuple[str, str, str], Row]:
        if "_index" not in self.__dict__:
            index = {(row.system, row.condition.name, row.measure): row for row in self.rows}
            object.__setattr__(self, "_index", index)
        found: dict[tuple[str, str, str], Row] = self.__dict__["_index"]
        return found

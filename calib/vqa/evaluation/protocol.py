"""How an evaluation is made: every number that is chosen, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from calib.core.errors import unknown_name
from calib.vqa.uncertainty import METHODS, PANEL
from calib.vqa.uncertainty.evidence import SCORES

# Those that ask nothing of the answer first: a method that does not beat them is worth nothing.
BASELINES = ("random", "number_of_options", "dataset_prior", "no_image", "best_distractor", "other_models")

SETS = {"panel": (*PANEL, *BASELINES), "all": tuple(METHODS)}  # methods that a word stands for


@dataclass(frozen=True)
class Protocol:
    """What an evaluation compares and how.

    Attributes:
        methods: Keys of METHODS, "panel" for the panel of eight and the baselines, or "all" for every method;
            the reference is always among them.
        reference: The method that others are compared with, and whose answers without image and whose
            tracking stand in short tables.
        scores: How options are scored: a key of SCORES, or "auto".
        by: Columns of items that make cells beside data sets, for the question whether quality tracks
            accuracy.
        shift: Column of items and the value that is usual, for relative robustness. None: none.
        min_cases: Fewest wrong and fewest right answers for a number that ranks them.
        n_resamples: Resamples of the cluster bootstrap.
        n_permutations: Permutations of tests.
        level: Level of intervals.
        seed: Of draws and permutations.
        n_bins: Bins of the ECE.
        margin: What counts as no change of an uncertainty, in standard deviations of the original one.
        budgets: Shares of answers that can be reviewed.
        tolerated: Shares of errors that are tolerated among accepted answers.
        confident: From which confidence on an answer is called confident.
        folds: Parts for what is fitted on one part and used on another.

    Raises:
        ValueError: A name is unknown or a number is out of range.

    Example:
        >>> Protocol(methods=("verbalised",)).chosen
        ('option_msp', 'verbalised')
    """

    methods: tuple[str, ...] = ("panel",)
    reference: str = "option_msp"
    scores: str = "auto"
    by: tuple[str, ...] = ("modality",)
    shift: tuple[str, str] | None = None
    min_cases: int = 20
    n_resamples: int = 2000
    n_permutations: int = 999
    level: float = 0.95
    seed: int = 0
    n_bins: int = 15
    margin: float = 0.1
    budgets: tuple[float, ...] = (0.1, 0.2, 0.3)
    tolerated: tuple[float, ...] = (0.05, 0.1, 0.2)
    confident: float = 0.9
    folds: int = 5

    def __post_init__(self) -> None:
        for name in ("methods", "by", "budgets", "tolerated"):
            if not isinstance(getattr(self, name), tuple | list):
                raise ValueError(f"{name} must be a tuple, not {getattr(self, name)!r}.")
        if self.shift is not None and (isinstance(self.shift, str) or len(self.shift) != 2):
            raise ValueError(f"shift must be (column, usual value), not {self.shift!r}.")
        if not self.methods:
            raise ValueError(f"methods names none; allowed: {', '.join([*SETS, *METHODS])}.")
        for name in self.methods:
            if name not in METHODS and name not in SETS:
                raise unknown_name("uncertainty method", name, [*METHODS, *SETS])
        if self.reference not in METHODS:
            raise unknown_name("uncertainty method", self.reference, METHODS)
        if self.scores not in SCORES and self.scores != "auto":
            raise unknown_name("way to score options", self.scores, ["auto", *SCORES])
        for name, least in (
            ("min_cases", 1),
            ("n_resamples", 1),
            ("n_permutations", 1),
            ("n_bins", 1),
            ("folds", 2),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        for name in ("level", "confident"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)!r}.")
        for name in ("budgets", "tolerated"):
            if not getattr(self, name) or not all(0 < value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be numbers between 0 and 1, not {getattr(self, name)!r}.")
        if not self.margin > 0:
            raise ValueError(f"margin must be above 0, not {self.margin!r}.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods by name."""
        named = [each for name in self.methods for each in SETS.get(name, (name,))]
        return tuple(dict.fromkeys([self.reference, *named]))

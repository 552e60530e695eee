"""What a report is about: predictions of one or several methods and seeds on the same images, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from calib.core.checks import as_float64
from calib.core.errors import unknown_name
from calib.core.text import few
from calib.metrics.outcomes import Outcomes
from calib.report.compare import Predicted

TINY = 1e-300  # a probability of 0 has no logarithm


class Reported(Predicted, Protocol):
    """What a report needs of N predictions; `calib.Predictions` have it."""

    @property
    def ids(self) -> Sequence[str]:
        """N content ids."""

    @property
    def names(self) -> Sequence[str]:
        """N readable names."""

    @property
    def class_names(self) -> Sequence[str]:
        """C names in label order."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where they come from: method, seed, data, backbone."""


class Images(Protocol):
    """Where images are looked up; a split of a task that was loaded from images is one."""

    @property
    def ids(self) -> Sequence[str]:
        """Content ids."""

    def open(self, index: int) -> Any:
        """Return one image as a PIL image."""


class Sets(Protocol):
    """Prediction sets, `calib.posthoc.PredictionSets`."""

    guarantee: str

    def __call__(self, probs: Tensor, strata: Any = None) -> Tensor:
        """Return (N, C) bool: which classes are in the set."""


class Review(Protocol):
    """A review threshold, `calib.posthoc.ReviewThreshold`."""

    achievable: bool
    threshold: float | None
    guarantee: str
    needed: int | None

    def __call__(self, doubt: Tensor) -> Tensor:
        """Return (N,) bool: which are accepted."""


Calibrate: TypeAlias = Callable[[Tensor], Tensor]
ByMethod: TypeAlias = Mapping[str, Mapping[int, Reported]]


@dataclass(frozen=True)
class Parts:
    """What stands in a report beside the predictions, each where it is given.

    Attributes:
        sets: Prediction sets.
        strata: (N,) strata that the sets need.
        review: A review threshold.
        judged: (N,) the doubts that the threshold is applied to; inf for what is never accepted. None: the
            doubt.
        doubt: (N,) doubt of the reported predictions, higher = more likely wrong. None: 1 - confidence.
        doubt_name: What it is called.
        why: (N,) reasons in words. None: they are made from the probabilities.
        images: Where thumbnails come from. None: there are none.
        no_images: Why there are none, as a sentence.
        slices: Name to (N,) values, for the tables by subgroup.
        names: Whether names of images and groups may be shown.
        data_name: What the data are called. None: as the predictions say.
        shown: Cases of each kind that are shown.
        n_bins: Bins of reliability.
        level: Coverage of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Of the bootstrap.
    """

    sets: Sets | None = None
    strata: Sequence[Any] | None = None
    review: Review | None = None
    judged: Tensor | None = None
    doubt: Tensor | None = None
    doubt_name: str = "1 - confidence"
    why: Sequence[str] | None = None
    images: Images | None = None
    no_images: str = "No images were given."
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: bool = True
    data_name: str | None = None
    shown: int = 12
    n_bins: int = 10
    level: float = 0.95
    n_resamples: int = 2000
    seed: int = 0

    @property
    def their_doubt(self) -> str:
        """What predictions are sorted by, in words.

        Example:
            >>> Parts().their_doubt, Parts(doubt_name="doubt").their_doubt
            ('their doubt (1 - confidence)', 'their doubt')
        """
        return "their doubt" if self.doubt_name == "doubt" else f"their doubt ({self.doubt_name})"


@dataclass(frozen=True)
class Subject:
    """Everything that the sections of a report are computed from.

    Attributes:
        by_method: Method to seed to predictions, all on the same images in the same order.
        main: The method that is reported.
        seed: Whose single predictions are looked at.
        baseline: The method the others are compared with. None: there is one method.
        outcomes: The reported predictions with what follows from them.
        doubt: (N,) float64.
        parts: What stands beside the predictions.
    """

    by_method: ByMethod
    main: str
    seed: int
    baseline: str | None
    outcomes: Outcomes
    doubt: Tensor
    parts: Parts

    @property
    def predicted(self) -> Reported:
        """The reported predictions."""
        return self.by_method[self.main][self.seed]

    @property
    def data_name(self) -> str:
        """What the data are called. Empty: nobody said."""
        return self.parts.data_name or str(self.predicted.about.get("data") or "")

    @property
    def judged(self) -> Tensor:
        """(N,) what a review threshold is applied to; inf for what is never accepted."""
        return self.doubt if self.parts.judged is None else self.parts.judged

    @property
    def class_names(self) -> list[str]:
        """C names in label order."""
        return list(self.predicted.class_names)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the reported method."""
        return sorted(self.by_method[self.main])

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: which of the reported predictions are right."""
        return self.outcomes.correct.cpu().numpy()

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) groups. None: not known."""
        groups = self.predicted.groups
        return None if groups is None else np.asarray(groups)

    @property
    def n_groups(self) -> int | None:
        """How many groups there are. None: not known."""
        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def several(self) -> bool:
        """Whether the reported method has several seeds."""
        return len(self.by_method[self.main]) > 1


@dataclass(frozen=True)
class Calibrated:
    """Predictions with the logarithms of calibrated probabilities for logits.

    Attributes:
        inner: What was calibrated.
        logits: (N, C).
    """

    inner: Reported
    logits: Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def same_images(self, other: Any) -> bool:
        """Return whether both are of the same images in the same order."""
        return self.inner.same_images(other)


def subject_of(
    given: Reported | Sequence[Reported] | ByMethod,
    *,
    main: str | None = None,
    baseline: str | None = None,
    calibrator: Calibrate | None = None,
    parts: Parts,
) -> Subject:
    """Return what a report is about, checked.

    Args:
        given: Predictions; several, of which the first are reported; or method to seed to predictions.
        main: The method that is reported. None: the first.
        baseline: The method the others are compared with. None: the reported one before the calibrator,
            zero-shot, or else another.
        calibrator: Logits (N, C) -> calibrated probabilities, for the reported method. None: they are
            reported as they are.
        parts: What stands beside the predictions.

    Raises:
        ValueError: There are no predictions, they are of different images or classes, two have the same
            method and seed, a name is unknown, the baseline shares no seed, or a part does not fit them.
    """
    by_method = _by_method(given)
    names = list(by_method)
    if main is not None and main not in by_method:
        raise unknown_name("method", main, names)
    main = names[0] if main is None else main
    asked = baseline is not None
    if calibrator is not None:
        bare, main = main, f"{main} calibrated afterwards"
        runs: dict[int, Reported] = {
            seed: _calibrated(each, calibrator) for seed, each in by_method[bare].items()
        }
        by_method = {main: runs, **by_method}
        baseline = bare if baseline is None else baseline
    if baseline is not None and baseline not in by_method:
        raise unknown_name("baseline", baseline, by_method)
    others = [name for name in by_method if name != main]
    if baseline is None and others:
        baseline = next((name for name in others if name == "zero-shot"), others[0])
    if baseline is not None and not by_method[main].keys() & by_method[baseline].keys():
        if asked:
            raise ValueError(
                f"'{main}' (seeds {sorted(by_method[main])}) and '{baseline}' (seeds "
                f"{sorted(by_method[baseline])}) share no seed: nothing can be paired. Leave baseline out."
            )
        baseline = None
    seed = min(by_method[main])
    first = by_method[main][seed]
    outcomes = Outcomes.from_logits(first.logits, first.labels)
    n = len(outcomes.labels)
    doubt = 1 - outcomes.confidence if parts.doubt is None else as_float64(parts.doubt).cpu()
    if doubt.shape != (n,) or not bool(doubt.isfinite().all()):
        raise ValueError(f"doubt must be ({n},) finite numbers, one for each prediction.")
    for what, each in (("why", parts.why), ("strata", parts.strata), *parts.slices.items()):
        if each is not None and len(each) != n:
            raise ValueError(f"There are {n} predictions, and {len(each)} values of '{what}'.")
    return Subject(by_method, main, seed, baseline, outcomes, doubt, parts)


def _by_method(given: Reported | Sequence[Reported] | ByMethod) -> dict[str, dict[int, Reported]]:
    found: dict[str, dict[int, Reported]] = {}
    if isinstance(given, Mapping):
        found = {name: dict(runs) for name, runs in given.items() if runs}
    else:
        for each in given if isinstance(given, Sequence) else [given]:
            method, seed = str(each.about.get("method") or "model"), int(each.about.get("seed") or 0)
            if seed in found.setdefault(method, {}):
                raise ValueError(
                    f"Two predictions are both of '{method}' with seed {seed}. Give them names: "
                    "{name: {seed: predictions}}."
                )
            found[method][seed] = each
    if not found:
        raise ValueError("Expected at least one prediction to report, got none.")
    first = next(iter(next(iter(found.values())).values()))
    for name, runs in found.items():
        for seed, each in runs.items():
            if list(each.class_names) != list(first.class_names):
                raise ValueError(
                    f"'{name}' (seed {seed}) predicts {few(list(each.class_names))}, and the first "
                    f"{few(list(first.class_names))}. A report is about the same classes in the same order."
                )
            if not first.same_images(each):
                raise ValueError(
                    f"'{name}' (seed {seed}) is of other images than the first. A report is about one set of "
                    "images: evaluate all on the same (calib evaluate), or write one report for each."
                )
    return found


def _calibrated(each: Reported, calibrator: Calibrate) -> Calibrated:
    probs = calibrator(each.logits)
    if tuple(probs.shape) != tuple(each.logits.shape):
        raise ValueError(
            f"The calibrator returned {tuple(probs.shape)} for logits {tuple(each.logits.shape)}."
        )
    return Calibrated(each, as_float64(probs).clamp_min(TINY).log())

"""Checklists of reporting, filled in as far as the report goes: what it says, and what authors have to add.

Items are those of TRIPOD+AI (Collins et al., BMJ 2024) and CLAIM (Tejani et al., Radiology: AI 2024), in our
own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from calib.report.document import Section
from calib.report.sections.provenance import OWN, Origin
from calib.report.subject import Subject

REPORTED, PARTLY, MISSING = "reported", "partly", "not reported"
RECALIBRATED = (  # what the name of a method has before that of its twin without it
    re.compile(r" calibrated( \([^)]*\)| for stated shares| afterwards)*"),
    re.compile(r"( \+ [\w-]+)+"),
)


@dataclass(frozen=True)
class Facts:
    """What the rows of the checklists ask about.

    Attributes:
        subject: What the report is about.
        origin: Where it comes from.
    """

    subject: Subject
    origin: Origin

    def intervals(self) -> tuple[str, str]:
        """Return whether performance has intervals, and key subgroups."""
        if self.subject.parts.slices:
            return REPORTED, "Comparison, Class by class, Subgroups: with intervals."
        return PARTLY, "Comparison and Class by class have intervals; no key subgroups were given."

    def clusters(self) -> tuple[str, str]:
        """Return whether performance is shown for clusters."""
        if self.subject.parts.slices:
            return REPORTED, "Subgroups and sites."
        if self.subject.groups is not None:
            return PARTLY, "Intervals resample groups; no site or scanner was given."
        return MISSING, "No groups, sites or scanners are known."

    def partition(self) -> tuple[str, str]:
        """Return whether it is said how images were divided."""
        if self.origin.partition:
            return REPORTED, f"Provenance. {self.origin.partition}"
        return MISSING, "Say how training, tuning and test images were divided."

    def disjoint(self) -> tuple[str, str]:
        """Return whether it is said at which level the partitions are disjoint."""
        found = self.origin.data.get("overlap")
        if found:
            state = REPORTED if self.subject.groups is not None else PARTLY
            return state, f"Provenance: {found}"
        return MISSING, "Say whether a patient may be on both sides."

    def source(self) -> tuple[str, str]:
        """Return whether the source of the data is said."""
        found = self.origin.data.get("source")
        if found and found != OWN:
            return PARTLY, f"Provenance: {found} Add dates, sites and how cases were chosen."
        return MISSING, "Say where, when and how the images were collected."

    def available(self) -> tuple[str, str]:
        """Return whether it is said where data, code and model can be had."""
        return PARTLY, "Software versions and digests are in Provenance; say where data and model can be had."

    def model(self) -> tuple[str, str]:
        """Return whether the model is described."""
        if self.origin.model:
            return REPORTED, "Provenance: backbone, objective, every setting."
        return PARTLY, "Its name only; describe it."

    def tuning(self) -> tuple[str, str]:
        """Return whether it is said what chose the final model."""
        if self.origin.chosen_on:
            return REPORTED, self.origin.chosen_on
        return MISSING, "Say what decided about settings, and on which images."

    def size(self) -> tuple[str, str]:
        """Return whether the sample size is said."""
        shots = f" {self.origin.shots}" if self.origin.shots else ""
        return PARTLY, f"{len(self.subject.correct):,} test images.{shots} Say why so many."

    def imbalance(self) -> tuple[str, str]:
        """Return whether class imbalance is dealt with."""
        return (
            PARTLY,
            "Shares of the classes: Class by class. Say whether they are those of where it is used.",
        )

    def updating(self) -> tuple[str, str]:
        """Return whether recalibration is shown before and after."""
        for name in self.subject.by_method:
            twins = {pattern.sub("", name) for pattern in RECALIBRATED} - {name}
            bare = next((each for each in self.subject.by_method if each in twins), None)
            if bare is not None:
                return REPORTED, f"Comparison and Reliability show '{bare}' beside '{name}'."
        return MISSING, "The model before and after recalibration is not shown."

    def output(self) -> tuple[str, str]:
        """Return whether it is said how thresholds were found."""
        if self.subject.parts.review is not None:
            return REPORTED, "Probabilities; the review threshold and its guarantee: Which cases to review."
        return PARTLY, "Probabilities; no threshold was fitted."

    def robustness(self) -> tuple[str, str]:
        """Return whether the result was tried under other conditions."""
        tried = "One seed: the spread over trainings is not known."
        if self.subject.several:
            tried = f"Seeds {', '.join(map(str, self.subject.seeds))}: Comparison."
        return PARTLY, f"{tried} Images of another kind or quality were not tried."

    def reasons(self) -> tuple[str, str]:
        """Return whether predictions are explained."""
        if self.subject.parts.why is not None:
            return REPORTED, "Single cases: reasons of the failure head."
        return PARTLY, "Single cases: probabilities alone."

    def failures(self) -> tuple[str, str]:
        """Return whether failures are looked at."""
        return REPORTED, "Single cases and the confusion matrix; say what the mistakes have in common."

    def uncertainty(self) -> tuple[str, str]:
        """Return whether uncertainty is quantified."""
        sets = ", Prediction sets" if self.subject.parts.sets is not None else ""
        return REPORTED, f"Bootstrap and exact intervals; doubt of single cases{sets}."

    def external(self) -> tuple[str, str]:
        """Return whether the model was tested on data of others."""
        ours, theirs = self.origin.trained_on, str(self.subject.predicted.about.get("data") or "")
        if ours and theirs and ours != theirs:
            return REPORTED, f"Learned from {ours}, tested on {theirs}; say how they differ."
        return MISSING, "Evaluate on images of another site (calib evaluate data.root=IMAGES)."

    def limits(self) -> tuple[str, str]:
        """Return whether limits are named."""
        return (
            PARTLY,
            "What was found, small print; limits of the data in Provenance. Add those of the study.",
        )


Answer = Callable[[Facts], tuple[str, str]]


def _yes(where: str) -> Answer:
    return lambda facts: (REPORTED, where)


def _partly(where: str) -> Answer:
    return lambda facts: (PARTLY, where)


def _no(what: str) -> Answer:
    return lambda facts: (MISSING, what)


TRIPOD: tuple[tuple[str, str, Answer], ...] = (
    ("1", "title names the kind of study and model", _no("For the paper.")),
    ("2", "abstract", _no("For the paper.")),
    ("3a", "medical background and existing models", _no("For the paper.")),
    ("3b", "target population, intended use and users", _no("Say who would use it, for whom, and for what.")),
    ("3c", "known health inequalities", _no("For the paper.")),
    ("4", "objectives", _no("For the paper.")),
    ("5a", "sources of data and whether they represent the target", Facts.source),
    ("5b", "dates of collection", _no("Give them.")),
    ("6a", "setting and centres", _no("Give them.")),
    ("6b", "who was eligible", _no("Say it.")),
    ("6c", "treatments received", _no("Say it where it matters.")),
    (
        "7",
        "preparation of the data, also across groups",
        _partly("Provenance: reader and preprocessing settings."),
    ),
    ("8a", "outcome and how it was determined", _partly("The classes by name; say how labels were made.")),
    ("8b", "qualification of who assessed the outcome", _no("Say it.")),
    ("8c", "blinding of the assessment", _no("Say it.")),
    ("9a", "choice of predictors", _yes("Images alone.")),
    ("9b", "definition and measurement of predictors", _no("Say how images were acquired.")),
    ("9c", "qualification of who assessed predictors", _yes("Nobody did: pixels are read as they are.")),
    ("10", "sample size", Facts.size),
    (
        "11",
        "missing data",
        _no("Say which images could not be read, and what else is missing."),
    ),
    ("12a", "how data were used for training and evaluation", Facts.partition),
    ("12b", "handling of predictors", Facts.model),
    ("12c", "kind of model, building, tuning, internal validation", Facts.tuning),
    ("12d", "differences between clusters", Facts.clusters),
    (
        "12e",
        "measures and plots: discrimination, calibration, utility",
        _yes("Comparison, Reliability, Decision curves, Class by class."),
    ),
    ("12f", "updating the model, such as recalibration", Facts.updating),
    ("12g", "how predictions were computed", Facts.model),
    ("13", "class imbalance and what follows for calibration", Facts.imbalance),
    ("14", "fairness: what was done", _no("No group of people was looked at, unless Subgroups name one.")),
    ("15", "output of the model and how thresholds were found", Facts.output),
    (
        "16",
        "differences between training and evaluation data",
        _no("Say how sites, dates and labels differ."),
    ),
    ("17", "ethical approval", _no("Give it.")),
    ("18a", "funding", _no("For the paper.")),
    ("18b", "conflicts of interest", _no("For the paper.")),
    ("18c", "protocol", _no("Say where it is.")),
    ("18d", "registration", _no("Say whether it is.")),
    ("18e", "availability of data", Facts.available),
    ("18f", "availability of code", Facts.available),
    ("19", "involvement of patients and the public", _no("Say it.")),
    ("20a", "flow of participants", _partly("Numbers of images and groups; say who was excluded.")),
    ("20b", "characteristics of participants", _no("Ages, sexes, sites are not known here.")),
    ("20c", "development and evaluation data compared", _no("Compare them.")),
    (
        "21",
        "numbers of participants and outcomes in each analysis",
        _yes("Class by class; every table says n."),
    ),
    ("22", "the full model, for use by others", _partly("calib export writes it; say where it can be had.")),
    ("23a", "performance with intervals, in key subgroups too", Facts.intervals),
    ("23b", "performance across clusters", Facts.clusters),
    ("24", "results of updating", Facts.updating),
    ("25", "interpretation", _no("For the paper.")),
    ("26", "limitations", Facts.limits),
    ("27a", "poor or unavailable input at use", _no("Say what happens with unreadable and unlike images.")),
    ("27b", "interaction with users and their expertise", _no("Say it.")),
    ("27c", "next steps, and where it may apply", _no("For the paper.")),
)
CLAIM: tuple[tuple[str, str, Answer], ...] = (
    ("1", "title or abstract names the method", _no("For the paper.")),
    ("2", "abstract", _no("For the paper.")),
    ("3", "background and intended use", _no("Say who would use it, for whom, and for what.")),
    ("4", "aims and hypotheses", _no("For the paper.")),
    ("5", "prospective or retrospective", _no("Say it.")),
    ("6", "goal of the study", _no("For the paper.")),
    ("7", "sources of data", Facts.source),
    ("8", "inclusion and exclusion", _no("Say it.")),
    ("9", "preprocessing", _partly("Provenance: settings of reader and backbone.")),
    ("10", "selection of subsets of data", _no("Say whether parts of images or of the cases were used.")),
    ("11", "de-identification", _no("Say how.")),
    ("12", "missing data", _no("Say which images could not be read.")),
    ("13", "acquisition of images", _no("Say devices and protocol.")),
    ("14", "definition of the reference standard", _no("Say how labels were made.")),
    ("15", "why this reference standard", _no("Say it.")),
    ("16", "who annotated", _no("Say it.")),
    ("17", "annotation of test data", _no("Say it.")),
    ("18", "variability of annotators", _no("Say it.")),
    ("19", "how data were assigned to partitions", Facts.partition),
    ("20", "level at which partitions are disjoint", Facts.disjoint),
    ("21", "intended sample size", Facts.size),
    ("22", "the model in detail", Facts.model),
    ("23", "software", _yes("Provenance.")),
    ("24", "initial parameters", Facts.model),
    ("25", "training", Facts.model),
    ("26", "how the final model was selected", Facts.tuning),
    ("27", "ensembling", _yes("Each seed answers by itself; what its calibration joins is in Provenance.")),
    ("28", "metrics", _yes("Comparison, Reliability, Decision curves, Class by class.")),
    ("29", "significance and uncertainty", Facts.uncertainty),
    ("30", "robustness and sensitivity", Facts.robustness),
    ("31", "explanations", Facts.reasons),
    ("32", "internal evaluation", _yes("The whole page, on held-out images.")),
    ("33", "external testing", Facts.external),
    ("34", "trial registration", _no("Where it applies.")),
    ("35", "numbers of patients, flow", _partly("Numbers of images and groups.")),
    ("36", "demographics", _no("Not known here.")),
    ("37", "performance on all partitions", _partly("On the images of this page.")),
    ("38", "diagnostic performance with its precision", Facts.intervals),
    ("39", "analysis of failures", Facts.failures),
    ("40", "limitations", Facts.limits),
    ("41", "implications and intended use", _no("For the paper.")),
    ("42", "protocol", _no("Say where it is.")),
    ("43", "availability of software, model and data", Facts.available),
    ("44", "funding", _no("For the paper.")),
)


def checklist(subject: Subject, origin: Origin) -> Section:
    """Return the section with both checklists, filled in as far as this report goes.

    Args:
        subject: What the report is about.
        origin: Where it comes from.
    """
    facts = Facts(subject, origin)
    filled = {
        title: [(item, topic, *answer(facts)) for item, topic, answer in rows]
        for title, rows in (("TRIPOD+AI (2024)", TRIPOD), ("CLAIM (2024 update)", CLAIM))
    }
    counts = [
        f"{title}: {sum(row[2] == REPORTED for row in rows)} of {len(rows)} reported, "
        f"{sum(row[2] == PARTLY for row in rows)} partly, "
        f"{sum(row[2] == MISSING for row in rows)} not"
        for title, rows in filled.items()
    ]
    return Section(
        "checklist",
        "Checklists of reporting",
        said=[
            "What a paper on this model would have to report, and what of it stands on this page. Nothing is "
            f"ticked that nobody wrote. {'; '.join(counts)}."
        ],
        checklist=filled,
        notes=["Items are given in short, in our own words; the statements themselves are what counts."],
    )

"""`calib review`: which predictions may pass and which a person must look at, with what is guaranteed."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib import __version__
from calib.commands.machine import answered
from calib.commands.out_files import check_out
from calib.commands.shared_arguments import check_read
from calib.core.errors import meant_run
from calib.core.text import few, printable
from calib.data.chosen_shots import strategies_of
from calib.data.judged import CLASSES, SOURCES, UNLIKE, Judged, read_judged
from calib.data.mapping import check_format
from calib.data.review_file import ReviewFile, check_fits, write_decided
from calib.failure.export import FailureHead
from calib.posthoc.decisions import Decisions
from calib.posthoc.not_drawn import not_drawn
from calib.posthoc.review import ReviewThreshold
from calib.posthoc.review_counts import CurvePoint
from calib.posthoc.review_words import NONE_WRONG, percent, result_of
from calib.prompts.export import Prompt
from calib.report.tables import aligned
from calib.runs.decisions import export_of, is_export, judged_on_validation, keep_decisions
from calib.runs.exports import load

DEFAULT = "review.json"
DRY = "Nothing was kept (--dry-run). Choose before looking: a threshold tried until it pleases promises less."
SHOWN = 10  # points of the curve in the table
OF_FILES = ("doubt", "kind", "classes", "label", "group")  # options that say how a file is read
NOT_LOOKED_AT = (
    "Which of these cases are unlike the shots was not looked at: calib predict sends such ones to review, "
    "too."
)
ONE_EACH = (
    "No column says whose a case is, so each counts as a patient of its own. Where several are of one, too "
    "much is accepted: add a column patient (calib predict --patients HOW), or name it (--group COLUMN)."
)
OF_PROMPT, OF_HEAD = ("confidence", CLASSES), ("uncertainty",)  # where their own doubt stands in a table


def fit_review(
    judged: Judged,
    threshold: ReviewThreshold,
    *,
    unlabelled: Tensor | None = None,
    what: str = "cases",
    chosen: Mapping[str, int] | None = None,
) -> tuple[ReviewThreshold, str]:
    """Return a threshold fitted to the labelled rows, and what is said about it.

    Args:
        judged: Doubts and outcomes. From rows without an outcome, where there are any, thresholds are taken.
        threshold: Not fitted.
        unlabelled: (M,) doubts of further cases. None: there are none.
        what: What the rows are, for the text.
        chosen: By which strategies they were chosen. None: they were drawn.

    Raises:
        ValueError: Nothing is labelled, or a doubt is NaN.
    """
    rows, groups = judged.labelled, None
    open_rows = ~rows
    if judged.groups is not None:
        groups = [name for name, labelled in zip(judged.groups, rows.tolist(), strict=True) if labelled]
        known = set(groups)
        half = torch.tensor([name in known for name in judged.groups]) & ~rows
        _check_whole_patients(judged, half, threshold)
        open_rows &= ~half  # what belongs to a labelled patient is no further case
    parts = [judged.doubt[open_rows], *([] if unlabelled is None else [unlabelled])]
    others = torch.cat(parts) if any(map(len, parts)) else None
    failure = judged.failure[rows]
    threshold.fit(judged.doubt[rows], failure, groups=groups, unlabelled=others, chosen=chosen or {})
    lines = [f"{title + ':':8} {said}" for title, said in result_of(threshold)]
    lines += ["", _heading(judged, threshold, int(failure.sum()), what), "", _table(threshold), ""]
    # where nothing is achievable the first lines say why
    promised = [threshold.guarantee] if threshold.achievable else [not_drawn(threshold.chosen)]
    lines += [f"- {each}" for each in (*promised, *_notes(judged, failure)) if each]
    return threshold, "\n".join(lines).rstrip()


def _check_whole_patients(judged: Judged, half: Tensor, threshold: ReviewThreshold) -> None:
    """Refuse to say of a patient that none of their cases is wrong, where some were not looked at."""
    assert judged.groups is not None
    if threshold.rule == "batch" or threshold.patients == "one" or not bool(half.any()):
        return
    names = sorted({name for name, is_half in zip(judged.groups, half.tolist(), strict=True) if is_half})
    raise ValueError(
        f"Of {len(names)} patients some cases have a label and others none ({few(names)}): whether one of "
        "theirs that is accepted is wrong is not known. Label every case of the patients drawn, or count one "
        "case of each: patients=one."
    )


def _heading(judged: Judged, fitted: ReviewThreshold, wrong: int, what: str) -> str:
    doubt = {
        CLASSES: "1 - the largest probability",
        "confidence": "1 - confidence",
    }.get(judged.source, f"the column {judged.source}" if judged.table else judged.source)
    patients = f" of {fitted.units} patients" if fitted.grouped else ""
    others = f"; thresholds from {fitted.unlabelled} unlabelled ones" if fitted.unlabelled else ""
    return f"Doubt: {doubt}. {fitted.cases} labelled {what}{patients}, {wrong} predicted wrongly{others}."


def _notes(judged: Judged, failure: Tensor) -> list[str]:
    """Return what a reader has to know of these labels."""
    notes, counts = [], Counter(judged.labels)
    if judged.groups is None and judged.table is not None:
        notes.append(ONE_EACH)
    if not bool(failure.any()):
        notes.append(NONE_WRONG)
    if bool(failure.all()):
        notes.append("Every prediction is wrong: nothing can be accepted.")
    missing = [name for name in judged.class_names or () if name not in counts]
    if counts and missing:
        notes.append(f"No labelled case is of class {few(missing)}: of such cases nothing is known.")
    elif len(counts) > 1 and len(set(counts.values())) == 1:
        notes.append(
            "There are equally many of every class, as they were drawn. Where classes are not, the error is "
            "another one: label cases as they come (--on FILE)."
        )
    return notes


def _table(fitted: ReviewThreshold) -> str:
    curve = [each for each in fitted.curve() if each.n]
    step = max(1, len(curve) // SHOWN)
    shown = curve[::-1][::step][::-1]
    if fitted.at is not None and all(each.threshold != fitted.at.threshold for each in shown):
        shown = sorted([*shown, fitted.at])
    units = "patients" if fitted.grouped else "accepted"
    head = ["threshold", "accepted", f"wrong of {units}", "error", "upper bound", "taken"]
    rows = [_row(each, each.threshold == fitted.threshold) for each in shown]
    note = (
        f"Each bound holds with {percent(1 - fitted.delta)}, at its own threshold: not for the best of all."
    )
    return f"{aligned(head, rows)}\n{note}"


def _row(each: CurvePoint, taken: bool) -> list[str]:
    at = "all" if each.threshold == float("inf") else f"{each.threshold:.6g}"
    counts = f"{each.wrong} of {each.n}"
    return [
        at,
        percent(each.accepted),
        counts,
        percent(each.error),
        percent(each.upper),
        "x" if taken else "",
    ]


def main(given: argparse.Namespace) -> int:
    """Run `calib review` with what `review_arguments` returned. Returns the exit status."""
    given.found = {}
    return answered(given.found, lambda: _run(given), as_json=given.json)


def _run(given: argparse.Namespace) -> int:
    if given.out is not None:
        check_out(Path(given.out), [given.source, given.on, given.unlabelled, given.apply])
    if given.source.lower().endswith(".json"):
        file = ReviewFile.load(given.source)
        return _apply(given, Decisions(review=file.review), _cases(given, (file.doubt,), file.class_names))
    threshold = ReviewThreshold(
        given.error,
        round(1 - given.confidence, 12),
        rule=given.rule,
        workload=given.workload,
        patients=given.patients,
        seed=given.seed,
    )
    return (_of_run if is_export(given.source) else _of_file)(given, threshold)


def _record(fitted: ReviewThreshold) -> dict[str, Any]:
    """Return a fitted threshold for machines."""
    return {
        "achievable": fitted.achievable,
        "threshold": fitted.threshold,
        "rule": fitted.rule,
        "cases": fitted.cases,
        "at": None if fitted.at is None else fitted.at._asdict(),
        "curve": [each._asdict() for each in fitted.curve() if each.n],
        "summary": fitted.summary,
        "guarantee": fitted.guarantee if fitted.achievable else None,
    }


def _of_run(given: argparse.Namespace, threshold: ReviewThreshold) -> int:
    path = export_of(given.source)
    export = load(path)
    assert isinstance(export, Prompt | FailureHead)
    allowed, names = OF_PROMPT if isinstance(export, Prompt) else OF_HEAD, export.class_names
    digest = export.doubt_digest()
    if given.out is not None and given.apply is None:
        raise ValueError(f"--out is for --apply: the threshold of a run is kept in {path}.")
    check_read(given, ("on", "unlabelled", "apply"), OF_FILES)
    cases = _cases(given, allowed, names)  # read before anything is kept
    judged, what = _judged(given, path, export, allowed)
    others = _unlabelled(given, allowed, names)
    chosen = strategies_of(export.training.get("chosen")) if what == "left-out shots" else None
    fitted, text = fit_review(judged, threshold, unlabelled=others, what=what, chosen=chosen)
    if what == "left-out shots":
        text = f"{text}\n- {_of_shots(path)}"
    known = export.decisions is not None and export.decisions.familiarity is not None
    looked_at = what == "validation images" or (judged.table is not None and UNLIKE in judged.table.header)
    _say(text if looked_at or not known else f"{text}\n- {NOT_LOOKED_AT}")
    about = {
        "calib": __version__,
        "on": what if given.on is None else Path(given.on).name,
        "rows": fitted.cases,
    }
    if given.dry_run:
        given.found |= {**_record(fitted), "on": about["on"]}
        _say(f"\n{DRY}")
        return 0
    decisions = keep_decisions(path, {"review": about}, fitted_for=digest, review=fitted)
    given.found |= {**_record(fitted), "on": about["on"], "kept": str(path)}
    earlier = export.decisions is not None and export.decisions.review is not None
    instead = ", in the place of an earlier threshold" if earlier else ""
    _say(f"\nKept in {path}{instead}: calib predict says accept or review.")
    return _apply(given, decisions, cases)


def _judged(
    given: argparse.Namespace, path: Path, export: Prompt | FailureHead, allowed: Sequence[str]
) -> tuple[Judged, str]:
    """Return what the threshold of a run is fitted on, and what it is called."""
    if given.on is not None:
        judged = _read(given, given.on, allowed, outcomes=True)
        check_fits(judged, export.class_names or None)
        return judged, "cases"
    where = {"weights": given.weights, "tokenizer": given.tokenizer}
    if isinstance(export, Prompt):
        return judged_on_validation(path, **where)
    from calib.commands.failure.validation import judged_by_head  # takes seconds to import

    return judged_by_head(path, **where), "validation images"


def _of_shots(path: Path) -> str:
    return (
        "The left-out shots are few (up to 72 nearly never suffice), and the calibration was fitted on them: "
        "take this as a hint. Better: calib predict writes a table; fill in a column label for some rows, "
        f"drawn at random, and: calib review {path.parent} --on TABLE"
    )


def _of_file(given: argparse.Namespace, threshold: ReviewThreshold) -> int:
    if not Path(given.source).exists():
        raise FileNotFoundError(f"There is no run and no file '{given.source}'.{meant_run(given.source)}")
    for name in ("on", "weights", "tokenizer"):
        if getattr(given, name) is not None:
            raise ValueError(f"--{name} is for runs: {given.source} is a file of doubts itself.")
    out = Path(DEFAULT if given.apply is not None or given.out is None else given.out)
    if out.suffix.lower() != ".json":
        raise ValueError(f"--out {out} must end in .json: it is the file of a threshold.")
    if out.exists():
        ReviewFile.load(out)  # nothing but an earlier threshold is replaced
    judged = _read(given, given.source, SOURCES, outcomes=True)
    allowed = (judged.source,)
    names = judged.class_names
    cases = _cases(given, allowed, names)  # read before anything is written
    others = _unlabelled(given, allowed, names)
    fitted, text = fit_review(judged, threshold, unlabelled=others)
    _say(text)
    about = {"calib": __version__, "on": Path(given.source).name, "rows": fitted.cases}
    if given.dry_run:
        given.found |= {**_record(fitted), "on": about["on"]}
        _say(f"\n{DRY}")
        return 0
    ReviewFile(fitted, judged.source, names, about).save(out)
    given.found |= {**_record(fitted), "on": about["on"], "written": str(out)}
    _say(f"\nWritten: {out}. Apply it: calib review {out} --apply FILE --out FILE")
    return _apply(given, Decisions(review=fitted), cases)


def _cases(given: argparse.Namespace, allowed: Sequence[str], names: Sequence[str] | None) -> Judged | None:
    """Return the cases to decide on, read and checked. None: there are none."""
    if given.apply is None:
        return None
    check_format(Path(given.apply), Path(given.out))
    found = _read(given, given.apply, allowed, outcomes=False)
    check_fits(found, None if names is None else list(names))
    return found


def _apply(given: argparse.Namespace, decisions: Decisions, cases: Judged | None) -> int:
    """Write the cases with their decisions, and say how many are accepted. Returns the exit status."""
    if cases is None:
        return 0
    out = Path(given.out)
    accepted = write_decided(cases, decisions, out)
    assert decisions.review is not None
    n, count = len(accepted), int(accepted.sum())
    given.found["applied"] = {"out": str(out), "cases": n, "accepted": count, "to_review": n - count}
    _say(f"{count} of {n} accepted, {n - count} to review, in {out}")
    sys.stderr.write(printable(f"{decisions.review.guarantee}\n"))
    return 0


def _unlabelled(
    given: argparse.Namespace, allowed: Sequence[str], names: Sequence[str] | None
) -> Tensor | None:
    if given.unlabelled is None:
        return None
    found = _read(given, given.unlabelled, allowed, outcomes=False)
    check_fits(found, None if names is None else list(names))
    return found.doubt


def _read(given: argparse.Namespace, path: str, allowed: Sequence[str], *, outcomes: bool) -> Judged:
    options: dict[str, Any] = {"kind": given.kind, "class_names": given.classes, "group": given.group}
    doubt = given.doubt if given.doubt in (None, *allowed) or outcomes else None
    return read_judged(
        path, outcomes=outcomes, doubt=doubt, allowed=allowed, label=given.label or "label", **options
    )


def _say(text: str) -> None:
    sys.stdout.write(printable(f"{text}\n"))

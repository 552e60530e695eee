"""`calib sets`: prediction sets with a stated coverage, of a run or of any model: fitted, or applied."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib import __version__
from calib.commands.calibrate import in_class_order
from calib.commands.machine import answered
from calib.commands.out_files import check_out, outputs_to_apply
from calib.commands.shared_arguments import check_read
from calib.core.text import few, printable
from calib.data.chosen_shots import strategies_of
from calib.data.outputs import Outputs, read_outputs
from calib.data.set_file import SetFile, strata_of
from calib.metrics.sets import summarize_sets
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.set_guarantee import percent
from calib.prompts.export import Prompt
from calib.report.tables import aligned
from calib.runs.decisions import is_export, keep_decisions
from calib.runs.exports import prompt_path
from calib.runs.set_cases import set_cases

DEFAULT = "sets.json"
BY_CLASS = "class"
SHOWN = 40  # thresholds in the table


def fit_sets(
    outputs: Outputs,
    *,
    by: str | None = None,
    shares: Mapping[str, float] | None = None,
    left_out: bool = False,
    chosen: Mapping[str, int] | None = None,
    **settings: Any,
) -> tuple[SetFile, str]:
    """Return prediction sets fitted to labelled outputs, and what is said about them.

    Args:
        outputs: With labels.
        by: "class" for a coverage of each class, or the column whose values tell cases apart. None: neither.
        shares: Every class and how often it occurs where the sets are used. None: as among the labels.
        left_out: Whether the outputs are of shots, each judged without it.
        chosen: By which strategies these were chosen. None: they were drawn.
        **settings: Those of PredictionSets.

    Raises:
        ValueError: Outputs, column or shares are not as above.
    """
    if outputs.labels is None:
        raise ValueError(f"{outputs.path} has no labels: nothing can be fitted.")
    column = None if by in (None, BY_CLASS) else by
    names = outputs.class_names
    probs = outputs.logits.softmax(dim=1)
    strata = None if column is None else strata_of(outputs, column)
    sets = PredictionSets(per_class=by == BY_CLASS, **settings)
    sets.fit(
        probs,
        outputs.labels,
        strata=strata,
        shares=None if shares is None else in_class_order(shares, names),
        groups=outputs.groups,
        left_out=left_out,
        chosen=chosen or {},
    )
    about = {"calib": __version__, "rows": len(probs), "kind": outputs.kind, "left_out": left_out}
    lines = [*_result(sets, sets(probs, strata)), "", _heading(outputs, left_out), ""]
    lines += [_thresholds(sets, names), "", "- " + sets.described(names, between="\n- ")]
    return SetFile(list(names), sets, column, about), "\n".join(lines)


def judged(file: SetFile, outputs: Outputs) -> str:
    """Return the table of fitted sets on other labelled outputs.

    Args:
        file: The sets.
        outputs: With labels, and the class names of the sets in their order.

    Raises:
        ValueError: There are no labels, or a stratum is missing or unknown.
    """
    assert outputs.labels is not None
    strata = None if file.by is None else strata_of(outputs, file.by)
    sets = file.sets(outputs.logits.softmax(dim=1), strata)
    found = summarize_sets(
        sets,
        outputs.labels,
        coverage=file.sets.coverage,
        class_names=file.class_names,
        groups=outputs.groups,
    )
    ends = found["intervals"]
    rows = [
        [
            "all",
            str(found["n"]),
            percent(found["coverage"]),
            _ends(ends["coverage"]),
            f"{found['mean_size']:.2f}",
        ]
    ]
    rows += [
        [
            row["name"],
            str(row["n"]),
            percent(row["coverage"]),
            _ends((row["low"], row["high"])),
            f"{row['mean_size']:.2f}",
        ]
        for row in found["per_class"]
        if row["n"]
    ]
    return "\n".join(
        [
            f"On {outputs.path}: coverage with 95 % intervals, and mean size of the sets.",
            "",
            aligned(["class", "cases", "coverage", "interval", "size"], rows),
            "",
            f"Classes differ from {percent(file.sets.coverage)} by {percent(found['class_gap'])} on average; "
            f"chance alone makes {percent(found['class_gap_by_chance'])}.",
            f"Sets hold {_sizes(sets, 'test cases')}",
        ]
    )


def _result(sets: PredictionSets, held: Tensor) -> list[str]:
    """Return what was found in two short lines: how large the sets are, and what coverage they have."""
    rows = sets.table()
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    full = sum(row["threshold"] is None for row in rows)
    sure = "on average" if sets.confidence is None else f"with a probability of {percent(sets.confidence)}"
    said = f"{percent(sets.coverage)} {sure}; of these very sets {_ends((low, high))} (95 %)"
    if full:
        some = "" if full == len(rows) else " of some kinds"
        said = f"too few calibration cases for {percent(sets.coverage)}: every class is in every set{some}"
    return [f"Sets:     {_sizes(held, 'calibration cases')}", f"Coverage: {said}"]


def _heading(outputs: Outputs, left_out: bool) -> str:
    assert outputs.labels is not None
    counts = torch.bincount(outputs.labels, minlength=len(outputs.class_names)).tolist()
    said = few([f"{name} {count}" for name, count in zip(outputs.class_names, counts, strict=True)], 12)
    groups = "" if outputs.groups is None else f" of {len(set(outputs.groups))} groups"
    what = "left-out shots" if left_out else "labelled rows"
    return f"{len(outputs.labels)} {what}{groups} ({said})."


def _thresholds(sets: PredictionSets, names: list[str]) -> str:
    rows = []
    for row in sets.table():
        where = [row["stratum"], None if row["label"] is None else names[row["label"]]]
        limit = "every class" if row["threshold"] is None else f"{row['threshold']:.6g}"
        name = ", ".join(part for part in where if part) or "all"
        rows.append([name, f"{row['cases']:.4g}", limit, _ends((row["low"], row["high"]))])
    left = len(rows) - SHOWN
    head = ["sets of", "cases", f"{sets.score} at most", "their coverage (95 %)"]
    return aligned(head, rows[:SHOWN]) + (f"\nand {left} more" if left > 0 else "")


def _sizes(sets: Tensor, what: str) -> str:
    sizes = sets.sum(dim=1)
    shares = {name: float((sizes == size).double().mean()) for name, size in (("empty", 0), ("single", 1))}
    return (
        f"{float(sizes.double().mean()):.2f} of {sets.shape[1]} classes on average; "
        f"{percent(shares['single'])} hold one, {percent(shares['empty'])} none ({len(sets)} {what})."
    )


def _ends(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def main(given: argparse.Namespace) -> int:
    """Run `calib sets` with what `sets_arguments` returned. Returns the exit status."""
    given.found = {}
    return answered(given.found, lambda: _run(given), as_json=given.json)


def _run(given: argparse.Namespace) -> int:
    say = sys.stdout.write
    if given.apply is not None:
        file = SetFile.load(given.source)
        outputs, out = outputs_to_apply(given, file.class_names)
        sets = file.apply(outputs, out)
        sizes = sets.sum(dim=1).double()
        given.found |= {"written": str(out), "cases": len(sets), "mean_size": float(sizes.mean())}
        say(printable(f"Sets hold {_sizes(sets, 'rows')} Written: {out}\n"))
        sys.stderr.write(printable(f"{file.sets.described(file.class_names)}\n"))
        return 0
    source = Path(given.source)
    return (_of_run if is_export(source) else _of_file)(given, source)


def _of_run(given: argparse.Namespace, source: Path) -> int:
    path = prompt_path(source)
    learned = Prompt.load(path)
    names, digest = learned.class_names, learned.doubt_digest()
    if given.out is not None:
        raise ValueError(f"--out is for files: the sets of a run are kept in {path}.")
    if given.classes is not None:
        raise ValueError("--classes: the classes are those of the run, in its order.")
    check_read(given, ("on", "test"))
    if given.by not in (None, BY_CLASS):
        raise ValueError(
            f"by={given.by}: images say nothing of such a column to calib predict. Fit on a file of outputs: "
            f"calib sets FILE by={given.by}."
        )
    if given.on is not None:
        if given.cases is not None:
            raise ValueError("cases= says which cases of the run; --on takes others: give one of them.")
        outputs, left_out = _read(given, given.on, names), False
    else:
        where = {"weights": given.weights, "tokenizer": given.tokenizer}
        outputs, left_out = set_cases(path, cases=given.cases, **where)
    test = None if given.test is None else _read(given, given.test, names)
    chosen = strategies_of(learned.training.get("chosen")) if left_out else None
    how = {"by": given.by, "shares": given.shares, "left_out": left_out, "chosen": chosen}
    file, text = fit_sets(outputs, **how, **given.asked)
    _say(text, None if test is None else judged(file, test))
    about = {**file.about, "on": _called(given, left_out)}
    keep_decisions(path, {"sets": about}, fitted_for=digest, sets=file.sets)
    given.found |= {**_record(file), "kept": str(path)}
    _say(f"\nKept in {path}: calib predict writes the set of every image.")
    return 0


def _record(file: SetFile) -> dict[str, Any]:
    """Return fitted sets for machines."""
    return {
        "coverage": file.sets.coverage,
        "score": file.sets.score,
        "class_names": list(file.class_names),
        "cases": file.about["rows"],
        "thresholds": file.sets.table(),
        "guarantee": file.sets.guarantee,
    }


def _called(given: argparse.Namespace, left_out: bool) -> str:
    if given.on is not None:
        return Path(given.on).name
    return "left-out shots" if left_out else "validation images"


def _of_file(given: argparse.Namespace, source: Path) -> int:
    for name in ("on", "weights", "tokenizer"):
        if getattr(given, name) is not None:
            raise ValueError(f"--{name} is for runs: {source} is a file of outputs itself.")
    if given.cases is not None:
        raise ValueError(f"cases= is for runs: {source} is a file of outputs itself.")
    out = Path(given.out or DEFAULT)
    check_out(out, [given.source, given.test])
    if out.suffix.lower() != ".json":
        raise ValueError(f"--out {out} must end in .json: it is the file of prediction sets.")
    if out.exists():
        SetFile.load(out)  # nothing but earlier sets are replaced
    outputs = _read(given, source, given.classes)
    test = None if given.test is None else _read(given, given.test, outputs.class_names)
    file, text = fit_sets(outputs, by=given.by, shares=given.shares, **given.asked)
    _say(text, None if test is None else judged(file, test))
    file.save(out)
    given.found |= {**_record(file), "written": str(out)}
    _say(f"\nWritten: {out}. Apply it: calib sets {out} --apply FILE --out FILE")
    return 0


def _read(given: argparse.Namespace, path: str | Path, names: list[str] | None) -> Outputs:
    return read_outputs(
        path, kind=given.kind, class_names=names, label=given.label or "label", group=given.group
    )


def _say(*texts: str | None) -> None:
    said = "\n\n".join(text for text in texts if text is not None)
    sys.stdout.write(printable(f"{said}\n"))

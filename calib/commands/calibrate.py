"""`calib calibrate`: fit a calibrator to labelled outputs of a run or of any model, or apply one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from calib import __version__
from calib.commands.calibrate_words import heading, held_out, table, verdict
from calib.commands.out_files import check_out, outputs_to_apply
from calib.commands.shared_arguments import check_read
from calib.core.errors import unknown_name
from calib.core.names import name_key
from calib.core.text import few, printable
from calib.data.mapping import OutputMapping
from calib.data.outputs import Outputs, of_predictions, read_outputs
from calib.io.tensors import is_kind
from calib.posthoc.choice import choose_calibrator
from calib.posthoc.registry import make_calibrator
from calib.posthoc.shares import check_shares, class_weights
from calib.prompts.export import KIND, Prompt
from calib.runs.exports import prompt_path
from calib.runs.folder import FILES
from calib.runs.validation import validation_predictions

DEFAULT = "calibrator.json"
LINEAR = ("temperature_prior",)  # candidates for a prompt's file: of the defaults, what is a map of logits


def calibrate(
    outputs: Outputs,
    *,
    method: str | None = None,
    candidates: Sequence[str] | None = None,
    shares: Mapping[str, float] | None = None,
    folds: int = 5,
    seed: int = 0,
    margin: float = 0.0,
    n_bins: int = 10,
) -> tuple[OutputMapping | None, str]:
    """Return the mapping fitted to labelled outputs, None where none helps, and what is said about it.

    Args:
        outputs: With labels.
        method: Fit this calibrator, whatever cross-validation says. None: the best one there, if any helps.
        candidates: Among which, as for `choose_calibrator`; with a method nobody asks.
        shares: Every class and how often it occurs where the mapping is used. None: as among the labels.
        folds: As for `choose_calibrator`.
        seed: Likewise.
        margin: Likewise.
        n_bins: Bins of the ECE shown.

    Raises:
        ValueError: Outputs or shares are not as above, or the calibrator cannot be fitted.
    """
    if outputs.labels is None:
        raise ValueError(f"{outputs.path} has no labels: nothing can be fitted.")
    logits, labels, names = outputs.logits, outputs.labels, outputs.class_names
    wanted = None if shares is None else in_class_order(shares, names)
    choice = choose_calibrator(
        logits,
        labels,
        candidates=candidates if method is None else [method],
        folds=folds,
        groups=outputs.groups,
        shares=wanted,
        seed=seed,
        margin=margin,
    )
    weights = class_weights(labels, len(names), wanted)
    lines = [heading(outputs, choice, wanted, n_bins), "", table(choice, method, labels, weights, n_bins)]
    lines += [f"{row.name}: {row.problem}" for row in choice.candidates.values() if row.problem]
    calibrator = choice.calibrator
    if method is not None and calibrator is None:
        calibrator = make_calibrator(method).fit(logits, labels, shares=wanted)
    lines += ["", verdict(choice, method)]
    if calibrator is None:
        return None, "\n".join(lines)
    about = {
        "calib": __version__,
        "rows": len(labels),
        "data": outputs.digest(),
        "kind": outputs.kind,
        "shares": None if wanted is None else dict(zip(names, wanted.tolist(), strict=True)),
        "chosen": "asked for" if method is not None else "cross-validation",
        "folds": choice.folds,
        "seed": seed,
        "cross_validated_nll": {name: row.nll for name, row in choice.candidates.items()},
    }
    return OutputMapping(list(names), calibrator, about), "\n".join(lines)


def in_class_order(shares: Mapping[str, float], class_names: Sequence[str]) -> Tensor:
    """Return the shares of the classes (C,), in their order.

    Raises:
        ValueError: A name is unknown, a class is missing, or they do not sum to 1.

    Example:
        >>> in_class_order({"b": 0.25, "a": 0.75}, ["a", "b"]).tolist()
        [0.75, 0.25]
    """
    known = {name_key(name) for name in class_names}
    for name in shares:
        if name_key(name) not in known:
            raise ValueError(f"shares: {unknown_name('class', name, class_names)}")
    by_key = {name_key(name): share for name, share in shares.items()}
    missing = [name for name in class_names if name_key(name) not in by_key]
    if missing or len(by_key) < len(shares):
        raise ValueError(f"The shares must name every class once; missing: {few(missing) or 'none'}.")
    try:
        return check_shares([by_key[name_key(name)] for name in class_names], len(class_names))
    except ValueError as error:
        raise ValueError(f"--shares: {error}") from error


def outputs_of(given: argparse.Namespace) -> Outputs:
    """Return the labelled outputs that the arguments of the command name.

    Raises:
        FileNotFoundError: A file, folder, or what it needs is not there.
        ValueError: It cannot be used; the message says why.
    """
    reading: dict[str, Any] = {"kind": given.kind, "label": given.label or "label", "group": given.group}
    source = Path(given.source)
    if not _is_run(source):
        for name in ("on", "weights", "tokenizer"):
            if getattr(given, name) is not None:
                raise ValueError(f"--{name} is for runs: {source} is a file of outputs itself.")
        return read_outputs(source, class_names=given.classes, **reading)
    if given.classes is not None:
        raise ValueError("--classes: the classes are those of the run, in its order.")
    check_read(given, ("on",))
    if given.on is not None:
        names = Prompt.load(prompt_path(source)).class_names
        return read_outputs(given.on, class_names=names, **reading)
    found = validation_predictions(source, weights=given.weights, tokenizer=given.tokenizer)
    return of_predictions(found, prompt_path(source))


def main(given: argparse.Namespace) -> int:
    """Run `calib calibrate` with what `calibrate_arguments` returned. Returns the exit status."""
    say = sys.stdout.write
    if given.apply is not None:
        mapping = OutputMapping.load(given.source)
        outputs, out = outputs_to_apply(given, mapping.class_names)
        probs = mapping.apply(outputs, out)
        say(f"{len(probs)} rows, calibrated by {mapping.calibrator.name}, in {out}\n")
        said = held_out(mapping, outputs, probs, label=given.label or "label")
        if said is not None:
            say(printable(f"\n{said}\n"))
        return 0
    out = Path(given.out or DEFAULT)
    into_prompt = out.suffix.lower() == ".safetensors"
    check_out(out, [given.source, given.on])
    if into_prompt and not _is_run(given.source):
        raise ValueError(
            f"--out {out}: a prompt is calibrated from a run folder, and {given.source} is none."
        )
    if not into_prompt and out.suffix.lower() != ".json":
        raise ValueError(
            f"--out {out} must end in .json, the file of a calibrator, or for a run in .safetensors: its "
            "prompt, calibrated."
        )
    outputs = outputs_of(given)
    _check_earlier(out, outputs)
    candidates = given.candidates
    mapping_found, text = calibrate(
        outputs,
        method=given.method,
        candidates=LINEAR if into_prompt and candidates is None else candidates,
        shares=given.shares,
        folds=given.folds,
        seed=given.seed,
        margin=given.margin,
        n_bins=given.bins,
    )
    say(printable(f"{text}\n"))
    if mapping_found is None:
        if out.exists():
            say(f"{out} is of an earlier fit, and was left as it was.\n")
        return 0
    name, linear = mapping_found.calibrator.name, mapping_found.calibrator.linear_map() is not None
    if into_prompt and linear:
        prompt = Prompt.load(prompt_path(given.source))
        prompt.mapped(mapping_found).save(out)
        say(f"Written: {out}, the prompt of {given.source} with {name} in it; use it as any export.\n")
        if prompt.decisions is not None and (prompt.decisions.review or prompt.decisions.sets):
            say("Its threshold and sets were left out: they are of other confidences. Fit them anew.\n")
        return 0
    if into_prompt:
        out = out.with_suffix(".json")
        _check_earlier(out, outputs)
        say(f"{name} is no linear map of logits, and a prompt's file holds nothing else: it gets its own.\n")
    mapping_found.save(out)
    say(f"Written: {out}. Apply it: calib calibrate {out} --apply FILE --out FILE\n")
    if _is_run(given.source) and linear:
        say("As a prompt for predict, evaluate and failure heads: the same with --out FILE.safetensors\n")
    return 0


def _is_run(source: str | Path) -> bool:
    """Return whether a path names a run, or a prompt's file whatever that is called."""
    path = Path(source)
    if path.is_dir() or path.name == FILES["prompt"].path:
        return True
    return path.suffix.lower() == ".safetensors" and path.is_file() and is_kind(path, KIND)


def _check_earlier(out: Path, outputs: Outputs) -> None:
    """Refuse to replace anything but an earlier fit to the same outputs."""
    if not out.exists():
        return
    if out.suffix.lower() == ".json":
        earlier = [OutputMapping.load(out)]
    else:
        calibration = Prompt.load(out).calibration
        earlier = [] if calibration is None else list(calibration.mappings)[-1:]
    if not earlier or earlier[0].about.get("data") != outputs.digest():
        what = "fitted to other outputs" if earlier else "a prompt that no outputs have calibrated"
        raise ValueError(f"{out} is {what}: name another file with --out, or remove it first.")

"""What `calib calibrate` says: of candidates, of the one taken, and of labelled rows it is applied to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from calib.core.binning import bin_indices, sum_by_bin
from calib.core.text import few
from calib.data.arrays import ARRAYS
from calib.data.labels import label_text
from calib.data.mapping import OutputMapping
from calib.data.output_tables import label_indices
from calib.data.outputs import Outputs, arrays_of_others, read_outputs
from calib.metrics import null_ece
from calib.posthoc.choice import NONE, Candidate, Choice, paired_error
from calib.posthoc.review_words import NONE_WRONG
from calib.report.tables import aligned

FEW = 10  # rows of a class, below which a note says so
N_BINS = 10  # of the ECE of rows a calibrator was applied to
DRAWS = 400  # sets of labels of which the chance ECE of weighted rows is the mean: right to about 2 % of it
_ROWS = 2**13  # rows whose draws are held at once
CHANCE = "in brackets what chance alone gives a calibrated model"


def weighted_ece(probs: Tensor, labels: Tensor, weights: Tensor, n_bins: int) -> float:
    """Return the ECE of rows that count differently; with equal weights it is the ECE.

    Args:
        probs: (N, C).
        labels: (N,).
        weights: (N,) at least 0.
        n_bins: Equally wide bins.

    Example:
        >>> probs, labels = torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])
        >>> weighted_ece(probs, labels, torch.tensor([1.5, 0.5]), 10)
        0.0
    """
    confidence, predictions = probs.max(dim=1)
    right = (predictions == labels).double() * weights
    bins = bin_indices(confidence.clamp_max(1), n_bins)  # a sum of shares may round to more than 1
    sums = sum_by_bin(bins, confidence * weights, right, n_bins)
    return float((sums.value_sums - sums.target_sums).abs().sum() / weights.sum())


def chance_ece(probs: Tensor, labels: Tensor, weights: Tensor, n_bins: int) -> float:
    """Return the `weighted_ece` that a perfectly calibrated model has on average, by chance.

    With equal weights it is `null_ece`. Else w_c is the weight of the rows of class c, their share where the
    model is used over that among the rows. Calibrated there, a row of probabilities p has among these rows
    the label c with probability q_c = (p_c / w_c) / sum_k (p_k / w_k), and the mean over 400 drawn sets of
    such labels, always the same ones, is returned.

    Args:
        probs: (N, C), rows sum to 1.
        labels: (N,), of which only the classes that occur are used.
        weights: (N,) at least 0, the same for all rows of a class.
        n_bins: Equally wide bins.

    Example:
        >>> probs, labels = torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])
        >>> round(chance_ece(probs, labels, torch.ones(2), 10), 4)
        0.2812
    """
    confidence, predictions = probs.max(dim=1)
    confidence = confidence.clamp_max(1)
    if bool((weights == weights[0]).all()):
        return float(null_ece(confidence, n_bins=n_bins))
    classes = torch.zeros(probs.shape[1], dtype=torch.float64)
    classes[labels] = weights.double()
    seen = classes > 0
    # A class that no row is of is never drawn; the least of numbers keeps a row of such classes alone.
    chances = torch.where(seen, probs.double().clamp_min(1e-30) / classes.where(seen, torch.ones(())), 0.0)
    bins = bin_indices(confidence, n_bins)
    generator = torch.Generator().manual_seed(0)
    gaps, total = torch.zeros(n_bins, DRAWS, dtype=torch.float64), torch.zeros(DRAWS, dtype=torch.float64)
    for start in range(0, len(probs), _ROWS):
        part = slice(start, start + _ROWS)
        drawn = torch.multinomial(chances[part], DRAWS, replacement=True, generator=generator)
        right = (drawn == predictions[part, None]).double()
        gaps.index_add_(0, bins[part], (right - confidence[part, None]) * classes[drawn])
        total += classes[drawn].sum(dim=0)
    return float((gaps.abs().sum(dim=0) / total).mean())


def heading(outputs: Outputs, choice: Choice, shares: Tensor | None, n_bins: int) -> str:
    """Return what the labelled rows are, and what a reader has to know of them.

    Args:
        outputs: With labels.
        choice: Made on them.
        shares: (C,) of the classes where the calibrator is used. None: as among the rows.
        n_bins: Of the ECE.
    """
    assert outputs.labels is not None
    counts = torch.bincount(outputs.labels, minlength=len(outputs.class_names)).tolist()
    said = few([f"{name} {count}" for name, count in zip(outputs.class_names, counts, strict=True)], 12)
    groups = "" if outputs.groups is None else f" of {len(set(outputs.groups))} groups"
    lines = [
        f"{len(outputs.labels)} labelled rows{groups} ({said}), cross-validated in {choice.folds} parts; ECE "
        f"with {n_bins} bins, {CHANCE}{'; rows weighted by the shares' if shares is not None else ''}."
    ]
    if bool((outputs.logits.argmax(dim=1) == outputs.labels).all()):
        lines.append(f"{NONE_WRONG} Calibration can only make such outputs surer.")
    scarce = [name for name, count in zip(outputs.class_names, counts, strict=True) if count < FEW]
    if scarce:
        lines.append(f"Fewer than {FEW} rows: {few(scarce, 12)}. What is said of these classes is uncertain.")
    if shares is None and 0 in counts:
        lines.append(
            "A class without rows is learned to be rare, as it is here. If it is not where the outputs are "
            "used, label some rows of it."
        )
    if shares is None and len(set(counts)) == 1:
        lines.append(
            "There are equally many rows of every class. If that is not so where the outputs are used, say "
            "how often each occurs (--shares): otherwise calibration can make probabilities worse there."
        )
    return "\n".join(lines)


def table(choice: Choice, method: str | None, labels: Tensor, weights: Tensor, n_bins: int) -> str:
    """Return the candidates in Markdown, each by its predictions of left-out rows.

    Args:
        choice: Of the candidates.
        method: The one that is taken whatever they are. None: the one chosen.
        labels: (N,).
        weights: (N,) of the rows.
        n_bins: Of the ECE.
    """
    taken = method or choice.name
    rows = []
    for row in choice.candidates.values():
        cells = ["n/a"] * 4
        if row.probs is not None and row.nll is not None:
            nll, ece, accuracy = _figures(row.probs, labels, weights, n_bins, nll=row.nll)
            cells = [nll, "" if row.name == NONE else _difference(row), ece, accuracy]
        rows.append([row.name, *cells, "x" if row.name == taken else ""])
    return aligned(["calibrator", "NLL", "minus none (± se)", "ECE % (chance)", "accuracy %", "taken"], rows)


def verdict(choice: Choice, method: str | None) -> str:
    """Return whether calibration helps, and whether by more than noise.

    Args:
        choice: Of the candidates.
        method: The one that was asked for. None: the best.
    """
    if method is None and choice.calibrator is None:
        return "No calibrator has a lower cross-validated NLL than none: leave the outputs as they are."
    taken = choice.candidates[method or choice.name]
    if method is None:
        said = f"{choice.name} has the lowest cross-validated NLL, lower than none"
        if not taken.within_noise:
            return f"{said}."
        return f"{said}, but within noise: by less than one standard error (--margin 1 asks for more)."
    helps = "lowers" if choice.calibrator is not None else "does not lower"
    noise = ", within noise (less than one standard error)" if taken.within_noise else ""
    return f"{method} was asked for; cross-validation says that it {helps} the NLL{noise}."


def held_out(mapping: OutputMapping, outputs: Outputs, probs: Tensor, *, label: str) -> str | None:
    """Return how outputs compare with their labels before and after calibration. None: none has a label.

    Rows without a label are left out.

    Args:
        mapping: What was applied.
        outputs: As they were read, their labels not looked at.
        probs: (N, C) calibrated.
        label: A table's column of labels.
    """
    try:
        found = _labels(outputs, label)
    except ValueError as error:  # they may be anything: nobody asked for them
        return f"Not compared with the labels: {error}"
    if found is None:
        return None
    rows, labels = found
    plain, groups = outputs.logits[rows], None
    if outputs.groups is not None and "" not in (named := [outputs.groups[i] for i in rows.tolist()]):
        groups = named
    ones = torch.ones(len(rows), dtype=torch.float64)
    before, after = plain.log_softmax(dim=1), probs[rows].log()
    losses = [-each.gather(1, labels[:, None])[:, 0] for each in (before, after)]
    shown = []
    for name, each, loss in (("before", before.exp(), losses[0]), ("after", probs[rows], losses[1])):
        nll, ece, accuracy = _figures(each, labels, ones, N_BINS, nll=float(loss.mean()))
        shown.append([name, accuracy, nll, ece])
    lines = [
        f"{len(rows)} labelled rows of {outputs.path.name}; ECE with {N_BINS} bins, {CHANCE}.",
        "",
        aligned(["calibration", "accuracy %", "NLL", "ECE % (chance)"], shown),
        "",
        _moved(losses[1] - losses[0], groups),
    ]
    own = replace(outputs, logits=plain, labels=labels)
    if mapping.about.get("data") == own.digest():
        lines.append("These are the rows it was fitted to: this says nothing of others. Take rows left out.")
    if mapping.about.get("shares"):
        lines.append("It was fitted for stated shares of the classes; here rows count as they come.")
    return "\n".join(lines)


def _moved(away: Tensor, groups: Sequence[str] | None) -> str:
    """Return the mean change of the NLL in a sentence."""
    mean = float(away.mean())
    if not bool(away.isfinite().all()):
        return "A label has probability 0: its NLL is infinite."
    error = paired_error(away, groups)
    if error is None:
        return f"NLL {mean:+.4f}: of one {'row' if groups is None else 'group'}, no spread is known."
    noise = ": within noise" if abs(mean) <= error else ""
    return f"NLL after minus before: {mean:+.4f} ± {error:.4f} (standard error), less is better{noise}."


def _labels(outputs: Outputs, label: str) -> tuple[Tensor, Tensor] | None:
    """Return which rows have a label, and these. None: no row has.

    Raises:
        ValueError: One is unknown.
    """
    source = outputs.table
    if source is None:
        arrays = arrays_of_others(outputs.path) if outputs.path.suffix.lower() in ARRAYS else None
        if arrays is not None and "labels" not in arrays:
            return None
        labels = read_outputs(outputs.path, kind=outputs.kind, class_names=outputs.class_names).labels
        assert labels is not None
        return torch.arange(len(labels)), labels
    if label not in source.header:
        return None
    cells = source.column(label)
    rows = [i for i, cell in enumerate(cells) if label_text(cell) is not None]
    if not rows:
        return None
    where = [source.where[i] for i in rows]
    return torch.tensor(rows), label_indices([cells[i] for i in rows], where, outputs.class_names)


def _figures(
    probs: Tensor, labels: Tensor, weights: Tensor, n_bins: int, *, nll: float
) -> tuple[str, str, str]:
    """Return NLL, ECE with that of chance, and accuracy as they stand in a table."""
    right = (probs.argmax(dim=1) == labels).double()
    ece, chance = (100 * of(probs, labels, weights, n_bins) for of in (weighted_ece, chance_ece))
    accuracy = 100 * float((right * weights).sum() / weights.sum())
    return f"{nll:.4f}", f"{ece:.1f} ({chance:.1f})", f"{accuracy:.1f}"


def _difference(row: Candidate) -> str:
    return f"{row.difference:+.4f} ± {row.standard_error:.4f}"

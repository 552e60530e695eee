"""`calib segment evaluate`: exported networks beside each other on images with masks, Dice against ACE."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.commands.segment.train import write_figures
from calib.core.text import few, printable
from calib.io.files import blocking_file, write_json, write_text
from calib.processes.devices import quickest_device
from calib.report.tables import aligned
from calib.report.unit_reliability import unit_reliability_values
from calib.runs.exports import segment_path
from calib.runs.folder import RunFolder
from calib.runs.marks import check_file
from calib.segmentation.evaluation import FALL, METRICS, Evaluated, evaluate
from calib.segmentation.export import Segmenter
from calib.segmentation.masks import MEAN
from calib.segmentation.tables import UNSPLIT, PixelTable, load_pixels
from calib.segmentation.words import TITLES, lean_in_words, means_in_words, results_text, shown

N_BINS = 20  # where a run does not say
log = logging.getLogger(__name__)


def compare(
    found: Mapping[str, Evaluated], *, n_resamples: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """Return every run's metrics with intervals, and its differences to the first run's, paired by image.

    Args:
        found: Name to what a run left on the same images, at least one.
        n_resamples: Bootstrap resamples, of groups where these are known.
        level: Coverage of the intervals.

    Raises:
        ValueError: The runs are of other images, masks, classes or bins.
    """
    first = next(iter(found.values()))
    settings: dict[str, Any] = {"n_resamples": n_resamples, "level": level}
    rows: dict[str, Any] = {}
    for name, each in found.items():
        rows[name] = each.metrics(**settings)
        if each is not first:
            rows[name]["fallen"] = [list(image) for image in each.fallen(first)]
            rows[name]["risen"] = len(first.fallen(each))
            differences = {metric: each.difference(first, MEAN, metric, **settings) for metric in METRICS}
            rows[name]["difference"] = {
                metric: None if at is None else [at.estimate, at.low, at.high]
                for metric, at in differences.items()
            }
    return rows


def comparison_text(rows: Mapping[str, Mapping[str, Any]], *, level: float = 0.95) -> str:
    """Return the table of `compare` of several runs: a line each, Dice beside the calibration errors."""
    first = next(iter(rows))
    head = ["run", *(f"{TITLES[metric]} %" for metric in METRICS), "pooled ACE %"]
    head += ["Dice minus first", "ACE minus first"]
    lines = []
    for name, row in rows.items():
        ends = row["intervals"][MEAN]
        cells = [shown(row[metric], ends[metric]) for metric in METRICS] + [shown(row["micro_ace"])]
        cells += [_difference(row, metric) for metric in ("dice", "ace")]
        lines.append([name, *cells])
    background, *others = rows[first]["classes"]
    note = (
        f"Of {others[0] if len(others) == 1 else f'all classes but {background}'}. "
        f"{means_in_words(rows[first], level)}; differences to the first run, {first}, are paired by image."
    )
    told = [_fallen(name, row, first) for name, row in rows.items() if row.get("fallen")]
    if not told:
        told = [f"The Dice of no image is more than {100 * FALL:g} points below {first}'s."]
    leans = [f"{name}: {line}" for name, row in rows.items() for line in lean_in_words(row).splitlines()]
    return "\n".join([f"{aligned(head, lines)}\n\n{note}", *told, *leans])


def _fallen(name: str, row: Mapping[str, Any], first: str) -> str:
    """Return which images a run has lost, which a mean hides."""
    images = [f"{image} {100 * before:.0f} → {100 * after:.0f} %" for image, before, after in row["fallen"]]
    return (
        f"{name}: the Dice of {len(images)} of {row['n']} images is more than {100 * FALL:g} points below "
        f"{first}'s ({few(images, 3)}), of {row['risen']} as much above. Look at them: a loss can unlearn a "
        "rare kind of image, and a mean does not show it."
    )


def main(given: argparse.Namespace) -> int:
    """Run `calib segment evaluate` with what `evaluate_arguments` returned. Returns the exit status."""
    out = None if given.out is None else RunFolder(given.out)
    if out is not None:
        blocking = blocking_file(out.path)
        if blocking is not None or (out.path.is_dir() and any(out.path.iterdir())):
            raise ValueError(f"--out {out.path} holds files, which are not replaced. Give a new folder.")
    paths = {_name(path, given.runs): segment_path(path) for path in given.runs}
    if len(paths) < len(given.runs):
        raise ValueError("A run is named twice, or two runs have one name.")
    found = _measured(paths, given) if given.data is not None else _stored(paths)
    rows = compare(found, n_resamples=given.resamples, level=given.level)
    if len(rows) == 1:
        name, row = next(iter(rows.items()))
        text = f"{name}\n\n{results_text(row, level=given.level)}"
    else:
        text = comparison_text(rows, level=given.level)
    if out is not None:
        _write(out, found, rows, text)
    sys.stdout.write(printable(f"{text}\n"))
    return 0


def _stored(paths: Mapping[str, Path]) -> dict[str, Evaluated]:
    """Return what runs left on their own test images."""
    found = {}
    for name, path in paths.items():
        folder = RunFolder(path.parent)
        stored = folder.image_sums
        check_file(stored, folder.mark)
        if not stored.is_file():
            raise FileNotFoundError(
                f"{path} has no test images of its own ({stored.name} is missing). Give images: --data ROOT."
            )
        found[name] = Evaluated.load(stored)
    return found


def _measured(paths: Mapping[str, Path], given: argparse.Namespace) -> dict[str, Evaluated]:
    """Return what networks leave on other images now; all have the bins of the first, or those asked for."""
    segmenters = {name: Segmenter.load(path) for name, path in paths.items()}
    first, *rest = segmenters.values()
    for name, other in zip([*paths][1:], rest, strict=True):
        if other.class_names != first.class_names:
            raise ValueError(
                f"'{next(iter(paths))}' knows the classes {few(first.class_names)}, and '{name}' "
                f"{few(other.class_names)}: judge them one at a time."
            )
    tables = {name: _table(segmenter, given) for name, segmenter in segmenters.items()}
    settings = first.about.get("config")
    own = settings.get("n_bins") if isinstance(settings, dict) else None
    n_bins = given.bins or (own if type(own) is int and own > 0 else N_BINS)
    found = {}
    for name, segmenter in segmenters.items():
        log.info("Measuring %s on %d images.", name, len(tables[name]))
        segmenter.network.to(quickest_device())
        found[name] = evaluate(segmenter, tables[name], n_bins=n_bins)
        segmenter.network.cpu()
    return found


def _table(segmenter: Segmenter, given: argparse.Namespace) -> PixelTable:
    columns = {key: getattr(given, key) for key in ("mask", "group") if getattr(given, key) is not None}
    tables = load_pixels(
        given.data,
        classes=segmenter.classes,
        table=given.table,
        columns=columns,
        allow_outside=given.allow_outside,
    )
    split = given.split or ("test" if "test" in tables else UNSPLIT)
    if split not in tables:
        raise ValueError(f"{given.data} has no split '{split}'; it has {few(list(tables))} (--split NAME).")
    return tables[split]


def _name(path: str, runs: list[str]) -> str:
    """Return what a run is called: its folder's name, or the whole path where these are not distinct."""
    short = [_short(each) for each in runs]
    return _short(path) if short.count(_short(path)) == 1 else path


def _short(path: str) -> str:
    found = Path(path).resolve()
    return found.parent.name if found.is_file() else found.name


def _difference(row: Mapping[str, Any], metric: str) -> str:
    if "difference" not in row:
        return ""
    at = row["difference"][metric]
    return "–" if at is None else f"{100 * at[0]:+.1f} [{100 * at[1]:+.1f}, {100 * at[2]:+.1f}]"


def _write(out: RunFolder, found: Mapping[str, Evaluated], rows: Mapping[str, Any], text: str) -> None:
    write_text(out.table, text + "\n")
    histograms = {
        run: {name: unit_reliability_values(bins) for name, bins in each.bins().items()}
        for run, each in found.items()
    }
    written = {run: {**row, "histogram": histograms[run]} for run, row in rows.items()}
    write_json(out.metrics, {"runs": written})
    for place, (run, each) in enumerate(found.items()):
        folder = out if len(found) == 1 else RunFolder(out.path / f"{place + 1}-{run.replace('/', '_')}")
        write_figures(each, folder)

"""What the folders of finished runs hold for a report, whatever they are runs of."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.config import DataConfig, EvaluateRun, ReportRun, load_config
from calib.core.text import safe_path
from calib.data import ImageTable
from calib.data.predictions import Predictions
from calib.data.specs import POOL
from calib.failure.evaluation import BASELINE
from calib.failure.export import FailureHead
from calib.io.files import read_json
from calib.io.tensors import is_kind, load_tensors
from calib.metrics.failure import aurc
from calib.posthoc.decisions import Decisions
from calib.posthoc.familiarity import Familiarity
from calib.prompts.export import Prompt
from calib.report.sections.provenance import Origin
from calib.report.subject import Review, Sets
from calib.runs.entries import Entry, find_entries, looked_at, method_of
from calib.runs.folder import RunFolder
from calib.runs.from_exports import own_data_of
from calib.runs.identity import OWN_IMAGES, data_word
from calib.runs.origins import origin_of

log = logging.getLogger(__name__)
STACK = "doubt"  # what a failure run's own combination of scores is called
COMPARED = 4  # further scores beside the doubt and the confidence
ROUNDING = 1e-4  # of the largest logit: the same prompt on another processor


@dataclass
class Material:
    """What a report is made of, wherever it was found.

    Attributes:
        by_method: Method to seed to predictions.
        main: The method that is reported.
        origin: Where its predictions come from.
        data: Where the images are. None: not known.
        called: What the folder or table of one's own images is called. None: the data have a name already.
        split: Of which split they are.
        review: A review threshold. None: there is none.
        sets: Prediction sets. None: there are none.
        familiarity: Which images the threshold never accepts. None: nobody knows.
        doubt: (N,) of the reported predictions. None: 1 - confidence.
        doubt_name: What it is called.
        others: Further scores by name.
        why: (N,) reasons.
        images: The images themselves, where they were read before. None: they are looked for.
    """

    by_method: Mapping[str, Mapping[int, Predictions]]
    main: str
    origin: Origin = field(default_factory=Origin)
    data: DataConfig | None = None
    called: str | None = None
    split: str = "test"
    review: Review | None = None
    sets: Sets | None = None
    familiarity: Familiarity | None = None
    doubt: Tensor | None = None
    doubt_name: str = "1 - confidence"
    others: Mapping[str, Tensor] = field(default_factory=dict)
    why: Sequence[str] | None = None
    images: ImageTable | None = None


def material_of(config: ReportRun, *, tested: bool = True) -> Material:
    """Return what the folders that the settings name hold for a report.

    Args:
        config: The settings.
        tested: Whether predictions on test images are needed; else a run may lack them.

    Raises:
        FileNotFoundError: A run is not there.
        ValueError: The runs cannot stand in one report, or a file is damaged.
    """
    if not config.runs:
        raise ValueError("Nothing to report: name run folders, or the folder of an evaluation.")
    files = _prediction_files(config)
    if files:
        return _of_files(files, config)
    folders = [RunFolder(run) for run in config.runs]
    alone = [each for each in folders if each.failure.is_file() or each.evaluation.is_file()]
    if alone and len(folders) > 1:
        raise ValueError(
            f"'{alone[0].path}' holds a failure run or an evaluation, which is reported alone: name one "
            "folder."
        )
    if not alone:
        return _of_prompts(config, tested)
    if folders[0].failure.is_file():
        return _of_failure(folders[0], config)
    return _of_evaluation(folders[0], config)


def _prediction_files(config: ReportRun) -> list[Path]:
    """Return the files of predictions that are named, none where runs are; refuse both, and other files."""
    files = [Path(run) for run in config.runs if Path(run).is_file()]
    for file in files:
        if file.suffix != ".safetensors":
            raise ValueError(
                f"'{file}' cannot be reported: RUN must be a run folder, the folder of an evaluation, or a "
                "predictions.safetensors. Any other model's outputs are reported from Python: "
                "calib.report(calib.Predictions(...), 'report.html')."
            )
    found = [file for file in files if is_kind(file, "predictions")]
    if found and len(found) < len(config.runs):
        raise ValueError(f"'{found[0]}' is a file of predictions: name such files alone, or run folders.")
    return found


def _of_files(files: Sequence[Path], config: ReportRun) -> Material:
    """Return what files of predictions hold: each method and seed."""
    by_method: dict[str, dict[int, Predictions]] = {}
    for file in files:
        each = Predictions.load(file)
        method, seed = str(each.about.get("method") or file.stem), int(each.about.get("seed") or 0)
        if seed in by_method.setdefault(method, {}):
            raise ValueError(f"'{file}' is a second file of '{method}' with seed {seed}: name one of them.")
        by_method[method][seed] = each
    return Material(by_method, next(iter(by_method)), data=config.data if config.data.name else None)


def _of_prompts(config: ReportRun, tested: bool) -> Material:
    """Return what finished runs of prompts hold: each method and seed, its baselines and its bare prompt."""
    found = find_entries(EvaluateRun(runs=list(config.runs), data=config.data), with_data=False)
    by_method: dict[str, dict[int, Predictions]] = {}
    for entry in found:
        path = RunFolder(entry.path.parent).predictions
        if not path.is_file():
            if not tested:
                continue
            other = "data.name=folder " if entry.own is not None and entry.own.name == POOL else ""
            raise ValueError(
                f"There are no predictions beside {entry.path}: the run has no test images, or the file was "
                f"taken out of its folder. Evaluate it first: calib evaluate {entry.path} {other}"
                "data.root=IMAGES out=FOLDER. Then: calib report FOLDER."
            )
        found_here = Predictions.load(path)
        if not is_said_by(entry.prompt, found_here):
            raise ValueError(
                f"{path} holds what another prompt said than {entry.path}. Evaluate this one first: calib "
                f"evaluate {entry.path} out=FOLDER. Then: calib report FOLDER."
            )
        by_method.setdefault(entry.method, {})[entry.seed] = found_here
    return replace(of_entry(looked_at(found), images=config.images), by_method=by_method)


def of_entry(entry: Entry, prompt: Prompt | None = None, *, images: bool = True) -> Material:
    """Return what the export of an evaluated prompt adds to its predictions.

    Args:
        entry: The prompt, with its name in the tables.
        prompt: The same with its classes in the order of the predictions. None: it is in that order.
        images: Whether images are looked for; where they are not known, that is said, and there are none.
    """
    prompt = prompt or entry.prompt
    calibration = None if prompt.calibration is None else prompt.calibration.record()
    held: Any = prompt.decisions or Decisions()
    return Material(
        by_method={},
        main=entry.method,
        origin=origin_of(prompt.training, prompt.backbone, entry.path, calibration=calibration),
        data=_where(lambda: entry.data) if images else None,
        called=_called(lambda: entry.data),
        review=held.review,
        sets=held.sets,
        familiarity=held.familiarity,
    )


def _called(find: Callable[[], DataConfig | None]) -> str | None:
    """Return the name of the folder or table of one's own images. None: the data are called otherwise."""
    try:
        data = find()
    except ValueError:  # the export does not say which data
        return None
    return data_word(data) or None if data is not None and data.name in OWN_IMAGES else None


def _where(data: Callable[[], DataConfig | None]) -> DataConfig | None:
    """Return where images are. None: an export does not say, or would have to be asked for it."""
    try:
        return data()
    except ValueError as error:
        log.warning("There are no images: %s", error)
        return None


def _of_failure(folder: RunFolder, config: ReportRun) -> Material:
    """Return what a finished failure run holds: its predictions, its doubt, other scores, reasons."""
    folder.check_marks()
    written, head = folder.results(), FailureHead.load(folder.failure)
    tensors, _ = load_tensors(folder.uncertainties, kind="uncertainties")
    if "block" in tensors:
        raise ValueError(
            f"'{folder.path}' judges images by captions, other ones in every batch: there are no classes to "
            "report on. Its tables are in table.md."
        )
    predictions = Predictions.load(folder.predictions)
    scores = {
        name.removeprefix("uncertainty."): tensor.double()
        for name, tensor in tensors.items()
        if name.startswith("uncertainty.")
    }
    name = STACK if STACK in scores else str(written["head"])
    doubt = scores.pop(name)
    best = sorted(
        (each for each in scores if each != BASELINE),
        key=lambda each: float(aurc(scores[each], predictions.failure)),
    )
    shown = [each for each in (BASELINE, *best[:COMPARED]) if each in scores]
    prompt = Prompt.load(folder.prompt) if folder.prompt.is_file() else None
    own: Any = head.decisions or Decisions()
    theirs: Any = (None if prompt is None else prompt.decisions) or Decisions()
    method = str(predictions.about.get("method") or "model")
    if prompt is not None:  # as the report of the prompt's own run calls it
        method = method_of(prompt, method)
    backbone = head.backbone if prompt is None else prompt.backbone
    values = (head.training.get("config") or {}).get("data")
    data = None
    called = None
    if values is not None and values.get("name"):

        def found() -> DataConfig | None:
            return own_data_of(head, str(folder.failure), config.data)

        data, called = _where(found) if config.images else None, _called(found)
    return Material(
        by_method={method: {int(written["seed"]): predictions}},
        main=method,
        origin=origin_of(head.training, backbone, folder.failure),
        data=data,
        called=called,
        review=own.review,
        sets=own.sets or theirs.sets,
        familiarity=theirs.familiarity,
        doubt=doubt,
        doubt_name=name,
        others={each: scores[each] for each in shown},
        why=_reasons(folder, predictions),
    )


def _reasons(folder: RunFolder, predictions: Predictions) -> list[str] | None:
    """Return the reasons of a failure run in the order of its predictions. None: its table is not there."""
    if not folder.failures.is_file():
        return None
    with folder.failures.open(encoding="utf-8", newline="") as file:
        said = {row["name"]: row.get("why", "") for row in csv.DictReader(file)}
    found = [said.get(safe_path(name)) for name in predictions.names]
    return None if any(each is None for each in found) else [str(each) for each in found]


def _of_evaluation(folder: RunFolder, config: ReportRun) -> Material:
    """Return what the folder of an evaluation holds."""
    written = read_json(folder.metrics)
    files = written.get("files") if isinstance(written, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(
            f"'{folder.path}' is not a finished evaluation, or one of an older version that does not say "
            "which file is whose. Evaluate again: the report is then written with it."
        )
    by_method = {
        name: {
            int(seed): Predictions.load(folder.evaluated / f"{file}.safetensors")
            for seed, file in runs.items()
        }
        for name, runs in files.items()
    }
    main = next(iter(by_method))
    settings = load_config([str(folder.evaluation)], task="evaluate")
    settings.data = replace(settings.data, root=config.data.root or settings.data.root)
    try:
        entries = find_entries(settings, with_data=False)
    except (FileNotFoundError, ValueError) as error:  # the prompts have moved; the predictions are here
        log.warning("The prompts of '%s' are not at hand: %s", folder.path, error)
        return Material(by_method=by_method, main=main, split=settings.split)
    seed, said = min(by_method[main].items())
    same = (each for each in entries if each.seed == seed and is_said_by(each.prompt, said))
    entry = next(same, None)
    if entry is None:
        log.warning(
            "The prompts that '%s' names are others by now than those that it evaluated: the report says "
            "nothing of their settings, thresholds and sets. Evaluate them again: calib evaluate.",
            folder.path,
        )
        return Material(by_method=by_method, main=main, split=settings.split)
    known = of_entry(entry, entry.prompt.in_order(said.class_names), images=config.images)
    return replace(known, by_method=by_method, main=main, split=settings.split)


def is_said_by(prompt: Prompt, found: Predictions) -> bool:
    """Return whether predictions are what a prompt says of their images, but for rounding.

    Args:
        prompt: The prompt.
        found: The predictions, with the features of their images.
    """
    try:
        own = prompt.in_order(found.class_names).logits(found.image_features)
    except ValueError:  # of other classes, or of a backbone of another width
        return False
    return bool((own - found.logits).abs().max() <= ROUNDING * found.logits.abs().max().clamp_min(1))

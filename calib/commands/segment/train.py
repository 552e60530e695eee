"""`calib segment`: train a network on images and masks, and show Dice beside its calibration errors."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import seed_everything

from calib.config import SegmentRun, check_config, to_dict
from calib.core import ranks
from calib.core.optional import OPTIONAL
from calib.core.text import few, printable
from calib.io.files import MARK, write_json, write_text
from calib.losses import SEGMENTATION_PRESETS, Objective, resolve_terms
from calib.losses.registry import losses_in_words
from calib.processes.join import check_started
from calib.report.plots import save_figure
from calib.report.tables import csv_text
from calib.report.unit_reliability import MOST, unit_reliability_figure, unit_reliability_values
from calib.runs.folder import REUSED, RunFolder
from calib.runs.identity import run_name
from calib.runs.opening import check_same_data, opened
from calib.runs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers
from calib.segmentation.evaluation import Evaluated, evaluate
from calib.segmentation.export import Segmenter
from calib.segmentation.fit import fit_segmenter, with_temperature
from calib.segmentation.module import SegmentationModule
from calib.segmentation.network import build_network
from calib.segmentation.tables import UNSPLIT, PixelTable, load_pixels
from calib.segmentation.words import results_text, still_rising, what_to_try

CHECKPOINTS = 20  # per run
log = logging.getLogger(__name__)


def segment(config: SegmentRun) -> dict[str, Any]:
    """Run the whole job and return what it found and where things lie.

    Trains the network, exports it, measures it on the validation and test images at their own size, and
    writes everything to the run folder. An interrupted run of the same settings is continued; a finished one
    is read back. Several processes train and measure together; the first one decides what there is to do and
    writes.

    Args:
        config: The settings.

    Returns:
        {"test": metrics (absent without test images), "val": likewise, "folder": path, "segment": path of the
        export, "classes": names, "notes": what a reader has to know, "reused": whether nothing was trained}.

    Raises:
        FileNotFoundError: Images or masks are not there.
        ValueError: A setting, a mask or the data are not right, or MONAI is not installed.
        FloatingPointError: A loss became NaN or infinite.
    """
    check_config(config, SegmentRun)
    check_trainer(config.trainer)
    check_started(config.trainer)
    folder = RunFolder(config.out or Path("runs") / run_name(config))
    with opened(config, folder) as job:
        if job.finished:
            check_same_data(folder, lambda: data_record(tables_of(config)))
            if job.lacks_report():
                job.lock()
                _write_report(config, folder)
        else:
            OPTIONAL["segment"].check()
            tables = tables_of(config)
            objective = check_trainable(config, tables)
            record = ranks.decided(lambda: data_record(tables))  # reads every image and mask
            job.claim(record)
            _train(config, folder, objective, tables)
    return _results(config, folder, reused=job.finished)


def tables_of(config: SegmentRun) -> dict[str, PixelTable]:
    """Return the images of every split that a run's settings describe.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: They are not described, or there are none for training.
    """
    data = config.data
    if data.root is None:
        raise ValueError("Say where images and masks are: data.root=FOLDER (or a table), see --help.")
    tables = load_pixels(data.root, classes=data.classes, **data.options)
    if "train" not in tables:
        raise ValueError(
            f"{data.root} has no images for training (a split train): "
            + (
                "its folders images and masks have no splits. Make train/images and train/masks of them, and "
                "test/images, test/masks; or write a table with a column split."
                if UNSPLIT in tables
                else f"it has {few(list(tables))}."
            )
        )
    return tables


def data_record(tables: Mapping[str, PixelTable]) -> dict[str, Any]:
    """Return what split.json says about the data, once every image and mask could be read.

    Raises:
        ValueError: One cannot be read, its mask is of another size or has values that are no class, or a
            class has no pixel in the training masks.
    """
    found = {split: table.look() for split, table in tables.items()}
    classes = tables["train"].classes
    missing = [name for name, count in zip(classes.names, found["train"]["pixels"], strict=True) if not count]
    if missing:
        raise ValueError(
            f"No training mask has a pixel of {few(missing)}: nothing can be learned of it. Classes: "
            f"{classes.described()} (data.classes)."
        )
    named = {name: [*values] for name, values in zip(classes.names, classes.values, strict=True)}
    return {"classes": named, **{split: found.get(split) for split in ("train", "val", "test")}}


def check_trainable(config: SegmentRun, tables: Mapping[str, PixelTable]) -> Objective:
    """Return the losses, once all settings fit the images; no image is read and no file written.

    Raises:
        ValueError: Losses, network or size do not fit, MONAI is not installed, or a temperature is asked for
            without validation images.
    """
    objective = Objective(resolve_terms(config.preset, config.loss, SEGMENTATION_PRESETS))
    n_classes = len(tables["train"].classes.names)
    objective.try_on(n_classes)
    build_network(config.network.name, config.network.channels, n_classes, size=config.data.size)
    if config.calibrate != "none" and "val" not in tables:
        raise ValueError(
            "calibrate=temperature is fitted to validation images; there are none (a split val)."
        )
    return objective


def _train(
    config: SegmentRun, folder: RunFolder, objective: Objective, tables: Mapping[str, PixelTable]
) -> None:
    train, val = tables["train"], tables.get("val")
    log.info("Training on %d images of %s.", len(train), few(list(train.classes.names)))
    seed_everything(config.seed, workers=True, verbose=False)
    epochs = int(config.trainer.get("max_epochs") or CHECKPOINTS)
    with run_loggers(config, folder) as loggers:
        trainer = make_trainer(
            config,
            folder,
            loggers,
            validate=val is not None,
            every_n_epochs=max(1, epochs // CHECKPOINTS),
        )
        optim = config.optim
        segmenter = fit_segmenter(
            train,
            val,
            objective=objective,
            network=config.network.name,
            channels=config.network.channels,
            size=config.data.size,
            batch_size=config.data.batch_size,
            augment=config.data.augment,
            optimizer={name: getattr(optim, name) for name in ("name", "lr", "momentum", "weight_decay")},
            warmup_epochs=optim.warmup_epochs,
            warmup_lr=optim.warmup_lr,
            n_bins=config.n_bins,
            seed=config.seed,
            fit=lambda module, batches: fit(trainer, module, batches, folder=folder),
            about={"config": to_dict(config)},
        )
        segmenter.network.to(trainer.strategy.root_device)
        if config.calibrate == "temperature":
            assert val is not None  # checked by `check_trainable`
            segmenter = with_temperature(segmenter, val, seed=config.seed)
        module = trainer.lightning_module
        rising = isinstance(module, SegmentationModule) and still_rising(module.dice)
        written = _measure(config, segmenter, tables, folder, rising=rising)
        close_loggers(loggers, written.get("test", {}), folder)


def _measure(
    config: SegmentRun,
    segmenter: Segmenter,
    tables: Mapping[str, PixelTable],
    folder: RunFolder,
    *,
    rising: bool,
) -> dict[str, Any]:
    """Measure on validation and test images, write everything, and return what metrics.json says."""
    found = {
        split: evaluate(segmenter, tables[split], n_bins=config.n_bins)
        for split in ("val", "test")
        if split in tables
    }
    return ranks.decided(lambda: _write(config, segmenter, found, folder, rising=rising))


def _write(
    config: SegmentRun,
    segmenter: Segmenter,
    found: Mapping[str, Evaluated],
    folder: RunFolder,
    *,
    rising: bool,
) -> dict[str, Any]:
    segmenter.network.cpu()
    segmenter.save(folder.segment, run=folder.mark)
    settings: dict[str, Any] = {"n_resamples": config.n_resamples, "level": config.level}
    written = {
        "method": config.preset,
        "seed": config.seed,
        "data": Path(str(config.data.root)).name,
        "losses": segmenter.about["objective"],
        "temperature": segmenter.temperature,
        "still_rising": rising,
        "n_bins": config.n_bins,
        "level": config.level,
        **{split: each.metrics(**settings) for split, each in found.items()},
        MARK: folder.mark,
    }
    if "test" in found:
        found["test"].save(folder.image_sums, run=folder.mark)
        written["test"]["histogram"] = {
            name: unit_reliability_values(bins) for name, bins in found["test"].bins().items()
        }
    write_json(folder.metrics, written)
    _report_files(config, folder)
    return written


@ranks.by_first
def _write_report(config: SegmentRun, folder: RunFolder) -> None:
    _report_files(config, folder)


def _report_files(config: SegmentRun, folder: RunFolder) -> None:
    """Write the table of a finished run, and what is shown of its test images, from its other files."""
    write_text(folder.table, shown(config, folder.results()) + "\n")
    if folder.tested:
        write_figures(Evaluated.load(folder.image_sums), folder)


def write_figures(found: Evaluated, folder: RunFolder) -> None:
    """Write the dataset reliability histogram and the table of images of an evaluation."""
    panels = dict([*found.bins().items()][:MOST])
    save_figure(unit_reliability_figure(panels), folder.unit_reliability)
    head, rows = found.rows_of_images()
    write_text(folder.images_table, csv_text([head, *rows]))


def shown(config: SegmentRun, written: Mapping[str, Any]) -> str:
    """Return what a reader is shown of a finished run: the table of its test images, else of those of val.

    Args:
        config: The settings.
        written: What metrics.json says.
    """
    split = "test" if "test" in written else "val" if "val" in written else None
    losses = losses_in_words(written["losses"])
    head = f"{written['data']}, {config.network.name}, {written['method']} ({losses}), seed {config.seed}"
    if written["temperature"] != 1:
        head += f", temperature {written['temperature']:.3f}"
    if split is None:
        return f"{head}.\n\nThere are neither test nor validation images, so there are no results."
    images = "test images" if split == "test" else "validation images (there are no test images)"
    told = results_text(written[split], level=written["level"])
    return "\n".join(filter(None, (f"{head}: {images}.\n\n{told}", what_to_try(written, written[split]))))


@ranks.by_first
def _results(config: SegmentRun, folder: RunFolder, *, reused: bool) -> dict[str, Any]:
    written = folder.results()
    if not folder.segment.is_file():
        raise FileNotFoundError(f"There is no exported network at '{folder.segment}'.")
    return {
        **{split: written[split] for split in ("val", "test") if split in written},
        "text": shown(config, written),
        "folder": str(folder.path),
        "segment": str(folder.segment),
        "reused": reused,
    }


def main(config: SegmentRun) -> int:
    """Run `calib segment` and print the table. Returns the exit status."""
    started = time.monotonic()
    results = segment(config)
    say = sys.stdout.write
    say(printable(f"\n{results['text']}\n\n"))
    if results["reused"]:
        say(REUSED)
    else:
        say(f"Trained and evaluated in {time.monotonic() - started:.0f} s.\n")
    if "test" in results:
        figure = RunFolder(results["folder"]).unit_reliability
        say(f"Probability against share of pixels, image by image: {figure}\n")
    say(f"Network, ready for use: {results['segment']}\n")
    say(f"  calib segment predict {results['folder']} IMAGES --out FOLDER\n")
    return 0

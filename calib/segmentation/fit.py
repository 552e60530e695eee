"""A segmentation network learned in one call: no run folder, no settings file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning import Trainer

from calib.losses import SEGMENTATION_PRESETS, Objective, resolve_terms
from calib.losses.objective import Terms
from calib.posthoc.scaling import fit_temperature
from calib.segmentation.datamodule import PixelDataModule
from calib.segmentation.evaluation import pixels_for_calibration
from calib.segmentation.export import Segmenter
from calib.segmentation.module import SegmentationModule
from calib.segmentation.network import build_network
from calib.segmentation.tables import PixelTable
from calib.training.fit import fit_quietly, versions

ADAMW: Mapping[str, Any] = {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4}
Fit = Callable[[SegmentationModule, PixelDataModule], None]


def objective_of(objective: str | Terms) -> Objective:
    """Return the objective that a preset of segmentation, or losses with their settings, describe.

    Raises:
        ValueError: A preset, a loss or a setting is unknown.

    Example:
        >>> objective_of("dice-ce-ace-soft").weights
        {'dice': 1.0, 'ce': 1.0, 'ml1_ace': 1.0}
    """
    if isinstance(objective, str):
        return Objective(resolve_terms(objective, presets=SEGMENTATION_PRESETS))
    return Objective(objective)


def fit_segmenter(
    train: PixelTable,
    val: PixelTable | None = None,
    *,
    objective: str | Terms | Objective = "dice-ce",
    network: str = "unet",
    channels: Sequence[int] = (16, 32, 64, 128),
    size: int = 128,
    batch_size: int = 8,
    epochs: int = 50,
    augment: bool = True,
    optimizer: Mapping[str, Any] = ADAMW,
    warmup_epochs: int = 1,
    warmup_lr: float = 1e-5,
    n_bins: int = 20,
    calibrate: bool = False,
    seed: int = 1,
    trainer: Trainer | None = None,
    fit: Fit | None = None,
    about: Mapping[str, Any] | None = None,
) -> Segmenter:
    """Return a network trained on images with masks.

    Args:
        train: The training images.
        val: Images for curves, and for the temperature.
        objective: A preset (`calib.losses.SEGMENTATION_PRESETS`), losses by name, or an `Objective`.
        network: A key of `calib.segmentation.network.NETWORKS`.
        channels: Its widths.
        size: Side of the square that images are scaled to.
        batch_size: Images per step.
        epochs: Passes over the training images.
        augment: Whether images are turned and mirrored.
        optimizer: Arguments of `calib.training.optim.make_optimizer`.
        warmup_epochs: Epochs at `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        n_bins: Bins of the validation metrics.
        calibrate: Fit a temperature to pixels of `val` after the training.
        seed: Of weights, order and views.
        trainer: A trainer of the user's own. None: a silent one.
        fit: Trains module and batches, in the place of `trainer`.
        about: What the export says of itself.

    Raises:
        ValueError: A setting is not as above, a temperature is asked for without validation images, or these
            have other classes.
        FloatingPointError: A loss became NaN or infinite.
    """
    if calibrate and val is None:
        raise ValueError("A temperature is fitted to validation images; there are none (a split val).")
    terms = objective if isinstance(objective, Objective) else objective_of(objective)
    classes = train.classes
    if val is not None and val.classes != classes:
        raise ValueError(
            f"The validation masks have the classes {val.classes.described()}, those for training "
            f"{classes.described()}: load both with the same classes."
        )
    terms.try_on(len(classes.names))
    module = SegmentationModule(
        build_network(network, channels, len(classes.names), size=size, seed=seed),
        terms,
        classes.names,
        optimizer=optimizer,
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        n_bins=n_bins,
    )
    batches = PixelDataModule(train, val, size=size, batch_size=batch_size, seed=seed, augment=augment)
    if fit is not None:
        fit(module, batches)
    else:
        validation = None if val is None else batches.val_dataloader()
        fit_quietly(module, batches.train_dataloader(), validation, max_epochs=epochs, trainer=trainer)
    said = {"objective": terms.terms, "versions": versions(), **(about or {})}
    found = Segmenter(module.network.cpu(), network, [*channels], size, classes, about=said)
    if not calibrate:
        return found
    assert val is not None
    return with_temperature(found, val, seed=seed)


def with_temperature(segmenter: Segmenter, val: PixelTable, *, seed: int = 0) -> Segmenter:
    """Return the network with a temperature that is fitted to pixels of validation images; masks stay.

    Args:
        segmenter: The network, where it is to be computed.
        val: Images with masks that it was not trained on.
        seed: Of the draw of pixels.
    """
    bare = replace(segmenter, temperature=1.0)
    return replace(
        bare, temperature=fit_temperature(*pixels_for_calibration(bare, val, seed=seed))["temperature"]
    )

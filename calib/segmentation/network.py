"""The networks of segmentation, by name: small ones of MONAI, which is imported when one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from calib.core.checks import check_whole
from calib.core.errors import unknown_name
from calib.core.optional import OPTIONAL


def _unet(channels: Sequence[int], n_classes: int) -> nn.Module:
    # Normalised per image: a batch that several processes share is what one process would see.
    settings = {"channels": tuple(channels), "strides": (2,) * (len(channels) - 1), "num_res_units": 1}
    network: nn.Module = _monai("UNet")(spatial_dims=2, in_channels=3, out_channels=n_classes, **settings)
    return network


def _segresnet(channels: Sequence[int], n_classes: int) -> nn.Module:
    first = channels[0]
    if [*channels] != [first * 2**level for level in range(len(channels))] or first % 8:
        raise ValueError(
            "network.channels of segresnet must double from level to level and begin with a multiple of 8, "
            f"as [8,16,32], got {[*channels]}."
        )
    blocks = {"blocks_down": (1,) * len(channels), "blocks_up": (1,) * (len(channels) - 1)}
    network: nn.Module = _monai("SegResNet")(
        spatial_dims=2, init_filters=first, in_channels=3, out_channels=n_classes, **blocks
    )
    return network


NETWORKS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {"unet": _unet, "segresnet": _segresnet}


def build_network(
    name: str, channels: Sequence[int], n_classes: int, *, size: int, seed: int = 0
) -> nn.Module:
    """Return an untrained network, (B, 3, size, size) -> (B, C, size, size), that depends on the seed alone.

    Args:
        name: A key of `NETWORKS`.
        channels: Width of each level; from one to the next the image is halved.
        n_classes: C, at least 2.
        size: Side of the images.
        seed: Of the weights.

    Raises:
        ValueError: The name is unknown, or widths or size do not fit; MONAI is not installed.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    check_network(channels, size)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        return NETWORKS[name](channels, n_classes)


def check_network(channels: Sequence[int], size: int) -> None:
    """Refuse widths that are none, or a size that cannot be halved so often.

    Raises:
        ValueError: They are as described.

    Example:
        >>> check_network([8, 16, 32], 30)
        Traceback (most recent call last):
        ValueError: data.size must be a multiple of 4 for 3 levels of network.channels, got 30.
    """
    if len(channels) < 2:
        raise ValueError(f"network.channels must name at least 2 levels, got {[*channels]}.")
    check_whole(1, **{"network.channels": min(channels)})
    step = 2 ** (len(channels) - 1)
    if size % step or size < 2 * step:
        raise ValueError(
            f"data.size must be a multiple of {step} for {len(channels)} levels of network.channels, got "
            f"{size}."
            if size % step
            else f"data.size must be at least {2 * step} for {len(channels)} levels of network.channels."
        )


def _monai(name: str) -> Any:
    try:
        return getattr(import_module("monai.networks.nets"), name)
    except ImportError as error:
        raise ValueError(OPTIONAL["segment"].missing()) from error

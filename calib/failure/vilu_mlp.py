"""The MLP of the ViLU head: where the parts of its input lie, its layers, and its first layer folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from calib.core.errors import unknown_name
from calib.failure.vilu_inputs import Inputs

ACTIVATIONS = ("relu", "leaky_relu")
FOLD_FROM = 256  # rows from which the folded first layer is faster (measured on a CPU),
FOLD_RATIO = 4  # given at least this many rows per candidate


def slots_of(dim: int, *, use_attention: bool, concat: bool, use_predicted_caption: bool) -> dict[str, slice]:
    """Return which columns of the MLP's input each part takes; parts in one place are added.

    Args:
        dim: D.
        use_attention: As in `ViLU`.
        concat: As in `ViLU`.
        use_predicted_caption: As in `ViLU`.

    Example:
        >>> slots_of(4, use_attention=True, concat=False, use_predicted_caption=True)
        {'image': slice(0, 4, None), 'predicted': slice(4, 8, None), 'alternatives': slice(0, 4, None)}
    """
    beside = ["image", *["alternatives"] * (use_attention and concat), *["predicted"] * use_predicted_caption]
    slots = {name: slice(i * dim, (i + 1) * dim) for i, name in enumerate(beside)}
    if use_attention and not concat:
        slots["alternatives"] = slots["image"]  # v + z
    return slots


def join_parts(parts: Mapping[str, Tensor], slots: Mapping[str, slice]) -> Tensor:
    """Return the MLP's input: the parts (B, D) side by side, or added where they share their columns.

    Args:
        parts: From `Inputs.parts`.
        slots: From `slots_of`.
    """
    joined: dict[int, Tensor] = {}
    for name, slot in sorted(slots.items(), key=lambda item: item[1].start):
        start = slot.start
        joined[start] = joined[start] + parts[name] if start in joined else parts[name]
    return torch.cat([*joined.values()], dim=1)


def make_mlp(widths: Sequence[int], *, activation: str, negative_slope: float) -> nn.Sequential:
    """Return linear layers with an activation between each two.

    Args:
        widths: Of the input, the hidden layers and the output.
        activation: "relu" or "leaky_relu".
        negative_slope: Of leaky_relu.

    Raises:
        ValueError: Another activation.
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.ReLU() if activation == "relu" else nn.LeakyReLU(negative_slope)] if i else []
        layers.append(nn.Linear(widths[i], widths[i + 1]))
    return nn.Sequential(*layers)


def folding_pays(inputs: Inputs) -> bool:
    """Return whether `run_folded` is the faster way: many rows, and few candidates for them."""
    rows = len(inputs.image)
    return inputs.candidates is not None and FOLD_RATIO * len(inputs.candidates) <= rows >= FOLD_FROM


def run_folded(mlp: nn.Sequential, inputs: Inputs, slots: Mapping[str, slice]) -> Tensor:
    """Return the MLP's output (B,) with its first layer applied to the C texts instead of to B rows.

    The first layer is linear, so `W z = attention (W keys)` and `W t^ = (W t)[prediction]`: with few
    classes a third of a training step's work is gone. The same numbers up to rounding.

    Args:
        mlp: From `make_mlp`.
        inputs: What the head sees.
        slots: From `slots_of`.
    """
    first, *rest = mlp
    dim = inputs.image.shape[1]
    joined, bias = first.get_parameter("weight"), first.get_parameter("bias")
    pieces = joined.split(dim, dim=1)  # (H, D) each; slices would cost one (H, 3D) gradient each
    weight = {name: pieces[slot.start // dim] for name, slot in slots.items()}
    hidden = linear(inputs.image, weight["image"], bias)  # (B, H)
    if inputs.attention is not None and inputs.keys is not None:
        hidden = hidden + inputs.attention.to(hidden) @ linear(inputs.keys, weight["alternatives"])
    if inputs.predictions is not None and inputs.candidates is not None:
        hidden = hidden + linear(inputs.candidates, weight["predicted"])[inputs.predictions]
    for layer in rest:
        hidden = layer(hidden)
    return hidden.squeeze(1)

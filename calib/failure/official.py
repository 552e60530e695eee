"""Checkpoints of the ViLU repository: heads from them, read without running code, and heads for it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.failure.vilu import ViLU
from calib.io.archives import check_archive
from calib.io.files import atomic_path

PROJECTIONS = ("in_proj_v.weight", "in_proj_t.weight")


def load_official(head: ViLU, path: str | Path, *, keep_frozen: bool) -> ViLU:
    """Return the head with the weights of a checkpoint of the ViLU repository.

    Args:
        head: A head with the options of the stored one. It is changed.
        path: The `.ckpt` file. It is read without running code.
        keep_frozen: What it was trained with. The file does not say, and it decides whether the stored
            projections are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or unsafe, does not fit (names and shapes are listed), or the head is
            residual.

    Warns:
        UserWarning: `keep_frozen` and the stored projections contradict each other.
    """
    _refuse_residual(head)
    state = read_official(path)
    check_names_and_shapes(state, head.state_dict(), path)
    head.load_state_dict(state)
    head.freeze(keep_frozen)
    if head.options["use_attention"]:
        check_projections({name: state[name] for name in PROJECTIONS}, keep_frozen=keep_frozen, path=path)
    return head


def save_official(head: ViLU, path: str | Path, *, epoch: int = 0) -> None:
    """Write the weights of a head as the ViLU repository does, for its evaluation.

    Args:
        head: The head.
        path: The `.ckpt` file.
        epoch: What the file says about the length of the training.

    Raises:
        ValueError: The head is residual, which that layout cannot hold.
    """
    _refuse_residual(head)
    write_official(path, head.state_dict(), epoch=epoch)


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Return the `state_dict` of a checkpoint written by the ViLU repository.

    Nothing in the file is run: besides tensors and plain values only the four names are allowed that the
    training meter's numpy numbers need.

    Args:
        path: The `.ckpt` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds other Python objects, or has no state dict of finite tensors.

    Source: the published lvu_*.ckpt, github.com/ykrmm/ViLU, commit e4bf572.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        if not zipfile.is_zipfile(path):  # also keeps older torch from its unsafe reader of tar files
            raise ValueError("it is no zip archive, as torch.save writes them")
        check_archive(path)
        with torch.serialization.safe_globals(_meter_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Please file an issue")[0].strip()
        raise ValueError(
            f"{path} is refused: it holds Python objects that a ViLU checkpoint has not, and unpickling them "
            f"could run code. Nothing was run. PyTorch says: {reason}"
        ) from error
    except Exception as error:  # torch's readers raise errors of many types on damaged files
        raise ValueError(f"{path} cannot be read; it may be incomplete: {error}") from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a ViLU checkpoint: it has no 'state_dict' of tensors.")
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"{path}: {', '.join(broken)} hold NaN or infinite values.")
    return dict(state)


def write_official(path: str | Path, state: Mapping[str, Tensor], *, epoch: int = 0) -> None:
    """Write a state dict as the ViLU repository does, atomically.

    Args:
        path: The file.
        state: The head's tensors.
        epoch: What the file says about the length of the training.
    """
    # Clones, as torch.save would write the whole storage behind a view.
    tensors = {name: value.detach().cpu().clone() for name, value in state.items()}
    content = {"epoch": epoch, "train_meter": {}, "state_dict": tensors, "optimizer": {}, "scheduler": {}}
    with atomic_path(path) as part:
        torch.save(content, part)


def check_names_and_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path
) -> None:
    """Raise where a stored state does not fit a head, naming every tensor that does not.

    Args:
        state: Read from the file.
        expected: The head's own state dict.
        path: The file, for the message.

    Raises:
        ValueError: A tensor is missing, unexpected, or of another shape or kind.
    """
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} {tuple(state[name].shape)} is unexpected" for name in state if name not in expected]
    for name in expected.keys() & state.keys():
        stored, here = state[name], expected[name]
        if stored.shape != here.shape:
            problems.append(f"{name} is {tuple(stored.shape)} in the file and {tuple(here.shape)} here")
        elif stored.is_floating_point() != here.is_floating_point():
            problems.append(f"{name} is {stored.dtype} in the file and {here.dtype} here")
    if problems:
        raise ValueError(
            f"{path} does not fit this head (another width, or other options): {'; '.join(sorted(problems))}."
        )


def check_projections(weights: Mapping[str, Tensor], *, keep_frozen: bool, path: str | Path) -> None:
    """Warn where the stored projections and `keep_frozen` contradict each other; else do nothing.

    The release lets weight decay shrink frozen projections to `c I`, c below 1. That is harmless while they
    stay frozen and wrong afterwards, and the file does not say which it was.

    Args:
        weights: (D, D) each, by name.
        keep_frozen: How they are going to be used.
        path: The file, for the message.

    Warns:
        UserWarning: Decayed identities would be used, or trained projections would not be.
    """
    multiples = {name: _multiple_of_identity(weight) for name, weight in weights.items()}
    decayed = {name: c for name, c in multiples.items() if c is not None and abs(c - 1) > 1e-6}
    trained = [name for name, c in multiples.items() if c is None]
    if decayed and not keep_frozen:
        found = ", ".join(f"{name} = {c:.4g} I" for name, c in decayed.items())
        warnings.warn(
            f"{path}: {found}. These are identities that weight decay has shrunk: the head was trained with "
            f"keep_frozen=True, and its scores are wrong with False. Load it with keep_frozen=True.",
            stacklevel=3,
        )
    if trained and keep_frozen:
        warnings.warn(
            f"{path}: {', '.join(trained)} were trained, but keep_frozen=True leaves them unused. "
            f"Load it with keep_frozen=False.",
            stacklevel=3,
        )


def _refuse_residual(head: ViLU) -> None:
    if head.options["residual"]:
        raise ValueError("A residual head has no counterpart in the official layout: use residual=False.")


def _multiple_of_identity(weight: Tensor) -> float | None:
    """Return c where `weight = c I` up to rounding, else None."""
    diagonal = weight.diagonal()
    c = float(diagonal.mean())
    error = float((weight - c * torch.eye(len(weight)).to(weight)).abs().max())
    return c if error <= 1e-4 * abs(c) else None


def _meter_types() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    scalar = np.float64(0).__reduce__()[0]  # where numpy keeps it depends on its version
    return [np.dtype, np.dtypes.Float64DType, scalar, (scalar, "numpy.core.multiarray.scalar")]

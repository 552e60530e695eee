"""Finding and reading weight files: a folder, a file, or a model on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from calib.backbones.weights.torchscript import archive_root, read_torchscript
from calib.core.errors import meant_path
from calib.io.archives import check_archive
from calib.io.files import read_json

WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)
TOKENIZER_NAMES = ("tokenizer.json", "vocab.txt")
SIDE_NAMES = ("open_clip_config.json", "config.json", "tokenizer_config.json", *TOKENIZER_NAMES)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".json")
# What trainers put around a model, and so in front of its names. The first never stand in a model's own
# names, so they go wherever they are; the others where all names begin with them.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
PREFIXES = ("module.", "model.")
COUNTERS = ("n_averaged",)  # beside the names of an averaged model, `torch.optim.swa_utils.AveragedModel`
PIECE = 64 * 2**20  # bytes of a safetensors file that are mapped into memory at a time
RANDOM = "random"
HUB = "hf://"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFile:
    """Where weights were found.

    Args:
        path: The file to read.
        source: How to say it: as the user named it, with the revision of a hub model.
    """

    path: Path
    source: str

    @property
    def folder(self) -> Path:
        """Return the folder with the files beside the weights: configuration and tokenizer."""
        return self.path.parent


def find_weights(weights: str | Path, revision: str | None = None) -> WeightFile:
    """Return the weight file that a user named. The network is used for hub ids only.

    Args:
        weights: A file; a folder holding one of `WEIGHT_NAMES`; or a hub id, "hf://org/name" or "org/name".
        revision: Commit, tag or branch of a hub id. None takes the newest.

    Raises:
        FileNotFoundError: There is nothing of that name, or the folder holds no weights.
        ValueError: A revision was given for something that is not on the hub.
    """
    text = str(weights)
    path = Path(weights).expanduser()
    if on_hub(text):
        hub_id = text.removeprefix(HUB)
        folder = download(hub_id, revision)
        return WeightFile(_in_folder(folder), hub_source(hub_id, folder, revision))
    if revision is not None:
        raise ValueError(
            f"backbone.revision={revision} applies to a hub id such as hf://org/name, but "
            f"backbone.weights is {text!r}."
        )
    if os.path.isdir(path):  # which no name is too long for
        return WeightFile(_in_folder(path), text)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"No weights at {text!r}: neither a file nor a folder, and not a hub id (hf://org/name). Correct "
            f"backbone.weights (calib predict: --weights).{meant_path(path)}"
        )
    return WeightFile(path, text)


def hub_source(hub_id: str, folder: Path, revision: str | None) -> str:
    """Return how to say which files of the hub were read: with their commit, where the folder tells it.

    Args:
        hub_id: "org/name".
        folder: Where `download` put them.
        revision: What was asked for.

    Example:
        >>> hub_source("org/name", Path("snapshots") / ("0123456789" * 4), None)
        'hf://org/name@0123456789012345678901234567890123456789'
    """
    commit = folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else revision
    return f"{HUB}{hub_id}" + (f"@{commit}" if commit else "")


def on_hub(weights: str | Path) -> bool:
    """Return whether weights are looked for on the hub: "hf://org/name", and what can only mean that.

    "org/name" can only mean the hub where it has no file suffix and there is no folder "org" here.
    """
    text, path = str(weights), Path(weights).expanduser()
    if text.startswith(HUB):
        return True
    shape = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text)
    return bool(shape) and path.suffix not in WEIGHT_SUFFIXES and not os.path.exists(path.parent)


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHT_NAMES if os.path.isfile(folder / name)), None)
    if found is None:
        raise FileNotFoundError(f"No weights in {folder}: looked for {', '.join(WEIGHT_NAMES)}.")
    return found


def download(hub_id: str, revision: str | None = None, wanted: tuple[str, ...] = WEIGHT_NAMES) -> Path:
    """Return the local folder with the first of the wanted files of a hub model, and its configuration files.

    What is in the local cache is not loaded again.

    Args:
        hub_id: "org/name".
        revision: Commit, tag or branch. None takes the newest.
        wanted: File names in order of preference.

    Raises:
        FileNotFoundError: The hub cannot be reached or has none of the files.
    """
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError

    newest = "the newest revision; backbone.revision=COMMIT would pin it"
    logger.info("Looking for %s on the Hugging Face hub (%s).", hub_id, revision or newest)
    problem: Exception | None = None
    try:
        offered = list_repo_files(hub_id, revision=revision)
    except Exception as error:  # which one means "no network" depends on the version of the hub's client
        offered, problem = None, error

    def fetch(name: str) -> Path | None:
        if offered is not None and name not in offered:
            return None
        try:
            return Path(hf_hub_download(hub_id, name, revision=revision, local_files_only=offered is None))
        except EntryNotFoundError:
            return None

    found = next((path for name in wanted if (path := fetch(name))), None)
    if found is None:
        reason = (
            f"not in the local cache, and {problem}" if problem else f"none of {', '.join(wanted)} is there"
        )
        raise FileNotFoundError(
            f"Could not get {hub_id!r} from the Hugging Face hub: {reason}. Without a network, load the "
            "files elsewhere and give their folder: backbone.weights or backbone.tokenizer."
        ) from problem
    shards = sorted(set(_index(found).values())) if found.name.endswith(".index.json") else []
    for name in (*shards, *SIDE_NAMES):
        fetch(name)
    return found.parent


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name; no code of the file is ever run.

    Reads safetensors (also in shards, by their index), files of `torch.save`, and TorchScript archives.
    Training checkpoints are unpacked ("state_dict", "model"), and what trainers put in front of all names
    ("module.", "_orig_mod.") is taken off, in any order and however often.

    Args:
        path: The file; its content decides how it is read, not its name (except for a `.json` index).

    Raises:
        ValueError: The file is damaged, holds Python objects besides tensors, or holds no tensors.
    """
    path = Path(path)
    if path.suffix == ".json":
        shards = sorted(set(_index(path).values()))
        missing = [shard for shard in shards if not os.path.isfile(path.parent / shard)]
        if missing:
            raise FileNotFoundError(
                f"{path.parent / missing[0]} is missing: {path} names it as a part of it."
            )
        parts = [_read_safetensors(path.parent / shard) for shard in shards]
        return _unwrapped({name: tensor for part in parts for name, tensor in part.items()}, path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise
    except OSError as error:  # /proc/self/mem and its like are files, and can be opened
        system = " It is a file of the system, not one of weights." * path.resolve().is_relative_to("/proc")
        raise ValueError(f"{path} cannot be read as weights ({error.strerror}).{system}") from error
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its folder."
        )
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _unwrapped(_read_safetensors(path), path)
    try:
        root = archive_root(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read as weights; it may be incomplete: {error}") from error
    content = _read_torch(path) if root is None else _read_script(path, root)
    return _unwrapped(_state_dict(content, path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors, copied: what happens to the file later does not matter.

    It is mapped into memory piece by piece, so that no more than a piece of it is there beside them.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        before, names = _stamp(path), None
        while names is None or names:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())[::-1] if names is None else names
                room = PIECE
                while names and room > 0:
                    tensor = file.get_tensor(names[-1])
                    found[names.pop()] = tensor.clone()
                    room -= tensor.nbytes
                    del tensor  # with it the mapping ends
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}). Load it again.") from error
    if _stamp(path) != before:
        raise ValueError(f"{path} was changed while it was read. Try again when it is there whole.")
    return found


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells a file from another one that takes its name, and from itself after a change."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _index(path: Path) -> dict[str, str]:
    index = read_json(path)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise ValueError(f"{path} is not an index of weights: it has no weight_map.")
    parts = index["weight_map"]
    for part in parts.values():
        names = [PurePosixPath(str(part)).name, PureWindowsPath(str(part)).name]
        if names != [part, part] or part == "..":
            raise ValueError(f"{path} names the part {part!r}, which must be a file beside it.")
    return parts


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):  # files of old versions of torch are none, and have no checksums
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # torch's readers raise errors of many types on damaged files
        raise ValueError(
            f"{path} cannot be read as PyTorch weights; it may be incomplete: {error}"
        ) from error


def _read_script(path: Path, root: str) -> dict[str, Tensor]:
    try:
        check_archive(path, stored=False)
        return read_torchscript(path, root)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from error
    except Exception as error:  # pickle, zipfile and torch raise errors of many types on damaged files
        raise ValueError(
            f"{path} cannot be read as a TorchScript archive; it may be incomplete: {error}"
        ) from error


def _refusal(path: Path, error: Exception) -> str:
    reason = str(error).split("Please file an issue")[0].strip()
    return (
        f"{path} is refused: it holds Python objects besides tensors, and unpickling them could run code. "
        "Ask for a file with the state dict alone, best as safetensors, or make one if you trust the file: "
        "safetensors.torch.save_file(torch.load(path, weights_only=False)['state_dict'], 'new.safetensors'). "
        f"PyTorch says: {reason}"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(
            f"{path} holds no tensors; its entries are {', '.join(map(str, list(content)[:5]))}."
        )
    return state


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors under the model's own names, without those of what was around it."""
    names = {name: _without_wrappers(name) for name in state if name not in COUNTERS}
    while found := [prefix for prefix in PREFIXES if all(own.startswith(prefix) for own in names.values())]:
        if not names:
            break
        names = {name: own.removeprefix(found[0]) for name, own in names.items()}
    unwrapped: dict[str, Tensor] = {}
    for name, own in names.items():
        if own in unwrapped:
            raise ValueError(
                f"{path} holds '{own}' twice, once inside a wrapper: {name}. Save one of the two."
            )
        unwrapped[own] = state[name]
    return unwrapped


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)

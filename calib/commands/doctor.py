"""`calib doctor`: what is here, what is missing and how to get it: packages, devices, weights, services."""

from __future__ import annotations

import argparse
import importlib.metadata
import netrc
import os
import platform
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import calib
from calib.commands.doctor_words import words_of
from calib.commands.machine import to_json
from calib.config import DataConfig
from calib.core.errors import first_line
from calib.core.optional import OPTIONAL
from calib.core.text import printable, redacted

ON_HUB = re.compile(r"([\w.-]+/[\w.-]+) on the Hugging Face hub")
PACKAGED = ("cxr3", "lc25000")  # tasks whose features come with the package
SECONDS = 5.0  # to wait for the hub
WANDB_HOST = "api.wandb.ai"


def examined(*, network: bool = False) -> dict[str, Any]:
    """Return what was found, as JSON would have it; nothing is downloaded, written or changed.

    Args:
        network: Ask the Hugging Face hub whether it answers; else nothing is asked of any other machine.

    Returns:
        {"calib", "python", "system", "packages", "optional", "devices", "threads", "backbones", "caches",
        "wandb", "hub", "problems": sentences with what to do}.
    """
    problems: list[str] = []
    where = Path(calib.__file__).parent
    return {
        "calib": {
            "version": calib.__version__,
            "folder": str(where),
            "installed": _version("calib") is not None,
        },
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": _tried("packages", _packages, problems, []),
        "optional": [
            {"part": name, "what": part.what, "here": part.is_here(), "install": part.install}
            for name, part in OPTIONAL.items()
        ],
        "devices": _tried("torch", _devices, problems, []),
        "threads": _tried("torch", _threads, [], {}),
        "backbones": _tried("backbones", _backbones, problems, []),
        "caches": _caches(),
        "wandb": _wandb(),
        "hub": _hub(network),
        "problems": problems,
    }


def _tried(what: str, look: Callable[[list[str]], Any], problems: list[str], otherwise: Any) -> Any:
    """Return what a look finds; where it fails, that is a problem, and the other looks go on."""
    try:
        return look(problems)
    except Exception as error:  # of any type: what is broken is what is asked for
        problems.append(f"{what}: {type(error).__name__}: {first_line(error)}")
        return otherwise


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(problems: list[str]) -> list[dict[str, Any]]:
    """Return the packages that calib needs, with what is there; none where calib is not installed."""
    from packaging.requirements import Requirement

    found = []
    for line in (importlib.metadata.requires("calib") or ()) if _version("calib") else ():
        needs = Requirement(line)
        if needs.marker is not None and not needs.marker.evaluate({"extra": ""}):
            continue
        there = _version(needs.name)
        fits = there is not None and needs.specifier.contains(there, prereleases=True)
        found.append({"name": needs.name, "needs": str(needs.specifier), "version": there, "fits": fits})
        if not fits:
            what = "is missing" if there is None else f"is {there}"
            problems.append(f"{needs.name} {what}; needed is {needs.specifier}: pip install '{needs}'")
    return sorted(found, key=lambda each: each["name"].lower())


def _devices(_: list[str]) -> list[dict[str, Any]]:
    import torch

    from calib.backbones.fast.bf16 import bf16_is_fast

    fast = bf16_is_fast()
    found: list[dict[str, Any]] = [{"name": "cpu", "what": _processor(), "memory": None, "bf16": fast}]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        card = {"name": f"cuda:{number}", "what": about.name, "memory": about.total_memory}
        found.append({**card, "bf16": bf16_is_fast("cuda")})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "what": "Apple GPU", "memory": None, "bf16": None})
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _threads(_: list[str]) -> dict[str, Any]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CALIB_THREADS", "MKL_CBWR")
    return {
        "torch": str(torch.__version__),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "set": {name: os.environ[name] for name in names if name in os.environ},
    }


def _backbones(problems: list[str]) -> list[dict[str, Any]]:
    """Return every backbone with where its weights are; those that come with the package are read."""
    from calib.backbones import BACKBONES, medclip, named

    published = {**named.PUBLISHED, "medclip": medclip.PUBLISHED}
    found = []
    for name in BACKBONES:
        if name not in published:
            said = f"backbone {name}"
            built = _tried(said, partial(_build, name), problems, None)
            found.append({"name": name, "weights": "packaged", "found": built is not None, "get": ""})
            continue
        on_hub = ON_HUB.search(published[name])
        folder = None if on_hub is None else hub_folder(on_hub.group(1))
        get = (
            f"backbone.weights=hf://{on_hub.group(1)}"
            if on_hub
            else f"backbone.weights=FILE, published: {published[name]}"
        )
        found.append(
            {
                "name": name,
                "weights": None if folder is None else str(folder),
                "found": folder is not None,
                "get": get,
            }
        )
    for task in PACKAGED:
        _tried(f"packaged data {task}", partial(_load, task), problems, None)
    return found


def _build(name: str, _: list[str]) -> Any:
    from calib.backbones import create_backbone

    return create_backbone(name)


def _load(task: str, _: list[str]) -> Any:
    from calib.data import load_data

    return load_data(task)


def hub_folder(repository: str) -> Path | None:
    """Return the folder in the Hugging Face cache that holds a model's weights. None: there is none.

    Args:
        repository: "owner/name".
    """
    from huggingface_hub import constants

    from calib.backbones.weights.reading import WEIGHT_NAMES

    model = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    for snapshot in sorted((model / "snapshots").glob("*")):
        if any((snapshot / name).is_file() for name in WEIGHT_NAMES):
            return snapshot
    return None


def _caches() -> list[dict[str, Any]]:
    from huggingface_hub import constants

    places = {
        "image features": (Path(DataConfig().cache_dir), "calib cache --prune DAYS"),
        "Hugging Face": (Path(constants.HF_HUB_CACHE), "hf cache delete"),
    }
    return [
        {"what": what, "folder": str(folder), "bytes": _size(folder), "clear": clear}
        for what, (folder, clear) in places.items()
    ]


def _size(folder: Path) -> int | None:
    """Return the bytes in a folder. None: there is no such folder."""
    if not folder.is_dir():
        return None
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                total += 0 if path.is_symlink() else path.stat().st_size
            except OSError:  # removed meanwhile
                continue
    return total


def _wandb() -> dict[str, Any]:
    return {
        "version": _version("wandb"),
        "logged_in": bool(os.environ.get("WANDB_API_KEY")) or _in_netrc(),
        "mode": os.environ.get("WANDB_MODE"),
    }


def _in_netrc() -> bool:
    """Return whether W&B's key lies where `wandb login` puts it; it is not looked at."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _hub(network: bool) -> dict[str, Any]:
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    answers = reachable(constants.ENDPOINT) if network and not offline else None
    return {"endpoint": redacted(constants.ENDPOINT), "offline": offline, "reachable": answers}


def reachable(address: str) -> bool:
    """Return whether another machine answers at an address, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def main(argv: Sequence[str]) -> int:
    """Run `calib doctor`. Returns the exit status: 1 where something that is needed is missing or broken."""
    parser = argparse.ArgumentParser(
        prog="calib doctor",
        description="Say what is here, what is missing, and how to get it. Nothing is changed.",
    )
    parser.add_argument("--json", action="store_true", help="all of it as JSON on standard output")
    parser.add_argument(
        "--network",
        action="store_true",
        help="ask the Hugging Face hub whether it answers (else nobody is asked)",
    )
    given = parser.parse_args(argv)
    found = examined(network=given.network)
    text = to_json(found) if given.json else printable(words_of(found))
    sys.stdout.write(f"{text}\n")
    return int(bool(found["problems"]))

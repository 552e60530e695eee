"""Well signed files that say something else: what somebody can write who knows how our checksums are made."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz.mutations import ODD_VALUES, spoilt
from fuzz.subjects import Subject, again, exports, feature_files, outputs, plain, run_files, stated
from safetensors.torch import load

from calib.backbones import create_backbone, rebuild_backbone
from calib.config import DataConfig
from calib.data.features import FeatureTable
from calib.data.few_shot import FewShotSplit
from calib.data.mapping import OutputMapping
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead
from calib.io.files import check_sealed_text, sealed_text, write_json
from calib.io.tensors import save_tensors
from calib.prompts.export import Prompt
from calib.runs.from_exports import data_from_export, own_data

EVIL = (
    "/etc/passwd", "../../outside", "hf://evil/x", "evil/x", "hf-hub:evil/x", "open_clip:hf-hub:evil/x",
    "${oc.env:HOME}", "\x1b[2J\u202e", "m" * 5000, "local-dir:/etc", "/dev/zero", "C:\\x", "file:///etc/passwd",
    {"__reduce__": "os.system"}, "!!python/object/apply:os.system [id]", 10**9, -1, 0,
)  # fmt: skip
PLACES = (
    "cache_dir",
    "root",
    "name",
    "weights",
    "tokenizer",
    "revision",
    "encode_batch_size",
    "options",
    "method",
)


def rewritten(data: bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> bytes:
    """Return a safetensors file of ours with another record or tensors, and the checksum of these."""
    size = int.from_bytes(data[:8], "little")
    record = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["calib"])
    record.pop("calib_crc32", None)
    tensors = load(data)
    change(record, tensors)
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "x", tensors, record)
        return (Path(folder) / "x").read_bytes()


def sign_record(data: bytes, draw: random.Random) -> bytes:
    """Change a value in the record of a safetensors file, and sign it."""

    def change(record: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
        new = spoilt(record, draw)
        record.clear()
        record.update(new)

    return rewritten(data, change)


def sign_evil(data: bytes, draw: random.Random) -> bytes:
    """Put what somebody who means harm would at a place that says where something lies, and sign it."""

    def change(record: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
        places = [(inner, key) for inner in _dicts(record) for key in inner if key in PLACES]
        inner, key = draw.choice(places or [(record, draw.choice(list(record)))])
        inner[key] = draw.choice(EVIL)

    return rewritten(data, change)


def sign_tensor(data: bytes, draw: random.Random) -> bytes:
    """Change, cut, turn or retype a tensor, and sign it."""

    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        name = draw.choice(sorted(tensors))
        tensor = tensors[name]
        how = draw.choice(["value", "nan", "cut", "turn", "double", "remove", "scale"])
        if how == "value" and tensor.numel():
            tensor.reshape(-1)[draw.randrange(tensor.numel())] = draw.choice(
                [0, 1] if tensor.dtype == torch.uint8 else [0, 1, -1, 2**20]
            )
        elif how == "nan" and tensor.is_floating_point() and tensor.numel():
            tensor.reshape(-1)[0] = draw.choice([float("nan"), float("inf")])
        elif how == "cut":
            tensors[name] = tensor[:-1].clone() if tensor.dim() else tensor.reshape(1)
        elif how == "turn":
            tensors[name] = (
                tensor.T.contiguous() if tensor.dim() == 2 else tensor.flip(0) if tensor.dim() else tensor
            )
        elif how == "double":
            tensors[name] = tensor.double()
        elif how == "remove":
            del tensors[name]
        else:
            tensors[name] = tensor * 2

    return rewritten(data, change)


def sign_json(data: bytes, draw: random.Random) -> bytes:
    """Change a value of a JSON file of ours, and sign it."""
    value = json.loads(data)
    value.pop("calib_crc32", None)
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "x", _plain(spoilt(value, draw)))
        return (Path(folder) / "x").read_bytes()


def sign_lines(data: bytes, draw: random.Random) -> bytes:
    """Change a setting in a config.yaml, and seal it."""
    lines = data.decode().splitlines(keepends=True)[:-1]
    at = draw.randrange(len(lines))
    key, colon, _ = lines[at].partition(": ")
    value = draw.choice([*ODD_VALUES, *EVIL])
    lines[at] = f"{key}{colon}{json.dumps(value)}\n" if colon else ""
    return sealed_text("".join(lines)).encode()


def _dicts(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [
        *([value] if isinstance(value, dict) else []),
        *(found for each in inner for found in _dicts(each)),
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, dict) else {"x": value}


def used(path: Path) -> Any:
    """Return what a prompt says after it was used as `evaluate.py` and `calib predict` use one."""
    prompt = Prompt.load(path)
    own = own_data(prompt, str(path))
    if own is not None:
        data = data_from_export(own, DataConfig(name=""), (), source=str(path))
        if (data.cache_dir, data.encode_batch_size) != (
            DataConfig().cache_dir,
            DataConfig().encode_batch_size,
        ):
            raise AssertionError(f"the export decided about the cache: {data}")
    build = prompt.backbone.get("build", {"name": prompt.backbone["name"]})
    if build != BUILD:
        try:
            rebuild_backbone(build, parity=prompt.backbone.get("parity", {}))
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{path}: {error}") from error
    return again(Prompt.load)(path)


def _split_says(path: Path) -> Any:
    return plain(FewShotSplit.from_dict(json.loads(path.read_text()), [f"{i:064x}" for i in range(12)]))


def _metrics_say(path: Path) -> Any:
    return [json.loads(path.read_text()).get(key) for key in ("method", "seed", "test")]


def _mapping_again(path: Path) -> Any:
    """Return what saving a loaded calibrator writes: nothing is lost or made up."""
    OutputMapping.load(path).save(path.with_suffix(".again"))
    return _mapping_says(path.with_suffix(".again"))


def _mapping_says(path: Path) -> Any:
    record = json.loads(path.read_text())
    record.pop("calib_crc32", None)
    return record


BUILD = {"name": "embedded", "weights": None, "tokenizer": None, "revision": None, "preprocessing": "own"}


def subjects(folder: Path) -> list[Subject]:
    """Return the kinds of files that carry a checksum of ours, to be changed and signed again."""
    for name in ("exports", "features", "outputs", "runs"):
        (folder / name).mkdir()
    whole = exports(folder / "exports")[0].path
    prompt = Prompt.load(whole)
    prompt.backbone = {**create_backbone("embedded").describe(), "build": BUILD}
    assert prompt.decisions is not None
    prompt.decisions = prompt.decisions.bare()  # the rest would be for another doubt
    prompt.save(folder / "exports" / "used.safetensors")
    feature_files(folder / "features")
    outputs(folder / "outputs")
    maps = {name: folder / "outputs" / f"{name}.json" for name in ("svs", "isotonic")}
    ways = (sign_record, sign_record, sign_tensor)
    runs = {subject.kind: subject for subject in run_files(folder / "runs")}

    def sealed(path: Path) -> Any:
        check_sealed_text(path)
        return runs["config.yaml of a run"].read(path)

    at = {
        "prompt": whole,
        **{name: whole.with_name(f"{name}.safetensors") for name in ("calibrated", "failure", "predictions")},
    }
    readers = {
        "prompt": Prompt.load,
        "calibrated": Prompt.load,
        "failure": FailureHead.load,
        "predictions": Predictions.load,
    }
    return [
        *(Subject(f"{name}, signed", at[name], again(read), ways, stated) for name, read in readers.items()),
        Subject(
            "prompt, used", at["prompt"].with_name("used.safetensors"), used, (sign_evil, sign_record), stated
        ),
        Subject(
            "features, signed",
            folder / "features" / "features.safetensors",
            again(FeatureTable.load),
            ways,
            stated,
        ),
        *(
            Subject(f"{name}, signed", runs[name].path, runs[name].read, (sign_json,), says)
            for name, says in (("split.json", _split_says), ("metrics.json", _metrics_say))
        ),
        *(
            Subject(f"calibrator {name}, signed", path, _mapping_again, (sign_json,), _mapping_says)
            for name, path in maps.items()
        ),
        Subject(
            "config.yaml, sealed",
            runs["config.yaml of a run"].path,
            sealed,
            (sign_lines,),
            named=runs["config.yaml of a run"].named,
        ),
    ]

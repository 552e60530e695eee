"""Valid files of every kind that calib reads, and for each what reading it amounts to."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import torch
import yaml
from fake_backbone import FakeBackbone
from fuzz import mutations
from fuzz.mutations import Mutation
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import normalize

from calib import vqa
from calib.backbones.tokenization import bert_tokenizer, vocabulary_digest
from calib.backbones.weights.reading import read_weights
from calib.config import PromptRun, load_config, to_dict, to_yaml
from calib.core.names import name_key
from calib.data.embeddings import load_embeddings
from calib.data.encode import cache_features
from calib.data.features import FeatureTable
from calib.data.few_shot import FewShotSplit, few_shot_split
from calib.data.images import open_image
from calib.data.judged import read_judged
from calib.data.mapping import OutputMapping
from calib.data.outputs import read_outputs
from calib.data.predictions import Predictions
from calib.data.readers.folder import read_class_names
from calib.data.readers.hf import load_hf
from calib.data.readers.medmnist import load_medmnist
from calib.data.readers.table import load_table
from calib.data.records import FileSource, ImageTable
from calib.data.review_file import ReviewFile
from calib.data.set_file import SetFile
from calib.data.shot_list import ListedImage, ShotList, read_shot_list
from calib.data.task import Splits
from calib.failure.cases import FailureCases
from calib.failure.digests import text_digest
from calib.failure.doubt import PARTS
from calib.failure.doubt_fit import doubt_folds, fit_doubt
from calib.failure.export import FailureHead
from calib.failure.official import read_official, write_official
from calib.failure.vilu import ViLU
from calib.io.files import read_json, write_json
from calib.metrics import image_sums
from calib.posthoc import Decisions, Familiarity, PredictionSets, ReviewThreshold, make_calibrator
from calib.prompts.calibration import Calibration
from calib.prompts.export import Prompt
from calib.runs.folder import RunFolder
from calib.runs.last_state import read_checkpoint
from calib.runs.slices import read_slices
from calib.runs.trainer import resume_point
from calib.segmentation.evaluation import Evaluated
from calib.segmentation.export import Segmenter
from calib.segmentation.masks import MaskClasses
from calib.segmentation.network import build_network

ABOUT = {
    "name": "toy",
    "weights": {"source": "here", "digest": "a" * 64},
    "preprocessing": {"image_size": 8},
    "architecture": {"layers": 2},
    "parity": {},
}


@dataclass
class Subject:
    """A valid file, and how it is read.

    Attributes:
        kind: What it is, for the report.
        path: The file.
        read: Returns what reading it amounts to, or raises.
        mutations: Ways to spoil it.
        says: An independent reader of what a spoilt file says, for kinds that carry no checksum because
            people write them by hand or with other programs: another content that was read as it stands is
            not an error. None: anything but the original content must be refused.
        heals: Whether a damaged file is replaced instead of refused.
        named: What a message must name. Left out: the file.
        family: Kinds that may stand for each other.
    """

    kind: str
    path: Path
    read: Callable[[Path], Any]
    mutations: Sequence[Mutation]
    says: Callable[[Path], Any] | None = None
    heals: bool = False
    family: str = ""
    named: str = ""
    original: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.named = self.named or self.path.name
        self.original = self.path.read_bytes()


def plain(value: Any) -> Any:
    """Return a value as something that compares by content: tensors and arrays by type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return (str(value.dtype), tuple(value.shape), hashlib.sha256(raw).hexdigest())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest())
    if isinstance(value, Image.Image):
        return (value.mode, value.size, hashlib.sha256(value.tobytes()).hexdigest())
    if hasattr(value, "to_record") and not isinstance(value, type):
        return [plain(value.to_record()), plain(value.tensors()) if hasattr(value, "tensors") else None]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _prompt(folder: Path) -> Prompt:
    prompt = Prompt(
        text_features=unit(3, 8),
        class_names=["normal", "tumour, benign", "été"],
        logit_scale=math.log(20.0),
        backbone=ABOUT,
        context=torch.randn(4, 6, generator=torch.Generator().manual_seed(1)),
        prompt={"n_ctx": 4},
        training={"method": "coop", "seed": 3, "config": to_dict(PromptRun())},
    )
    prompt = replace(prompt, decisions=_decisions(prompt))
    prompt.save(folder / "prompt.safetensors")
    return prompt


def _decisions(export: Prompt | FailureHead) -> Decisions:
    """Return everything that an export may hold."""
    doubt, labels = torch.linspace(0, 0.75, 60).double(), torch.arange(12) % 3
    review = ReviewThreshold(0.1).fit(doubt, doubt > 0.625, groups=[f"p{row // 2}" for row in range(60)])
    sets = PredictionSets("lac", 0.75).fit(unit(12, 3).double().softmax(dim=1), labels)
    about = {"review": {"on": "validation images", "rows": 60}}
    return Decisions(review, sets, Familiarity().fit(unit(12, 8), labels), export.doubt_digest(), about)


def _calibrated(prompt: Prompt) -> Prompt:
    """Return a prompt with all that a calibration may hold."""
    names = prompt.class_names
    calibration = Calibration(
        weight=torch.randn(3, 8, generator=torch.Generator().manual_seed(2)),
        bias=torch.arange(3.0),
        method="experts",
        weights={"prompt": 0.2, "images": 0.05, "zero_shot": 0.4},
        tilt=dict(zip(names, (0.5, -0.25, 0.0), strict=True)),
        facts={"shots": 24, "left_out_nll": {"none": 0.6, "experts": 0.5}},
    )
    logits = torch.arange(24.0).reshape(8, 3).sin() * 4
    fitted = make_calibrator("vector").fit(logits, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    return replace(prompt, calibration=calibration).mapped(OutputMapping(names, fitted, {"rows": 8}))


def exports(folder: Path) -> list[Subject]:
    """Return prompt, calibrated prompt, failure head, predictions and a ViLU checkpoint."""
    prompt = _prompt(folder)
    _calibrated(prompt).save(folder / "calibrated.safetensors")
    head = ViLU(8, logit_scale=3.0, hidden=(5, 4), residual=True)
    means = {name: torch.zeros(8) for name in head.part_names} | {"confidence": torch.tensor(0.5)}
    labels = torch.arange(24) % 3
    texts = prompt.text_features
    noise = torch.randn(24, 8, generator=torch.Generator().manual_seed(2))
    seen = FailureCases.of(normalize(texts[labels] + 0.4 * noise, dim=1), labels, texts, logit_scale=3.0)
    doubt = fit_doubt(seen, doubt_folds(seen, 3), (*PARTS, "head"), texts, head=noise[:, 0])
    assert len(doubt.stack.names) == 5
    judge = FailureHead(head, texts, prompt.class_names, means, ABOUT, "b" * 64, {"seed": 1}, doubt=doubt)
    replace(judge, decisions=_decisions(judge)).save(folder / "failure.safetensors")
    Predictions(
        logits=torch.arange(12.0).reshape(4, 3),
        labels=torch.tensor([2, 1, 0, 2]),
        image_features=unit(4, 8),
        ids=[f"{i:064x}" for i in range(4)],
        names=[f"test/{i}.png" for i in range(4)],
        class_names=list(prompt.class_names),
        groups=["p1", "p1", "p2", "p3"],
        about={"method": "coop", "seed": 1},
    ).save(folder / "predictions.safetensors")
    write_official(folder / "lvu.ckpt", head.state_dict(), epoch=3)
    classes = MaskClasses(("rest", "cell"), ((0,), (1, 2)))
    network = build_network("unet", [4, 8], 2, size=16, seed=1)
    Segmenter(network, "unet", [4, 8], 16, classes, 1.5, {"seed": 1}).save(folder / "segment.safetensors")
    sums = image_sums(unit(2, 2, 3, 3).abs().clamp(0, 1), torch.arange(18).reshape(2, 3, 3) % 2, n_bins=3)
    Evaluated(sums, ["1.png", "2.png"], ["p1", "p2"], ["rest", "cell"]).save(folder / "sums.safetensors")
    ours, unsealed = mutations.SAFETENSORS, (mutations.edit_unsealed_record,)
    return [
        Subject("prompt", folder / "prompt.safetensors", Prompt.load, ours, family="p"),
        Subject("calibrated prompt", folder / "calibrated.safetensors", _calibrated_prompt, ours, family="p"),
        Subject("failure head", folder / "failure.safetensors", _failure, ours),
        Subject("predictions", folder / "predictions.safetensors", Predictions.load, ours),
        Subject("segmentation network", folder / "segment.safetensors", _segmenter, ours),
        Subject("image sums", folder / "sums.safetensors", Evaluated.load, ours),
        Subject("ViLU checkpoint", folder / "lvu.ckpt", read_official, mutations.BYTES),
        *(
            Subject(
                f"{kind}, record by others", folder / f"{name}.safetensors", again(read), unsealed, stated
            )
            for kind, name, read in (
                ("prompt", "prompt", Prompt.load),
                ("calibrated prompt", "calibrated", Prompt.load),
                ("failure head", "failure", FailureHead.load),
                ("predictions", "predictions", Predictions.load),
            )
        ),
    ]


def _calibrated_prompt(path: Path) -> Any:
    prompt = Prompt.load(path)
    assert prompt.calibration is not None
    kept = [*prompt.calibration.tensors().values(), prompt.calibration.record()]
    return [prompt.logits(unit(5, 8, seed=7)), kept, plain(replace(prompt, calibration=None))]


def _segmenter(path: Path) -> Any:
    loaded = Segmenter.load(path)
    return [loaded.network.state_dict(), loaded.classes, loaded.size, loaded.temperature, loaded.about]


def again(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a reader whose result is what saving the loaded thing writes: nothing is lost or made up."""

    def read(path: Path) -> Any:
        other = path.with_suffix(".again")
        load(path).save(other)
        return stated(other)

    return read


def stated(path: Path) -> Any:
    """Return record and tensors of a safetensors file as they stand there, by the library alone."""
    with safe_open(str(path), framework="pt") as file:
        record = json.loads((file.metadata() or {})["calib"])
        tensors = {name: plain(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    record.pop("calib_crc32", None)
    return record, tensors


def _failure(path: Path) -> Any:
    loaded = FailureHead.load(path)
    assert loaded.text_features is not None
    state = loaded.head.state_dict()
    about = [loaded.class_names, loaded.backbone, loaded.prompt, loaded.training]
    says = loaded.uncertainty(unit(5, 8, seed=7))
    return [says, state, text_digest(loaded.text_features), loaded.means, about]


def feature_files(folder: Path) -> list[Subject]:
    """Return a file of features, the cache that is made of them, and a part of an unfinished encoding."""
    for module in ("encode", "encoding_parts"):  # what is made anew is said, thousands of times
        logging.getLogger(f"calib.data.{module}").setLevel(logging.ERROR)
    paths = [_picture(folder / "images" / f"{number}.png", number) for number in range(6)]
    table = ImageTable(
        [FileSource(path) for path in paths], [0, 1, 2, 0, 1, 2], [path.name for path in paths]
    )
    backbone = FakeBackbone()
    cached = cache_features(backbone, table, folder / "cache", views=1)
    file = next((folder / "cache").glob("*.safetensors"))
    cached.save(folder / "features.safetensors")

    def from_cache(path: Path) -> Any:
        return cache_features(backbone, table, path.parent, views=1)

    return [
        Subject(
            "features", folder / "features.safetensors", FeatureTable.load, mutations.SAFETENSORS, family="f"
        ),
        Subject("feature cache", file, from_cache, mutations.SAFETENSORS, heals=True, family="f"),
        _part(folder, backbone, table),
    ]


def _part(folder: Path, backbone: FakeBackbone, table: ImageTable) -> Subject:
    """Return the first part of an encoding that was interrupted in the second."""
    many = table.subset([0, 1, 2, 3, 4, 5])
    cache = folder / "parts"
    encode, calls = backbone.encode_image, [0]

    def stops(images: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > 4:
            raise KeyboardInterrupt
        return encode(images)

    from calib.data import encoding_parts as module

    def whole(path: Path) -> Any:
        module.BATCHES_PER_PART, before = 2, module.BATCHES_PER_PART
        try:
            result = cache_features(backbone, many, cache, batch_size=1)
        finally:
            module.BATCHES_PER_PART = before
        next(cache.glob("*.safetensors")).unlink()
        return result

    backbone.encode_image = stops  # type: ignore[method-assign]
    try:
        whole(cache)
    except KeyboardInterrupt:
        backbone.encode_image = encode  # type: ignore[method-assign]
    return Subject(
        "cache part",
        next(cache.glob("*.parts/*.safetensors")),
        whole,
        mutations.SAFETENSORS,
        heals=True,
        family="f",
    )


def _picture(path: Path, seed: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def _embedding_arrays() -> dict[str, np.ndarray]:
    return {
        "image_features": unit(7, 5).numpy(),
        "text_features": unit(3, 5, seed=1).numpy(),
        "labels": np.array([0, 1, 2, 0, 1, 2, 0]),
        "logit_scale": np.float32(4.0).reshape(1),
    }


def embeddings(folder: Path) -> list[Subject]:
    """Return files of embeddings: npz, compressed npz, safetensors."""
    arrays = _embedding_arrays()
    names = {
        "class_names": np.array(["a", "b", "ü"]),
        "groups": np.array(["p", "p", "q", "q", "r", "s", "t"]),
    }
    np.savez(folder / "plain.npz", **arrays, **names)
    np.savez_compressed(folder / "packed.npz", **arrays, **names)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(tensors, folder / "e.safetensors", metadata={"class_names": '["a", "b", "c"]'})

    def says(path: Path) -> Any:
        with safe_open(str(path), framework="np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return [plain(found["labels"].astype(np.int64)), round(float(found["logit_scale"].reshape(())), 5)]

    def reads(path: Path) -> Any:
        loaded = load_embeddings(path)
        return [plain(loaded.table.labels.numpy()), round(loaded.logit_scale, 5)]

    user_made = (*mutations.BYTES, mutations.edit_header, mutations.edit_header)
    return [
        Subject("embeddings npz", folder / "plain.npz", load_embeddings, mutations.BYTES),
        Subject("embeddings packed npz", folder / "packed.npz", load_embeddings, mutations.BYTES),
        Subject("embeddings safetensors", folder / "e.safetensors", reads, user_made, says),
    ]


def outputs(folder: Path) -> list[Subject]:
    """Return the files of a calibrator and of sets, and outputs of any model: npz, Parquet, CSV."""
    logits = torch.arange(24.0).reshape(8, 3).sin() * 4
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    names = ["normal", "tumour", "été"]
    for name in ("svs", "isotonic"):
        calibrator = make_calibrator(name).fit(logits, labels)
        OutputMapping(names, calibrator, {"rows": 8}).save(folder / f"{name}.json")
    sets = PredictionSets("aps", 0.8, per_class=True).fit(logits.softmax(dim=1), labels)
    SetFile(names, sets, about={"rows": 8}).save(folder / "sets.json")
    np.savez(folder / "outputs.npz", logits=logits.numpy(), labels=labels.numpy(), class_names=names)
    columns = {f"logit({name})": logits[:, c].double().tolist() for c, name in enumerate(names)}
    columns["label"] = [names[label] for label in labels]
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "outputs.parquet", write_page_checksum=True)
    with (folder / "outputs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])

    def maps(path: Path) -> Any:
        loaded = OutputMapping.load(path)
        return [loaded.class_names, loaded.about, loaded.calibrator(logits)]

    def bounds(path: Path) -> Any:
        loaded = SetFile.load(path)
        return [loaded.class_names, loaded.about, loaded.sets(logits.softmax(dim=1)), loaded.sets.guarantee]

    def reads(path: Path) -> Any:
        found = read_outputs(path)
        classes = [found.class_names[label] for label in found.labels.tolist()]
        return [
            found.logits.tolist(),
            [name_key(name) for name in found.class_names],
            list(map(name_key, classes)),
        ]

    def says(path: Path) -> Any:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *body = (line for line in csv.reader(file) if any(map(str.strip, line)))
        head = [name.strip() for name in head]
        of = {name[6:-1]: i for i, name in enumerate(head) if name.startswith("logit(")}
        numbers = [[float(line[i]) for i in of.values()] for line in body]
        said = [name_key(line[head.index("label")]) for line in body]
        return [numbers, list(map(name_key, of)), said]

    return [
        *_reviews(folder),
        Subject("calibrator.json", folder / "svs.json", maps, mutations.JSON, family="c"),
        Subject("calibrator.json of curves", folder / "isotonic.json", maps, mutations.JSON, family="c"),
        Subject("sets.json", folder / "sets.json", bounds, mutations.JSON),
        Subject("outputs npz", folder / "outputs.npz", reads, mutations.BYTES),
        Subject("outputs Parquet", folder / "outputs.parquet", reads, mutations.BYTES),
        Subject("outputs CSV", folder / "outputs.csv", reads, mutations.TEXT, says),
    ]


def _reviews(folder: Path) -> list[Subject]:
    """Return the file of a review threshold, and a table of doubts and outcomes."""
    doubt = torch.linspace(0, 0.75, 60).double()
    fitted = ReviewThreshold(0.1).fit(doubt, doubt > 0.625)
    ReviewFile(fitted, "confidence", ["normal", "tumour"], {"rows": 60}).save(folder / "review.json")
    with (folder / "doubts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [[f"{n}.png", 0.5 + n / 16, ("yes", "no")[n % 2], f"p{n}"] for n in range(8)]
        csv.writer(file).writerows([["file", "confidence", "correct", "patient"], *rows])

    def reads(path: Path) -> Any:
        found = read_judged(path)
        return [found.doubt.tolist(), found.failure.tolist(), found.labelled.tolist(), found.groups]

    def says(path: Path) -> Any:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *body = (line for line in csv.reader(file) if any(map(str.strip, line)))
        head = [name.strip() for name in head]
        told = [line[head.index("correct")].strip().lower() for line in body]
        group = next((name for name in ("group", "patient", "patient_id") if name in head), None)
        return [
            [round(1 - float(line[head.index("confidence")]), 6) for line in body],
            [said in ("no", "false", "0", "0.0") for said in told],
            [said != "" for said in told],
            None if group is None else [line[head.index(group)] for line in body],
        ]

    return [
        Subject("review.json", folder / "review.json", ReviewFile.load, mutations.JSON),
        Subject("doubts CSV", folder / "doubts.csv", reads, mutations.TEXT, says),
    ]


def _rows(splits: Splits) -> Any:
    return [
        [split, table.names, [splits.class_names[label] for label in table.labels], table.groups]
        for split, table in splits.tables.items()
    ]


def tables(folder: Path) -> list[Subject]:
    """Return tables of images: CSV, TSV, Parquet; and classnames.txt."""
    header = ["path", "label", "split", "patient"]
    rows = []
    for number in range(8):
        _picture(folder / "set" / f"im-{number}.png", number)
        split = "test" if number > 4 else "train"
        rows.append([f"im-{number}.png", ("normal", "tumour")[number % 2], split, f"patient{number // 2}"])
    for name, mark in (("table.csv", ","), ("table.tsv", "\t")):
        with (folder / "set" / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=mark).writerows([header, *rows])
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    pyarrow.parquet.write_table(
        pyarrow.table(columns), folder / "set" / "table.parquet", write_page_checksum=True
    )
    names = [row[0] for row in rows]
    with (folder / "slices.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["name", "site", "sex"], *([n, f"Ort {i % 2}", "fm"[i % 2]] for i, n in enumerate(names))]
        )

    def slices_said(path: Path) -> Any:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *body = (line for line in csv.reader(file) if line)
        at = head.index("name") if "name" in head else head.index("id")
        lines = {line[at]: line for line in body}
        return {word: [lines[n][i] for n in names] for i, word in enumerate(head) if i != at}

    (folder / "classnames.txt").write_text("ADI adipose tissue\nMUS smooth muscle\nTUM tumour épithélial\n")

    def says(path: Path) -> Any:
        with path.open(encoding="utf-8-sig", newline="") as file:
            mark = "\t" if path.suffix == ".tsv" else ","
            head, *body = (
                [cell.strip() for cell in line] for line in csv.reader(file, delimiter=mark) if line
            )
        found = {name: [line[head.index(name)] for line in body] for name in head if name}
        order = [found.get(name) for name in (*header[:3],)]
        group = next((found[name] for name in ("group", "patient", "patient_id") if name in found), None)
        parts = []
        for split in ("train", "val", "test"):
            here = [i for i, each in enumerate(order[2] or []) if each == split]
            if here:
                picked = [[column[i] for i in here] if column else None for column in (*order[:2], group)]
                parts.append([split, *picked])
        return parts

    def names_say(path: Path) -> Any:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        pairs = [line.split("\t" if "\t" in line else " ", 1) for line in lines]
        return {folder: name.strip() for folder, name in pairs}

    def rows_of(path: Path) -> Any:
        return _rows(load_table(path))

    where = folder / "set"
    return [
        Subject("CSV table", where / "table.csv", rows_of, mutations.TEXT, says),
        Subject("TSV table", where / "table.tsv", rows_of, mutations.TEXT, says),
        Subject("Parquet table", where / "table.parquet", rows_of, mutations.BYTES),
        *_shot_list(folder),
        Subject("classnames.txt", folder / "classnames.txt", read_class_names, mutations.TEXT, names_say),
        Subject(
            "subgroups CSV",
            folder / "slices.csv",
            lambda path: read_slices(path, names, names),
            mutations.TEXT,
            slices_said,
        ),
    ]


def _shot_list(folder: Path) -> list[Subject]:
    """Return the list of chosen images, as a person has filled it in."""
    images = [
        ListedImage(
            file=f"scans/{n}.png",
            content_id=f"{n:064x}",
            strategy="dual",
            label=("normal", "tumour", None)[n % 3],
            rank=n + 1,
            group=f"p{n}",
        )
        for n in range(6)
    ]
    path = folder / "select.csv"
    ShotList(tuple(images)).save(path)

    def reads(path: Path) -> Any:
        found = read_shot_list(path).images
        return [[each.file, each.content_id, each.strategy, each.label, each.group] for each in found]

    def says(path: Path) -> Any:
        text = path.read_text("utf-8-sig")
        mark = max(",;\t", key=text.partition("\n")[0].count)
        head, *body = (
            [cell.strip() for cell in line]
            for line in csv.reader(text.splitlines(keepends=True), delimiter=mark)
            if any(cell.strip() for cell in line)
        )
        rows = [dict(zip(head, line, strict=True)) for line in body]
        return [
            [
                row["file"].removeprefix("./"),
                row["content_id"].lower(),
                row["strategy"],
                None if row["label"].lower() in ("", "nan") else row["label"],
                row.get("group") or None,
            ]
            for row in rows
        ]

    return [Subject("list of chosen images", path, reads, mutations.TEXT, says)]


def run_files(folder: Path) -> list[Subject]:
    """Return the text files of a run folder, its checkpoint, and a file of settings."""
    config = PromptRun(seed=4, loss={"smac": {"alpha": 0.1}})
    run = RunFolder(folder / "run")
    ids = [f"{i:064x}" for i in range(12)]
    split = few_shot_split(
        torch.tensor([0, 1] * 6), ids, 2, val_shots=1, seed=1, names=[f"{i}.png" for i in range(12)]
    )
    record = {**split.to_dict(), "test": {"n": 4, "digest": "c" * 64}}
    run.claim(config, record)
    write_json(
        run.metrics, {"method": "x", "seed": 4, "test": {"ece": 0.0625, "n": 40, "per_class": [0.5, None]}}
    )
    run.checkpoint.parent.mkdir()
    torch.save(
        {
            "epoch": 1,
            "global_step": 6,
            "pytorch-lightning_version": "2.6",
            "loops": {"fit_loop": {"epoch_progress": {"current": {"started": 2, "processed": 2}}}},
            "losses": {},
            "lr_schedulers": [{"last_epoch": 6, "base_lrs": [0.002]}],
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(4, 6)}}, "param_groups": []}],
            "state_dict": {"learner.context": torch.full((4, 6), 0.5)},
        },
        run.checkpoint,
    )
    settings = folder / "settings.yaml"
    settings.write_text(to_yaml(config))

    def draw(path: Path) -> Any:
        run.check_data(record)
        return plain(FewShotSplit.from_dict(read_json(path), ids))

    def same(path: Path) -> Any:
        run.check(config)

    def shown(path: Path) -> Any:
        return [run.results().get(key) for key in ("method", "seed", "test")]

    def resumed(path: Path) -> Any:
        resume_point(run)
        return read_checkpoint(path)

    def loads(path: Path) -> Any:
        return to_dict(load_config([str(path)], task="prompt"))

    def says(path: Path) -> Any:
        return _over(
            to_dict(PromptRun()), yaml.load(path.read_text(encoding="utf-8"), TextLoader) or "nothing"
        )

    return [
        Subject("split.json", run.split, draw, mutations.JSON),
        Subject("metrics.json", run.metrics, shown, mutations.JSON),
        Subject("config.yaml of a run", run.config, same, mutations.TEXT, named=str(run.path)),
        Subject("last.ckpt", run.checkpoint, resumed, mutations.BYTES),
        Subject("settings YAML", settings, loads, mutations.TEXT, says),
    ]


class TextLoader(yaml.SafeLoader):
    """YAML of which every value is text, or null."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [pair for pair in pairs if pair[0].endswith((":null", ":merge"))]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


FREE = object()  # instead of the default of a setting that has no type


def _over(base: Any, changes: Any, key: str = "") -> Any:
    """Return settings with changes laid over them, numbers as the schema has them."""
    if isinstance(base, dict) and isinstance(changes, dict):
        return base | {name: _over(base.get(name, FREE), change, name) for name, change in changes.items()}
    if base is FREE and isinstance(changes, dict | list):
        return _over({}, changes) if isinstance(changes, dict) else [_over(FREE, each) for each in changes]
    if not isinstance(changes, str):
        return changes
    if isinstance(base, bool) or base is FREE or key == "quick_gelu":
        return {"y": True, "n": False}.get(changes.lower(), yaml.safe_load(changes))
    if isinstance(base, int):
        return int(changes)
    return float(changes) if isinstance(base, float) else changes


def images(folder: Path) -> list[Subject]:
    """Return images of every kind, and a MedMNIST file."""
    options: dict[str, dict[str, Any]] = {"png": {}, "jpg": {"quality": 90}, "bmp": {}}
    options |= {"tiff": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}
    found = [
        Subject(
            f"image .{kind}",
            _picture(folder / f"im.{kind}", 3, **more),
            lambda path: [plain(open_image(path)), "opened"],
            mutations.BYTES,
            says=lambda path: [plain(Image.open(path).convert("RGB")), "opened"],
        )
        for kind, more in options.items()
    ]
    rng = np.random.default_rng(0)
    parts = {
        f"{split}_{what}": rng.integers(0, high, shape, dtype=np.uint8)
        for split, n in (("train", 6), ("val", 3), ("test", 4))
        for what, high, shape in (("images", 256, (n, 5, 5)), ("labels", 2, (n, 1)))
    }
    np.savez_compressed(folder / "pneumoniamnist.npz", **parts)

    def pixels(path: Path) -> Any:
        splits = load_medmnist(path)
        return [[name, table.labels.tolist(), table.ids] for name, table in splits.tables.items()]

    return [*found, Subject("MedMNIST npz", folder / "pneumoniamnist.npz", pixels, mutations.BYTES)]


def weights(folder: Path) -> list[Subject]:
    """Return weights as they are published: safetensors, torch.save; their digest stands in every export."""
    state = {"proj": torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(6)}
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.bin")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"proj": "w.safetensors"}})

    def says(path: Path) -> Any:
        with safe_open(str(path), framework="pt") as file:
            return {name: plain(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118

    def reads(path: Path) -> Any:
        return {name: plain(tensor) for name, tensor in read_weights(path).items()}

    return [
        Subject("weights .safetensors", folder / "w.safetensors", reads, mutations.BYTES, says),
        Subject("weights .bin", folder / "w.bin", reads, mutations.BYTES),
        Subject("weights index", folder / "model.safetensors.index.json", reads, mutations.JSON),
    ]


def saved_data_set(folder: Path) -> list[Subject]:
    """Return the three files of a split of a data set that the `datasets` library saved, and a vocabulary."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.disable_progress_bars()
    encoded = [_picture(folder / f"{n}.png", n).read_bytes() for n in range(4)]
    split = {"image": [{"bytes": each, "path": None} for each in encoded], "label": [0, 1, 0, 1]}
    saved = datasets.Dataset.from_dict(split, features=features)
    root = folder / "saved"
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(root)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "covid", "##s", "normal"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")

    def reads(path: Path) -> Any:
        splits = load_hf(root)
        return [[table.labels.tolist(), table.ids] for table in splits.tables.values()]

    def says(path: Path) -> Any:
        columns, numbers = [], dict[str, int]()
        for name in ("train", "test"):
            info = json.loads((root / name / "dataset_info.json").read_text(encoding="utf-8"))
            names = info["features"]["label"]["names"]  # classes of two splits are the same by their names
            listed = json.loads((root / name / "state.json").read_text(encoding="utf-8"))["_data_files"]
            parts = []
            for each in listed:
                with pyarrow.ipc.open_stream(root / name / each["filename"]) as stream:
                    parts.append(stream.read_all())
            columns.append(pyarrow.concat_tables(parts).to_pydict())
            for each in names:
                numbers.setdefault(each, len(numbers))
            columns[-1]["label"] = [numbers[names[label]] for label in columns[-1]["label"]]
        ids = [[hashlib.sha256(cell["bytes"]).hexdigest() for cell in each["image"]] for each in columns]
        return [[each["label"], found] for each, found in zip(columns, ids, strict=True)]

    def words_of(path: Path) -> Any:
        return bert_tokenizer(path, 16).digest

    def words_say(path: Path) -> Any:
        lines = path.read_text(encoding="utf-8").split("\n")
        lines = lines[:-1] if lines[-1] == "" else lines
        return vocabulary_digest({word: number for number, word in enumerate(lines)})

    files = [next((root / "train").glob("*.arrow")), root / "train" / "state.json"]
    files += [root / "train" / "dataset_info.json"]
    kinds = (mutations.BYTES, mutations.JSON, mutations.JSON)
    return [
        *(
            Subject(
                f"saved data set, {file.name if file.suffix == '.json' else '.arrow'}",
                file,
                reads,
                kind,
                says,
                named=str(root),
            )
            for file, kind in zip(files, kinds, strict=True)
        ),
        Subject("vocab.txt", folder / "vocab.txt", words_of, mutations.TEXT, words_say),
    ]


def questions(folder: Path) -> list[Subject]:
    """Return the tables of questions and answers, as Parquet and as JSON lines."""
    rows: list[dict[str, Any]] = [
        {
            "item_id": f"toy/{k}#original",
            "base_id": f"toy/{k}",
            "condition": "original",
            "question": f"Which finding, {k}?",
            "options": ["CT", "MRI", "été"],
            "option_ids": ["o0", "o1", "o2"],
            "correct_index": k % 3,
        }
        for k in range(4)
    ]
    items = vqa.Items.of_rows(rows)
    samples = [{"pred_id": "o1", "option_order": ["o2", "o0", "o1"], "seed": 3}, {"text": "?"}]
    said = [
        {"model_id": "m", "item_id": row["item_id"], "option_logit": [1.5, -0.5, k], "samples": samples}
        for k, row in enumerate(rows)
    ]
    outputs = vqa.Outputs.of_rows(said, items)
    for suffix in (".parquet", ".jsonl"):
        items.write(folder / f"items{suffix}")
        outputs.write(folder / f"outputs{suffix}")

    def of_items(path: Path) -> Any:
        return _without_nulls(vqa.read_items(path).rows())

    def of_outputs(path: Path) -> Any:
        return _without_nulls(vqa.read_outputs(path, items=items).rows())

    def says(path: Path) -> Any:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return _without_nulls([json.loads(line) for line in lines if line.strip()])

    return [
        Subject("items Parquet", folder / "items.parquet", of_items, mutations.BYTES),
        Subject("items JSON lines", folder / "items.jsonl", of_items, mutations.TEXT, says),
        Subject("outputs Parquet", folder / "outputs.parquet", of_outputs, mutations.BYTES),
        Subject("outputs JSON lines", folder / "outputs.jsonl", of_outputs, mutations.TEXT, says),
    ]


def _without_nulls(rows: Sequence[dict[str, Any]]) -> Any:
    """Return rows without what is not said; what is left out has the value that reading it gives."""
    left_out = {"prompt_id": "default", "run_id": "0", "condition": "original", "schema_version": 1}
    kept = []
    for row in rows:
        said = {key: value for key, value in row.items() if value is not None}
        if "base_id" not in said and "option_ids" in said:
            said["base_id"] = said["item_id"].split("#")[0]
        for name in ("samples", "noisy_samples"):
            if name in said:
                said[name] = [{k: v for k, v in each.items() if v is not None} for each in said[name]]
        kept.append({key: value for key, value in said.items() if left_out.get(key) != value})
    return kept


GROUPS: dict[str, Callable[[Path], list[Subject]]] = {
    "exports": exports,
    "features": feature_files,
    "embeddings": embeddings,
    "tables": tables,
    "outputs": outputs,
    "runs": run_files,
    "images": images,
    "weights": weights,
    "data sets": saved_data_set,
    "questions": questions,
}

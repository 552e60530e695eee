"""`calib select`: which images to label: a list to fill in, contact sheets, and what the choice means."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib import __version__
from calib.config import SelectRun, check_config, to_dict
from calib.core.hashing import json_digest
from calib.core.text import printable
from calib.data import ImageTable
from calib.data.contact_sheet import save_sheets
from calib.data.selection import Selection, check_budget, select
from calib.data.shot_list import ListedImage, ShotList, read_shot_list
from calib.data.specs import POOL
from calib.data.task import Table
from calib.io.files import blocking_file, write_json
from calib.posthoc.not_drawn import not_drawn
from calib.runs.selecting import Model, encoded, has_learned, model_of, pool_of, source_of, with_labels

LIST, RECORD = "select.csv", "record.json"
EXAMPLE = "A chest X-ray of {}."  # of a sentence, where nobody has said one
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What was chosen and written.

    Attributes:
        folder: Where it lies.
        images: The list: earlier rounds with their labels, and what is to be labelled now.
        selection: What was chosen now.
        sheets: The contact sheets.
        record: The content of record.json.
        template: The sentence to train with: what was given, or that of prompt=RUN. None: none is known.
    """

    folder: Path
    images: ShotList
    selection: Selection
    sheets: tuple[Path, ...]
    record: dict[str, Any]
    template: str | None = None


def choose(config: SelectRun) -> Chosen:
    """Choose the images that a configuration asks for, write list, sheets and record, and return them.

    Args:
        config: The settings.

    Raises:
        FileNotFoundError: Images, weights, prompt or list are not there.
        ValueError: A setting or a file is not right, or the pool has too few images. Nothing is written then.
    """
    check_config(config, SelectRun)
    if config.budget is None:
        raise ValueError("Say how many images to choose: budget=24.")
    folder = Path(config.out)
    _check_out(folder, config.labels)
    earlier = None if config.labels is None else read_shot_list(config.labels)
    table, names, template = pool_of(config.data)
    if earlier is not None:
        names, earlier = with_labels(earlier, table, names, own=config.data.name != POOL)
    check_budget(config.budget, table.ids, _ids_of(earlier))
    model = model_of(config, names, template)
    source = source_of(config, model.backbone)
    ids = table.ids  # in the order of contents: what is encoded together decides last bits
    table = table.subset(sorted(range(len(table)), key=lambda row: (ids[row], table.names[row])))
    features = encoded(table, model.backbone, config.data)
    labelled = _labelled(earlier, model.class_names)
    selection = select(
        features.image_features,
        features.ids,
        config.budget,
        strategy=config.strategy,
        seed=config.seed,
        weight=model.weight,
        bias=model.bias,
        groups=table.groups,
        per_group=config.per_group,
        near=config.near,
        labelled=labelled,
        learned=has_learned(config.prompt, labelled),
        source=source,
        class_names=model.class_names,
        **config.settings,
    )
    new = _listed(selection, table, config.strategy, 1 if earlier is None else _last_round(earlier) + 1)
    images = new if earlier is None else earlier + new
    record = _record(config, model, table, selection, images)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sheet-*.png"):
        old.unlink()
    sheets = _sheets(table.subset(selection.rows), new, folder)
    write_json(folder / RECORD, record)
    images.save(folder / LIST)  # comes last: who finds it finds all
    sentence = config.data.template
    if sentence is None and config.data.name == POOL:  # a data set has its own
        sentence = model.template
    return Chosen(folder, images, selection, tuple(sheets), record, sentence)


def _check_out(folder: Path, labels: str | None) -> None:
    """Refuse a folder in which somebody's labels lie, and one that cannot be made."""
    blocking = blocking_file(folder)
    if blocking is not None:
        raise ValueError(f"The folder '{folder}' cannot be made: '{blocking}' is a file (out=FOLDER).")
    path = folder / LIST
    if not path.exists():
        return
    if labels is not None and path.resolve() == Path(labels).resolve():
        raise ValueError(
            f"{path} is the list to go on from; the new one goes to a folder of its own: out=FOLDER."
        )
    there = read_shot_list(path)
    if len(there.unfilled) < len(there.images):
        raise ValueError(f"{path} holds labels, which would be lost. Give another folder: out=FOLDER.")


def _ids_of(earlier: ShotList | None) -> list[str]:
    return [] if earlier is None else [each.content_id for each in earlier.images]


def _labelled(earlier: ShotList | None, names: list[str] | None) -> dict[str, int]:
    """Return content id to class index of what is labelled already."""
    if earlier is None:
        return {}
    labels, _ = earlier.numbered(names)
    return {each.content_id: int(label or 0) for each, label in zip(earlier.images, labels, strict=True)}


def _last_round(earlier: ShotList) -> int:
    return max(each.round for each in earlier.images)


def _listed(selection: Selection, table: Table, strategy: str, number: int) -> ShotList:
    """Return the chosen images as a list without labels."""
    ids = table.ids
    images = [
        ListedImage(
            file=table.names[row],
            content_id=ids[row],
            strategy=strategy,
            round=number,
            rank=rank,
            cluster="" if cluster is None else str(cluster + 1),
            score="" if math.isnan(score) else f"{score:.6g}",
            why=why,
            group=None if table.groups is None else str(table.groups[row]),
        )
        for rank, (row, score, cluster, why) in enumerate(
            zip(selection.rows, selection.scores, selection.clusters, selection.why, strict=True), start=1
        )
    ]
    return ShotList(tuple(images))


def _sheets(table: Table, new: ShotList, folder: Path) -> list[Path]:
    """Write the contact sheets; features alone have no pictures."""
    if not isinstance(table, ImageTable):
        log.info("There are no contact sheets: only features are at hand. data.root says where images are.")
        return []
    captions = [[f"{each.rank}. {each.file}", each.why] for each in new.images]
    return save_sheets(table, captions, folder)


def _record(
    config: SelectRun, model: Model, table: Table, selection: Selection, images: ShotList
) -> dict[str, Any]:
    return {
        "strategy": config.strategy,
        "settings": selection.settings,
        "budget": config.budget,
        "seed": config.seed,
        "per_group": config.per_group if table.groups is not None else None,
        "near": config.near,
        "pool": {
            "images": selection.pool,
            "groups": None if table.groups is None else len(set(table.groups)),
            "digest": json_digest(sorted(table.ids)),
        },
        "labelled_before": len(images.images) - len(selection.rows),
        "model": model.what,
        "backbone": model.backbone.describe(),
        "class_names": model.class_names,
        "chosen": images.strategies,
        "statement": not_drawn(images.strategies),
        "calib": __version__,
        "config": to_dict(replace(config, out="")),
    }


def main(config: SelectRun) -> int:
    """Run `calib select` and say what was written and what comes next. Returns the exit status."""
    done = choose(config)
    chosen = done.selection
    say = [
        f"{len(chosen.rows)} of {chosen.pool} images chosen by {config.strategy}.",
        _patients(config, done),
        f"Written: {done.folder / LIST}" + "".join(f", {path.name}" for path in done.sheets) + f", {RECORD}.",
        f"{'Fill in its column label, then' if config.data.name == POOL else 'Learn from them'}: "
        f"{_next(config, done)}",
    ]
    if done.record["statement"]:
        say.append(done.record["statement"])
    sys.stdout.write(printable("\n".join(say) + "\n"))
    return 0


def _patients(config: SelectRun, done: Chosen) -> str:
    """Return whether it is known whose the images are, and what follows."""
    groups = done.record["pool"]["groups"]
    if groups is None:
        how = (
            " A table with the columns file and patient says whose they are: calib select TABLE.csv ..."
            if config.data.name == POOL
            else ""
        )
        return (
            "Patients are not known: several of these images may be of one patient, who may also be on the "
            f"other side of a split.{how}"
        )
    most = "any number" if config.per_group is None else f"at most {config.per_group}"
    return f"Patients (groups): {groups}, of each {most}."


def _next(config: SelectRun, done: Chosen) -> str:
    """Return the command that learns from the list, with a sentence for the images: it matters most."""
    data = [f"data.name={config.data.name}"]
    data += [] if config.data.root is None else [f"data.root={config.data.root}"]
    if config.data.name == POOL:
        names = done.record["class_names"]
        data.append('"data.class_names=[' + (",".join(names) if names else "NAME,NAME,...") + ']"')
    example = done.template is None and config.data.name == POOL
    if done.template is not None or example:
        data.append(f'"data.template={done.template or EXAMPLE}"')
    told = f"calib train {' '.join(data)} data.shots_from={done.folder / LIST}"
    if example:
        told += (
            "\nThat data.template is an example: say what your images are; {} is where the class name stands."
        )
    return told

"""Make the packaged demonstration of visual question answering from stored logits of real models.

    python benchmarks/vqa_demonstration.py FOLDER

FOLDER holds `items.jsonl` and `<model>.jsonl` of EnSec-AI/VLM-Uncertainty-Bench 24c9226f3a67 (MIT), read from
its pickles. Taken are three models, questions whose text may be shown and whose four options are all their
own, chosen by a hash of their names, and the numbers as they are. calib/assets/vqa/NOTICE says whose they
are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from calib.vqa import Items, Outputs

MODELS = ("MobileVLM-1.7B", "llava-v1.5-7b", "Yi-VL-34B")
MMBENCH, OODCV = 110, 45  # questions; questions of each nuisance
STANDING = (("idk", "I don't know"), ("nota", "None of the above"))
ASSETS = Path(__file__).parents[1] / "calib" / "assets" / "vqa"


def main(folder: Path) -> None:
    """Write items.parquet and outputs.parquet."""
    rows = [json.loads(line) for line in (folder / "items.jsonl").open(encoding="utf-8")]
    usable = [row for row in rows if _usable(row)]
    counts = Counter(map(_base, rows))
    whole = {base for base, n in Counter(map(_base, usable)).items() if n == counts[base]}
    kept = [row for row in usable if _base(row) in whole]
    chosen: dict[str, None] = {}
    taken: Counter[str] = Counter()
    for row in sorted(kept, key=lambda row: hashlib.sha256(_base(row).encode()).hexdigest()):
        kind = row["category"] if row["dataset"].startswith("oodcv") else "mmbench"
        if _base(row) not in chosen and taken[kind] < (MMBENCH if kind == "mmbench" else OODCV):
            chosen[_base(row)] = None
            taken[kind] += 1
    names = {row["item"]: _item(row) for row in kept if _base(row) in chosen}
    items = Items.of_rows(sorted(names.values(), key=lambda row: row["item_id"]))
    said = [
        {"model_id": model, "item_id": names[row["item"]]["item_id"], "option_logit": row["option_logits"]}
        for model in MODELS
        for row in map(json.loads, (folder / f"{model}.jsonl").open(encoding="utf-8"))
        if row["item"] in names
    ]
    said.sort(key=lambda row: (row["model_id"], row["item_id"]))
    ASSETS.mkdir(exist_ok=True)
    for table, name in ((items, "items"), (Outputs.of_rows(said, items), "outputs")):
        full = [column for column in table.columns if table.has(column)]
        type(table)(table.table.select(full), table.origin, *([] if name == "items" else [items])).write(
            ASSETS / f"{name}.parquet"
        )
        print(name, len(table), (ASSETS / f"{name}.parquet").stat().st_size, "bytes")


def _usable(row: dict[str, Any]) -> bool:
    own = [each for each in row["option_id"] if each is not None]
    return row["text_withheld"] is None and not row["duplicate_options"] and len(own) == row["n_listed"] == 4


def _base(row: dict[str, Any]) -> str:
    return str(row["base"])


def _item(row: dict[str, Any]) -> dict[str, Any]:
    rotation = row.get("rotation") or 0
    condition = "original" if rotation == 0 else f"rotation{rotation}"
    return {
        "item_id": f"{row['base']}#{condition}",
        "dataset": "MMBench" if row["dataset"].startswith("mmbench") else "OODCV-VQA",
        "question_type": row["category"],
        "question": row["question"],
        "options": [*row["options"], *(text for _, text in STANDING)],
        "option_ids": [*(f"o{each}" for each in row["option_id"]), *(name for name, _ in STANDING)],
        "correct_index": row["gold"],
    } | {"condition": condition}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

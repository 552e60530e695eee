r"""Requests for models that are asked elsewhere: items times prompts as JSON lines, answered as such.

The way of fm-vision-evals (a vision task as a chain of prompts for an API's model), in three steps:

1. A table of prompts, CSV or JSON lines, with the columns prompt_id and text; several steps of one chain have
   the same prompt_id and a column step. In the text stand {question}, {options}, {letters}.

       prompt_id,text
       plain,"{question}\n{options}\nAnswer with the letter."
       json,"{question}\n{options}\nReply as JSON: {""answer"": letter, ""confidence"": 0 to 100}."

2. `write_requests` writes one line for each item, prompt and sample: item_id, prompt_id, run_id, messages,
   image, option_order, seed. An image "black:PATH" is to be shown black, in the size of PATH. Your program
   sends the messages (those of a chain one after the other), and writes the same line again with the field
   text.

3. `calib.vqa.read_recorded` reads them; `calib.vqa.pooled` makes the answers to several prompts, orders and
   runs samples of one: the vote's share, its entropy and all other uncertainties of samples follow.

Source: EPFL-VILAB/fm-vision-evals @ fe957a7 has five variants of a prompt and takes JSON answers.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.core.errors import meant_path
from calib.io.files import write_text
from calib.io.strictjson import parse_json
from calib.vqa.images import PACKAGED
from calib.vqa.parsing import LETTERS
from calib.vqa.perturbations import BLACK, order_of
from calib.vqa.tables import Items

PLAIN = "{question}\n{options}\nAnswer with the letter of the right option only."


def read_prompts(path: str | Path) -> dict[str, list[str]]:
    """Return prompts by their id, each a chain of texts.

    Args:
        path: A .csv or .jsonl file with prompt_id, text, and of chains step.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, is empty, lacks a column, or a step stands twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
            rows = [parse_json(line, source=f"{path}, line {n}") for n, line in lines]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table of prompts ({error}).") from error
    chains: dict[str, dict[int, str]] = {}
    for number, row in enumerate(rows, start=1):
        name = row.get("prompt_id") if isinstance(row, Mapping) else None
        if not name or not row.get("text"):
            raise ValueError(f"{path}, prompt {number}: prompt_id and text are needed.")
        step = str(row.get("step") or 1)
        if not step.isdecimal() or int(step) in chains.setdefault(str(name), {}):
            raise ValueError(f"{path}, prompt {number}: step {step!r} is no number, or stands twice.")
        chains[str(name)][int(step)] = str(row["text"])
    if not chains:
        raise ValueError(f"{path} has no prompts.")
    return {name: [steps[number] for number in sorted(steps)] for name, steps in chains.items()}


def filled(text: str, question: str | None, options: Sequence[str]) -> str:
    r"""Return a prompt with question and options in it; other braces stay as they are.

    Example:
        >>> filled("{question}\n{options}\nOne of {letters}.", "Which view?", ["AP", "lateral"])
        'Which view?\nA. AP\nB. lateral\nOne of A, B.'
    """
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    parts = {
        "{question}": question or "",
        "{options}": listed,
        "{letters}": ", ".join(LETTERS[: len(options)]),
    }
    # In one pass: a question that says "{options}" itself keeps it.
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], text)


def write_requests(
    items: Items,
    path: str | Path,
    *,
    prompts: Mapping[str, Sequence[str]] | None = None,
    samples: int = 0,
    seed: int = 0,
) -> int:
    """Write the requests for items as JSON lines, and return how many there are.

    Args:
        items: What is to be asked; all need the texts of their options.
        path: The .jsonl file.
        prompts: Chains by prompt_id. None: one plain prompt.
        samples: Requests with options in an order of their own, beside the one as they are.
        seed: Of these orders.

    Raises:
        ValueError: An item has no texts of options or more than there are letters, or its image is one of
            which only features come with this package.
        WriteError: The file cannot be written.
    """
    lines = []
    for row in items.rows():
        if row["options"] is None:
            raise ValueError(f"The item '{row['item_id']}' has no texts of options: it cannot be asked.")
        if len(row["options"]) > len(LETTERS):
            raise ValueError(
                f"The item '{row['item_id']}' has {len(row['options'])} options; there are letters for "
                f"{len(LETTERS)}."
            )
        if (row["image"] or "").removeprefix(BLACK).startswith(PACKAGED):
            raise ValueError(
                f"The item '{row['item_id']}' shows an image of which only features come with this package: "
                "nobody else can be asked about it. Give the images (root) when the items are made."
            )
        for name, chain in (prompts or {"default": [PLAIN]}).items():
            for run in range(samples + 1):
                order = list(range(len(row["options"])))
                if run:
                    order = order_of(len(order), "sample", seed, row["base_id"], run)
                lines.append(json.dumps(_request(row, name, chain, run, order, seed), ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
    return len(lines)


def _request(
    row: Mapping[str, Any], name: str, chain: Sequence[str], run: int, order: Sequence[int], seed: int
) -> dict[str, Any]:
    options = [row["options"][k] for k in order]
    return {
        "item_id": row["item_id"],
        "prompt_id": name,
        "run_id": str(run),
        "messages": [filled(step, row["question"], options) for step in chain],
        "image": row["image"],
        "option_order": [row["option_ids"][k] for k in order],
        "seed": seed,
    }

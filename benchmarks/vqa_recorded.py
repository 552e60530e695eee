"""Recorded answers of real models, from text to table: parsing, votes, and what `calib.vqa` says of them.

    python benchmarks/vqa_recorded.py worldmedqa=FOLDER mmmu_pro=FOLDER vqa_rad=FOLDER

Each FOLDER holds `items.jsonl` and one JSON-lines file of answers a model. `worldmedqa`: exam questions with
and without their image, in English and another language (WorldMedQA-V; arXiv 2410.12722). `mmmu_pro`: health
questions with 4 and with 10 options (MMMU-Pro; arXiv 2409.02813). `vqa_rad`: yes/no questions to Qwen2-VL-2B
before and after four fine-tunings. Of every set: how often a text is read as the letter that was recorded
beside it (`--show` prints the texts that are read otherwise), what became of the answers in each condition,
what several answers to one question are worth as a vote, and whether their disagreement tells wrong votes
from right ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()

from calib.report.tables import aligned
from calib.vqa import Items, Outputs, Protocol, evaluate, join_outputs, pooled, recorded

Row = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """A set of recorded answers.

    Attributes:
        items: What was asked.
        answers: Model to its answers, as `calib.vqa.recorded` reads them; `read` is the place of the letter
            that was recorded beside a text, None: none was.
        votes: Name of a vote to what is taken together in it, and onto which condition.
    """

    items: Items
    answers: dict[str, list[Row]]
    votes: dict[str, tuple[tuple[str, ...], str]]


def _lines(path: Path) -> Iterator[Row]:
    for line in path.open(encoding="utf-8"):
        yield json.loads(line)


def _models(folder: Path) -> Iterator[tuple[str, Iterator[Row]]]:
    for path in sorted(folder.glob("*.jsonl")):
        if path.name != "items.jsonl":
            yield path.stem, _lines(path)


def _text(row: Row) -> str | None:
    """Return what was answered; where only the letter was kept, that letter."""
    if row.get("raw") is not None:
        return str(row["raw"])
    return None if row["answer"] is None else "ABCDEFGHIJ"[row["answer"]]


def worldmedqa(folder: Path) -> Recorded:
    """Return WorldMedQA-V: the original is the English question with its image."""
    items, names = [], {("en", "image"): "original", ("en", "no_image"): "no_image"}
    names |= {("local", "image"): "local", ("local", "no_image"): "local_no_image"}
    for row in _lines(folder / "items.jsonl"):
        for (language, _), condition in names.items():
            of = "en" if language == "en" else "local"
            if row[f"options_{of}"].count(row[f"options_{of}"][row["gold"]]) > 1:
                continue  # the right option stands twice: no answer can be told right or wrong
            items.append(
                {
                    "item_id": f"{row['item']}#{condition}",
                    "base_id": row["item"],
                    "condition": condition,
                    "dataset": "worldmedqa",
                    "question_type": row["country"],
                    "question": row[f"question_{of}"],
                    "options": row[f"options_{of}"],
                    "option_ids": [f"o{k}" for k in range(len(row["options_en"]))],
                    "correct_index": row["gold"],
                }
            )
    known = {row["item_id"] for row in items}
    answers = {
        model: [
            {
                "item_id": f"{row['item']}#{names[row['language'], row['condition']]}",
                "text": _text(row),
                "read": row["answer"] if row.get("raw") is not None else None,
            }
            for row in rows
            if f"{row['item']}#{names[row['language'], row['condition']]}" in known
        ]
        for model, rows in _models(folder)
    }
    return Recorded(
        Items.of_rows(items, str(folder)),
        answers,
        {"languages": (("condition",), "original"), "models": (("model_id",), "original")},
    )


def mmmu_pro(folder: Path) -> Recorded:
    """Return MMMU-Pro: the original has 4 options, the other condition the same and up to 6 more."""
    items = []
    for row in _lines(folder / "items.jsonl"):
        ids = {place: f"o{k}" for k, place in enumerate(row["option_10_of_4"])}
        more = [ids.get(place, f"more{place}") for place in range(len(row["options_10"]))]
        for condition, options, own, gold in (
            ("original", row["options_4"], [f"o{k}" for k in range(len(row["options_4"]))], row["gold_4"]),
            ("ten_options", row["options_10"], more, row["gold_10"]),
        ):
            items.append(
                {
                    "item_id": f"{row['item']}#{condition}",
                    "base_id": row["item"],
                    "condition": condition,
                    "dataset": "mmmu_pro",
                    "question": row["question"],
                    "question_type": row["subject"],
                    "options": options,
                    "option_ids": own,
                    "correct_index": gold,
                }
            )
    conditions = {"4_options": "original", "10_options": "ten_options"}
    answers = {
        model: [
            {
                "item_id": f"{row['item']}#{conditions[row['condition']]}",
                "prompt_id": row["prompt"],
                "text": _text(row),
                "read": row["answer"],
            }
            for row in rows
        ]
        for model, rows in _models(folder)
    }
    return Recorded(
        Items.of_rows(items, str(folder)), answers, {"models": (("model_id", "prompt_id"), "original")}
    )


def vqa_rad(folder: Path) -> Recorded:
    """Return the yes/no questions of VQA-RAD's test split; fine-tunings are prompts of one model."""
    items = [
        {
            "item_id": row["item"],
            "dataset": "vqa_rad",
            "group_id": row["image_name"],
            "modality": row["image_organ"],
            "question_type": row["question_type"],
            "question": row["question"],
            "options": ["yes", "no"],
            "option_ids": ["yes", "no"],
            "correct_index": 0 if row["gold"] == "yes" else 1,
        }
        for row in _lines(folder / "items.jsonl")
        if row["kind"] == "yes_no"
    ]
    wanted = {row["item_id"] for row in items}
    places = {"yes": 0, "no": 1}
    answers = {
        model: [
            {"item_id": row["item"], "text": row["raw"], "read": places.get(row["answer"], -1)}
            for row in rows
            if row["item"] in wanted
        ]
        for model, rows in _models(folder)
    }
    return Recorded(Items.of_rows(items, str(folder)), answers, {"models": (("model_id",), "original")})


SETS = {"worldmedqa": worldmedqa, "mmmu_pro": mmmu_pro, "vqa_rad": vqa_rad}


def read(found: Recorded, *, show: bool) -> Outputs:
    """Return all answers as outputs, and print how often a text is read as was recorded."""
    parts, body = [], []
    for model, rows in found.answers.items():
        given = [{key: value for key, value in row.items() if key != "read"} for row in rows]
        outputs = recorded(given, found.items, model_id=model)
        statuses = Counter(outputs.texts("answer_status").tolist())
        beside = [
            (place, row["read"], row)
            for place, row in zip(outputs.choices.tolist(), rows, strict=True)
            if row["text"] is not None and row["read"] is not None
        ]
        other = [(place, known, row) for place, known, row in beside if place != known]
        counts = [str(statuses[name]) for name in ("refusal", "non_answer", "ambiguous", "unparsed")]
        body.append([model, str(len(rows)), str(len(beside)), str(len(beside) - len(other)), *counts])
        for place, known, row in other if show else []:
            print(
                f"{model} {row['item_id']}: read {place}, recorded {known}: {row['text']!r}", file=sys.stderr
            )
        parts.append(outputs)
    names = ["model", "answers", "texts with a recorded letter", "read as it"]
    print(aligned([*names, "refusals", "non-answers", "ambiguous", "unparsed"], body), "\n")
    return join_outputs(parts, found.items)


def main() -> None:
    """Print the tables of every set that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--show", action="store_true", help="print the texts that are read otherwise")
    given = parser.parse_args()
    methods = ("self_consistency", "answer_entropy", "random", "dataset_prior")
    protocol = Protocol(methods=methods, reference="answer_entropy", n_resamples=1000)
    for word in given.sets:
        name, _, folder = word.partition("=")
        if name not in SETS or not folder:
            parser.error(f"'{word}' is not NAME=FOLDER with a name of {', '.join(SETS)}.")
        print(f"## {name}\n")
        found = SETS[name](Path(folder))
        outputs = read(found, show=given.show)
        result = evaluate(found.items, outputs, protocol=protocol)
        print(result.text(), "\n")
        for table in ("overview", "shift"):
            print(result.table(table), "\n")
        for vote, (across, onto) in found.votes.items():
            print(f"### Votes over {vote}\n")
            one = pooled(outputs, across=across, onto=onto)
            voted = evaluate(found.items, one, protocol=protocol)
            for table in ("overview", "errors"):
                print(voted.table(table), "\n")


if __name__ == "__main__":
    main()

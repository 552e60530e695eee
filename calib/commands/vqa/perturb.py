"""`calib vqa perturb`: items changed on purpose, as a table of their own."""

from __future__ import annotations

from collections import Counter

from calib.commands.vqa.arguments import Given
from calib.commands.vqa.outs import check_out
from calib.io.files import write_json
from calib.vqa.perturbations import perturb, two_by_two
from calib.vqa.tables import Items, read_items

SETTINGS = ("text", "position", "within")


def main(given: Given) -> int:
    """Run `calib vqa perturb`. Returns the exit status."""
    asked = given.settings
    if not given.files:
        raise ValueError("Which items? calib vqa perturb ITEMS... kind=KIND out=FILE.")
    check_out(asked["out"], [*given.files, asked["left_out"]])
    check_out(asked["left_out"], given.files, (".json",), "left_out")
    items = read_items(*given.files)
    options = {name: asked[name] for name in SETTINGS if asked[name] is not None}
    left_out: dict[str, str] = {}
    if asked["kind"] == "two_by_two":
        if options or asked["condition"] is not None:
            raise ValueError("kind=two_by_two takes a seed only: its conditions have their names.")
        made = two_by_two(items, seed=asked["seed"], left_out=left_out)
    else:
        made = perturb(
            items,
            asked["kind"],
            seed=asked["seed"],
            condition=asked["condition"],
            left_out=left_out,
            **options,
        )
    made.write(asked["out"])
    if asked["left_out"] is not None:
        write_json(asked["left_out"], left_out)
    for reason, count in Counter(left_out.values()).most_common():
        print(f"left out: {count} {reason}")
    print(told(made, asked["out"]))
    return 0


def told(items: Items, out: str) -> str:
    """Return a line about a table of items that was written.

    Example:
        >>> row = {"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 1}
        >>> told(Items.of_rows([row]), "a.parquet")
        'a.parquet: 1 items (1 original) of 1 questions in 1 groups, 2 options each.'
    """
    conditions = Counter(items.conditions.tolist())
    counts = sorted(set(items.n_options.tolist()))
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    named = ", ".join(f"{count} {name}" for name, count in conditions.most_common())
    return (
        f"{out}: {len(items)} items ({named}) of {len(set(items.bases.tolist()))} questions in "
        f"{len(set(items.groups.tolist()))} groups, {many} options each."
    )

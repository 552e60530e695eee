"""`calib vqa requests`: the questions for a model that is asked elsewhere, one a line."""

from __future__ import annotations

from calib.commands.vqa.arguments import Given
from calib.commands.vqa.outs import check_out
from calib.vqa.answerers.requests import read_prompts, write_requests
from calib.vqa.tables import read_items


def main(given: Given) -> int:
    """Run `calib vqa requests`. Returns the exit status."""
    asked = given.settings
    if not given.files:
        raise ValueError("Which items? calib vqa requests ITEMS... out=FILE.")
    check_out(asked["out"], [*given.files, asked["prompts"]], (".jsonl",))
    prompts = None if asked["prompts"] is None else read_prompts(asked["prompts"])
    items = read_items(*given.files)
    count = write_requests(items, asked["out"], prompts=prompts, samples=asked["samples"], seed=asked["seed"])
    print(f"{asked['out']}: {count} requests for {len(items)} items.")
    return 0

"""`calib vqa items`: the table of items from a classification task, a published set or own questions."""

from __future__ import annotations

from calib.commands.vqa.arguments import Given
from calib.commands.vqa.outs import check_out
from calib.commands.vqa.perturb import told
from calib.data.specs import load_data
from calib.vqa.adapters.sources import SOURCES, read_source
from calib.vqa.adapters.task import from_task


def main(given: Given) -> int:
    """Run `calib vqa items`. Returns the exit status."""
    asked = given.settings
    if given.files:
        raise ValueError(f"'{given.files[0]}' is no setting; the file of questions is path=FILE.")
    check_out(asked["out"], [asked["path"]])
    if asked["source"] == "task":
        task = load_data(asked["data"], asked["root"], needs=(asked["split"],))
        items = from_task(
            task,
            options=asked["options"],
            seed=asked["seed"],
            split=asked["split"],
            limit=asked["limit"],
            folder=asked["images"],
        )
    else:
        items = read_source(asked["source"], asked["path"], root=asked["root"], folder=asked["images"])
    items.write(asked["out"])
    print(told(items, asked["out"]))
    if asked["source"] == "table":
        print(f"Look at them: calib data check {asked['out']}. Then have a model answer them:")
        print(f"  calib vqa answer {asked['out']} model=embedded out=runs/vqa")
    elif asked["source"] != "task":
        print(SOURCES[asked["source"]].told())
    return 0

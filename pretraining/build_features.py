"""Encode the embedded tasks with the embedded backbone: python pretraining/build_features.py --data DIR.

Writes calib/assets/tasks/<task>/{train,val,test}.safetensors, which `data.name=cxr3` and `data.name=lc25000`
read when no images are given. DIR is the folder described in README.md. Takes some minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from calib.backbones import create_backbone
from calib.data import load_data
from calib.data.readers.embedded import save_task_features

FOLDERS = {"cxr3": "cxr3_224", "lc25000": "lc25000_unique_224"}
VIEWS = 8  # augmented views per training image


def main() -> None:
    """Encode both tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds " + " and ".join(FOLDERS.values())
    )
    parser.add_argument("--out", type=Path, default=Path("calib/assets/tasks"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    backbone = create_backbone("embedded")
    for task, folder in FOLDERS.items():
        save_task_features(load_data(task, given.data / folder), backbone, given.out / task, views=VIEWS)


if __name__ == "__main__":
    main()

"""Makes the notebooks of the scripts beside this file, and runs them: python notebooks/run.py [NAME ...]."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
QUIET = "ignore:IProgress not found"  # tqdm's, where ipywidgets are not installed


def main() -> None:
    """Write NAME.ipynb with its outputs for every NAME.py, or those that are named."""
    own = Path(__file__).name
    os.environ["PYTHONWARNINGS"] = QUIET
    for path in sorted(path for path in FOLDER.glob("*.py") if path.name != own):
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        start = time.perf_counter()
        notebook = jupytext.read(path)
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}})
            client.coalesce_streams = True  # what is printed line by line is one output
            client.execute()
        for place, cell in enumerate(notebook.cells):
            cell.id = f"cell-{place}"  # else they are drawn, and every run is a change
            cell.metadata.pop("execution", None)  # when it ran
        notebook.metadata.pop("language_info", None)  # the Python it ran with
        notebook.metadata["jupytext"].pop("text_representation", None)  # the jupytext
        target = path.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        print(f"{target.name}: {time.perf_counter() - start:.0f} s, {target.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()

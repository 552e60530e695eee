"""Imports point down: a file imports floors below its own, and its own room, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "calib"
FLOORS = (
    {"core", "io", "stats"},
    {"losses", "metrics", "posthoc", "scores", "backbones"},
    {"data", "report", "training"},
    {"prompts", "failure", "vqa", "segmentation", "robustness"},
    {"config", "processes", "runs"},
    {"commands", "cli", "__main__"},
)
# Who may import whom on one floor, besides its own room.
SAME_FLOOR = {
    ("io", "core"),
    ("stats", "core"),
    ("scores", "posthoc"),
    ("failure", "prompts"),
    ("vqa", "prompts"),
    ("robustness", "prompts"),
    ("robustness", "failure"),
    ("runs", "config"),
    ("runs", "processes"),
    ("cli", "commands"),
    ("__main__", "cli"),
}
WITH_LIGHTNING = {"module.py", "stack.py", "fit.py", "datamodule.py"}
READ_SETTINGS = {"config", "runs", "commands", "cli"}  # and nobody below


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("calib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "calib":
            found |= {name.name for name in node.names if (PACKAGE / name.name).is_dir()}
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("calib.")}
    return found


def test_every_module_stands_on_a_floor_and_imports_only_downwards() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts != ("__init__.py",)]
    assert len(files) > 20
    wrong = []
    for path in files:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imports(path):
            down = floor_of(other) < floor_of(room)
            if not (down or other == room or (room, other) in SAME_FLOOR):
                wrong.append(
                    f"{path.name}: {room} (floor {floor_of(room)}) imports {other} (floor {floor_of(other)})"
                )
            if other == "config" and room not in READ_SETTINGS:
                wrong.append(f"{path.name}: only commands and runs read settings")
    assert not wrong, "\n".join(wrong)


def test_lightning_and_torchmetrics_are_imported_where_they_are_needed() -> None:
    """They take seconds: whoever measures or scores does without."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        room = place.parts[0].removesuffix(".py")
        found = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        upstairs = room in FLOORS[-1] | FLOORS[-2] and room != "config"
        if "lightning" in found and not (upstairs or path.name in WITH_LIGHTNING):
            wrong.append(f"{place} imports Lightning")
        if "torchmetrics" in found and place.as_posix() not in ("metrics/modules.py", "metrics/pooled.py"):
            wrong.append(f"{place} imports torchmetrics")
    assert not wrong, "\n".join(wrong)


def _modules_of(path: Path, modules: Collection[str]) -> set[str]:
    """Return which of these modules a file names in an import, wherever in it and whatever for."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{name.name}" for name in node.names)
            found |= {name if name in modules else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found.intersection(modules)


def circles(imported: dict[str, set[str]]) -> list[list[str]]:
    """Return modules that reach each other, what is left once no more can be taken off either end."""
    left = {name: others - {name} for name, others in imported.items()}
    while True:
        named = set().union(*left.values())
        ends = [name for name, others in left.items() if not others or name not in named]
        if not ends:
            return [[name, *sorted(others)] for name, others in sorted(left.items())]
        for name in ends:
            del left[name]
        left = {name: others - set(ends) for name, others in left.items()}


def test_circles_are_found() -> None:
    line = {"a": {"b"}, "b": {"c"}, "c": set()}
    assert circles(line) == []
    assert circles({**line, "c": {"b"}}) == [["b", "c"], ["c", "b"]]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Nor for types alone, nor within functions: of two such files neither can be read without the other."""
    files = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    del files["calib"]  # the door: it hands on what is imported when it is asked for
    assert len(files) > 400
    assert not circles({name: _modules_of(path, files) for name, path in files.items()})

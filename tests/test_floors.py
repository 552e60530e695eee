"""Imports point down: a file imports floors below its own, and its own room."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "calib"
FLOORS = (
    {"core", "io", "stats"},
    {"losses", "metrics", "posthoc", "scores", "backbones"},
    {"data", "report", "training"},
    {"prompts", "failure"},
    {"config", "processes", "runs"},
    {"commands", "cli"},
)
# Who may import whom on one floor, besides its own room.
SAME_FLOOR = {
    ("io", "core"),
    ("scores", "posthoc"),
    ("failure", "prompts"),
    ("runs", "config"),
    ("runs", "processes"),
    ("cli", "commands"),
}
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

"""Imports point down: a module imports floors below its own, and its own package."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "calib"
FLOORS = {
    0: {
        "archives",
        "binning",
        "byname",
        "config",
        "errors",
        "files",
        "locks",
        "ranks",
        "stats",
        "strictjson",
        "safe_text",
        "untrusted_settings",
    },
    1: {"losses", "metrics", "backbones", "scores"},
    2: {
        "prompts",
        "checkpoints",
        "predictions",
        "plots",
        "report",
        "data",
        "embeddings",
        "failure_checkpoints",
        "prototypes",
        "vilu",
    },
    3: {"modules", "jobs", "settings_help", "cli"},
}
# Within a floor, who may import whom besides its own package.
SAME_FLOOR = {
    ("config", "untrusted_settings"),
    ("checkpoints", "prompts"),
    ("predictions", "checkpoints"),
    ("predictions", "data"),
    ("embeddings", "data"),
    ("failure_checkpoints", "checkpoints"),
    ("failure_checkpoints", "vilu"),
    ("scores", "metrics"),
    ("jobs", "modules"),
    ("cli", "jobs"),
    ("cli", "settings_help"),
}


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in FLOORS.items() if room in rooms)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("calib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "calib":
            found |= {name.name for name in node.names if (PACKAGE / f"{name.name}.py").is_file()}
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
            ground = other in {"errors", "files", "locks", "strictjson", "safe_text"}  # for everyone
            if not (down or ground or other == room or (room, other) in SAME_FLOOR):
                wrong.append(
                    f"{path.name}: {room} (floor {floor_of(room)}) imports {other} (floor {floor_of(other)})"
                )
            if other == "config" and floor_of(room) < 3 and room != "config":
                wrong.append(f"{path.name}: only the jobs and the command line read settings")
    assert not wrong, "\n".join(wrong)

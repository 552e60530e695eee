"""CONTRIBUTING.md says what is true of the house: its plan, and files that are taken in at one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "calib"
LONGEST = 350


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def test_the_plan_names_every_file_with_the_first_line_of_its_docstring() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = text.split("### The plan, one line per file")[1].split("```")[1].strip().splitlines()
    plan = []
    for init in PACKAGE.rglob("*/__init__.py"):
        room = init.parent
        files = sorted(path for path in room.glob("*.py") if path != init)
        plan.append(f"{room.relative_to(PACKAGE).as_posix()}/: {first_line(init)}")
        plan += [f"{room.relative_to(PACKAGE).as_posix()}  {path.stem}: {first_line(path)}" for path in files]
    room, found = "", []
    for line in said:
        room = line.split("/:")[0] if not line.startswith(" ") else room
        found.append(f"{room}{line}" if line.startswith(" ") else line)
    missing, wrong = sorted(set(plan) - set(found)), sorted(set(found) - set(plan))
    assert not missing, "Lines that the plan lacks:\n" + "\n".join(missing)
    assert not wrong, "Lines of the plan that are not true:\n" + "\n".join(wrong)
    assert len(said) == len(plan)


def test_no_file_is_longer_than_a_sitting() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path.name: count for path, count in lines.items() if count > LONGEST}


def test_beside_the_rooms_stand_the_door_and_the_command_alone() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}

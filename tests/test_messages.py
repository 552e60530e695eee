"""Messages about data and models name settings as they are written on the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from calib.config import SCHEMAS, keys_of

PACKAGE = Path(__file__).parents[1] / "calib"
FILES = sorted(path for room in ("data", "backbones", "prompts") for path in (PACKAGE / room).rglob("*.py"))
KEYS = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
# Said to those who call from Python; no setting leads there.
FROM_PYTHON = {
    ("datamodule.py", "backbone.preprocess"),
    ("datamodule.py", "preprocess"),
    ("images.py", "grey16_max"),
    ("reading.py", "weights_only"),
}


def messages(path: Path) -> Iterator[str]:
    """Yield the texts that a module raises, warns of or logs, with X for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Call | ast.Return | ast.Yield):
            for part in ast.walk(node):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(text_of(piece, constants) for piece in part.values)
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def text_of(piece: ast.expr, constants: dict[str, object]) -> str:
    if isinstance(piece, ast.Constant):
        return str(piece.value)
    assert isinstance(piece, ast.FormattedValue)
    name = piece.value.id if isinstance(piece.value, ast.Name) else ""
    return str(constants.get(name, "X"))


def is_known(said: str) -> bool:
    """Return whether this is a setting, or an entry of one that is a dictionary."""
    return any(said == key or said.startswith(f"{key}.") for key in KEYS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_message_names_settings_in_full(path: Path) -> None:
    wrong = []
    for message in messages(path):
        assigned = re.findall(r"(?<![\w.{\-%])([a-z_][\w.]*)=(?!=)", message)
        dotted = re.findall(r"(?<![\w/.])((?:data|backbone|prompt|parity)\.[a-z_][\w.]*)", message)
        wrong += [
            f"{said!r} in {message!r}"
            for said in [*assigned, *(name.rstrip(".") for name in dotted)]
            if not is_known(said) and (path.name, said) not in FROM_PYTHON
        ]
    assert not wrong, "\n".join(wrong)


def test_the_search_sees_what_it_is_for() -> None:
    said = " ".join(text for path in FILES for text in messages(path))
    for example in ("data.options.columns.X=NAME", "backbone.weights=", "prompt.n_ctx=X"):
        assert example in said

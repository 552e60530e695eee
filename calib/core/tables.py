"""What the tables of names hold, known before their modules are imported.

Losses, backbones, data sets and scores are rows of a dictionary in a module that imports torch, which takes
seconds; a name with a typo is answered at once. So the keys are read from the module's source, as long as it
is not imported. Afterwards the table itself is asked, to which a program may have added rows of its own.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from calib.core.byname import REQUIRED, settings

ROOT = Path(__file__).parents[2]  # of the package


def names_in(module: str, table: str) -> list[str]:
    """Return the keys of a table; imports nothing where it is written as a dictionary with plain keys.

    A tuple of names is a table as well.

    Args:
        module: The module it stands in, with all its parts.
        table: Its name there.

    Example:
        >>> names_in("calib.losses.registry", "LOSSES")[:3]
        ['ce', 'ls', 'fl']
    """
    if module not in sys.modules:
        try:
            return [*_rows(module, table)]
        except LookupError:
            pass
    return [*getattr(import_module(module), table)]


def settings_in(module: str, table: str, name: str) -> dict[str, Any]:
    """Return the keyword-only settings, with their defaults, of the function that a row of a table names.

    Args:
        module: The module the table stands in, with all its parts.
        table: Its name there.
        name: One of its keys.

    Returns:
        As `calib.core.byname.settings`. A default that is no plain number, text or the like is None.

    Example:
        >>> settings_in("calib.losses.registry", "LOSSES", "smac")
        {'alpha': 0.05, 'n_bins': 1, 'soft': False}
    """
    if module not in sys.modules:
        try:
            return _settings(module, _rows(module, table)[name])
        except LookupError:
            pass
    return settings(getattr(import_module(module), table)[name])


def _rows(module: str, table: str) -> Mapping[str, ast.expr]:
    """Return the rows of a table in a module's source; a LookupError where it is not written as one."""
    for node in _source(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict | ast.Tuple):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            written = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            values = node.value.values if isinstance(node.value, ast.Dict) else node.value.elts
            constants = [key.value for key in written if isinstance(key, ast.Constant)]
            keys = [key for key in constants if isinstance(key, str)]
            if isinstance(target, ast.Name) and target.id == table and len(keys) == len(written):
                return dict(zip(keys, values, strict=True))
    raise LookupError(table)


def _settings(module: str, row: ast.expr) -> dict[str, Any]:
    """Return the settings of a function that a row names, defined in a module or imported from another."""
    if not isinstance(row, ast.Name):
        raise LookupError(ast.dump(row))
    for node in _source(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == row.id:
            found = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {each.arg: _plain(default) for each, default in found}
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == row.id:
                    return _settings(node.module, ast.Name(alias.name))
    raise LookupError(row.id)


def _plain(default: ast.expr | None) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None


@functools.cache
def _source(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():  # an installation without sources
        raise LookupError(module)
    return ast.parse(path.read_text(encoding="utf-8"))

"""No line of the package unpickles, or loads code, where the file may be somebody else's."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "joblib.load", "dill.load", "marshal.loads", "shelve.open"),
    *("torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "np.load", "numpy.load"),
    *("eval", "exec", "__import__", "os.system", "pandas.read_pickle"),
}


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    files = [*(ROOT / "calib").rglob("*.py"), ROOT / "train.py", ROOT / "evaluate.py"]
    assert len(files) > 100
    return [
        (path.name, ast.unparse(node.func), node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_no_call_that_runs_code_of_a_file() -> None:
    found = [f"{file}: {name}" for file, name, _ in calls() if name in FORBIDDEN]
    assert not found


def test_torch_reads_weights_only() -> None:
    loads = [(file, call) for file, name, call in calls() if name == "torch.load"]
    assert len(loads) == 3
    for file, call in loads:
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said.get("weights_only") == "True", file


def test_no_library_is_asked_to_trust_code_of_others() -> None:
    for file, _, call in calls():
        assert "trust_remote_code" not in {keyword.arg for keyword in call.keywords}, file

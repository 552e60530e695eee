"""What pip installs: `import calib` works from every folder, and the package has all its files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT = "import calib; print(calib.__file__); calib.load_data('cxr3')"


def imported(folder: Path, **environment: str) -> str:
    """Return where `import calib` finds it in a folder that holds another one called calib."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = [sys.executable, "-c", IMPORT]
    done = subprocess.run(code, cwd=folder, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_installed_from_here() -> bool:
    try:
        said = importlib.metadata.distribution("calib").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    return said is not None and json.loads(said).get("url") == ROOT.as_uri()


@pytest.mark.skipif(not is_installed_from_here(), reason="calib was not installed from this clone")
def test_an_installed_calib_is_found_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    """A clone is called calib as well: in its parent Python finds that folder first."""
    (tmp_path / "calib").mkdir()
    assert imported(tmp_path) == str(ROOT / "calib" / "__init__.py")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what is built from, which builds leave their traces in."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("projects") / "calib"
    copy.mkdir()
    shutil.copytree(ROOT / "calib", copy / "calib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    return copy


def built(clone: Path, kind: str) -> zipfile.ZipFile:
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    wheel = next((clone / "dist").glob("*.whl"))
    found = zipfile.ZipFile(wheel.rename(clone / f"{kind}.zip"))
    shutil.rmtree(clone / "dist")
    return found


@pytest.mark.slow
def test_an_editable_install_is_a_path(clone: Path) -> None:
    """An import hook comes after the folders: beside the clone `import calib` would be empty."""
    wheel = built(clone, "editable")
    paths = [name for name in wheel.namelist() if name.endswith(".pth")]
    assert [wheel.read(name).decode().strip() for name in paths] == [str(clone)]
    assert not [name for name in wheel.namelist() if name.endswith(".py")]
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    searched = os.pathsep.join([str(clone), packages])  # where the .pth puts it, as to what comes before it
    assert imported(clone.parent, PYTHONPATH=searched) == str(clone / "calib" / "__init__.py")


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_its_licences(clone: Path) -> None:
    wheel = built(clone, "wheel")
    names = set(wheel.namelist())
    files = {path.relative_to(clone).as_posix() for path in (clone / "calib").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("calib-")} == files
    about = {name.split("/", 1)[1] for name in names if name.startswith("calib-")}
    assert {"licenses/LICENSE", "licenses/NOTICE", "entry_points.txt"} <= about
    commands = next(name for name in names if name.endswith("entry_points.txt"))
    assert "calib = calib.cli:main" in wheel.read(commands).decode()

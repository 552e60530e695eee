"""What pip installs: `import calib` works from every folder, and wheel and sdist have all their files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from calib.core.optional import OPTIONAL

ROOT = Path(__file__).parents[1]
ABOUT = ("README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff")
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


def test_constraints_are_the_lowest_versions_that_are_allowed() -> None:
    """What the suite is run with now and then (CONTRIBUTING.md) is what pyproject.toml promises."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = [text.split("\ndependencies = [\n")[1].split("\n]\n")[0]]
    needed += re.findall(r"^(?:tune|segment|dicom|vqa) = \[.*", text, flags=re.MULTILINE)
    promised = [line for part in needed for line in re.findall(r'"([^"]+)"', part)]
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert [line.replace("==", ">=") for line in lines if not line.startswith("#")] == promised


def test_what_is_missing_is_installed_by_the_packages_of_its_extra() -> None:
    """By their own names: `calib[segment]` is right for who has installed calib, and for nobody else."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in ("tune", "segment", "dicom", "vqa"):
        (listed,) = re.findall(rf"^{extra} = \[(.*?)\]", text, flags=re.MULTILINE)
        packages = re.findall(r'"([^"]+)"', listed)
        assert OPTIONAL[extra].install == " ".join(["pip install", *(f"'{name}'" for name in packages)])
        assert OPTIONAL[extra].install in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what is built from, which builds leave their traces in."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("projects") / "calib"
    copy.mkdir()
    shutil.copytree(ROOT / "calib", copy / "calib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", *ABOUT):
        shutil.copy(ROOT / name, copy)
    return copy


def built(clone: Path, kind: str) -> zipfile.ZipFile:
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    wheel = next((clone / "dist").glob("*.whl"))
    found = zipfile.ZipFile(wheel.rename(clone / f"{kind}.zip"))
    shutil.rmtree(clone / "dist")
    return found


@pytest.fixture(scope="module")
def wheel(clone: Path) -> zipfile.ZipFile:
    return built(clone, "wheel")


@pytest.mark.slow
def test_an_editable_install_is_a_path(clone: Path) -> None:
    """An import hook comes after the folders: beside the clone `import calib` would be empty."""
    editable = built(clone, "editable")
    paths = [name for name in editable.namelist() if name.endswith(".pth")]
    assert [editable.read(name).decode().strip() for name in paths] == [str(clone)]
    assert not [name for name in editable.namelist() if name.endswith(".py")]
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    searched = os.pathsep.join([str(clone), packages])  # where the .pth puts it, as to what comes before it
    assert imported(clone.parent, PYTHONPATH=searched) == str(clone / "calib" / "__init__.py")


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_its_licences(clone: Path, wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    files = {path.relative_to(clone).as_posix() for path in (clone / "calib").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("calib-")} == files
    about = {name.split("/", 1)[1] for name in names if name.startswith("calib-")}
    assert {"licenses/LICENSE", "licenses/NOTICE", "entry_points.txt"} <= about
    commands = next(name for name in names if name.endswith("entry_points.txt"))
    assert "calib = calib.cli:main" in wheel.read(commands).decode()
    requires = next(wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    extras = set(re.findall(r"^Provides-Extra: (\w+)$", requires, flags=re.MULTILINE))
    assert {"tune", "segment", "dicom", "vqa", "docs"} <= extras


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(clone: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("calib-*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.glob("calib-*") if path.is_dir())
    top = {path.name for path in unpacked.iterdir()} - {"calib.egg-info", "PKG-INFO", "setup.cfg"}
    assert top == {"calib", "pyproject.toml", "MANIFEST.in", *ABOUT}
    again = built(unpacked, "wheel")
    assert sorted(again.namelist()) == sorted(wheel.namelist())
    assert not [name for name in again.namelist() if again.read(name) != wheel.read(name)]


@pytest.mark.slow
def test_a_wheel_is_used_from_an_empty_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Settings by name, weights, data, the report's template: nothing of the clone is looked for."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()
    calls = [
        ["configs", "paper/plip_kather"],
        ["train", "trainer.max_epochs=1", "baselines=[]", "out=run"],
        ["report", "run", "out=report.html"],
        ["vqa", "evaluate", "demo", "out=demo", "--help"],
        ["train", "paper/plip_kather", "data.root=."],
    ]
    code = f"import calib, calib.cli; print(calib.__file__, [calib.cli.main(words) for words in {calls}])"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env=clean | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == f"{site / 'calib' / '__init__.py'} [0, 0, 0, 0, 1]", done.stderr
    assert (empty / "run" / "prompt.safetensors").is_file()
    assert (empty / "report.html").stat().st_size > 50_000
    assert "vinid/plip" in done.stderr

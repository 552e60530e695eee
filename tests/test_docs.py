"""docs/ and README.md: links lead somewhere, commands are read as they stand, tables name everything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import calib
from calib.backbones import BACKBONES
from calib.commands.registry import COMMANDS
from calib.config import SCHEMAS, keys_of
from calib.core.tables import names_in
from calib.data.specs import DATASETS
from calib.losses import LOSSES, PRESETS
from calib.metrics import FAILURE_METRICS, METRICS, summarize_calibration
from calib.metrics.failure.registry import WITH_SETTINGS
from calib.robustness import CORRUPTIONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
NAMED = {path: path.relative_to(ROOT).as_posix() for path in PAGES}
# calib.report is called as a function; its room has no page of its own.
ROOMS = [name for name in calib.__all__ if isinstance(getattr(calib, name), ModuleType) and name != "report"]
SCRIPTS = {"train.py": "train", "evaluate.py": "evaluate"}
OF_PIXELS = {"dice", "ml1_ace"}  # docs/segmentation.md
KEYS = {key for schema in SCHEMAS.values() for key in keys_of(schema)}


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    return re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", title)).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.parametrize("path", PAGES, ids=NAMED.get)
def test_links_lead_somewhere(path: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        file, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = (path.parent / file).resolve() if file else path
        inside = path.is_relative_to(DOCS) <= there.is_relative_to(DOCS)
        if not (there.exists() and inside and (not anchor or anchor in anchors(there))):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_navigation() -> None:
    nav = re.findall(r"[\w/]+\.md", text_of(ROOT / "mkdocs.yml").split("\nnav:")[1])
    assert sorted(nav) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES if DOCS in path.parents)
    yaml.safe_load(text_of(ROOT / "mkdocs.yml"))


def lines_of_code(path: Path) -> Iterator[str]:
    """Yield the commands of a page: lines of its blocks, and what stands between backticks."""
    for block in re.findall(r"```bash\n(.*?)```", text_of(path), flags=re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose(path))


def commands_of(path: Path) -> Iterator[list[str]]:
    """Yield the command of calib and its arguments, of each line that has one."""
    for line in lines_of_code(path):
        for part in line.split("&&"):
            words = shlex.split(part.replace("$seed", "1").split("; done")[0], comments=True)
            start = next((i for i, word in enumerate(words) if word == "calib" or word in SCRIPTS), None)
            if start is None or (words[start] == "calib" and start > 0):
                continue
            if words[start] in SCRIPTS:
                yield [SCRIPTS[words[start]], *words[start + 1 :]]
            elif words[start + 1 :]:
                yield words[start + 1 :]


CALLS = {(NAMED[path], shlex.join(words)): words for path in PAGES for words in commands_of(path)}


@pytest.mark.parametrize("words", CALLS.values(), ids=[" ".join(key) for key in CALLS])
def test_a_command_is_read_as_it_stands(words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    """What has a typo, a setting that is gone or a value out of its range is answered with an error here."""
    monkeypatch.chdir(ROOT)
    name, *arguments = words
    if name == "COMMAND":
        return
    row = COMMANDS[name]
    files = ("FOLDER/config.yaml", "mine.yaml")  # which the page makes
    arguments = ["configs/prompt.yaml" if word in files else word for word in arguments]
    if not arguments or "..." in arguments or "--help" in arguments:
        return
    if arguments[:1] == ["check"] and "task=failure" not in arguments:  # of `calib data`, which looks there
        arguments[1:2] = [str(tmp_path)]
    row.form(arguments).chosen(arguments).read(arguments)


def test_there_are_commands_of_every_kind() -> None:
    assert {words[0] for words in CALLS.values()} - {"COMMAND"} == set(COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=NAMED.get)
def test_settings_that_are_named_exist(path: Path) -> None:
    groups = {key.partition(".")[0] for key in KEYS if "." in key} - {"prompt"}
    free = ("trainer", "loss", "data.options")
    said = {
        name
        for code in re.findall(r"`([^`\n]+)`", prose(path))
        for name in re.findall(r"(?<![\w/.])([a-z_]+\.[a-z_][\w.]*[a-z])(?![\w(])", code)
        if name.partition(".")[0] in groups and not name.startswith(free)
    }
    assert not {name for name in said if not any(name == key or name.startswith(f"{key}.") for key in KEYS)}


def test_extras_that_are_named_exist() -> None:
    section = text_of(ROOT / "pyproject.toml").split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    said = {name for path in PAGES for name in re.findall(r"(?:-e '?\.|calib)\[(\w+)\]", text_of(path))}
    assert said
    assert said <= set(extras)


@pytest.mark.parametrize("path", PAGES, ids=NAMED.get)
def test_scripts_and_files_that_are_named_exist(path: Path) -> None:
    said = re.findall(r"\b((?:benchmarks|pretraining|configs|notebooks)/[\w./]*\w)", text_of(path))
    assert not [name for name in said if not (ROOT / name).exists()]


def first_column(page: str) -> set[str]:
    """Return the names between backticks in the first cells of the tables of a page."""
    cells = re.findall(r"^\| (`[^|]*) \|", text_of(DOCS / page), flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def names_of_calibration() -> set[str]:
    import torch

    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 0.0], [0.0, 1.5], [2.5, 0.0]])
    return set(summarize_calibration(logits, torch.tensor([0, 1, 1, 0, 0, 0]))) - {"undefined"}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("glossary.md", {*METRICS, *FAILURE_METRICS, *WITH_SETTINGS}),
        ("glossary.md", names_of_calibration()),
        ("failure.md", set(names_in("calib.scores.registry", "SCORES"))),
        ("posthoc.md", set(names_in("calib.posthoc.registry", "CALIBRATORS"))),
        ("sets.md", set(names_in("calib.posthoc.set_scores", "SETS"))),
        ("vqa.md", set(names_in("calib.vqa.uncertainty.registry", "METHODS"))),
        ("vqa.md", set(names_in("calib.vqa.adapters.sources", "SOURCES"))),
        ("prompts.md", set(LOSSES) - OF_PIXELS),
        ("robustness.md", set(CORRUPTIONS)),
        ("select.md", set(names_in("calib.data.selection", "STRATEGIES"))),
        ("data.md", set(DATASETS)),
        ("backbones.md", set(BACKBONES)),
    ],
    ids=lambda value: value if isinstance(value, str) else sorted(value)[0],
)
def test_tables_name_everything(page: str, names: set[str]) -> None:
    """A row of a table of the code (METRICS, SCORES, ...) has its row in the page that explains it."""
    assert not names - first_column(page), f"docs/{page} lacks these"


def test_presets_that_are_named_exist() -> None:
    table = text_of(DOCS / "prompts.md").split("| preset |")[1].split("\n\n")[0]
    assert not set(re.findall(r"`([a-z+-]+)`", table)) - set(PRESETS)


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_the_api_page_has_every_public_name(room: str) -> None:
    module = import_module(f"calib.{room}") if room else calib
    said = re.findall(r"^::: (\S+)$", text_of(DOCS / "api" / f"{room or 'calib'}.md"), flags=re.MULTILINE)
    rooms = set(ROOMS)
    assert sorted(said) == sorted(f"{module.__name__}.{name}" for name in set(module.__all__) - rooms)


def test_the_site_asks_nothing_of_the_network() -> None:
    config = text_of(ROOT / "mkdocs.yml")
    assert not re.search(r"https?://", config)
    assert "font: false" in config
    assert (DOCS / "assets" / "iframe-worker.js").is_file()  # else the plugin names one on a server

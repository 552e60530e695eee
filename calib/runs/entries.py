"""Exported prompts to evaluate, each with what sets its training apart and a name for the tables."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib.config import DataConfig, EvaluateRun, PromptRun, find_setting, given
from calib.losses import PRESETS
from calib.prompts.calibration import same_calibration
from calib.prompts.export import Prompt
from calib.runs.exports import prompt_path
from calib.runs.folder import FILES, RunFolder
from calib.runs.from_exports import data_from_export, own_data
from calib.runs.identity import flat
from calib.runs.results import CALIBRATED

ROUNDING = 1e-4  # of text features of unit norm, after a whole training beside other prompts


@dataclass
class Entry:
    """One exported prompt to evaluate.

    Attributes:
        path: The export.
        prompt: What is in it.
        own: The data settings it was trained with. None: it does not say.
        asked: Those that this command was given.
        facts: What sets its training apart: method, changed loss settings, shots, n_ctx, backbone, data set.
        method: Its name in the tables, from the facts that differ between the entries.
    """

    path: Path
    prompt: Prompt
    own: DataConfig | None
    asked: DataConfig
    facts: dict[str, str]
    method: str = ""

    @property
    def data(self) -> DataConfig:
        """The data set to apply it to.

        Raises:
            ValueError: The export does not say it, or asks for what was not said on this command.
        """
        asked = given(self.asked, EvaluateRun().data)
        own = self.own or DataConfig(name="")
        data = data_from_export(own, self.asked, asked, source=str(self.path))
        if "root" in asked and "options" not in asked:
            data = replace(data, options=_untrained(data.options))
        if not data.name:
            raise ValueError(
                f"{self.path} does not say which data set it was trained on; give one: data.name=... "
                "data.root=..."
            )
        return data

    @property
    def seed(self) -> int:
        """Seed of the training; prompts of one seed are compared in pairs."""
        return int(self.prompt.training.get("seed") or 0)


def looked_at(entries: Sequence[Entry]) -> Entry:
    """Return the entry whose single predictions a report is about: of the first method that of least seed."""
    return min((each for each in entries if each.method == entries[0].method), key=lambda each: each.seed)


def find_entries(config: EvaluateRun, *, with_data: bool = True) -> list[Entry]:
    """Return the exports that the settings name, with their baselines, data and names in the tables.

    Args:
        config: The settings.
        with_data: Whether data are read: then an export is refused of which they are not known.

    Raises:
        FileNotFoundError: A path holds no export.
        ValueError: Nothing is named, two different prompts would have the same name and seed, or the data are
            not known.
    """
    if not config.runs:
        raise ValueError("Nothing to evaluate: name run folders or prompt.safetensors files.")
    paths: list[Path] = []
    for run in _expanded(config.runs):
        paths.append(prompt_path(run))
        if Path(run).is_dir():
            beside = sorted(RunFolder(run).baselines.glob(f"*/{FILES['prompt'].path}"))
            beside += [path for path in [RunFolder(run).bare_run.prompt] if path.is_file()]
            for folder in (Path(run), *(path.parent for path in beside)):
                RunFolder(folder).check_marks()
            paths += beside
    entries = [_entry(path, config.data) for path in dict.fromkeys(paths)]
    for entry in entries if with_data else ():
        entry.data  # noqa: B018 (refused before anything is encoded)
    _name_methods(entries)
    return _without_repeats(entries)


def _expanded(runs: Sequence[str]) -> list[str]:
    """Return the paths that patterns name, and the other paths as they are."""
    found: list[str] = []
    for run in runs:
        fits = sorted(glob.glob(run)) if glob.has_magic(run) and not Path(run).exists() else [run]
        if not fits:
            raise FileNotFoundError(f"The pattern '{run}' fits no run folder and no prompt.safetensors.")
        found += fits
    return found


def _entry(path: Path, override: DataConfig) -> Entry:
    prompt = Prompt.load(path)
    training = prompt.training
    own = own_data(prompt, str(path))
    learned = prompt.context is not None
    facts = {
        **_own_facts(prompt, path.parent.name),
        "n_ctx": f"n_ctx={prompt.prompt.get('n_ctx')}" if learned else "",
        "shots": _shots_said(own) if learned and own is not None else "",
        "backbone": prompt.backbone["name"],
        "trained on": "" if own is None else own.name,
    }
    if learned:
        facts |= _other_settings(training.get("config") or {})
    return Entry(path, prompt, own, override, facts)


def _shots_said(own: DataConfig) -> str:
    return f"{own.shots} shots" if own.shots_from is None else "chosen shots"


def _own_facts(prompt: Prompt, unnamed: str) -> dict[str, str]:
    """Return what the tables say of a prompt in any case, beside whatever else differs among several."""
    training, method = prompt.training, str(prompt.training.get("method") or unnamed)
    return {
        "method": method,
        "loss": _changed_settings(method, training.get("objective", {})),
        "calibrated": _calibrated(training.get("config") or {}) if prompt.context is not None else "",
        "mappings": _mappings(prompt),
    }


def method_of(prompt: Prompt, unnamed: str) -> str:
    """Return what a prompt is called in the tables where nothing else sets it apart from others.

    Args:
        prompt: The prompt.
        unnamed: What one is called that does not say its method.
    """
    return _joined(_own_facts(prompt, unnamed), ())


def _joined(facts: Mapping[str, str], varying: Sequence[str]) -> str:
    shown = [facts.get(key, "") for key in ("calibrated", "mappings", "loss", *varying)]
    return " ".join(dict.fromkeys([facts["method"], *(said for said in shown if said)]))


def _calibrated(config: Mapping[str, Any]) -> str:
    """Return a word for a prompt that its shots calibrate, or could have: where nothing helped, as well."""
    method = (config.get("calibrate") or {}).get("method", "none")
    words = {"none": "", "auto": CALIBRATED}
    word = words.get(method, f"{CALIBRATED} ({method})")
    return f"{word} for stated shares" if word and config["calibrate"].get("prevalence") else word


def _mappings(prompt: Prompt) -> str:
    """Return the calibrators that were fitted to labelled outputs of a prompt and are in its file."""
    found = () if prompt.calibration is None else prompt.calibration.mappings
    return " ".join(f"+ {each.calibrator.name}" for each in found)


def _untrained(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a reader without where the training images are: other data need not have any."""
    kept = dict(options)
    for name in ("table", "splits"):
        if isinstance(by_split := kept.get(name), Mapping) and "train" in by_split:
            kept[name] = {split: each for split, each in by_split.items() if split != "train"} or None
    return kept


def _other_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that no other fact tells, as they are shown where they differ among the runs."""
    bare = (config.get("calibrate") or {}).get("method", "none") == "none"
    return {
        key: f"{'.'.join(key.split('.')[-2:])}={value}"
        for key, value in flat(dict(config)).items()
        if _sets_apart(key) and not (bare and key.startswith("calibrate."))
    }


def _sets_apart(key: str) -> bool:
    """Return whether the tables show a setting of the training; one that this version does not know, yes."""
    one = find_setting(PromptRun, key)
    return one is None or not (one.affects == "nothing" or one.told)


def _changed_settings(method: str, objective: Mapping[str, Mapping[str, Any]]) -> str:
    usual = PRESETS.get(method, {})
    changed = [
        f"{loss}.{key}={value}"
        for loss, settings in objective.items()
        for key, value in settings.items()
        if usual.get(loss, {}).get(key) != value
    ]
    return " ".join(changed)


def _name_methods(entries: list[Entry]) -> None:
    """Name every entry by its method and by whatever else differs among the entries."""
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, said in entry.facts.items():
            values.setdefault(key, set()).update({said} - {""})
    varying = [key for key, different in values.items() if key != "method" and len(different) > 1]
    for entry in entries:
        entry.method = _joined(entry.facts, varying)


def _without_repeats(entries: list[Entry]) -> list[Entry]:
    kept: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        twin = kept.setdefault((entry.method, entry.seed), entry)
        if twin is not entry and not _same(twin.prompt, entry.prompt):
            raise ValueError(
                f"{twin.path} and {entry.path} are different prompts, both '{entry.method}' with seed "
                f"{entry.seed}. "
                "Evaluate them one at a time."
            )
    return list(kept.values())


def _same(first: Prompt, second: Prompt) -> bool:
    """Return whether two prompts predict the same, but for rounding: beside others it is another."""
    ours, theirs = first.text_features, second.text_features
    near = ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= ROUNDING)
    return near and same_calibration(first.calibration, second.calibration)

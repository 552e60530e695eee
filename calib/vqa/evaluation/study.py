"""The answers of an evaluation, laid out: by system, data set and condition, beside their originals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from calib.core.errors import unknown_name
from calib.vqa.columns import codes
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.resampling import ClusterBootstrap
from calib.vqa.schema import ITEMS, NOTA, ORIGINAL
from calib.vqa.tables import Items, Outputs, originals
from calib.vqa.uncertainty import METHODS, Evidence, score

DATA = "data"  # what a data set without a name is called


class Layout:
    """What belongs together among the items.

    Args:
        items: All items.
        protocol: How they are evaluated.

    Attributes:
        originals: (I,) row of each item's original.
        datasets: (I,) names of data sets.
        cluster: (I,) number of each item's image or patient, within its data set.
        boots: Data set to its draws; a data set with one image or patient has none.

    Raises:
        ValueError: An item has no original, or the column of a shift or a cell is unknown, or a shift's usual
            value occurs nowhere.
    """

    def __init__(self, items: Items, protocol: Protocol) -> None:
        self.items, self.protocol = items, protocol
        self._check_columns()
        self.originals = originals(items)
        said = items.texts("dataset")
        self.datasets = np.array([name if name is not None else DATA for name in said], dtype=object)
        groups = items.groups[self.originals].astype(str)  # of a changed question, those of its original
        self.cluster = np.zeros(len(items), dtype=np.int64)
        self.boots: dict[str, ClusterBootstrap] = {}
        for name in self.names:
            rows = np.flatnonzero(self.datasets == name)
            index = np.unique(groups[rows], return_inverse=True)[1]
            self.cluster[rows] = index
            if index.max() > 0:
                self.boots[name] = ClusterBootstrap(
                    np.arange(index.max() + 1),
                    n_resamples=protocol.n_resamples,
                    level=protocol.level,
                    seed=protocol.seed,
                )

    @property
    def names(self) -> list[str]:
        """The data sets, in the order of the items."""
        return list(dict.fromkeys(self.datasets.tolist()))

    def _check_columns(self) -> None:
        """Refuse a column that nobody knows; one of the schema that these items lack says nothing."""
        columns, (column, usual) = self.items.columns, self.protocol.shift or ("", None)
        for name in (*self.protocol.by, *([column] if column else [])):
            if name not in columns and name not in ITEMS:
                raise unknown_name("column of items", name, columns)
        if usual is not None and usual not in self.slices(column):
            values = sorted(set(self.slices(column).tolist()) - {""})
            if not values:
                raise ValueError(f"shift={column}:{usual}: no item says anything of {column}.")
            raise unknown_name(f"value of {column}", usual, values)

    def slices(self, column: str) -> np.ndarray:
        """Return what a column says of every item, (I,) of str; what it does not say is ''."""
        if column not in self.items.columns:
            return np.full(len(self.items), "", dtype=object)
        said = self.items.texts(column)
        return np.array([value or "" for value in said], dtype=object)

    @cached_property
    def cells(self) -> np.ndarray:
        """(I,) the cell of every item: what the columns `by` say, joined."""
        parts = [self.slices(column) for column in self.protocol.by]
        if not parts:
            return np.full(len(self.items), "", dtype=object)
        return np.array([" / ".join(p for p in row if p) for row in zip(*parts, strict=True)], dtype=object)

    @cached_property
    def gold_texts(self) -> np.ndarray:
        """(I,) number of the right option's text, whatever its case; of its id where there are no texts."""
        table = self.items
        ids = table.column("option_ids").to_pylist()
        texts = table.column("options").to_pylist() if table.has("options") else [None] * len(table)
        keys: list[tuple[bool, str]] = []
        for place, names, said in zip(table.correct.tolist(), ids, texts, strict=True):
            if place < 0:
                keys.append((False, ""))
            else:
                keys.append((False, names[place]) if said is None else (True, said[place].casefold()))
        number = {key: code for code, key in enumerate(dict.fromkeys(keys))}
        return np.array([number[key] for key in keys], dtype=np.int64)


class Answers:
    """All answers of one system, with what every method says of them.

    Args:
        name: What tables call it.
        outputs: Its outputs.
        layout: What belongs together among the items.

    Attributes:
        model: Its model, which other prompts and runs may share.
        item: (N,) rows among the items.
        right: (N,) bool.
        doubts: Method to (N,) uncertainties, NaN where it can say nothing.
        reasons: Method to why it can say nothing of some or all.
        fitted: What was fitted on some of these answers, kept for others of them.
    """

    def __init__(self, name: str, outputs: Outputs, layout: Layout) -> None:
        self.name, self.outputs, self.layout = name, outputs, layout
        self.model = str(outputs.models[0])
        items = layout.items
        self.item = outputs.item_rows
        self.right = outputs.right
        self.choices = outputs.choices
        self.dataset = layout.datasets[self.item]
        self.condition = items.conditions[self.item]
        self.cluster = layout.cluster[self.item]
        self.answerable = items.correct[self.item] >= 0
        self.evidence = Evidence(outputs, layout.protocol.scores)
        self.doubts: dict[str, np.ndarray] = {}
        self.reasons: dict[str, str] = {}
        self.fitted: dict[tuple[object, ...], Any] = {}

    def judge(self, others_wrong: np.ndarray | None = None) -> None:
        """Let every chosen method judge the answers.

        Args:
            others_wrong: (N,) share of other models that are wrong on the same item. None: there are none.
        """
        if others_wrong is not None:
            self.evidence.given["others_wrong"] = others_wrong
        self.evidence.given["cell_error"] = self._cell_error()
        chosen = list(self.layout.protocol.chosen)
        if "no_image" in chosen:
            reference = score(self.evidence, self.layout.protocol.reference)
            without = self._of_condition(reference.values, "no_image")
            if without is not None:
                self.evidence.given["no_image_doubt"] = without
        for name in chosen:
            said = score(self.evidence, name)
            self.doubts[name], self.reasons[name] = said.values, said.reason
            if METHODS[name].baseline:
                self._leave_out_constant(name)

    def usable(self, name: str) -> bool:
        """Return whether a method says anything of these answers."""
        return bool((~np.isnan(self.doubts[name])).any())

    def rows(self, dataset: str, condition: str) -> np.ndarray:
        """Return the rows of answers to one condition of a data set."""
        return np.flatnonzero((self.dataset == dataset) & (self.condition == condition))

    def conditions(self, dataset: str) -> list[str]:
        """Return the conditions of a data set that were answered, the original first."""
        found = dict.fromkeys(self.condition[self.dataset == dataset].tolist())
        return sorted(found, key=lambda name: (name != ORIGINAL, name))

    def pairs(self, dataset: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of answers to a condition and to their originals, those that have both."""
        rows = self.rows(dataset, condition)
        first = self._row_of_item[self.layout.originals[self.item[rows]]]
        both = first >= 0
        return first[both], rows[both]

    @cached_property
    def nota(self) -> np.ndarray:
        """(N,) where "None of the above" stands among the options; -1: nowhere."""
        return self.layout.items.places(NOTA)[self.item]

    @cached_property
    def _row_of_item(self) -> np.ndarray:
        found = np.full(len(self.layout.items), -1, dtype=np.int64)
        found[self.item] = np.arange(len(self.item))
        return found

    def _leave_out_constant(self, name: str) -> None:
        """Leave out what a baseline says where it is the same for every question: it ranks none of them.

        As an AUROC of exactly 50 % it would look like something that was measured, and beaten.
        """
        values = self.doubts[name].copy()
        for dataset in dict.fromkeys(self.dataset.tolist()):
            for condition in self.conditions(dataset):
                rows = self.rows(dataset, condition)
                known = rows[~np.isnan(values[rows])]
                if len(known) and np.ptp(values[known]) == 0:
                    values[known] = np.nan
                    self.reasons[name] = "it is the same for every question"
        self.doubts[name] = values

    def _of_condition(self, values: np.ndarray, condition: str) -> np.ndarray | None:
        """Return for every answer that of the same question under a condition, (N,); None: there is none."""
        rows = np.flatnonzero(self.condition == condition)
        if not len(rows):
            return None
        by_original = np.full(len(self.layout.items), np.nan)
        by_original[self.layout.originals[self.item[rows]]] = values[rows]
        return by_original[self.layout.originals[self.item]]

    def _cell_error(self) -> np.ndarray:
        """Return the error rate of answers of the same data set, condition, modality and type, (N,).

        That of other images or patients, in folds: an answer's own error is what the rate is to foresee. Nor
        is it left out by itself, which would lower the rate of exactly the wrong ones.
        """
        layout = self.layout
        whole = _numbered(self.dataset, self.condition)
        more = [layout.slices(column)[self.item] for column in ("modality", "question_type")]
        cell = _numbered(self.dataset, self.condition, *more)
        n, folds = len(cell), layout.protocol.folds
        order = np.random.default_rng(layout.protocol.seed).permutation(layout.cluster.max(initial=0) + 1)
        fold = order[self.cluster] % folds
        rates = np.empty(n)
        for own in range(folds):
            here, others = fold == own, fold != own
            wrong, asked = _counted(whole[others], ~self.right[others], n)
            rate = ((wrong + 0.5) / (asked + 1))[whole[here]]
            wrong, asked = _counted(cell[others], ~self.right[others], n)
            rates[here] = (wrong[cell[here]] + rate) / (asked[cell[here]] + 1)
        # One cell tells nothing apart, nor should its folds.
        cells = np.bincount(np.unique(np.stack([whole, cell]), axis=1)[0], minlength=n)
        wrong, asked = _counted(whole, ~self.right, n)
        single = cells[whole] == 1
        rates[single] = (wrong / np.maximum(asked, 1))[whole[single]]
        return rates


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """Return a number for every combination of texts, (N,)."""
    keys = np.array(["\x1f".join(map(str, row)) for row in zip(*columns, strict=True)], dtype=str)
    index: np.ndarray = np.unique(keys, return_inverse=True)[1]
    return index


def _counted(index: np.ndarray, wrong: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how many are wrong, and how many there are, of every number below n."""
    return np.bincount(index, weights=wrong, minlength=n), np.bincount(index, minlength=n)


def systems(outputs: Outputs, layout: Layout) -> list[Answers]:
    """Return the answers of every model, prompt and run, judged by every method."""
    models, prompts, runs = (outputs.texts(name).astype(str) for name in ("model_id", "prompt_id", "run_id"))
    names = models.astype(object)
    for more, word in ((prompts, "prompt"), (runs, "run")):
        if len(np.unique(more)) > 1:
            names = np.array([f"{a}, {word} {b}" for a, b in zip(names, more, strict=True)], dtype=object)
    order = list(dict.fromkeys(names.tolist()))
    index = codes(pa.array(names.tolist()), pa.array(order))
    found = [Answers(name, outputs.take(np.flatnonzero(index == i)), layout) for i, name in enumerate(order)]
    rates = {model: _wrong_rate(found, model) for model in dict.fromkeys(each.model for each in found)}
    asked = sum(np.isfinite(rate).astype(np.int64) for rate in rates.values())
    wrong = sum(np.nan_to_num(rate) for rate in rates.values())
    for answers in found:
        at = answers.item
        others = asked[at] - 1
        rest = wrong[at] - rates[answers.model][at]
        share = np.where(others > 0, rest / np.maximum(others, 1), np.nan)
        answers.judge(share if len(rates) > 1 else None)
    return found


def _wrong_rate(found: list[Answers], model: str) -> np.ndarray:
    """Return the share of a model's prompts and runs that are wrong, (I,); NaN where none was asked."""
    wrong, asked = np.zeros((2, len(found[0].layout.items)))
    for answers in found:
        if answers.model == model:
            wrong[answers.item] += ~answers.right
            asked[answers.item] += 1
    return np.where(asked > 0, wrong / np.maximum(asked, 1), np.nan)


def each(found: list[Answers]) -> Iterator[tuple[Answers, str, str]]:
    """Yield every system with each of its data sets and conditions."""
    for answers in found:
        for dataset in dict.fromkeys(answers.dataset.tolist()):
            for condition in answers.conditions(dataset):
                yield answers, dataset, condition


def doubtful(answers: Answers) -> list[str]:
    """Return the methods that say anything of a system's answers, in the order of METHODS."""
    return [name for name in METHODS if name in answers.doubts and answers.usable(name)]

"""A classification task: splits, class names, the zero-shot template, and where the images come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from calib.core.errors import unknown_name
from calib.core.names import (
    check_class_names,
    codes_among,
    composed,
    name_key,
    one_form,
    one_spelling,
    plain_name,
    several_in_one,
    spelt_apart,
)
from calib.core.problems import note
from calib.core.text import few
from calib.data.features import FeatureTable
from calib.data.few_shot import FewShotSplit, few_shot_split
from calib.data.records import ImageTable

SPLITS = ("train", "val", "test")
MEANT = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
UNSPLIT = "test"  # what images are for that nobody has split: a prompt can be applied to them
DEFAULT_TEMPLATE = "An image of {}."

logger = logging.getLogger(__name__)

Table: TypeAlias = ImageTable | FeatureTable
ClassNames: TypeAlias = Mapping[str, str] | Sequence[str]


class AbsentSplitError(ValueError):
    """A split that is needed is not there.

    Args:
        message: What the reader says of it.
        there: The splits that are.
    """

    def __init__(self, message: str, there: Collection[str]) -> None:
        super().__init__(message)
        self.there = tuple(there)

    def __reduce__(self) -> tuple[type[AbsentSplitError], tuple[str, tuple[str, ...]]]:
        return AbsentSplitError, (str(self), self.there)


@dataclass
class Splits:
    """What a reader of some file layout finds.

    Attributes:
        class_names: C names in label order.
        tables: One table per split that there is, of train, val and test.
        notes: What a user should know about this data, e.g. images that were left out.
        absent: The message where a split is needed and not there, from the split's name. None: the usual one.
    """

    class_names: list[str]
    tables: dict[str, Table]
    notes: tuple[str, ...] = ()
    absent: Callable[[str], str] | None = None

    def check(self, needs: Sequence[str], where: str) -> None:
        """Refuse data without a split that is needed; where they train a model and cannot test it, say so.

        Args:
            needs: The splits that must be there.
            where: What the data are called where the reader has no message of its own.

        Raises:
            AbsentSplitError: One is not there.
        """
        say = self.absent or (lambda split: f"{where} has no split '{split}'.")
        for split in needs:
            if split not in self.tables:
                absent = AbsentSplitError(say(split), self.tables)
                if not self.tables:
                    raise absent  # nothing is left to find a problem in
                note(absent, first=True)
        if "train" in needs and "test" not in self.tables:
            logger.warning("%s Without test images there will be no test results.", say("test"))

    def among(self, classes: Sequence[str]) -> Splits:
        """Return the splits numbered as a model numbers its classes, where these are only some of them.

        Args:
            classes: The names of the model's classes, in its order.
        """
        index = {name_key(name): label for label, name in enumerate(classes)}
        known = [index.get(name_key(name), -1) for name in self.class_names]
        if -1 in known or len(known) == len(index):
            return self
        numbers = torch.tensor(known)
        tables = {split: _labelled(table, numbers[table.labels]) for split, table in self.tables.items()}
        return replace(self, class_names=list(classes), tables=tables)


def _labelled(table: Table, labels: torch.Tensor) -> Table:
    return replace(table, labels=labels) if isinstance(table, FeatureTable) else table.with_labels(labels)


@dataclass
class TaskData:
    """Everything a run needs to know about a data set.

    Attributes:
        name: The data set's name.
        class_names: C different names in label order.
        template: Zero-shot text with one {} for the class name.
        train: Images the shots are drawn from; empty where the data are for testing only.
        test: Images results are reported on; empty where the data have none.
        val: The data set's own validation images, if it has any.
        source: Where the data can be got.
        licence: Their terms.
        notes: Known leaks and limits.

    Raises:
        ValueError: The template, the class names, a label or a split is not as described.
    """

    name: str
    class_names: list[str]
    template: str
    train: Table
    test: Table
    val: Table | None = None
    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_template(self.template)
        check_class_names(self.class_names)
        if not self.splits():
            raise ValueError(f"Data set '{self.name}' has no images.")
        for split, table in self.splits().items():
            highest = int(table.labels.max())
            if highest >= len(self.class_names):
                raise ValueError(
                    f"The {split} split of data set '{self.name}' has label {highest}, but there are only "
                    f"{len(self.class_names)} class names (labels start at 0)."
                )

    def __repr__(self) -> str:
        """Return the data set in a line: names of images and patients stay out of logs."""
        sizes = ", ".join(f"{split}: {len(table)}" for split, table in self.splits().items())
        return f"<TaskData {self.name!r}: {sizes}; {few(self.class_names)}>"

    def draw(
        self, shots: int | None, *, val_shots: int = 0, at_most: bool = False, seed: int
    ) -> FewShotSplit:
        """Return training and validation shots of every class, drawn from the training split.

        Args:
            shots: Training images per class. None: all that validation leaves.
            val_shots: Validation images per class.
            at_most: Whether both are upper limits: a class with fewer images gives what it has.
            seed: Of the draw; see `calib.data.few_shot.few_shot_split`.

        Raises:
            ValueError: A class has too few images, or there are none.
        """
        if not len(self.train):
            raise ValueError(f"Data set '{self.name}' has no training images to draw shots from.")
        return few_shot_split(
            self.train.labels,
            self.train.ids,
            shots,
            val_shots=val_shots,
            at_most=at_most,
            seed=seed,
            groups=self.train.groups,
            class_names=self.class_names,
            names=self.train.names,
        )

    def splits(self) -> dict[str, Table]:
        """Return the splits that have images, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {split: table for split, table in named.items() if table is not None and len(table)}


def check_template(template: str) -> None:
    """Refuse a template without exactly one place for the class name.

    Raises:
        ValueError: There is no `{}`, more than one, or another brace.
    """
    if template.count("{}") != 1 or any(brace in template.replace("{}", "") for brace in "{}"):
        raise ValueError(
            f"data.template needs {{}} exactly once, e.g. {DEFAULT_TEMPLATE!r}; got {template!r}."
        )


def put_in_order(known: Mapping[str, str], class_names: ClassNames, *, source: str) -> ClassNames:
    """Return known class names in the order in which a list gives them, by name or by key.

    Anything else comes back as it is: a mapping, and a list of new names in label order.

    Args:
        known: Class key (folder name or label) to name, in label order.
        class_names: Names from the user.
        source: Where the known names come from, for messages.

    Raises:
        ValueError: The list names known and unknown classes, and not in label order either.

    Example:
        >>> put_in_order({"N": "normal", "T": "tumour"}, ["tumour", "normal"], source="classnames.txt")
        {'T': 'tumour', 'N': 'normal'}
    """
    if isinstance(class_names, Mapping):
        return class_names
    names = [str(name) for name in class_names]
    natural = list(known.values())
    for spellings in (natural, list(known)):
        key_of = {name_key(spelling): key for spelling, key in zip(spellings, known, strict=True)}
        if sorted(map(name_key, names)) == sorted(key_of):
            return {key: known[key] for key in (key_of[name_key(name)] for name in names)}
    place = {name: label for label, name in reversed([*enumerate(natural)])}
    if any(place.get(name, label) != label for label, name in enumerate(names)):
        stranger = next((name for name in names if name not in place), None)
        if stranger is not None:
            raise unknown_name(
                f"name in data.class_names (else those of {source}, in another order)", stranger, natural
            )
    return class_names


def number_classes(
    keys: Sequence[str], class_names: ClassNames | None, *, what: str
) -> tuple[dict[str, int], list[str]]:
    """Return the label of every class key (folder name or label value) and the class names in label order.

    Keys that look the same, in two Unicode forms say, are one class. Without `class_names` the keys are
    numbered in the order given and underscores become spaces. A mapping from key to name sets both the
    numbering (its order) and the names. A list that holds the keys themselves sets the numbering; any other
    list of the right length names the keys one after the other.

    Args:
        keys: The class keys found in the data, each once, in their natural order (sorted folder names, say).
        class_names: Names from the user or the data set's description. None: from the keys.
        what: What a key is, for messages: "class folder" or "label".

    Raises:
        ValueError: Names and keys do not fit together.

    Example:
        >>> number_classes(["ADI", "TUM"], {"ADI": "adipose tissue", "TUM": "tumour"}, what="class folder")
        ({'ADI': 0, 'TUM': 1}, ['adipose tissue', 'tumour'])
    """
    spelling = one_spelling(keys)
    for alike in spelt_apart(spelling):
        logger.warning(
            "These look the same and are read as one %s: %s.", what, ", ".join(ascii(each) for each in alike)
        )
    labels, names = _number([*dict.fromkeys(spelling.values())], class_names, what)
    return {key: labels[spelling[key]] for key in keys}, names


def _number(found: list[str], class_names: ClassNames | None, what: str) -> tuple[dict[str, int], list[str]]:
    """Return label by key, and names, of keys that all look different."""
    if class_names is None:
        _check_found(found, what)
        return {key: label for label, key in enumerate(found)}, [plain_name(key) for key in found]
    if isinstance(class_names, Mapping):
        known = {one_form(str(key)): label for label, key in enumerate(class_names)}
        exact = {str(key): label for label, key in enumerate(class_names)}
        placed = {key: exact.get(key, known.get(one_form(key))) for key in found}
        for key, label in placed.items():
            if label is None:
                raise unknown_name(what, key, exact)
        return {key: label for key, label in placed.items() if label is not None}, [
            composed(str(name)) for name in class_names.values()
        ]
    names = [composed(str(name)) for name in class_names]
    by_key = {name: label for label, name in enumerate(names)}
    by_name = {name_key(name): label for label, name in enumerate(names)}
    matches = {key: by_key.get(key, by_name.get(name_key(key))) for key in found}
    labels = {key: label for key, label in matches.items() if label is not None}
    if len(labels) == len(found) and len(set(labels.values())) == len(found):
        return labels, names
    out_of_place = [key for place, key in enumerate(found) if labels.get(key, place) != place]
    if labels and (out_of_place or len(names) != len(found)):
        stranger = next(key for key in found if key not in labels)
        raise ValueError(
            f"{unknown_name(what, stranger, names)} Give a name for every label (data.class_names), in the "
            f"order of the labels: {few(found, 10)}. Those that are labels have to stand in their own place."
        )
    if len(names) != len(found):
        raise ValueError(
            f"There are {len(names)} class names for {len(found)} values of {what}: {few(found, 10)}. "
            "Correct data.class_names."
        )
    logger.warning(
        "Check the class names, which are given in the order of the %ss: %s.",
        what,
        ", ".join(f"'{key}' is '{name}'" for key, name in zip(found, names, strict=True)),
    )
    return {key: label for label, key in enumerate(found)}, names


def _check_found(found: Sequence[str], what: str) -> None:
    """Refuse keys that list several classes, and point out numbers and codes."""
    both = several_in_one(found) if what == "label" else None
    if both is not None:
        raise ValueError(
            f"The label '{both}' lists several classes; one class per image is supported. Leave such images "
            "out, or, where it is a class by itself, name all classes: "
            f'"data.class_names=[NAME,NAME,...]" for {few(found, 20)}.'
        )
    if codes := codes_among(found):
        logger.warning(
            "As class names these codes say nothing to a text model: %s. Give names in this order, "
            '"data.class_names=[NAME,NAME,...]": %s.',
            few(codes, 10),
            few(found, 20),
        )

"""The data sets known by name, and the one function that loads any of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.core.errors import unknown_name
from calib.core.names import check_class_names
from calib.core.problems import note, noted
from calib.data.dicom import view_of
from calib.data.dicom.groups import grouped_by_patient
from calib.data.first_look import looked_at
from calib.data.labels import check_texts
from calib.data.notices import warn_of_absent_classes
from calib.data.reader_options import check_options
from calib.data.readers.embedded import embedded_reader
from calib.data.readers.folder import load_image_folder
from calib.data.readers.hf import load_hf
from calib.data.readers.medmnist import load_medmnist
from calib.data.readers.pool import load_pool
from calib.data.readers.table import load_table
from calib.data.records import ImageTable
from calib.data.task import (
    DEFAULT_TEMPLATE,
    ClassNames,
    Splits,
    Table,
    TaskData,
    check_template,
    put_in_order,
)

POOL = "pool"  # images without labels, of which a list says those that were labelled since
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a data set besides its images.

    Attributes:
        name: The name it is asked for by.
        load: Reads it: `load(root, *, class_names, ...)` returns `Splits`. Its keyword arguments are the
            options.
        class_names: Folder or label to class name, in label order. None: the reader finds them.
        template: Zero-shot text with {} for the class name.
        source: Where it can be got.
        licence: Its terms.
        notes: Known leaks and limits.
        needs_root: Whether the images must be given.
    """

    name: str
    load: Callable[..., Splits]
    class_names: Mapping[str, str] | None = None
    template: str = DEFAULT_TEMPLATE
    source: str = "your own"
    licence: str = "your own"
    notes: tuple[str, ...] = ()
    needs_root: bool = True


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    template: str | None = None,
    class_names: ClassNames | None = None,
    grey16_max: int | None = None,
    window: Sequence[float] | None = None,
    frame: int | str | None = None,
    needs: Sequence[str] = ("train",),
    among: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    shots_from: str | Path | None = None,
    patients: bool = True,
    look: Callable[[Splits], Splits] | None = None,
    **options: Any,
) -> TaskData:
    """Return a data set as a task: its splits, class names, template and terms.

    Args:
        name: One of `DATASETS`: a published data set (covid, rsna18, kather, pannuke, digestpath,
            pneumoniamnist), an embedded task (cxr3, lc25000), or a layout for your own images (folder, table,
            hf, medmnist; pool for images without labels).
        root: Folder or file of the images. For published sets the folder that holds `images`, or its parent;
            for hf also owner/name on the hub. None: only for the embedded tasks, whose features are packaged,
            and for hf with `dataset`.
        template: Zero-shot text with one {} for the class name. None: the data set's own.
        class_names: Names in label order, or key to name; see `calib.data.task.number_classes`. None: its
            own. A list of just its own names sets their order.
        needs: The splits that must be there. ("test",) to apply a prompt: nothing is trained. Data to train
            on may have no test images; that is said, since nothing can be reported then.
        among: The classes that a model knows. Data with only some of them are numbered as it numbers them.
        grey16_max: The white of 16-bit images; see `calib.data.images.open_image`.
        window: Centre and width of what lies between black and white in DICOM files; see
            `calib.data.dicom.DicomView`.
        frame: Which frame of DICOM files that have several, from 1, or "middle".
        skip_unreadable: Leave out images that cannot be read; see `calib.data.first_look.looked_at`.
        shots_from: For pool: the list of its images that were chosen by `calib select` and labelled.
        patients: Group DICOM images by the patient ids in their headers where no column says how they are
            grouped; see `calib.data.dicom.groups`.
        look: What looks at all images before anything else, and returns the splits of those that can be
            read. None: `looked_at`, which refuses the others.
        options: Further arguments of the reader, e.g. `columns` for table or `keep_leaks` for rsna18.

    Raises:
        FileNotFoundError: The images are not there.
        AbsentSplitError: A split that is needed is not there; a ValueError.
        ValueError: Unknown name or option, or data that are not as the reader expects.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    spec = DATASETS[name]
    of_images = {"grey16_max": grey16_max, "window": window, "frame": frame, "patients": patients}
    check_options(spec.name, spec.load, {**options, **of_images, "skip_unreadable": skip_unreadable})
    view = view_of(window, frame)
    if root is None and spec.needs_root:
        raise ValueError(
            f"Data set '{name}' needs the folder or file of its images: data.root=... Source: {spec.source}."
        )
    root = None if root is None else os.path.expanduser(root)
    check_texts(class_names)
    if spec.class_names is not None:
        class_names = (
            spec.class_names
            if class_names is None
            else put_in_order(spec.class_names, class_names, source=f"data set '{name}'")
        )
    listed = () if shots_from is None else (shots_from,)
    if listed and spec.name != POOL:
        raise ValueError(f"shots_from is for images without labels ('{POOL}'); '{name}' knows its own.")
    splits = spec.load(root, *listed, class_names=class_names, **options)
    splits.check(needs, str(root))
    if among is not None:
        splits = splits.among(among)
    for table in splits.tables.values():
        if isinstance(table, ImageTable):
            table.grey16_max, table.view = grey16_max, view
    splits = looked_at(splits, skip_unreadable=skip_unreadable) if look is None else look(splits)
    splits = grouped_by_patient(splits) if patients else splits
    for split in (*needs, "test") if "train" in needs else needs:
        if split in splits.tables and not len(splits.tables[split]):  # all of its images were left out
            note(ValueError(f"The {split} split of data set '{name}' is empty. {' '.join(splits.notes)}"))
    for said in splits.notes:
        logger.warning("%s: %s", name, said)
    warn_of_absent_classes(splits.class_names, {name: table.labels for name, table in splits.tables.items()})
    nothing, template = ImageTable([], [], []), spec.template if template is None else template
    with noted():
        check_template(template)
    with noted():
        check_class_names(splits.class_names)
    return TaskData(
        name=spec.name,
        class_names=splits.class_names,
        template=template,
        train=splits.tables.get("train", nothing),
        test=splits.tables.get("test", nothing),
        val=splits.tables.get("val"),
        source=spec.source,
        licence=spec.licence,
        notes=spec.notes + splits.notes,
    )


def _published(*folders: str) -> Callable[..., Splits]:
    """Return the reader of the layout of CalibPrompt, `<root>/[<folder>/]images/{train,test}/<class>/*`."""

    def load(root: str | Path, *, class_names: ClassNames | None = None) -> Splits:
        return load_image_folder(_within(root, *folders), class_names=class_names)

    return load


def _load_rsna18(
    root: str | Path, *, class_names: ClassNames | None = None, keep_leaks: bool = False
) -> Splits:
    """Return RSNA18 with every patient once and in one split; `keep_leaks` leaves it as published.

    The files are named by patient. A patient who is in test is taken out of the other splits, and one who is
    in val out of train.
    """
    found = load_image_folder(_within(root, "rsna18"), class_names=class_names)
    tables: dict[str, Table] = {}
    notes = []
    taken: set[str] = set()
    for split in sorted(found.tables, key=("test", "val", "train").index):
        table = found.tables[split]
        assert isinstance(table, ImageTable)
        patients = [Path(name).stem for name in table.names]
        first = {patient: row for row, patient in reversed(list(enumerate(patients)))}
        kept = sorted(row for patient, row in first.items() if patient not in taken)
        taken.update(first)
        if len(kept) < len(patients):
            done = "kept, as published" if keep_leaks else "left out"
            notes.append(
                f"{len(patients) - len(kept)} {split} images of patients who occur elsewhere were {done}."
            )
        grouped = table.with_groups(patients)
        tables[split] = grouped if keep_leaks else grouped.subset(kept)
    return Splits(found.class_names, tables, tuple(notes), found.absent)


def _load_pneumoniamnist(root: str | Path, *, class_names: ClassNames | None = None) -> Splits:
    return load_medmnist(
        root, class_names=class_names, flag=None if Path(root).is_file() else "pneumoniamnist"
    )


def _within(root: str | Path, *folders: str) -> Path:
    """Return the data set's own folder inside `root` if there is one, else `root` itself."""
    return next((Path(root) / folder for folder in folders if (Path(root) / folder).is_dir()), Path(root))


CXR3_LABELS = {"no_finding": "no finding", "pneumonia": "pneumonia", "covid19": "COVID-19"}
LC25000_LABELS = {
    "colon_aca": "colon adenocarcinoma",
    "colon_n": "benign colon tissue",
    "lung_aca": "lung adenocarcinoma",
    "lung_n": "benign lung tissue",
    "lung_scc": "lung squamous cell carcinoma",
}

_KATHER = DatasetSpec(
    name="kather",
    load=_published("kather", "kathercolon"),
    class_names={
        "ADI": "adipose tissue",
        "BACK": "background",
        "DEB": "debris",
        "LYM": "lymphocytes",
        "MUC": "mucus",
        "MUS": "smooth muscle",
        "NORM": "normal colon mucosa",
        "STR": "cancer-associated stroma",
        "TUM": "colorectal adenocarcinoma epithelium",
    },
    template="An H&E image of {}.",
    source="https://zenodo.org/records/1214456 (NCT-CRC-HE-100K for training, CRC-VAL-HE-7K for testing)",
    licence="CC BY 4.0",
    notes=("Classes differ in JPEG and colour artefacts: colour alone classifies well (arXiv 2409.11546).",),
)

# Class names, templates and splits: github.com/iabh1shekbasu/CalibPrompt c6ec13e and
# github.com/asif-hanif/baple 3144f78.
DATASETS: dict[str, DatasetSpec] = {
    "covid": DatasetSpec(
        name="covid",
        load=_published("covid"),
        class_names={"covid": "covid", "normal": "normal"},
        template="A chest X-ray image of {} patient",
        source="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        licence="collected from several sources with terms of their own; do not redistribute",
        notes=(
            "Split by file: patients may be on both sides.",
            "Most normal images come from RSNA, so this set is not independent of rsna18.",
        ),
    ),
    "rsna18": DatasetSpec(
        name="rsna18",
        load=_load_rsna18,
        class_names={
            "lung_opacity": "lung opacity",
            "no_lung_opacity_not_normal": "no lung opacity, not normal",
            "normal": "normal",
        },
        template="A chest X-ray image of {} patient",
        source="https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge",
        licence="RSNA terms: academic, commercial or non-commercial use with attribution",
        notes=(
            "The published split has about 1,110 of the 5,910 test images in training too, all lung opacity. "
            "Here such images are left out of training; data.options.keep_leaks=true keeps them.",
        ),
    ),
    "kather": _KATHER,
    "kathercolon": _KATHER,
    "pannuke": DatasetSpec(
        name="pannuke",
        load=_published("pannuke"),
        class_names={"benign": "benign", "malignant": "malignant"},
        # "skin" is a slip of the official code (the set covers 19 tissues), kept so that zero-shot numbers
        # compare.
        template="An H&E image patch of {} skin tissue.",
        source="https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
        licence="CC BY-NC-SA 4.0",
        notes=(
            "Split by patch at random: patches of one slide may be on both sides.",
            "The published template says 'skin tissue', though the set covers 19 tissues.",
        ),
    ),
    "digestpath": DatasetSpec(
        name="digestpath",
        load=_published("digestpath"),
        class_names={"benign": "benign", "malignant": "malignant"},
        template="An H&E image patch of {} tissue.",
        source="https://digestpath2019.grand-challenge.org",
        licence="terms of the challenge; registration needed",
        notes=(
            "Split by patch at random: overlapping crops and magnifications of one slide are on both sides.",
        ),
    ),
    "cxr3": DatasetSpec(
        name="cxr3",
        load=embedded_reader("cxr3", CXR3_LABELS, group="patient"),
        class_names=CXR3_LABELS,
        template="A chest X-ray image of {}.",
        source="NIH ChestX-ray14 (https://nihcc.app.box.com/v/ChestXray-NIHCC; Wang et al., CVPR 2017), "
        "Hannover Medical School (https://doi.org/10.6084/m9.figshare.12275009)",
        licence="NIH: no restrictions, acknowledge the NIH Clinical Center; Hannover: CC BY 3.0",
        notes=(
            "COVID-19 images are from another hospital: class and source are confounded. No COVID detector.",
            "The NIH labels are mined from reports and noisy.",
        ),
        needs_root=False,
    ),
    "lc25000": DatasetSpec(
        name="lc25000",
        load=embedded_reader("lc25000", LC25000_LABELS, group="tile_group"),
        class_names=LC25000_LABELS,
        template="An H&E image of {}.",
        source="LC25000 (Borkowski et al., arXiv 1912.12142), one tile per original field after "
        "Batchkala et al., https://github.com/GeorgeBatch/LC25000-clean",
        licence="its authors: freely available to AI researchers in any way they see fit; no formal licence",
        notes=("No patient ids are published: leaks by slide cannot be excluded.", "Visually easy."),
        needs_root=False,
    ),
    "pneumoniamnist": DatasetSpec(
        name="pneumoniamnist",
        load=_load_pneumoniamnist,
        template="A chest X-ray image of {}.",
        source="https://zenodo.org/records/10519652 (MedMNIST v2; Kermany et al., Cell 2018)",
        licence="CC BY 4.0",
        notes=("28 x 28 pixels: far smaller than what the backbones were trained on.",),
    ),
    "folder": DatasetSpec(name="folder", load=load_image_folder),
    "table": DatasetSpec(name="table", load=load_table),
    "pool": DatasetSpec(name="pool", load=load_pool),
    "hf": DatasetSpec(name="hf", load=load_hf, needs_root=False),
    "medmnist": DatasetSpec(
        name="medmnist",
        load=load_medmnist,
        source="https://zenodo.org/records/10519652 (MedMNIST v2)",
        licence="CC BY 4.0, except dermamnist: CC BY-NC 4.0",
    ),
}

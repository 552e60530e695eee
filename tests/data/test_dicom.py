"""DICOM files: pixels as they are meant, refusals that say what to do, and nothing of the header anywhere."""

from __future__ import annotations

import contextlib
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRETS, table_of, write_dicom
from PIL import Image

from calib.core.optional import OPTIONAL, OptionalPart
from calib.data import load_data
from calib.data.cached import features_key
from calib.data.dicom import DicomView, is_dicom_file, open_dicom, view_of
from calib.data.dicom.groups import group_name, patients_of_headers
from calib.data.images import file_id, looks_like_image, open_image
from calib.vqa.adapters.task import from_task

pydicom = pytest.importorskip("pydicom")
OWN = Path(pydicom.__file__).parent / "data" / "test_files"  # those that pydicom brings


def shown(path: Path, **options: Any) -> np.ndarray:
    """Return the grey values (H, W) of an image."""
    pixels = np.asarray(open_image(path, **options))
    assert (pixels[..., :1] == pixels).all()
    return pixels[..., 0]


GREYS = np.array([[0, 100, 200], [255, 50, 10]], dtype=np.uint8)


def test_eight_bits_without_a_window_are_shown_as_they_are(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREYS)
    assert (shown(path) == GREYS).all()
    assert (shown(write_dicom(path, GREYS, PhotometricInterpretation="MONOCHROME1")) == 255 - GREYS).all()
    assert open_image(path).size == (3, 2)


def test_a_window_is_in_the_units_of_the_modality_transform(tmp_path: Path) -> None:
    """By hand: v = 2 s - 1000; LINEAR with c = 40, w = 401 is 255 ((v - 39.5) / 400 + 1/2)."""
    stored = np.array([[420, 519, 620, 720, 2000]], dtype=np.int16)  # -160, 38, 240, 440, 3000
    header = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 40, "WindowWidth": 401}
    path = write_dicom(tmp_path / "ct.dcm", stored, **header)
    assert shown(path).tolist() == [[0, 127, 255, 255, 255]]  # 255 * 0.49625 = 126.5
    given = shown(path, view=DicomView((440, 800)))  # v from 40 to 840
    assert given.tolist() == [[0, 0, 64, 128, 255]]
    inverted = write_dicom(path, stored, PhotometricInterpretation="MONOCHROME1", **header)
    assert (shown(inverted) == 255 - np.array([[0, 127, 255, 255, 255]])).all()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", [0, 64, 128, 191, 255]),
        ("LINEAR_EXACT", [0, 64, 128, 191, 255]),
        ("SIGMOID", [30, 69, 128, 186, 225]),
    ],
)
def test_the_three_functions_of_a_window(tmp_path: Path, function: str, expected: list[int]) -> None:
    """SIGMOID is 255 / (1 + exp(-4 (v - c) / w)): 30.4 at v = c - w / 2."""
    values = np.array([[1000, 1500, 2000, 2500, 3000]], dtype=np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": function}
    found = shown(write_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=11, **window))
    assert np.abs(found[0].astype(int) - expected).max() <= (1 if function == "LINEAR" else 0)


def test_the_first_of_several_windows_counts(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200]], dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", values, WindowCenter=[100.5, 50], WindowWidth=[201, 2])
    assert shown(path).tolist() == [[0, 128, 255]]


def test_a_voi_table_goes_before_a_window_and_is_read_in_full(tmp_path: Path) -> None:
    """With entries of 8 bits, pydicom alone would take place 300 of a table for place 44."""
    table = [place // 2 for place in range(512)]
    values = np.array([[0, 100, 300, 511, 4000]], dtype=np.uint16)
    header = {"VOILUTSequence": [table_of(table, first=0, bits=8)], "WindowCenter": 1, "WindowWidth": 2}
    path = write_dicom(tmp_path / "a.dcm", values, **header)
    assert shown(path).tolist() == [[0, 50, 150, 255, 255]]
    assert shown(path, view=DicomView((256, 512))).tolist() == [[0, 50, 149, 255, 255]]
    deep = write_dicom(path, values, VOILUTSequence=[table_of([0, 1023, 2046, 4095], first=99, bits=12)])
    assert shown(deep).tolist() == [[0, 64, 255, 255, 255]]


def test_a_modality_table_says_what_values_mean(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", values, ModalityLUTSequence=[table_of([0, 3000, 65535], first=0, bits=16)]
    )
    assert shown(path).tolist() == [[0, 12, 255]]


def test_the_whole_range_of_stored_bits_is_shown_where_an_image_fills_it(tmp_path: Path) -> None:
    values = np.array([[0, 2048, 4095]], dtype=np.uint16)
    assert shown(write_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=11)).tolist() == [
        [0, 128, 255]
    ]


def test_contrast_is_a_share_of_the_whole_range_of_signed_values_too(tmp_path: Path) -> None:
    pixels = np.array([[-1000, 0], [3000, 9000]], dtype=np.int16)  # 10,000 of 65,535; a quarter is 16,384
    with pytest.raises(ValueError, match="says no window, and its values, -1000 to 9000, are a small part"):
        open_image(write_dicom(tmp_path / "a.dcm", pixels))
    pixels[0, 0] = -9000
    assert open_image(write_dicom(tmp_path / "b.dcm", pixels)).mode == "RGB"


def test_without_a_window_an_image_of_no_contrast_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    path = OWN / "CT_small.dcm"
    with pytest.raises(
        ValueError, match=r"CT_small\.dcm says no window, and its values, -896 to 1167, are a"
    ):
        open_image(path)
    found = shown(path, view=view_of([135.5, 2063], None))
    assert (found.min(), found.max()) == (0, 255)


def test_padding_is_black_whatever_is_shown_around_it(tmp_path: Path) -> None:
    values = np.array([[-2000, 0, 100]], dtype=np.int16)
    header = {"PixelPaddingValue": -2000, "WindowCenter": 50.5, "WindowWidth": 101}
    path = write_dicom(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1", **header)
    assert shown(path).tolist() == [[0, 255, 0]]
    ranged = write_dicom(tmp_path / "b.dcm", values, **header, PixelPaddingRangeLimit=0)
    assert shown(ranged).tolist() == [[0, 0, 255]]


def test_of_several_frames_one_has_to_be_chosen(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "cine.dcm", np.stack([GREYS, GREYS // 2, GREYS // 5, GREYS // 10]), frames=True
    )
    with pytest.raises(ValueError, match=r"holds 4 frames; .* data\.options\.frame=1 \(to 4, or middle\)"):
        open_image(path)
    for frame, divisor in ((1, 1), (4, 10), ("middle", 2), ("3", 5)):
        assert (shown(path, view=view_of(None, frame)) == GREYS // divisor).all()
    with pytest.raises(ValueError, match=r"holds 4 frames, and no frame 5 \(data\.options\.frame"):
        open_image(path, view=DicomView(frame=5))
    two = open_image(OWN / "SC_rgb_rle_2frame.dcm", view=DicomView(frame=2))
    one = open_image(OWN / "SC_rgb_rle_2frame.dcm", view=DicomView(frame=1))
    assert (np.asarray(one) == 255 - np.asarray(two)).all()  # as pydicom's own tests know them


def test_an_enhanced_file_has_a_window_for_each_frame(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    def group(centre: float, slope: float | None = None) -> Dataset:
        said, window = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, 200, "LINEAR_EXACT"
        said.FrameVOILUTSequence = [window]
        if slope is not None:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept = slope, 0
            said.PixelValueTransformationSequence = [values]
        return said

    frame = np.array([[0, 50, 100]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "mr.dcm",
        np.stack([frame, frame]),
        frames=True,
        SharedFunctionalGroupsSequence=[group(9, slope=2)],
        PerFrameFunctionalGroupsSequence=[group(100), group(200)],
    )
    assert shown(path, view=DicomView(frame=1)).tolist() == [[0, 128, 255]]
    assert shown(path, view=DicomView(frame=2)).tolist() == [[0, 0, 128]]


def test_the_encodings_of_one_image_are_one_image() -> None:
    reference = shown(OWN / "MR_small.dcm")
    for name in ("RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless"):
        assert (shown(OWN / f"MR_small_{name}.dcm") == reference).all()


@pytest.mark.parametrize(
    "name", ["rgb_rle", "rgb_rle_16bit", "ybr_full_422_uncompressed", "rgb_dcmtk_+eb+cy+s4", "rgb_gdcm_KY"]
)
def test_colours_are_those_of_the_test_card(name: str) -> None:
    """Bars of red, light red, green, light green, blue, light blue, black, grey, light grey, white."""
    bars = np.asarray(open_image(OWN / f"SC_{name}.dcm"))[5::10, 50].astype(int)
    card = [[255, 0, 0], [255, 128, 128], [0, 255, 0], [128, 255, 128], [0, 0, 255], [128, 128, 255]]
    greys = [[0] * 3, [64] * 3, [192] * 3, [255] * 3]
    assert np.abs(bars - np.array(card + greys)).max() <= 5


def test_a_palette_is_looked_up() -> None:
    from pydicom.pixels import apply_color_lut, pixel_array

    path = OWN / "examples_palette.dcm"
    data = pydicom.dcmread(path)
    expected = apply_color_lut(pixel_array(data), data)
    high = expected >> 8 if expected.max() > 255 else expected
    assert np.abs(np.asarray(open_image(path)).astype(int) - high).max() <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEGLSNearLossless_08.dcm", r"is compressed as JPEG-LS .*: pip install pyjpegls\.$"),
        (
            "SC_rgb_jpeg_gdcm.dcm",
            r"as JPEG Lossless.*: pip install pylibjpeg pylibjpeg-libjpeg",
        ),
        ("JPGExtended.dcm", r"cannot be decoded: it is damaged, or .*: pip install pylibjpeg pylibjpeg-li"),
        ("image_dfl.dcm", r"is a deflated DICOM file, which is not read\. Unpack it: dcmconv \+te IN OUT"),
        ("MR_truncated.dcm", r"is a damaged image \(8,130 of 8,192 bytes of its pixels are there\)"),
        ("rtplan.dcm", r"holds no image \(DICOM\)\. Take it out of the data\.$"),
        ("no_meta.dcm", r"it is no DICOM file with a preamble; if it is one without, write it anew: dcmconv"),
        ("badVR.dcm", r"is a damaged DICOM file: its header cannot be used"),
    ],
)
def test_what_is_not_read_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_image(OWN / name)


@pytest.mark.parametrize(
    "name", ["JPGExtended.dcm", "GDCMJ2K_TextGBR.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"]
)
def test_decoders_say_nothing_but_the_reason(name: str, caplog, capfd, monkeypatch) -> None:
    """Their loggers wrote a traceback for each of these, and named packages that were there as missing."""
    decoders = logging.getLogger("pydicom.pixels.decoders.base")
    with pytest.raises(ValueError, match="it is damaged, or compressed as needs more: pip install"):
        open_image(OWN / name)
    monkeypatch.setattr(OptionalPart, "is_here", lambda part: True)
    with pytest.raises(ValueError, match="or of a kind that the decoders installed here do not read"):
        open_image(OWN / name)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    decoders.warning("as before")
    assert "as before" in caplog.text


def test_pixels_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREYS, PhotometricInterpretation="YBR_PARTIAL_420")
    with pytest.raises(ValueError, match=r"has pixels of the kind YBR_PARTIAL_420 \(DICOM\); read are: MONO"):
        open_image(path)
    write_dicom(path, GREYS, WindowCenter=3, WindowWidth=0)
    with pytest.raises(ValueError, match="is a damaged DICOM file"):
        open_image(path)


def test_without_pydicom_the_command_that_installs_it_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(OPTIONAL, "dicom", OptionalPart(("no_such_module",), "reading DICOM files", "pip x"))
    path = write_dicom(tmp_path / "a.dcm", GREYS)
    with pytest.raises(ValueError, match=r"Reading DICOM files needs no_such_module: pip x\.$"):
        open_image(path)


@pytest.mark.parametrize(
    ("window", "frame", "message"),
    [
        ([1], None, r"data\.options\.window=\[40,400\], not \[1\]"),
        ([1, 0], None, r"width \(above 0\)"),
        ([1, float("nan")], None, "centre and the width"),
        (None, 0, r"data\.options\.frame must be the number of a frame, from 1, or middle, not 0"),
        (None, "last", "not 'last'"),
    ],
)
def test_settings_that_are_none_are_refused(window: Any, frame: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_of(window, frame)


class NamedError(Exception):
    """A file was refused as it should be."""


def opened_or_named(path: Path) -> Image.Image:
    try:
        return open_image(path)
    except ValueError as error:
        said = str(error)
    assert path.name in said
    assert not any(secret in said for secret in SECRETS)
    raise NamedError


def test_spoilt_files_are_refused_by_name_and_quote_nothing(tmp_path: Path) -> None:
    """Bytes of the header and the pixels changed at random: an image, or a ValueError without the header."""
    draw, spoilt = random.Random(0), tmp_path / "x.dcm"
    good = write_dicom(tmp_path / "a.dcm", GREYS, WindowCenter=100, WindowWidth=200).read_bytes()
    for _ in range(150):
        content = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(132, len(content))] = draw.randrange(256)
        spoilt.write_bytes(bytes(content[: draw.choice([len(content), draw.randrange(132, len(content))])]))
        with contextlib.suppress(NamedError):
            assert opened_or_named(spoilt).mode == "RGB"


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Return class folders of DICOM files: 2 classes, 4 patients with 2 images in each of train and test."""
    draw = np.random.default_rng(0)
    for split, offset in (("train", 0), ("test", 100)):
        for label, name in enumerate(("clear", "opaque")):
            for number in range(8):
                pixels = (draw.integers(0, 120, (12, 10)) + 100 * label).astype(np.uint8)
                patient = f"MRN{offset + 10 * label + number // 2}"
                write_dicom(tmp_path / "clinic" / split / name / f"{number}.dcm", pixels, patient=patient)
    return tmp_path / "clinic"


def test_images_of_a_patient_are_a_group_that_is_called_by_their_content(clinic: Path) -> None:
    task = load_data("folder", clinic)
    groups, ids = task.train.groups, task.train.ids
    assert groups is not None
    assert len(set(groups)) == 8
    assert groups[0] == groups[1] == group_name(min(ids[:2]))
    assert not any("MRN" in group for group in groups)
    assert load_data("folder", clinic, patients=False).train.groups is None
    (clinic / "train/clear/0.dcm").rename(clinic / "train/clear/IM000001")  # files may have no ending
    assert load_data("folder", clinic).train.groups.count(groups[0]) == 2


def test_patients_stay_unknown_where_ids_say_nothing(clinic: Path, caplog) -> None:
    for path in clinic.rglob("*.dcm"):
        write_dicom(path, GREYS + np.uint8(int(path.stem)), patient="ANON")
    assert load_data("folder", clinic).train.groups is None
    assert "none of 32 DICOM files has a patient id" in caplog.text
    for path in clinic.rglob("*.dcm"):
        write_dicom(path, GREYS + np.uint8(int(path.stem)), patient="STUDY7")
    assert load_data("folder", clinic).train.groups is None
    assert "32 of 32 DICOM files have the same patient id, which seems to have been replaced" in caplog.text


def test_patients_that_are_known_stay_where_some_ids_are_missing(clinic: Path, caplog) -> None:
    whole = load_data("folder", clinic).train.groups
    assert whole is not None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    lone = write_dicom(clinic / "train/clear/0.dcm", GREYS, patient="N/A")
    task = load_data("folder", clinic)
    groups = task.train.groups
    assert groups is not None
    assert groups[0] == group_name(file_id(lone))
    assert groups[1] == group_name(task.train.ids[1])
    assert groups[2:] == whole[2:]
    assert "1 of 32 DICOM files have no patient id: each counts as a patient of its own" in caplog.text


def test_patients_of_predictions_are_known_as_far_as_headers_say_them(tmp_path: Path, caplog) -> None:
    def named(*patients: str) -> list[str] | None:
        caplog.clear()
        files = [
            write_dicom(tmp_path / f"{number}.dcm", GREYS + np.uint8(number), patient=patient)
            for number, patient in enumerate(patients)
        ]
        return patients_of_headers(files, [f"{number:02x}" for number in range(len(files))])

    first, second, third = (group_name(f"0{number}") for number in range(3))
    assert named("7", "8", "7") == [first, second, first]
    assert not caplog.records
    assert named("7", "7") == [first, first]  # a folder of one patient
    assert "2 of 2 DICOM files have the same patient id and count as one patient" in caplog.text
    assert named("7", "7", "") == [first, first, third]
    assert "1 of 3 DICOM files have no patient id: each counts as a patient of its own" in caplog.text
    assert named("ANONYMOUS", "anonymous", "0") is None
    assert "Patients are not known: none of 3 DICOM files has a patient id" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert named("7") == [first]
    assert not caplog.records
    Image.fromarray(GREYS).save(tmp_path / "a.png")
    files = [tmp_path / "0.dcm", tmp_path / "a.png", tmp_path / "1.dcm"]
    assert patients_of_headers(files, ["00", "01", ""]) is None
    assert "only 1 of 2 images are DICOM files" in caplog.text
    assert patients_of_headers(files[::2], ["00", ""]) == [first, ""]  # one that cannot be read


def test_what_a_broken_patient_id_is_stays_in_its_file(clinic: Path) -> None:
    """pydicom quoted it in a traceback: it had said to be a number of eight bytes."""
    path = clinic / "train/clear/0.dcm"
    write_dicom(path, GREYS, patient="Doe^Jo")
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x20\x00LO") + 4  # the kind of the element with the patient's id
    path.write_bytes(content[:at] + b"FD" + content[at + 2 :])
    with pytest.raises(ValueError, match=r"0\.dcm is a damaged DICOM file") as caught:
        load_data("folder", clinic)
    assert "Doe" not in f"{caught.value} {caught.value.__cause__}"
    assert load_data("folder", clinic, patients=False).train.groups is None


def test_the_same_number_of_two_hospitals_is_two_patients(clinic: Path) -> None:
    for number in (0, 1):
        write_dicom(
            clinic / f"train/clear/{number}.dcm", GREYS + np.uint8(number), IssuerOfPatientID=str(number)
        )
    groups = load_data("folder", clinic).train.groups
    assert groups is not None
    assert groups[0] != groups[1]


def test_a_table_reads_dicom_and_its_own_groups_count(clinic: Path) -> None:
    files = sorted(clinic.rglob("*.dcm"))
    files[0].rename(files[0].with_name("IM1"))
    lines = [
        f"{path.relative_to(clinic)},{path.parent.name},{path.parent.parent.name},p{n // 2}"
        for n, path in enumerate(sorted(path for path in clinic.rglob("*") if path.is_file()))
    ]
    (clinic / "table.csv").write_text("file,label,split,patient\n" + "\n".join(lines))
    task = load_data("table", clinic / "table.csv")
    assert task.train.groups is not None
    assert task.train.groups[0][0] == "p"
    bare = load_data("table", clinic / "table.csv", columns={"group": None})
    assert bare.train.groups is not None
    assert bare.train.groups[0].startswith("patient-")


def test_what_is_shown_reaches_tables_and_the_key_of_the_cache(clinic: Path) -> None:
    task = load_data("folder", clinic, window=[128, 256], frame="2")
    part = task.train.subset([1, 0]).with_groups(None).with_labels(task.train.labels[:2])
    assert part.view == DicomView((128, 256), 2)
    assert part.open(0).mode == "RGB"  # one frame: there is nothing to choose
    facts = {"backbone": {}, "views": 0}
    keys = {features_key({**facts, "dicom": view}, ["a"]) for view in (None, part.view.record())}
    assert len({*keys, features_key(facts, ["a"])}) == 2  # None is as absent: older files stay valid


def test_a_question_holds_pixels_and_no_header(clinic: Path, tmp_path: Path) -> None:
    task = load_data("folder", clinic)
    with pytest.raises(ValueError, match="written as PNG"):
        from_task(task)
    items = from_task(task, folder=tmp_path / "png")
    written = Path(str(items.cell("image", 0)))
    assert written.suffix == ".png"
    assert not any(secret.encode() in written.read_bytes() for secret in SECRETS)


def test_a_file_is_known_by_how_it_begins(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "1.2.840.77", GREYS)
    assert looks_like_image(path)
    assert file_id(path) == file_id(write_dicom(tmp_path / "1.2.840.77", GREYS))
    assert not is_dicom_file(tmp_path)
    assert not looks_like_image(write_dicom(tmp_path / "DICOMDIR", GREYS))
    assert not is_dicom_file(Path("x" * 5000))
    header = open_dicom(path.read_bytes(), "x")
    assert (header.bits, header.kind, header.frames, header.burned_in) == (8, "MONOCHROME2", 1, False)

"""Training a network of pixels: one process or two, what is exported and predicted, what it is worth."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_files import write_pixels
from torch import nn

from calib.commands.segment.evaluate import compare, comparison_text
from calib.io.tensors import load_tensors, save_tensors
from calib.losses import Objective
from calib.metrics import image_sums
from calib.segmentation.evaluation import Evaluated, evaluate
from calib.segmentation.export import Segmenter
from calib.segmentation.fit import fit_segmenter, objective_of
from calib.segmentation.masks import MaskClasses
from calib.segmentation.module import SegmentationModule
from calib.segmentation.network import build_network
from calib.segmentation.tables import load_pixels
from calib.segmentation.words import lean_in_words, results_text, what_to_try

CLASSES = {"background": 0, "square": 1}
SMALL = {
    "channels": [4, 8],
    "size": 16,
    "batch_size": 2,
    "seed": 3,
    "epochs": 12,
    "warmup_epochs": 0,
    "optimizer": {"name": "adamw", "lr": 0.02},
}
TERMS = {"dice": {}, "ce": {}, "ml1_ace": {"absent": "leave_out", "n_bins": 5}}


def module(objective=TERMS):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return SegmentationModule(
        network, Objective(objective), ["rest", "cell"], optimizer={"name": "sgd", "lr": 0.1}
    )


def batch(n=3, size=6):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (n, size, size), generator=generator)
    labels[0] = 0  # an image without the class
    return {"images": torch.randn(n, 3, size, size, generator=generator), "labels": labels}


def test_a_loss_that_is_not_finite_is_named():
    trained = module()
    given = batch()
    given["images"][0] = math.nan
    trained.training_step(given, 0)
    with pytest.raises(FloatingPointError, match="Training stopped in epoch 0"):
        trained.losses.means(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of MONAI after twelve short epochs, its test images, and what was written of it."""
    root = write_pixels(tmp_path_factory.mktemp("pixels"))
    tables = load_pixels(root, classes=CLASSES)
    segmenter = fit_segmenter(tables["train"], tables["val"], calibrate=True, **SMALL)
    path = root / "network.safetensors"
    segmenter.save(path)
    return segmenter, tables, path


def test_a_network_comes_back_from_its_file(trained):
    segmenter, tables, path = trained
    loaded = Segmenter.load(path)
    image, _ = tables["test"].read(0)
    assert torch.equal(loaded.probs(image), segmenter.probs(image))
    assert (loaded.classes, loaded.size) == (segmenter.classes, 16)
    assert loaded.temperature == segmenter.temperature != 1.0
    assert loaded.about["objective"] == {"dice": {"weight": 1.0}, "ce": {"weight": 1.0}}


def test_probabilities_have_the_size_of_the_image_and_the_mask_its_values(trained):
    segmenter, *_ = trained
    probs = segmenter.probs(Image.new("RGB", (20, 10), (90, 90, 90)))
    assert probs.shape == (2, 10, 20)
    torch.testing.assert_close(probs.sum(0), torch.ones(10, 20))
    merged = MaskClasses(("a", "b"), ((0,), (7, 9)))
    shown = Segmenter(segmenter.network, "unet", [4, 8], 16, merged).mask(
        torch.tensor([[[0.2, 0.9]], [[0.8, 0.1]]])
    )
    assert shown.tolist() == [[7, 0]]


def test_the_temperature_does_not_change_the_masks_and_lowers_the_nll_of_validation(trained):
    segmenter, tables, _ = trained
    bare = Segmenter(segmenter.network, "unet", [4, 8], 16, segmenter.classes)
    nll = {}
    for name, each in (("calibrated", segmenter), ("bare", bare)):
        total = 0.0
        for row in range(len(tables["val"])):
            image, mask = tables["val"].read(row)
            probs = each.probs(image)
            total -= probs.gather(0, torch.from_numpy(mask.astype(np.int64))[None]).log().mean().item()
        nll[name] = total
    assert nll["calibrated"] < nll["bare"]
    image, _ = tables["test"].read(1)
    assert np.array_equal(segmenter.mask(segmenter.probs(image)), bare.mask(bare.probs(image)))


def test_the_same_seed_gives_the_same_network(trained):
    segmenter, tables, _ = trained
    again = fit_segmenter(tables["train"], tables["val"], calibrate=True, **SMALL)
    for name, tensor in segmenter.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_an_evaluation_measures_every_image_at_its_own_size_and_comes_back(trained, tmp_path):
    segmenter, tables, _ = trained
    found = evaluate(segmenter, tables["test"], n_bins=5)
    assert len(found.sums) == 3
    assert found.sums.counts.sum(-1).tolist() == [[256.0, 256.0]] * 3
    image, mask = tables["test"].read(2)
    own = image_sums(segmenter.probs(image)[None], torch.from_numpy(mask.astype(np.int64))[None], n_bins=5)
    torch.testing.assert_close(found.sums.rows([2]).prob_sums, own.prob_sums)
    found.save(tmp_path / "sums.safetensors")
    again = Evaluated.load(tmp_path / "sums.safetensors")
    assert again.metrics(n_resamples=50) == found.metrics(n_resamples=50)
    assert again.names == ["6.png", "7.png", "8.png"]


def test_classes_that_differ_are_refused(trained):
    segmenter, tables, _ = trained
    with pytest.raises(ValueError, match="The masks have the classes 0, 1, the network background, square"):
        evaluate(segmenter, load_pixels(tables["test"].images[0].parents[2])["test"])


def test_a_damaged_file_is_refused(trained, tmp_path):
    _, _, path = trained
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        Segmenter.load(tmp_path / "x.safetensors")
    tensors, record = load_tensors(path, kind="segment")
    for key, value in (("temperature", -1.0), ("size", 7), ("channels", [8])):
        save_tensors(tmp_path / "y.safetensors", tensors, record | {key: value})
        with pytest.raises(ValueError, match=rf"y\.safetensors: .*{key}"):
            Segmenter.load(tmp_path / "y.safetensors")


def sums_of(values, *, cells=10, n_bins=20):
    """Return sums of images of 10 pixels, some of class 1, of which a share is predicted for certain."""
    parts = []
    for right in values:
        labels = (torch.arange(10) < cells).long().view(1, 1, 10)
        probs = torch.zeros(1, 2, 1, 10)
        probs[0, 1, 0, :right] = 1
        probs[0, 0, 0, right:] = 1
        parts.append(image_sums(probs, labels, n_bins=n_bins))
    return type(parts[0]).joined(parts)


def test_intervals_are_of_images_or_of_groups():
    sums = sums_of([10, 10, 5, 5])  # Dice of class 1: 1, 1, 2/3, 2/3
    names = [str(number) for number in range(4)]
    images = Evaluated(sums, names, None, ["rest", "cell"])
    groups = Evaluated(sums, names, ["a", "a", "b", "b"], ["rest", "cell"])
    found = [each.interval("cell", "dice", n_resamples=400) for each in (images, groups)]
    assert found[0].estimate == found[1].estimate == pytest.approx(5 / 6)
    assert (found[1].low, found[1].high) == pytest.approx((2 / 3, 1.0))  # both groups the same
    assert found[0].high - found[0].low <= found[1].high - found[1].low
    alone = Evaluated(sums.rows([0]), ["0"], None, ["rest", "cell"])
    assert alone.interval("cell", "dice") is None
    assert alone.metrics()["intervals"]["cell"]["dice"] is None
    told = results_text(alone.metrics())
    assert "100.0" in told
    assert [line.split()[1] for line in told.splitlines()[2:3]] == ["cell"]  # of two classes one line
    assert "rest, the only other class, has the same calibration errors." in told


def test_differences_are_paired_and_need_the_same_images():
    names = [str(number) for number in range(4)]
    a, b = (
        Evaluated(sums_of(values), names, None, ["rest", "cell"]) for values in ([9, 9, 5, 5], [8, 8, 4, 4])
    )
    at = a.difference(b, "cell", "dice", n_resamples=200)
    assert 0 < at.low <= at.estimate <= at.high
    for other, what in (
        (replace(b, names=names[::-1]), "of other images, and are not compared. Give the same images: calib"),
        (replace(b, class_names=["rest", "edge"]), r"of other classes \(rest, cell; rest, edge\)"),
        (replace(b, sums=sums_of([8, 8, 4, 4], n_bins=5)), r"of other numbers of bins \(20; 5\)"),
        (replace(b, sums=sums_of([8, 8, 4, 4], cells=9)), "their masks have other pixels of each class"),
    ):
        with pytest.raises(ValueError, match=what):
            a.difference(other, "cell", "dice")


def test_images_that_a_mean_hides_are_named():
    names = [str(number) for number in range(4)]
    plain, lost = (
        Evaluated(sums_of(values), names, None, ["rest", "cell"]) for values in ([9, 10, 9, 5], [10, 2, 6, 9])
    )
    (worst,) = lost.fallen(plain)
    assert worst == ("1", 1.0, pytest.approx(2 * 2 / 12))
    assert [name for name, _, _ in lost.fallen(plain, least=0.1)] == ["1", "2"]
    assert [name for name, _, _ in plain.fallen(lost)] == ["3"]
    told = comparison_text(compare({"plain": plain, "lost": lost}, n_resamples=20))
    assert "lost: the Dice of 1 of 4 images is more than 20 points below plain's (1 100 → 33 %)" in told
    assert "Look at them" not in comparison_text(compare({"a": plain, "b": plain}, n_resamples=20))


def test_bad_calibration_is_said_in_words_with_what_to_try():
    labels = (torch.arange(10) < 4).long().view(1, 1, 10)
    high = torch.where(torch.arange(10) < 6, 0.9, 0.2)  # of 6 pixels at 90 % only 4 are: over-confident
    low = torch.where(torch.arange(10) < 4, 0.6, 0.02)  # all 4 at 60 % are: under-confident
    said = {}
    for name, p in (("high", high), ("low", low), ("sure", labels.flatten().float())):
        sums = image_sums(torch.stack([1 - p, p]).view(1, 2, 1, 10), labels)
        said[name] = Evaluated(sums, ["0.png"], None, ["rest", "cell"]).metrics()
    told = results_text(said["high"])
    assert told.endswith(
        "cell gets too high a probability: 62.0 % on average, where 40.0 % of the pixels are cell. Above one "
        "half it gets 90.0 %, where 66.7 % are: over-confident."
    )
    assert lean_in_words(said["low"]).startswith("cell gets too low a probability: 25.2 % on average")
    assert lean_in_words(said["low"]).endswith("it gets 60.0 %, where 100.0 % are: under-confident.")
    assert lean_in_words(said["sure"]) == ""
    ran = {"temperature": 1.0, "losses": {"dice": {}, "ml1_ace": {}}, "val": {}}
    assert what_to_try(ran, said["high"]) == "Try calibrate=temperature."
    rising = {**ran, "temperature": 1.3, "still_rising": True}
    assert what_to_try(rising, said["high"]).startswith(
        "Try more epochs (trainer.max_epochs; the validation Dice"
    )
    assert what_to_try({**rising, "still_rising": False}, said["high"]) == ""
    assert what_to_try(rising, said["sure"]) == ""
    both = sums_of([10, 2], cells=5)  # certain of 12 pixels of 20, of which 7 are
    each = Evaluated(both, ["0", "1"], None, ["rest", "cell"])
    assert "two: cell gets too high" in comparison_text(compare({"one": each, "two": each}, n_resamples=20))


def test_a_class_without_a_number_is_a_dash_and_an_empty_cell():
    labels = torch.zeros(1, 1, 4, dtype=torch.int64)
    probs = torch.zeros(1, 3, 1, 4)
    probs[:, 0] = 1
    found = Evaluated(image_sums(probs, labels), ["0.png"], ["=x"], ["rest", "cell", "edge"])
    assert "–" in results_text(found.metrics())
    head, rows = found.rows_of_images()
    assert head == ["file", "group", "dice", "ace", "ece", "mce"]
    assert rows == [["0.png", "'=x", "", "0.000000", "0.000000", "0.000000"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "unett"}, "Unknown network 'unett'"),
        ({"channels": [8]}, r"network\.channels must name at least 2 levels"),
        ({"channels": [8, 0]}, r"network\.channels must be a whole number of at least 1, not 0"),
        ({"size": 15}, r"data\.size must be a multiple of 2"),
        ({"size": 2}, r"data\.size must be at least 4"),
        ({"name": "segresnet", "channels": [8, 24]}, "must double from level to level"),
    ],
)
def test_networks_that_cannot_be_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        build_network(**{"name": "unet", "channels": [4, 8], "n_classes": 2, "size": 16, **words})


def test_every_network_gives_a_logit_per_pixel_and_class():
    for name, channels in (("unet", [4, 8, 8]), ("segresnet", [8, 16])):
        network = build_network(name, channels, 3, size=16).eval()
        assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)


def test_without_monai_the_command_that_installs_it_is_said(monkeypatch):
    import calib.segmentation.network as networks

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(networks, "import_module", absent)
    with pytest.raises(ValueError, match=r"needs monai: pip install 'monai>=1\.3'"):
        build_network("unet", [4, 8], 2, size=16)


def test_a_temperature_needs_validation_images_and_a_preset_must_be_known(trained):
    _, tables, _ = trained
    with pytest.raises(ValueError, match="fitted to validation images"):
        fit_segmenter(tables["train"], calibrate=True, **SMALL)
    other = replace(tables["val"], classes=MaskClasses.given({"background": 0, "square": [1, 2]}))
    with pytest.raises(ValueError, match="validation masks have the classes background = 0, square = 1 or 2"):
        fit_segmenter(tables["train"], other, **SMALL)
    with pytest.raises(ValueError, match="Unknown loss preset 'calibprompt'"):
        objective_of("calibprompt")

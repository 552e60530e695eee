"""Images to tensors: against torchvision, against MedCLIP's arithmetic, and by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from calib.backbones.preprocessing import CLIP, MEDCLIP, Preprocessing

MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
SIZES = [(300, 200), (97, 260), (50, 50), (224, 224), (225, 224)]


def picture(size, seed=0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", sorted(MODES))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shortest_equals_torchvision(size, interpolation):
    image = picture(size)
    reference = transforms.Compose(
        [
            transforms.Resize(224, MODES[interpolation]),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(CLIP.mean, CLIP.std),
        ]
    )
    found = replace(CLIP, interpolation=interpolation)(image)
    torch.testing.assert_close(found, reference(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squash_equals_torchvision(size):
    reference = transforms.Compose(
        [
            transforms.Resize((224, 224), InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(CLIP.mean, CLIP.std),
        ]
    )
    found = replace(CLIP, resize="squash")(picture(size))
    torch.testing.assert_close(found, reference(picture(size)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_augmentation_equals_torchvision_for_every_seed(size):
    reference = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
            transforms.Normalize(CLIP.mean, CLIP.std),
        ]
    )
    image = picture(size)
    for seed in range(12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = reference(image)
        torch.testing.assert_close(CLIP.augment(image, seed), expected, atol=1e-6, rtol=0)


def test_very_long_image_falls_back_to_torchvisions_centre_crop():
    image = picture((900, 12))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        box = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    assert box == (0, 442, 12, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        crop = transforms.RandomResizedCrop(224, interpolation=InterpolationMode.BICUBIC)(image)
        flipped = float(torch.rand(1)) < 0.5
    crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else crop
    expected = transforms.Normalize(CLIP.mean, CLIP.std)(transforms.ToTensor()(crop))
    torch.testing.assert_close(CLIP.augment(image, 3), expected, atol=1e-6, rtol=0)


def test_augmentation_follows_its_seed_only():
    image, state = picture((300, 200)), torch.random.get_rng_state()
    views = [CLIP.augment(image, seed) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_of_the_views_are_mirrored():
    left = np.zeros((40, 40, 3), dtype=np.uint8)
    left[:, :20] = 255
    image, small = Image.fromarray(left), replace(CLIP, image_size=8)
    views = [small.augment(image, seed)[0] for seed in range(200)]
    brighter_left = [float(view[:, 0].mean() - view[:, -1].mean()) for view in views]
    mirrored, kept = sum(d < -0.1 for d in brighter_left), sum(d > 0.1 for d in brighter_left)
    assert mirrored + kept > 120  # the others show one side only
    assert 0.35 < mirrored / (mirrored + kept) < 0.65


def test_medclip_pads_to_a_black_square():
    """A white 300 x 200 image: 50 of 300 rows are black on either side, 37 of 224 after scaling."""
    found = MEDCLIP(Image.new("RGB", (300, 200), "white"))
    white, black = (1 - MEDCLIP.mean[0]) / MEDCLIP.std[0], -MEDCLIP.mean[0] / MEDCLIP.std[0]
    assert found.shape == (3, 224, 224)
    assert found[0, 112, 0].item() == pytest.approx(white, abs=1e-6)
    assert found[0, 30, 112].item() == pytest.approx(black, abs=1e-6)
    assert found[0, 193, 112].item() == pytest.approx(black, abs=1e-6)


def test_medclip_frames_small_images_instead_of_enlarging_them():
    found = MEDCLIP(Image.new("RGB", (24, 20), "white"))[0] > 0
    assert found.sum().item() == 24 * 20
    assert found[102:122, 100:124].all()


def test_medclip_is_grey_with_pils_weights():
    found = MEDCLIP(Image.new("RGB", (224, 224), (200, 10, 90)))
    level = round(0.299 * 200 + 0.587 * 10 + 0.114 * 90)
    assert torch.equal(found[0], found[2])
    expected = (level / 255 - MEDCLIP.mean[0]) / MEDCLIP.std[0]
    assert found[1, 0, 0].item() == pytest.approx(expected, abs=1e-6)
    view = MEDCLIP.augment(Image.new("RGB", (224, 224), (200, 10, 90)), seed=1)
    assert view[1, 0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_eight_bit_modes_become_rgb(mode):
    image = picture((60, 40)).convert(mode)
    assert torch.equal(CLIP(image), CLIP(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deeper_images_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}', more than 8 bits"):
        CLIP(Image.new(mode, (10, 10)))


@pytest.mark.parametrize("preprocessing", [CLIP, MEDCLIP], ids=["clip", "medclip"])
def test_what_was_written_as_json_makes_it_again(preprocessing):
    assert Preprocessing(**json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_the_description_tells_every_field_apart():
    changes = [
        {},
        {"image_size": 160},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"resize": "pad"},
        {"grey": True},
    ]
    assert len({str(replace(CLIP, **change).to_dict()) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "bicubicc"}, "Did you mean 'bicubic'"),
        ({"resize": "longest"}, "Unknown resize 'longest'"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1, not 0"),
        ({"image_size": "224"}, "image_size must be a whole number of at least 1, not '224'"),
        ({"interpolation": ["bicubic"]}, "Unknown interpolation"),
        ({"mean": 0.5}, "mean needs three finite numbers, one per channel, got 0.5"),
        ({"std": ("a", 1.0, 1.0)}, "std needs three finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"mean": (0.5,)}, "mean needs three finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean needs three finite numbers"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CLIP, **change)


def test_the_arithmetic_is_torch_s_to_the_last_bit():
    pixels = np.stack(
        [np.roll(np.arange(256, dtype=np.uint8).reshape(16, 16), shift) for shift in (0, 7, 99)], 2
    )
    for settings in (CLIP, MEDCLIP):
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (settings.mean, settings.std))
        expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
        found = replace(settings, image_size=16, grey=False, resize="squash")(Image.fromarray(pixels))
        assert found.dtype == torch.float32
        assert found.equal(expected)

"""Every depth and layout an image file can have is scaled rightly or refused: never dark, never garbled."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import PIL
import pytest
from image_files import chunk, png, tiff

from calib.data.images import open_image

RNG = np.random.default_rng(0)
FULL = RNG.integers(0, 65536, (6, 9, 3)).astype(np.uint16)
FULL[0, 0] = 65535
TWELVE = RNG.integers(0, 4096, (6, 9, 3)).astype(np.uint16)
TWELVE[0, 0] = 4095
ALPHA = RNG.integers(1, 65536, (6, 9, 1)).astype(np.uint16)
OPAQUE = np.full((6, 9, 1), 65535, np.uint16)
EIGHT = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def scaled(values: np.ndarray, white: int = 65535) -> np.ndarray:
    return np.floor(values.astype(float) * 255 / white + 0.5).astype(int)


def joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=2)


def read(folder: Path, content: bytes, suffix: str = ".png", **options: int) -> np.ndarray:
    (folder / f"i{suffix}").write_bytes(content)
    return np.asarray(open_image(folder / f"i{suffix}", **options)).astype(int)


WRITERS = {
    ".png": png,
    ".tif": tiff,
    ".big.tif": lambda pixels, **tags: tiff(pixels, ">", **tags),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_16_bit_colour_is_scaled_from_all_its_bits_as_grey_is(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read(tmp_path, WRITERS[suffix](FULL), suffix), scaled(FULL))
    with_alpha = {} if suffix == ".png" else {"t338": [2]}
    opaque = read(tmp_path, WRITERS[suffix](joined(FULL, OPAQUE), **with_alpha), suffix)
    assert np.array_equal(opaque, scaled(FULL))
    layered = read(tmp_path, WRITERS[suffix](joined(FULL, ALPHA), **with_alpha), suffix)
    assert np.abs(layered - FULL * (ALPHA / 65535) / 257).max() <= 1


@pytest.mark.parametrize("suffix", WRITERS)
def test_12_bit_colour_is_refused_until_its_white_is_known(tmp_path: Path, suffix: str) -> None:
    for pixels, tags in (
        (TWELVE, {}),
        (joined(TWELVE, OPAQUE), {"t338": [2]}),
        (joined(TWELVE, OPAQUE), {"t338": [0]}),
    ):
        content = WRITERS[suffix](pixels, **({} if suffix == ".png" else tags))
        with pytest.raises(ValueError, match=r"largest value is 4095: probably 12-bit.*grey16_max=4095"):
            read(tmp_path, content, suffix)
        assert np.array_equal(read(tmp_path, content, suffix, grey16_max=4095), scaled(TWELVE, 4095))
        with pytest.raises(ValueError, match=r"up to 4095; .* given, 1023"):
            read(tmp_path, content, suffix, grey16_max=1023)


def test_grey_with_alpha_of_16_bits(tmp_path: Path) -> None:
    grey = joined(FULL[..., :1], ALPHA)
    assert np.abs(read(tmp_path, png(grey)) - FULL[..., :1] * (ALPHA / 65535) / 257).max() <= 1
    dark = png(joined(TWELVE[..., :1], OPAQUE))
    with pytest.raises(ValueError, match="probably 12-bit"):
        read(tmp_path, dark)
    assert np.array_equal(read(tmp_path, dark, grey16_max=4095)[..., :1], scaled(TWELVE[..., :1], 4095))


def test_colours_multiplied_with_their_alpha_are_those_over_black(tmp_path: Path) -> None:
    multiplied = (FULL * (ALPHA / 65535)).astype(np.uint16)
    for suffix in (".tif", ".big.tif"):
        content = WRITERS[suffix](joined(multiplied, ALPHA), t338=[1])
        assert np.array_equal(read(tmp_path, content, suffix), scaled(multiplied))


@pytest.mark.parametrize("order", ["<", ">"])
def test_compressed_16_bit_tiff_colour_has_all_its_bits(tmp_path: Path, order: str) -> None:
    """libtiff hands out bytes in the order of the machine, whatever the file's."""
    assert np.array_equal(read(tmp_path, tiff(FULL, order, t259=[8]), ".tif"), scaled(FULL))
    layered = read(tmp_path, tiff(joined(FULL, ALPHA), order, t259=[8], t338=[2]), ".tif")
    assert np.abs(layered - FULL * (ALPHA / 65535) / 257).max() <= 1
    grey = read(tmp_path, tiff(FULL[..., 0], order, t259=[8]), ".tif")
    assert np.array_equal(grey, scaled(FULL[..., :1]).repeat(3, axis=2))


def test_the_orientation_of_16_bit_colour_is_applied_once(tmp_path: Path) -> None:
    turned = scaled(np.rot90(FULL, -1))
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    assert np.array_equal(read(tmp_path, png(FULL, chunk(b"eXIf", exif))), turned)
    assert np.array_equal(read(tmp_path, tiff(FULL, t274=[6]), ".tif"), turned)


@pytest.mark.parametrize(
    ("high", "depth", "white"), [(200, "8-bit", 255), (4095, "12-bit", 4095), (16383, "14-bit", 16383)]
)
def test_data_of_fewer_bits_name_their_white(tmp_path: Path, high: int, depth: str, white: int) -> None:
    for pixels in (np.full((2, 2, 1), high, np.uint16), np.full((2, 2, 3), high, np.uint16)):
        with pytest.raises(ValueError, match=rf"{high}: probably {depth} data.*grey16_max={white} in"):
            read(tmp_path, png(pixels))
        assert read(tmp_path, png(pixels), grey16_max=65535).max() == scaled(np.array(high))
    assert read(tmp_path, png(np.full((2, 2, 3), 16384, np.uint16))).max() == 64


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_scaled_and_their_transparent_grey_is_found(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    grey = (np.arange(24).reshape(4, 6, 1) % (white + 1)).astype(np.uint8)
    assert np.array_equal(read(tmp_path, png(grey, bits=bits))[..., :1], scaled(grey, white))
    keyed = read(tmp_path, png(grey, chunk(b"tRNS", struct.pack(">H", white)), bits=bits))[..., :1]
    assert np.array_equal(keyed, np.where(grey == white, 0, scaled(grey, white)))


def test_a_transparent_colour_of_16_bits_is_compared_with_all_its_bits(tmp_path: Path) -> None:
    near = FULL.copy()
    near[1, 1] = (1000, 2000, 3000)
    near[2, 2] = (1000, 2000, 3001)  # the same upper bytes
    read_rgb = read(tmp_path, png(near, chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))))
    assert (read_rgb[1, 1].tolist(), read_rgb[2, 2].tolist()) == ([0, 0, 0], [4, 8, 12])
    grey = near[..., :1].copy()
    grey[1, 1], grey[2, 2] = 60000, 60001
    read_grey = read(tmp_path, png(grey, chunk(b"tRNS", struct.pack(">H", 60000))))
    assert (read_grey[1, 1].tolist(), read_grey[2, 2].tolist()) == ([0, 0, 0], [233, 233, 233])


def test_palettes_with_alpha_are_laid_over_black(tmp_path: Path) -> None:
    index = np.array([[[0], [1], [2], [3]]], np.uint8)
    colours = bytes([10, 20, 30, 200, 100, 50, 90, 90, 90, 255, 255, 255])
    for bits in (2, 4, 8):
        content = png(index, chunk(b"tRNS", bytes([255, 51, 0])), bits=bits, palette=colours)
        assert read(tmp_path, content)[0].tolist() == [[10, 20, 30], [40, 20, 10], [0, 0, 0], [255, 255, 255]]
    with pytest.raises(ValueError, match="it has no PLTE chunk"):
        read(tmp_path, png(index, palette=colours).replace(chunk(b"PLTE", colours), b""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(np.full((4, 4), -1000, np.int16), t339=[2]), r"signed 16-bit values from -1000 to -1000"),
        (tiff(np.full((4, 4), 30000, np.int16), t339=[2]), r"values up to 30000.*grey16_max=32767"),
        (tiff(np.full((4, 4), -9, np.int8), t339=[2]), r"signed 8-bit values, which have no agreed range"),
        (tiff(np.full((4, 4), 255, np.int32), t339=[2]), r"of 32-bit values .* 255: probably 8-bit"),
        (tiff(np.full((4, 4), 2**31, np.uint32)), r"32-bit values from -2147483648"),
        (tiff(np.full((4, 4), 0.5, np.float32), t339=[3]), r"floating-point pixels"),
        (tiff(np.full((4, 4, 3), 0.5, np.float32), t339=[3] * 3), r"3 channels of 32-bit floating-point"),
        (tiff(np.full((4, 4), 0.5, np.float16), t339=[3]), r"1 channel of 16-bit floating-point values"),
        (tiff(np.full((4, 4), 0.5, np.float64), t339=[3]), r"1 channel of 64-bit floating-point values"),
        (tiff(EIGHT[..., :2]), r"2 channels of 8-bit unsigned values"),
        (tiff(FULL[..., :2], t338=[2]), r"2 channels of 16-bit unsigned values"),
        (tiff(joined(EIGHT, EIGHT[..., :2])), r"5 channels of 8-bit unsigned values"),
        (tiff(EIGHT.astype(np.int8), t339=[2] * 3), r"3 channels of 8-bit signed values"),
        (tiff(FULL, t284=[2]), r"channels of its 16-bit colours one after the other"),
        (tiff(EIGHT, t262=[8]), r"LAB pixels, which have no agreed range"),
        (tiff(EIGHT, t262=[6]), r"stores colour \(YCbCr\) at a lower resolution"),
        (tiff(EIGHT[..., 0], t262=None), r"does not say whether 0 is black or white"),
        (tiff(joined(EIGHT, EIGHT[..., :1]), t262=[5], t332=[2]), r"of inks other than cyan"),
        (tiff(EIGHT[..., 0], t262=[3], t320=[255] * 768), r"palette of 8-bit colours"),
        (tiff(joined(TWELVE, OPAQUE), t262=[5]), r"has inks \(CMYK\) of 16 bits"),
        (tiff(joined(FULL, OPAQUE), ">", t262=[5]), r"has inks \(CMYK\) of 16 bits"),
        (tiff(FULL[..., 0], ">", t262=[0]), r"16-bit unsigned .*photometric interpretation 0"),
    ],
)  # fmt: skip
def test_what_has_no_agreed_range_or_meaning_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"i\.tif.*{message}"):
        read(tmp_path, content, ".tif")


def test_what_else_a_tiff_may_be_is_read_rightly(tmp_path: Path) -> None:
    signed = tiff(np.array([[0, 4095]], np.int16), t339=[2])
    assert read(tmp_path, signed, ".tif", grey16_max=4095)[0, :, 0].tolist() == [0, 255]
    black = tiff(np.zeros((2, 2), np.int16), t339=[2])
    assert read(tmp_path, black, ".tif").max() == 0
    assert np.array_equal(read(tmp_path, tiff(EIGHT, t284=[2]), ".tif"), EIGHT)
    assert np.array_equal(read(tmp_path, tiff(255 - EIGHT[..., 0], t262=[0]), ".tif")[..., 0], EIGHT[..., 0])
    palette = tiff(EIGHT[..., 0] % 2, t262=[3], t320=([257] + [51400] + [0] * 254) * 3)
    assert np.array_equal(read(tmp_path, palette, ".tif")[..., 0], np.where(EIGHT[..., 0] % 2, 200, 1))
    luma = tiff(EIGHT, t262=[6], t530=[1, 1])
    if int(PIL.__version__.split(".")[0]) < 13:  # which Pillow takes for cut off
        with pytest.raises(ValueError, match="damaged image"):
            read(tmp_path, luma, ".tif")
    else:
        assert read(tmp_path, luma, ".tif").shape == EIGHT.shape
    assert np.array_equal(read(tmp_path, tiff(joined(EIGHT, EIGHT[..., :1]), t338=[0]), ".tif"), EIGHT)


def invisible() -> dict[str, bytes]:
    """Return files of which every pixel is transparent, with colours below."""
    colour, none = EIGHT, np.zeros((6, 9, 1), np.uint8)
    body = joined(colour[::-1, :, ::-1], none).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII4I4s48x", 108, 9, 6, 1, 32, 3, len(body), 0, 0, 0, 0, *masks, b"BGRs")
    bmp = struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body
    index, colours = np.zeros((2, 2, 1), np.uint8), bytes([200, 100, 50])
    return {
        "a.png": png(joined(colour, none)),
        "grey.png": png(joined(colour[..., :1], none)),
        "deep.png": png(joined(FULL, none.astype(np.uint16))),
        "palette.png": png(index, chunk(b"tRNS", b"\0"), palette=colours),
        "keyed.png": png(np.full((2, 2, 3), 9, np.uint8), chunk(b"tRNS", struct.pack(">HHH", 9, 9, 9))),
        "keyed16.png": png(np.full((2, 2, 1), 60000, np.uint16), chunk(b"tRNS", struct.pack(">H", 60000))),
        "a.tif": tiff(joined(colour, none), t338=[2]),
        "deep.tif": tiff(joined(FULL, none.astype(np.uint16)), t338=[1]),
        "a.bmp": bmp,
    }


@pytest.mark.parametrize("name", invisible())
def test_an_image_of_which_nothing_is_visible_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(invisible()[name])
    with pytest.raises(
        ValueError, match=rf"Every pixel of .*{name} is transparent.*without its transparency"
    ):
        open_image(tmp_path / name)


@pytest.mark.parametrize("suffix", WRITERS)
def test_16_bit_colour_that_was_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    content = WRITERS[suffix](FULL)
    pixels = content[:-30] if suffix != ".png" else png(FULL[:3]).replace(b"\0\0\0\x03", b"\0\0\0\x06", 1)
    for cut in (content[: len(content) // 2], pixels):
        with pytest.raises(ValueError, match=r"i\..* is (a damaged image|not an image)"):
            read(tmp_path, cut, suffix)

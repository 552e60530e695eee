import hashlib
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk, png, tiff
from PIL import Image

from calib.data.images import MAX_PIXELS, file_id, has_image_suffix, open_image

RAMP = np.array([[0, 13107, 32768], [50000, 60000, 65535]], dtype=np.uint16)


def pixels(path: Path, **options: int) -> np.ndarray:
    image = open_image(path, **options)
    assert image.mode == "RGB"
    return np.array(image)


def png_header(path: Path, width: int, height: int) -> Path:
    """Write a PNG that only claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )
    return path


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.TIFF", "a.bmp"])
def test_rgb_is_read_bit_for_bit(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(pixels(tmp_path / name), values)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_lossy_formats_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (16, 8), (200, 100, 50)).save(tmp_path / name)
    read = pixels(tmp_path / name)
    assert read.shape == (8, 16, 3)
    assert np.abs(read[4, 8].astype(int) - (200, 100, 50)).max() <= 4


def test_grey_and_one_bit_are_repeated_over_the_channels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 77, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png")[0].tolist() == [[0] * 3, [77] * 3, [255] * 3]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bit.png")
    assert pixels(tmp_path / "bit.png")[0].tolist() == [[0] * 3, [255] * 3]


def test_palette_and_cmyk_become_their_colours(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert pixels(tmp_path / "palette.png")[0, 0].tolist() == [10, 20, 30]
    Image.new("CMYK", (2, 1), (255, 0, 0, 0)).save(tmp_path / "cmyk.tif")
    assert pixels(tmp_path / "cmyk.tif")[0, 0].tolist() == [0, 255, 255]


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((255, 51, 0)):
        rgba.putpixel((x, 0), (200, 100, 50, alpha))
    rgba.save(tmp_path / "rgba.png")
    assert pixels(tmp_path / "rgba.png")[0].tolist() == [[200, 100, 50], [40, 20, 10], [0, 0, 0]]
    Image.new("LA", (1, 1), (200, 51)).save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png")[0, 0].tolist() == [40, 40, 40]
    keyed = Image.new("L", (2, 1), 9)
    keyed.putpixel((1, 0), 8)
    keyed.save(tmp_path / "key.png", transparency=9)
    assert pixels(tmp_path / "key.png")[0].tolist() == [[0, 0, 0], [8, 8, 8]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_from_its_full_range(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(RAMP).save(path)
    assert pixels(path)[..., 0].tolist() == [[0, 51, 128], [195, 233, 255]]


def test_a_32_bit_tiff_within_16_bits_reads_like_16_bits(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "deep.tif")
    assert pixels(tmp_path / "deep.tif")[..., 0].tolist() == [[0, 51, 128], [195, 233, 255]]
    Image.fromarray(np.array([[0, 65536]], dtype=np.int32)).save(tmp_path / "deeper.tif")
    with pytest.raises(ValueError, match=r"deeper\.tif has 32-bit values from 0 to 65536"):
        open_image(tmp_path / "deeper.tif")


def test_12_bit_data_is_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "ct.png"
    Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"ct\.png.*largest value is 4095.*grey16_max=4095"):
        open_image(path)
    assert pixels(path, grey16_max=4095)[0, :, 0].tolist() == [0, 128, 255]
    assert pixels(path, grey16_max=65535)[0, :, 0].tolist() == [0, 8, 16]
    with pytest.raises(ValueError, match=r"up to 4095; .* given, 1023,.*--grey16-max"):
        open_image(path, grey16_max=1023)


def test_a_black_16_bit_image_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 3), dtype=np.uint16)).save(tmp_path / "black.png")
    assert pixels(tmp_path / "black.png").max() == 0


def test_a_16_bit_tiff_that_stores_white_as_0_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inverted.tif"
    Image.fromarray(RAMP).save(path)
    raw = path.read_bytes()
    black_is_zero = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert raw.count(black_is_zero) == 1
    path.write_bytes(raw.replace(black_is_zero, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    with pytest.raises(ValueError, match=r"inverted\.tif is a 16-bit TIFF that stores white as 0"):
        open_image(path)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif has floating-point pixels.*8-bit"):
        open_image(tmp_path / "float.tif")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn: the top left belongs at the top right
    image.save(tmp_path / "turned.png", exif=exif)
    read = pixels(tmp_path / "turned.png")
    assert read.shape == (3, 2, 3)
    assert read[0, 1].tolist() == [255] * 3
    assert read.sum() == 255 * 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} is (a damaged image|not an image)"):
        open_image(path)


RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def jpeg_of(marker: int, bits: int = 8, channels: int = 3) -> bytes:
    """Return a JPEG whose frame header says so; there are no pixels."""
    frame = bytes([bits, 0, 8, 0, 8, channels]) + b"".join(bytes([c, 0x11, 0]) for c in range(channels))
    return b"\xff\xd8\xff" + bytes([marker]) + (2 + len(frame)).to_bytes(2, "big") + frame + b"\xff\xd9"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"it is empty \(0 bytes\)\.$"),
        (b"\0" * 5000, r"it is nothing but 5000 zero bytes; copy it again\.$"),
        (b"patient,age\n1,50\n", r"it is another kind of file\.$"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", r"it is a GIF\.$"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", r"it is a JPEG 2000 file\.$"),
        (b"\0\0\0\x1cftypheic", r"it is a HEIC, AVIF or video file\.$"),
        (b"<!DOCTYPE html><html>", r"it is a web page in the place of the image; download it again\.$"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"it is a pointer of Git LFS .* `git lfs pull`\.$"),
        (
            tiff(RGB, t259=[33005]),
            r"it is a TIFF with the compression JPEG 2000 \(33005\), which is not read",
        ),
        (tiff(RGB, t259=[34712]), r"it is a TIFF with the compression JPEG 2000 \(34712\)"),
        (tiff(RGB, t259=[60000]), r"it is a TIFF with the compression unknown \(60000\)"),
        (jpeg_of(0xC1, bits=12), r"it is a JPEG of a kind that is not read here: 12-bit\. Save it as PNG\.$"),
        (jpeg_of(0xC3, bits=16), r"it is a JPEG of a kind that is not read here: lossless, 16-bit"),
        (jpeg_of(0xC0, channels=2), r"it is a JPEG of a kind that is not read here: 2-channel"),
        (b"BM" + b"\1" * 40, r"it is a BMP that cannot be opened \(.+\)\. Was it cut off\?"),
    ],
)
def test_what_is_not_an_image_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"notes\.png is not an image that can be read \(.*\): {reason}"):
        open_image(tmp_path / "notes.png")


def test_a_lossless_jpeg_that_opens_but_cannot_be_decoded_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_of(0xC3))
    # Before Pillow 13 it does not even open.
    with pytest.raises(
        ValueError, match=r"a\.jpg is .*a JPEG of a kind that is not read here: lossless.*PNG"
    ):
        open_image(tmp_path / "a.jpg")


def test_a_compression_that_pillow_may_lack_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(RGB, t259=[50001]))
    with pytest.raises(ValueError, match=r"a\.tif is a TIFF that cannot be decoded .*\(WebP, 50001\)"):
        open_image(tmp_path / "a.tif")


def test_what_is_too_large_to_read_is_refused_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.data.images.MAX_BYTES", 99)
    (tmp_path / "a.png").write_bytes(png(RGB))
    with pytest.raises(ValueError, match=r"a\.png is too large to decode safely \(more than 99 bytes"):
        open_image(tmp_path / "a.png")


LONG = zlib.compress(b"x" * (2 << 20))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chunk(b"iCCP", b"k\0\0" + LONG), b""),
        (chunk(b"zTXt", b"k\0\0" + LONG), b""),
        (b"", chunk(b"iTXt", b"k\0\1\0\0\0" + LONG)),
        (chunk(b"iCCP", b"no end and no method"), b""),
        (chunk(b"iCCP", b"k\0\x07" + LONG), b""),
        (chunk(b"zTXt", b"k\0\x07"), b""),
        (chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 999_999)) * 70, b""),  # 70 MB together
        (chunk(b"pHYs", b"\0") + chunk(b"gAMA", b"") + chunk(b"cHRM", b"\0"), b""),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG), b""),
        (chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG), b""),
        (chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"), b""),
        (chunk(b"prVt", b"x" * 5000), chunk(b"tIME", b"")),
    ],
)
def test_metadata_of_a_png_block_no_pixels(tmp_path: Path, before: bytes, after: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(RGB, before, after))
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    ],
)
def test_metadata_that_say_which_way_is_up_still_do(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"iCCP", b"k\0\0" + LONG) + text))
    assert np.array_equal(pixels(tmp_path / "a.png"), np.rot90(RGB, -1))


def test_what_a_png_needs_is_asked_for(tmp_path: Path) -> None:
    whole = png(RGB)
    for broken, message in (
        (whole[:-12], "ends before its IEND"),
        (whole[: whole.index(b"IDAT") - 4] + chunk(b"IEND", b""), "has no IDAT"),
        (whole[:8] + chunk(b"gAMA", b"\0\0\0\1") + whole[8:], "does not begin with an IHDR"),
    ):
        (tmp_path / "a.png").write_bytes(broken)
        with pytest.raises(ValueError, match=rf"a\.png is a damaged image \(it {message}"):
            open_image(tmp_path / "a.png")


@pytest.mark.parametrize("mark", [{254: 1}, {254: 4}, {254: 5}, {255: 2}])
def test_smaller_copies_and_masks_of_the_first_page_are_passed_over(
    tmp_path: Path, mark: dict[int, int]
) -> None:
    first = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    copies = [first.resize((20, 24)), first.resize((10, 12))]
    for copy in copies:
        copy.encoderinfo = {"tiffinfo": mark}
    first.save(tmp_path / "slide.tif", save_all=True, append_images=copies)
    assert np.array_equal(pixels(tmp_path / "slide.tif"), np.asarray(first))
    larger, other = first.resize((80, 96)), first.resize((20, 24))
    larger.encoderinfo = {"tiffinfo": mark}  # the first page is the preview here, or so it seems
    for page, frames in ((larger, 2), (other, 2)):
        first.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
        with pytest.raises(ValueError, match=rf"pages\.tif holds {frames} frames"):
            open_image(tmp_path / "pages.tif")


def test_only_known_endings_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif does not end like an image\. Allowed: \.bmp, \.dcm"):
        open_image(tmp_path / "a.gif")
    assert not has_image_suffix(Path("png"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_image(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["tif", "webp", "png"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (10, 120, 250)]
    frames[0].save(tmp_path / f"many.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"many\.{suffix} holds 3 frames; one image per file"):
        open_image(tmp_path / f"many.{suffix}")


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_decompression_bomb_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillow_limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)  # another library may have switched it off
    path = png_header(tmp_path / "bomb.png", 30_000, 30_000)
    with pytest.raises(ValueError, match=r"bomb\.png is too large to decode safely.*178,956,970"):
        open_image(path)


def test_the_pixel_limit_is_ours_and_pillow_does_not_warn_below_it(tmp_path: Path) -> None:
    path = png_header(tmp_path / "large.png", 10_000, 10_000)
    assert MAX_PIXELS > 10_000**2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"large\.png is a damaged image"):  # it was tried: not too large
            open_image(path)


def test_the_id_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "a.png").write_bytes(data)
    assert file_id(tmp_path / "a.png") == hashlib.sha256(data).hexdigest()


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    content = path.read_bytes()
    at = content.index(b"IDAT") + 20
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r"a\.png is a damaged image"):
        open_image(path)

"""`decode="fast"`: the files that it applies to, and its difference from the reference's crops."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_files import FILES
from pictures import encode, photographs
from PIL import Image

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.failures import RowError
from clipmill.media import crops, preprocess
from clipmill.media.crops import decoded_pixels, image_crop, min_reduced_side
from clipmill.media.jpeg import decode_jpeg, is_single_scan, jpeg_size, reduction
from clipmill.media.options import Preprocessing

FAST, EXACT = EncoderSpec("demo"), EncoderSpec("demo", decode="exact")
RARE = 1e-4
"""Fraction of the values that may be two levels off: both decoders round twice, rarely differently both times."""


def levels(content: object, preprocessing: Preprocessing, **options: object) -> np.ndarray:
    """Return the difference of the fast crop from the exact one in grey levels."""
    fast, exact = (
        image_crop(content, preprocessing, EncoderSpec("demo", decode=way, **options)).astype(int)
        for way in ("fast", "exact")
    )
    return np.abs(fast - exact)


@pytest.fixture
def paths(monkeypatch) -> list[str]:
    """Record which functions decode and resize."""
    taken: list[str] = []

    def recording(name: str, function):
        def recorded(*args, **options):
            found = function(*args, **options)
            if found is not None:
                taken.append(name)
            return found

        return recorded

    for name in ("decode_jpeg", "open_image", "crop_pixels", "crop_image"):
        monkeypatch.setattr(crops, name, recording(name, getattr(crops, name)))
    return taken


FAST_JPEGS = ("jpeg", "jpeg-progressive")
FAST_SIZES = ("png", "webp", "bmp", "tiff", "exact-size", "odd", "1x1")
LONG = ("very-wide", "very-tall")
"""These are resized as bytes, except very long ones, which Pillow resizes in strips."""


@pytest.mark.parametrize("size", [224, 97])
@pytest.mark.parametrize("name", FILES)
def test_which_library_decodes_and_resizes(name: str, size: int, paths: list[str]) -> None:
    """libjpeg-turbo decodes ordinary JPEG, and RGB is resized as bytes; all else is bit-identical to the reference."""
    off = levels(FILES[name], Preprocessing(image_size=size))
    fast = paths[: paths.index("open_image", 2)] if paths[0] == "open_image" else paths[:2]
    if name in FAST_JPEGS:
        assert fast == ["decode_jpeg", "crop_pixels"]
    elif name in FAST_SIZES:
        assert fast == ["open_image", "crop_pixels"]
    elif name in LONG:
        assert fast in (["open_image", "crop_pixels"], ["open_image", "crop_image"])
    else:
        assert fast == ["open_image", "crop_image"] and off.max() == 0
    assert off.max() <= 2 and (off > 1).mean() <= RARE


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_photographs_are_within_a_grey_level(mode: str, interpolation: str) -> None:
    """At most one value in ten thousand differs by two; another filter or offset differs far more."""
    made = Preprocessing(resize_mode=mode, interpolation=interpolation, crop_offset="floor", fill=7)
    off = np.concatenate([levels(encode(p, "JPEG", quality=90), made).ravel() for p in photographs().values()])
    assert off.max() <= 2 and (off > 1).mean() <= RARE and (off > 0).mean() < 0.01
    other = Preprocessing(resize_mode=mode, interpolation="bilinear" if interpolation == "bicubic" else "bicubic")
    photo = encode(photographs()["coffee"], "JPEG")
    control = np.abs(image_crop(photo, other, FAST).astype(int) - image_crop(photo, made, EXACT).astype(int))
    assert (control > 1).mean() > 0.01


def test_without_reduction_pixels_equal_pillows() -> None:
    for name in FAST_JPEGS:
        found = decode_jpeg(FILES[name], at_least=512, max_pixels=10**7)
        assert found is not None
        np.testing.assert_array_equal(found.array, np.asarray(Image.open(io.BytesIO(FILES[name]))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_large", [False, True])
def test_exif_orientation_is_applied_like_in_pillow(orientation: int, is_large: bool) -> None:
    photo = Image.fromarray(photographs()["china"])
    photo = photo.resize((2600, 1730)) if is_large else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=95, exif=exif)
    made = Preprocessing(image_size=112)
    off = levels(buffer.getvalue(), made, apply_exif=True)
    assert off.mean() < 0.5
    if orientation > 1:
        assert levels(buffer.getvalue(), made).mean() < 0.5, "without apply_exif neither turns it"
        turned = image_crop(buffer.getvalue(), made, EncoderSpec("demo", apply_exif=True)).astype(int)
        assert np.abs(turned - image_crop(buffer.getvalue(), made, EXACT)).mean() > 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1)])
def test_exif_orientation_is_applied_to_thin_images(orientation: int, shape: tuple[int, int]) -> None:
    """A flipped side of one pixel has strides that torch refuses, unless the array is copied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(photographs()["china"][: shape[0], : shape[1]]).save(buffer, "JPEG", quality=95, exif=exif)
    assert levels(buffer.getvalue(), Preprocessing(image_size=32), apply_exif=True).max() <= 2


# --- large photographs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "at_least", "times"),
    [
        ((4000, 3000), 448, 4),
        ((3000, 4000), 376, 4),
        ((3000, 4000), 375, 8),
        ((900, 900), 450, 2),
        ((900, 898), 450, 1),
        ((899, 899), 450, 2),  # a half pixel counts as one
        ((640, 480), 512, 1),
        ((100, 100_000), 512, 1),
    ],
)
def test_no_side_is_reduced_below_the_minimum(size: tuple[int, int], at_least: int, times: int) -> None:
    assert reduction(*size, at_least) == times


def test_reduced_images_have_twice_the_size_of_the_model() -> None:
    assert min_reduced_side(Preprocessing(image_size=224)) == 512
    assert min_reduced_side(Preprocessing(image_size=336)) == 672
    assert min_reduced_side(Preprocessing(image_size=224, resize_to=384)) == 768


def phone_photograph() -> bytes:
    """Return 12 megapixels with full detail: real photographs side by side."""
    canvas = Image.new("RGB", (4000, 3000))
    tiles = [Image.fromarray(array) for array in photographs().values()]
    for number in range(80):
        canvas.paste(tiles[number * 7 % len(tiles)], (number % 10 * 400, number // 10 * 375))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_a_large_photograph_is_reduced_accurately_and_saves_memory() -> None:
    """Differs by less than a grey level on average, with a cosine of 0.999 by the demo; a sixteenth of the pixels."""
    photo = phone_photograph()
    off = levels(photo, Preprocessing())
    assert 0 < off.mean() < 1 and off.max() < 32
    vectors = [load_encoder("demo", device="cpu", decode=way).embed_images([photo])[0] for way in ("fast", "exact")]
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert 0.999 < cosine < 1
    assert decoded_pixels(photo, Preprocessing(), FAST) == 1000 * 750
    assert decoded_pixels(photo, Preprocessing(), EXACT) == 4000 * 3000
    assert decoded_pixels(FILES["png"], Preprocessing(), FAST) is None
    small = encode(photographs()["china"], "JPEG")
    assert decoded_pixels(small, Preprocessing(), FAST) == 640 * 427


def test_the_limit_of_pixels_applies_before_the_reduction() -> None:
    with pytest.raises(RowError, match="4000 x 3000 pixels, allowed are 11,999,999"):
        image_crop(phone_photograph(), Preprocessing(), EncoderSpec("demo", max_image_pixels=11_999_999))


# --- damaged files, missing libraries --------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.99])
def test_truncated_files_fail_like_in_pillow(kept: float) -> None:
    data = FILES["jpeg"][: int(len(FILES["jpeg"]) * kept)]
    for spec in (FAST, EXACT):
        with pytest.raises(RowError, match=r"cannot be decoded|no image"):
            image_crop(data, Preprocessing(), spec)


def test_damaged_files_are_decoded_like_in_pillow() -> None:
    """With wrong bytes in the middle, the result is that of Pillow."""
    damaged = bytearray(FILES["jpeg"])
    middle = len(damaged) // 2
    damaged[middle : middle + 40] = bytes(range(40))
    assert levels(bytes(damaged), Preprocessing()).max() <= 2


def test_a_damaged_photograph_is_decoded_at_the_reduced_scale() -> None:
    """By Pillow, with the proportions of the whole image, and without exceeding the counted memory."""
    damaged = bytearray(phone_photograph())
    middle = len(damaged) // 2
    damaged[middle : middle + 4] = b"\x12\x34\x56\x78"
    try:
        exact = image_crop(bytes(damaged), Preprocessing(), EXACT).astype(int)
    except RowError:
        pytest.fail("Pillow should read this one")
    fast = image_crop(bytes(damaged), Preprocessing(), FAST).astype(int)
    assert np.abs(fast - exact).mean() < 2


def with_markers(data: bytes, *extra: bytes) -> bytes:
    """Insert bytes after the start marker of a file."""
    return data[:2] + b"".join(extra) + data[2:]


def test_files_with_several_scans_count_in_full() -> None:
    """Progressive files, whatever precedes their frame; files with a scan per colour; truncated files."""
    plain, progressive = FILES["jpeg"], FILES["jpeg-progressive"]
    assert is_single_scan(plain) and is_single_scan(with_markers(plain, b"\xff", b"\xff\x01"))
    assert not is_single_scan(progressive)
    for extra in (b"\xff", b"\xff\xff", b"\xff\x01", b"\xff\xfe\x00\x04hi"):
        assert not is_single_scan(with_markers(progressive, extra))
    scan = plain.index(b"\xff\xda")
    assert not is_single_scan(plain[: scan + 4] + b"\x01" + plain[scan + 5 :])
    assert not is_single_scan(plain[:scan]) and not is_single_scan(b"\xff\xd8")
    width, height = jpeg_size(progressive)
    assert decoded_pixels(progressive, Preprocessing(), FAST) == 2 * width * height


def test_only_ordinary_files_have_a_size() -> None:
    assert jpeg_size(FILES["jpeg"]) == (PHOTO_WIDTH, PHOTO_HEIGHT)
    for name in set(FILES) - set(FAST_JPEGS):
        assert jpeg_size(FILES[name]) is None
    assert jpeg_size(b"") is None and jpeg_size(b"\xff\xd8\xff" + b"junk" * 5) is None


PHOTO_HEIGHT, PHOTO_WIDTH = photographs()["chelsea"].shape[:2]


def test_without_a_resizer_of_bytes_fast_equals_exact(monkeypatch) -> None:
    """As on Linux on Arm without torch."""
    for module in (crops, preprocess):
        monkeypatch.setattr(module, "byte_resizer", lambda: None)
    assert levels(FILES["jpeg"], Preprocessing()).max() == 0
    assert decoded_pixels(phone_photograph(), Preprocessing(), FAST) == 4000 * 3000

"""Decoding and preprocessing: every format, equality with the reference, and failures."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from image_files import FILES, PHOTO, image_file
from open_clip.transform import image_transform
from PIL import Image

from clipmill.failures import RowError
from clipmill.media import preprocess
from clipmill.media.images import open_image
from clipmill.media.options import OPENAI_MEAN, OPENAI_STD, Preprocessing
from clipmill.media.preprocess import crop_image, normalised_array

LIMIT = 10_000_000


@pytest.mark.parametrize("size", [224, 64, 97])
@pytest.mark.parametrize("name", FILES)
def test_crops_equal_the_references_pixels(name: str, size: int) -> None:
    """The crop, normalised like in the graph, is bit-identical to open_clip's transform."""
    crop = crop_image(open_image(FILES[name], max_pixels=LIMIT), Preprocessing(image_size=size))
    values = torch.from_numpy(crop).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    ours = values.sub_(torch.tensor(OPENAI_MEAN).view(3, 1, 1)).div_(torch.tensor(OPENAI_STD).view(3, 1, 1))
    reference = image_transform(size, is_train=False)(Image.open(io.BytesIO(FILES[name])))
    assert torch.equal(ours, reference)


def test_negative_control_of_the_pixel_comparison() -> None:
    """A crop that is off by one pixel, or bilinear, is not equal: the comparison above can fail."""
    image = open_image(FILES["jpeg"], max_pixels=LIMIT)
    crop = crop_image(image, Preprocessing(image_size=97))
    assert not np.array_equal(crop, crop_image(image, Preprocessing(image_size=97, interpolation="bilinear")))
    assert not np.array_equal(crop, np.roll(crop, 1, axis=1))


@pytest.mark.parametrize("mode", ["longest", "squash"])
@pytest.mark.parametrize("name", ["jpeg", "very-wide", "png-palette", "odd"])
def test_other_resize_modes_equal_the_reference(name: str, mode: str) -> None:
    """Images for models with `longest` or `squash` (SigLIP, MobileCLIP) equal open_clip's."""
    preprocessing = Preprocessing(image_size=96, resize_mode=mode, interpolation="bilinear", fill=0)
    crop = crop_image(open_image(FILES[name], max_pixels=LIMIT), preprocessing)
    reference = image_transform(
        96, is_train=False, resize_mode=mode, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
    )(Image.open(io.BytesIO(FILES[name])))
    np.testing.assert_array_equal(crop, (reference.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("size", [(2000, 3), (3, 2000), (7, 900), (1500, 13)])
def test_long_images_are_resized_in_strips_with_equal_pixels(
    size: tuple[int, int], mode: str, interpolation: str
) -> None:
    draw = np.random.default_rng(sum(size))
    image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 4), np.uint8))
    image = image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)
    made = Preprocessing(image_size=64, interpolation=interpolation, rgb="last")
    short = min(size)
    resized = tuple(64 if length == short else int(64 * length / short) for length in size)
    left, top = (round((length - 64) / 2) for length in resized)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    expected = image.resize(resized, filters[interpolation]).crop((left, top, left + 64, top + 64)).convert("RGB")
    np.testing.assert_array_equal(crop_image(image, made), np.asarray(expected))


@pytest.mark.parametrize("shape", [(2, 20_000), (20_000, 3), (1, 5_000)], ids=str)
def test_very_long_images_are_resized_in_strips_or_only_inside_the_crop(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result equals the reference; beyond the limit it is close to it, without gigabytes of memory."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = crop_image(Image.fromarray(array), Preprocessing(image_size=32))
    reference = image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)(Image.fromarray(array))
    expected = (reference.permute(1, 2, 0).numpy() * 255).round().astype(int)
    np.testing.assert_array_equal(crop, expected)
    monkeypatch.setattr(preprocess, "_MAX_RESIZED", 0)
    crop = crop_image(Image.fromarray(array), Preprocessing(image_size=32))
    assert np.abs(crop.astype(int) - expected).max() <= 1


def test_sixteen_bit_greyscale_is_scaled_and_not_clipped() -> None:
    """The reference turns a 16-bit PNG white; here it equals the same image in 8 bits."""
    deep = PHOTO[:, :, 0].astype(np.uint16) * 257
    image = open_image(image_file(Image.fromarray(deep), "PNG"), max_pixels=LIMIT)
    np.testing.assert_array_equal(np.asarray(image.convert("L")), PHOTO[:, :, 0])


def test_the_first_frame_of_an_animation_is_taken() -> None:
    """Later frames do not matter."""
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    animated = image_file(first, "GIF", save_all=True, append_images=[second])
    assert open_image(animated, max_pixels=LIMIT).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_ignored_unless_asked_for() -> None:
    """The references ignore it; apply_exif rotates the image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image_file(Image.fromarray(PHOTO), "JPEG", exif=exif)
    plain = open_image(turned, max_pixels=LIMIT)
    assert plain.size == (PHOTO.shape[1], PHOTO.shape[0])
    upright = open_image(turned, max_pixels=LIMIT, apply_exif=True)
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(plain), -1))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "undecodable"),
        (FILES["jpeg"][:3000], "undecodable"),
        (FILES["png"][:-5000], "undecodable"),
        (FILES["gif"][:50], "undecodable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "undecodable"),
        (np.zeros((4, 4), np.uint8), "wrong_shape"),
        (np.zeros((4, 4, 4), np.uint8), "wrong_shape"),
        (np.zeros((3, 4, 4), np.uint8), "wrong_shape"),
        (np.zeros((0, 4, 3), np.uint8), "wrong_shape"),
        (np.full((4, 4, 3), np.nan), "out_of_range"),
        (np.full((4, 4, 3), 200.0), "out_of_range"),
        (np.full((4, 4, 3), -0.1), "out_of_range"),
        (np.zeros((4, 4, 3), np.int64), "unsupported"),
        (np.zeros((4000, 4000, 3), np.uint8), "too_large"),
        (5, "unsupported"),
        (image_file(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unsupported"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_images_are_failures_with_a_code(content: object, code: str) -> None:
    """Each kind of bad content has its code."""
    with pytest.raises(RowError) as caught:
        open_image(content, max_pixels=LIMIT)
    assert caught.value.failure.code == code


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A small file of 100,000,000 pixels fails by its header."""
    bomb = image_file(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(RowError, match="10000 x 10000 pixels"):
        open_image(bomb, max_pixels=LIMIT)


def test_pillows_own_limit_is_too_large_as_well() -> None:
    """Pillow's limit and ours have the same code, and warnings of other libraries stay enabled."""
    before = list(warnings.filters)
    bomb = image_file(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(RowError) as caught:
        open_image(bomb, max_pixels=178_000_000)
    assert caught.value.failure.code == "too_large"
    assert "has 400,000,000 pixels, allowed are 178,000,000 (option max_image_pixels)" in caught.value.failure.message
    assert list(warnings.filters) == before


def test_float_arrays_equal_the_same_uint8_arrays() -> None:
    """Values in [0, 1] are scaled and rounded, not truncated."""
    image = open_image(PHOTO.astype(np.float64) / 255, max_pixels=LIMIT)
    np.testing.assert_array_equal(np.asarray(image), PHOTO)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((3, 8, 9), np.float32), "wrong_shape"),
        (np.zeros((3, 8, 8), np.float64), "unsupported"),
        (np.full((3, 8, 8), np.inf, np.float32), "out_of_range"),
        ("picture.jpg", "unsupported"),
    ],
)
def test_normalised_input_is_checked(array: object, code: str) -> None:
    """With preprocessing off, the message has the expected and the given shape."""
    with pytest.raises(RowError, match=r"\(3, 8, 8\) or \(8, 8, 3\)") as caught:
        normalised_array(array, 8)
    assert caught.value.failure.code == code

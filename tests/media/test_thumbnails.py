"""Thumbnails: size, transparency and orientation."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from image_files import FILES, PHOTO, image_file
from PIL import Image

from clipmill.failures import RowError
from clipmill.media.thumbnails import as_data_uri, thumbnail_of


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


@pytest.mark.parametrize("name", ["jpeg", "jpeg-grey", "png", "png-palette", "gif", "webp", "bmp", "tiff"])
def test_thumbnails_of_every_format_keep_the_aspect_ratio(name):
    height, width = PHOTO.shape[:2]
    small = opened(thumbnail_of(FILES[name], side=64))
    assert small.width == 64 and abs(small.height - 64 * height / width) < 1  # JPEG files are reduced in eighths
    full = np.asarray(Image.open(io.BytesIO(FILES[name])).convert("RGB").resize(small.size), float)
    assert np.abs(np.asarray(small, float) - full).mean() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_grey(mode):
    """Black and white drawings on a transparent background are visible; opaque pixels keep their colour."""
    drawing = Image.new(mode, (40, 20), (255, 0)[-len(mode) :] if mode == "LA" else (255, 255, 255, 0))
    drawing.paste((0, 255) if mode == "LA" else (0, 0, 0, 255), (0, 0, 20, 20))
    small = np.asarray(opened(thumbnail_of(image_file(drawing, "PNG"))), int)
    assert np.abs(small[5:15, 3:12]).max() < 30
    assert np.abs(small[5:15, 28:37] - 200).max() < 10


def test_a_transparent_colour_of_a_palette_is_grey():
    drawing = Image.new("P", (40, 20), 0)
    drawing.putpalette([255, 255, 255, 0, 0, 0])
    drawing.paste(1, (0, 0, 20, 20))
    small = np.asarray(opened(thumbnail_of(image_file(drawing, "PNG", transparency=0))), int)
    assert np.abs(small[5:15, 28:37] - 200).max() < 10


def test_an_opaque_image_keeps_its_white():
    small = np.asarray(opened(thumbnail_of(image_file(Image.new("RGB", (40, 20), "white"), "PNG"))), int)
    assert small.min() > 250


def test_small_images_keep_their_size_and_exif_orientation_is_applied():
    assert opened(thumbnail_of(image_file(Image.new("RGB", (7, 5)), "PNG"))).size == (7, 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image_file(Image.fromarray(PHOTO), "JPEG", exif=exif)
    small = opened(thumbnail_of(turned, side=64))
    assert small.size[1] == 64 > small.size[0]


def test_invalid_and_too_large_images_are_refused():
    for content, pixels in ((b"no picture", 1000), (FILES["png"], 1000)):
        with pytest.raises(RowError):
            thumbnail_of(content, max_pixels=pixels)


def test_a_data_uri_holds_the_file():
    uri = as_data_uri(b"\xff\xd8jpeg")
    assert uri.startswith("data:image/jpeg;base64,")
    assert base64.b64decode(uri.partition(",")[2]) == b"\xff\xd8jpeg"

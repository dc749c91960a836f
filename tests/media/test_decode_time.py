"""No part of a file keeps a decoder busy; `make soak ARGS="decode-time"` measures the time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tifffile  # comes with scikit-image
from decode_time import damaged_images, decode
from file_parts import PNG, saved
from image_files import PHOTO
from PIL import Image
from repeated_parts import FILES, IMAGES, SOUNDS

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.failures import Code, RowError
from clipmill.media.containers import without_metadata

REFUSED = {
    "JPEG scans",
    "JPEG overlapping EXIF",
    "PNG overlapping EXIF",
    "WebP overlapping EXIF",
    "AVIF overlapping EXIF",
    "HEIF overlapping EXIF",
    "TIFF overlapping tags",
    "TIFF overlapping EXIF",
    "TIFF strips",
    "TIFF strips of the same bytes",
    "TIFF strips that cover each other",
    "TIFF tiles",
    *(f"{kind} {part}" for kind in ("AVIF", "HEIF") for part in ("properties", "items", "associations", "references")),
    "AVIF chunks of a sequence",
    *(f"{kind} items of the same bytes" for kind in ("AVIF", "HEIF")),
}
"""Files for which decoders alone take time that grows with the square of the size, or seconds per MiB."""
DECODED = {
    "AVIF boxes",
    "HEIF boxes",
    "JXL boxes",
    "JXL parts",
    "TIFF directories",
    "WebP frames",
    "PPM plain comments",
}


def test_every_file_that_is_built_comes_out_once() -> None:
    for name, build in FILES.items():
        failure = decode(build(20_000), name in IMAGES)
        assert failure is None or failure.code in (Code.UNDECODABLE, Code.TOO_LARGE), (name, failure)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_keeps_a_decoder_busy_is_refused_before_it(name: str) -> None:
    with pytest.raises(RowError) as refused:
        without_metadata(IMAGES[name](300_000))
    assert refused.value.failure.code is Code.TOO_LARGE


@pytest.mark.parametrize("name", sorted(DECODED))
def test_repeated_parts_that_do_no_harm_are_read(name: str) -> None:
    assert decode(IMAGES[name](100_000), True) is None


def test_a_refused_file_leaves_its_neighbours_alone() -> None:
    encoder = load_encoder(EncoderSpec("fake::dim=8"))
    names = sorted(REFUSED)
    *failures, vector = encoder.embed("image", [*(IMAGES[name](300_000) for name in names), PNG])
    assert {failure.code for failure in failures} == {Code.TOO_LARGE}
    (expected,) = encoder.embed("image", [PNG])
    np.testing.assert_array_equal(vector.values, expected.values)


def test_sounds_are_read_or_refused_by_their_decoder() -> None:
    outcomes = {name: decode(build(100_000), False) for name, build in SOUNDS.items()}
    read = {name for name, failure in outcomes.items() if failure is None}
    assert {"WAV chunks behind", "FLAC padding", "Ogg empty pages", "Ogg chain", "MP3 frames of a tag"} <= read


TIFF_OPTIONS = [
    {},
    {"compression": "tiff_lzw"},
    {"compression": "tiff_adobe_deflate", "strip_size": 1},
    {"compression": "packbits", "strip_size": 1},
    {"compression": "jpeg"},
    {"big_tiff": True},
]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "LA"])
@pytest.mark.parametrize("options", TIFF_OPTIONS, ids=str)
def test_tiff_files_that_encoders_write_pass(options: dict[str, object], mode: str) -> None:
    if options.get("compression") == "jpeg" and mode in ("P", "LA", "RGBA"):
        options = {}
    data = saved(Image.fromarray(PHOTO).convert(mode), "TIFF", **options)
    assert without_metadata(data) is data and decode(data, True) is None


TIFFFILE_OPTIONS = [
    {"tile": (16, 16)},
    {"rowsperstrip": 1},
    {"planarconfig": "separate", "rowsperstrip": 1},
    {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
    {"bigtiff": True, "tile": (32, 32)},
    {"byteorder": ">", "compression": "zlib", "rowsperstrip": 1},
]


@pytest.mark.parametrize("options", TIFFFILE_OPTIONS, ids=str)
def test_tiff_files_of_scientists_pass(options: dict[str, object], tmp_path) -> None:
    pixels = np.moveaxis(PHOTO, 2, 0) if "planarconfig" in options else PHOTO
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", **options)
    data = (tmp_path / "x.tif").read_bytes()
    assert without_metadata(data) is data and decode(data, True) is None


def test_damaged_files_come_out_once() -> None:
    for data in damaged_images(random.Random(3), 300):
        failure = decode(data, True, max_pixels=1_000_000)
        assert failure is None or failure.code in (Code.UNDECODABLE, Code.TOO_LARGE, Code.WRONG_SHAPE, Code.EMPTY)

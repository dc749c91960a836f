"""Parts of image files that hold no pixels are dropped before decoding; the pixels stay the same."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from file_parts import (
    GIF,
    JPEG,
    PICTURE,
    PNG,
    chunk,
    comment,
    saved,
    segment,
    with_blocks,
    with_chunks,
    with_segments,
)
from pictures import encode, photographs
from PIL import Image, PngImagePlugin

from clipmill.encoders import load_encoder
from clipmill.failures import Code, RowError
from clipmill.media.containers import parts, without_metadata
from clipmill.media.images import open_image

RNG = np.random.default_rng(0)
EXIF = Image.Exif()
EXIF[0x0112] = 6
BIG = b"x" * 3_000_000
TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_text("Software", "tests")
TEXTS.add_itxt("Title", "ü" * 1000, zip=True)

HOSTILE = {
    "PNG text over Pillow's limit": (PNG, with_chunks(PNG, chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG)))),
    "PNG profile over Pillow's limit": (PNG, with_chunks(PNG, chunk(b"iCCP", b"a\0\0" + zlib.compress(BIG)))),
    "PNG of empty texts": (PNG, with_chunks(PNG, chunk(b"tEXt", b"") * 100_000)),
    "PNG of empty pixels": (PNG, with_chunks(PNG, chunk(b"IDAT", b"") * 100_000)),
    "JPEG of comments": (JPEG, with_segments(JPEG, segment(0xFE, b"") * 100_000)),
    "JPEG of EXIF segments": (JPEG, with_segments(JPEG, segment(0xE1, b"Exif\0\0") * 100_000)),
    "JPEG of fill bytes": (JPEG, with_segments(JPEG, b"\xff" * 1_000_000)),
    "GIF with a long comment": (GIF, with_blocks(GIF, comment(8 * 2**20))),
    "GIF with padding": (GIF, with_blocks(GIF, b"\0" * 1_000_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_full_of_parts_without_pixels_is_decoded_without_them(name: str) -> None:
    plain, hostile = HOSTILE[name]
    left = without_metadata(hostile)
    assert len(left) <= len(plain) + 1000
    expected, found = open_image(plain, max_pixels=10**6), open_image(hostile, max_pixels=10**6)
    assert (found.mode, found.size) == (expected.mode, expected.size) and found.tobytes() == expected.tobytes()
    encoder = load_encoder("fake::dim=8")
    first, second = encoder.embed_images([plain, hostile])
    assert np.array_equal(first, second)


ENDLESS = {
    "GIF of one comment": GIF[:13] + bytes(3 * 2 ** ((GIF[10] & 7) + 1)) + comment(8 * 2**20),
    "GIF of padding": GIF[:13] + bytes(3 * 2 ** ((GIF[10] & 7) + 1)) + bytes(10**6),
    "JPEG of comments": JPEG[:2] + segment(0xFE, b"") * 100_000,
    "JPEG of fill bytes": JPEG[:2] + b"\xff" * 10**6,
    "JPEG of zeros": JPEG[:2] + b"\xff\xe0" + bytes(10**6),
    "JPEG of escaped bytes": JPEG[:2] + b"\xff\0" * 100_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_file_of_nothing_but_such_parts_is_cut_before_a_decoder_sees_it(name: str) -> None:
    assert len(without_metadata(ENDLESS[name])) <= (10**6 + 10 if "zeros" in name else 1000)
    with pytest.raises(RowError) as refused:
        open_image(ENDLESS[name], max_pixels=10**6)
    assert refused.value.failure.code is Code.UNDECODABLE


ORDINARY = {
    "jpeg": JPEG,
    "jpeg, turned": saved(PICTURE, "JPEG", exif=EXIF),
    "jpeg, turned behind other programs' data": with_segments(
        saved(PICTURE, "JPEG", exif=EXIF), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0") * 20
    ),
    "jpeg, progressive": saved(PICTURE, "JPEG", progressive=True, comment=b"hello"),
    "jpeg, cmyk": saved(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg, with profile": saved(PICTURE, "JPEG", icc_profile=b"p" * 200_000),
    "png": PNG,
    "png, with texts": saved(PICTURE, "PNG", pnginfo=TEXTS, dpi=(72, 72)),
    "png, palette and transparency": saved(PICTURE.convert("P"), "PNG", transparency=3),
    "png, 16 bits": saved(Image.fromarray(RNG.integers(0, 65536, (9, 9), np.uint16)), "PNG"),
    "png, alpha and profile": saved(PICTURE.convert("RGBA"), "PNG", icc_profile=b"p" * 5000),
    "png, animated": saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    "gif": GIF,
    "gif, animated": saved(
        PICTURE.convert("P"), "GIF", save_all=True, append_images=[PICTURE.rotate(90).convert("P")], comment=b"hello"
    ),
    "gif, transparent": saved(PICTURE.convert("P"), "GIF", transparency=0),
    "webp": saved(PICTURE, "WEBP"),
    "tiff": saved(PICTURE, "TIFF"),
    "bmp": saved(PICTURE, "BMP"),
    **{name: encode(pixels, "JPEG") for name, pixels in photographs().items()},
}


@pytest.mark.parametrize("apply_exif", [False, True])
@pytest.mark.parametrize("name", ORDINARY)
def test_the_pixels_of_ordinary_files_are_those_that_pillow_gives(name: str, apply_exif: bool) -> None:
    data = ORDINARY[name]
    whole, left = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(without_metadata(data)))
    assert whole.info.get("transparency") == left.info.get("transparency")
    assert (whole.mode, whole.size, whole.tobytes()) == (left.mode, left.size, left.tobytes())
    assert getattr(whole, "n_frames", 1) == getattr(left, "n_frames", 1)
    turned = open_image(data, max_pixels=10**8, apply_exif=apply_exif).size
    assert turned == ((40, 60) if "turned" in name and apply_exif else whole.size)


@pytest.mark.parametrize("data", [JPEG, PNG, GIF], ids=["jpeg", "png", "gif"])
def test_a_damaged_file_is_the_decoders_affair(data: bytes) -> None:
    """Cut anywhere and with any byte changed, the walk ends, and never with an error of its own."""
    rng = np.random.default_rng(1)
    for cut in range(0, len(data), 7):
        assert len(without_metadata(data[:cut])) <= cut
    for at in rng.integers(0, min(len(data), 700), 300):
        changed = bytearray(data)
        changed[at] ^= int(rng.integers(1, 256))
        assert len(without_metadata(bytes(changed))) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        with_segments(JPEG, segment(0xFE, b"") * 50),
        with_chunks(PNG, chunk(b"tEXt", b"") * 50),
        with_blocks(GIF, comment(50, 1)),
    ],
    ids=["jpeg", "png", "gif"],
)
def test_more_parts_than_any_real_file_has_are_too_large(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(parts, "MOST_PARTS", 40)
    with pytest.raises(RowError) as refused:
        without_metadata(data)
    assert refused.value.failure.code is Code.TOO_LARGE and "over 40 parts" in refused.value.failure.message

"""HEIC and JPEG XL images, by optional libraries: their pixels, their limits, and what is said without the extras."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from file_parts import box, saved, segment, with_segments
from image_files import PHOTO
from PIL import Image

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.failures import Code, RowError
from clipmill.media import plugins
from clipmill.media.containers import jxl_size, without_metadata
from clipmill.media.images import header_size, open_image, sniff_media_type
from clipmill.media.thumbnails import thumbnail_of

PICTURE = Image.fromarray(PHOTO[:200, :300])
GREY = np.asarray(PICTURE.convert("L"))
EXIF = Image.Exif()
EXIF[0x0112] = 6
BOTH = pytest.mark.parametrize("kind", ["HEIF", "JXL"])


def difference(image: Image.Image, expected: np.ndarray) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(np.asarray(image, float) - expected).mean())


def code_of(data: bytes, **options: int) -> Code:
    with pytest.raises(RowError) as refused:
        open_image(data, **{"max_pixels": 10**8, **options})
    return refused.value.failure.code


@BOTH
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pixels_are_those_that_were_written(kind: str, mode: str) -> None:
    image = open_image(saved(PICTURE.convert(mode), kind), max_pixels=10**6)
    assert (image.mode, image.size) == (mode, (300, 200))
    assert difference(image, np.asarray(PICTURE.convert(mode))) < 3


@BOTH
def test_transparency_stays(kind: str) -> None:
    half = PICTURE.convert("RGBA")
    half.putalpha(Image.fromarray(GREY))
    assert difference(open_image(saved(half, kind), max_pixels=10**6).getchannel("A"), GREY) < 3


@BOTH
def test_deeper_pixels_are_scaled_to_eight_bits(kind: str) -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    image = open_image(saved(deep, kind), max_pixels=10**6)
    assert image.mode == "L" and difference(image, GREY) < 3


def test_heic_of_ten_bits_in_colour() -> None:
    import pillow_heif

    file = io.BytesIO()
    deep = np.asarray(PICTURE).astype(np.uint16) * 257
    pillow_heif.encode("RGB;16", PICTURE.size, deep.tobytes(), file, quality=90)
    image = open_image(file.getvalue(), max_pixels=10**6)
    assert image.mode == "RGB" and difference(image, np.asarray(PICTURE)) < 4


def test_of_several_images_the_primary_one_is_taken() -> None:
    others = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]
    data = saved(PICTURE, "HEIF", save_all=True, append_images=others, primary_index=2)
    red, _, blue = open_image(data, max_pixels=10**6).getpixel((5, 5))
    assert red < 20 and blue > 230


@pytest.mark.parametrize("apply_exif", [False, True])
def test_heic_is_turned_once_as_its_container_says(apply_exif: bool) -> None:
    """The encoder writes the orientation into the container, where decoders apply it; EXIF data has no effect."""
    image = open_image(saved(PICTURE, "HEIF", exif=EXIF.tobytes()), max_pixels=10**6, apply_exif=apply_exif)
    assert image.size == (200, 300) and difference(image, np.rot90(np.asarray(PICTURE), -1)) < 3


@pytest.mark.parametrize("apply_exif", [False, True])
def test_jpeg_xl_is_turned_as_its_codestream_says(apply_exif: bool) -> None:
    """Its EXIF orientation has no effect (ISO/IEC 18181-2), so that nothing is turned twice."""
    data = saved(PICTURE, "JXL", exif=EXIF.tobytes()[6:])
    assert b"Exif" in data
    image = open_image(data, max_pixels=10**6, apply_exif=apply_exif)
    assert image.size == (300, 200) and difference(image, np.asarray(PICTURE)) < 3


def test_a_jpeg_kept_in_jpeg_xl_is_decoded_from_its_pixels(tmp_path) -> None:
    """What it takes to make the JPEG file again may be compressed a thousandfold, and is dropped."""
    path = tmp_path / "x.jpg"
    path.write_bytes(with_segments(saved(PICTURE, "JPEG", quality=90), segment(0xFE, b"x" * 60_000) * 50))
    file = io.BytesIO()
    with Image.open(path) as image:
        image.save(file, "JXL", lossless_jpeg=True)
    data = file.getvalue()
    assert b"jbrd" in data and b"jbrd" not in without_metadata(data)
    assert difference(open_image(data, max_pixels=10**6), np.asarray(PICTURE)) < 5


@BOTH
def test_the_limit_of_pixels_holds_before_decoding(kind: str, monkeypatch) -> None:
    """Of a JPEG XL file, which its library decodes when it opens it, the size is read from the header."""
    data = saved(Image.new("RGB", (3000, 2000)), kind)
    if kind == "JXL":
        monkeypatch.setattr("pillow_jxl.Decoder", None)
    assert code_of(data, max_pixels=5_999_999) is Code.TOO_LARGE
    assert header_size(data) == (3000, 2000)


@pytest.mark.parametrize("in_boxes", [False, True])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 256), (257, 9), (120, 100), (4, 3), (48, 32), (16, 9), (5, 4), (2, 1), (9000, 2)],
    ids=str,
)
def test_the_size_in_the_header_of_jpeg_xl(size: tuple[int, int], in_boxes: bool) -> None:
    data = saved(Image.new("L", size), "JXL", effort=1, use_container=in_boxes)
    assert jxl_size(data) == size
    if in_boxes:  # the codestream may be cut into parts anywhere
        stream = saved(Image.new("L", size), "JXL", effort=1, use_container=False)
        parts = b"".join(box(b"jxlp", bytes(4) + stream[at : at + 3]) for at in range(0, len(stream), 3))
        assert jxl_size(data[:32] + parts) == size


@BOTH
def test_damaged_files_are_failures(kind: str) -> None:
    data = saved(PICTURE, kind)
    for cut in (8, 12, 20, 40, 100, len(data) // 2, len(data) - 40):
        with pytest.raises(RowError) as refused:
            open_image(data[:cut], max_pixels=10**8)
        assert refused.value.failure.code is Code.UNDECODABLE
        assert cut < 12 or {"HEIF": "the HEIC image", "JXL": "the JPEG XL image"}[kind] in refused.value.failure.message
    assert code_of(data[:12] + bytes(500)) is Code.UNDECODABLE


@pytest.mark.parametrize(
    ("major", "others", "media_type"),
    [
        (b"heic", b"mif1heic", "image/heif"),
        (b"heix", b"mif1", "image/heif"),
        (b"mif1", b"mif1heic", "image/heif"),
        (b"msf1", b"hevc", "image/heif"),
        (b"avif", b"mif1miaf", "image/avif"),
        (b"avis", b"msf1", "image/avif"),
        (b"mif1", b"avifmiaf", "image/avif"),
        (b"isom", b"iso2avc1", None),
        (b"qt  ", b"", None),
    ],
)
def test_formats_of_boxes_are_told_by_their_brands(major: bytes, others: bytes, media_type: str | None) -> None:
    assert sniff_media_type(box(b"ftyp", major + bytes(4) + others) + bytes(50)) == media_type


def test_a_heic_file_of_general_brands_is_decoded() -> None:
    data = saved(PICTURE, "HEIF")
    assert open_image(data[:8] + b"mif1" + data[12:], max_pixels=10**6).size == (300, 200)


@BOTH
def test_without_its_extra_a_file_is_a_failure_that_names_it(kind: str, monkeypatch) -> None:
    """Whatever its name is; the good row beside it has its vector."""
    plugin = {one.format: one for one in plugins.PLUGINS}[kind]
    monkeypatch.setitem(sys.modules, plugin.module, None)
    encoder = load_encoder(EncoderSpec("fake::dim=8"))
    failure, vector = encoder.embed("image", [saved(PICTURE, kind), saved(PICTURE, "PNG")])
    assert failure.code is Code.UNDECODABLE and np.isfinite(vector.values).all()
    assert plugin.title in failure.message and f"pip install 'clipmill[{plugin.extra}]'" in failure.message


@BOTH
def test_they_are_embedded_and_shown_like_any_image(kind: str) -> None:
    data = saved(PICTURE, kind)
    (vector,) = load_encoder("fake::dim=8").embed("auto", [data])
    assert vector.modality == "image"
    assert Image.open(io.BytesIO(thumbnail_of(data))).size == (96, 64)


def test_the_libraries_are_imported_when_they_are_needed(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(saved(PICTURE, "PNG"))
    (tmp_path / "x.heic").write_bytes(saved(PICTURE, "HEIF"))
    code = """
import json, sys
from clipmill.media.images import open_image
found = []
for name in ("x.png", "x.heic"):
    open_image(open(name, "rb").read(), max_pixels=10**6)
    found.append([one for one in ("pillow_heif", "pillow_jxl") if one in sys.modules])
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], ["pillow_heif"]]

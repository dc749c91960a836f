"""Every format of the table in docs/formats.md, one by one, and what is said of files that are something else."""

from __future__ import annotations

import io
import re

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  (writes the files of these tests)
import pytest
from PIL import Image, ImageDraw
from places import DOCS

from clipmill.datasets.inputs.sidecars import IMAGE_EXTENSIONS
from clipmill.encoders import Item, load_encoder
from clipmill.failures import Code, RowError
from clipmill.media.images import FORMATS, open_image, sniff_media_type
from clipmill.media.plugins import PLUGINS

pillow_heif.register_heif_opener()
READ = (*FORMATS, *(plugin.format for plugin in PLUGINS))
PICTURE = Image.new("RGB", (64, 48), (30, 90, 160))
DRAWN = ImageDraw.Draw(PICTURE)
DRAWN.ellipse((8, 4, 40, 36), fill=(220, 60, 40))
DRAWN.rectangle((36, 20, 60, 44), fill=(240, 220, 80))


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    PICTURE.convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", READ)
def test_a_format_is_recognised_and_decoded(kind: str) -> None:
    data = saved(kind)
    image = open_image(data, max_pixels=10**6)
    assert image.size == (64, 48)
    difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(PICTURE, int))
    assert difference.mean() < 12
    assert (sniff_media_type(data[:32]) or "").startswith("image/")
    (vector,) = load_encoder("fake::dim=8").embed_items([Item("auto", data)])
    assert vector.modality == "image"


@pytest.mark.parametrize("mode", ["1", "L", "RGB"], ids=["pbm", "pgm", "ppm"])
def test_portable_files_of_every_depth(mode: str) -> None:
    assert open_image(saved("PPM", mode), max_pixels=10**6).convert("RGB").size == (64, 48)


def test_the_table_of_the_docs_lists_these_formats_and_their_endings() -> None:
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    table = page.partition("| format | endings | |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w+) \| ([^|]*)\|", table, re.MULTILINE)
    assert {name.upper() for name, _ in rows} == {*READ, "AVIF"}
    assert {one for _, endings in rows for one in re.findall(r"`\.(\w+)`", endings)} == IMAGE_EXTENSIONS


OTHERS = {
    "Parquet": (b"PAR1" + bytes(100), "name it .parquet"),
    "Arrow": (b"ARROW1" + bytes(100), "name it .arrow"),
    "NumPy": (b"\x93NUMPY" + bytes(100), "an array of NumPy"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "compressed with gzip"),
    "xz": (b"\xfd7zXZ\x00" + bytes(100), "compressed with xz"),
    "zip": (b"PK\x03\x04" + bytes(100), "unpack it"),
    "PDF": (b"%PDF-1.7\n", "convert its pages"),
    "page": (b"<!DOCTYPE html><html>", "an HTML page"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
    "addresses": (b"https://example.org/a.jpg\nhttps://example.org/b.jpg\n", "a list of URIs"),
    "text": ("für Elise\n".encode(), "a field 'text'"),
    "nothing known": (bytes(range(256)), "no image of a known format"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_file_is_named_with_the_way_out(name: str) -> None:
    data, message = OTHERS[name]
    with pytest.raises(RowError) as refused:
        open_image(data, max_pixels=10**6)
    assert refused.value.failure.code is Code.UNDECODABLE and message in refused.value.failure.message

"""Hard and easy rows for a job. Each row is drawn from its number alone."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hard_jobs import SCHEMA
from PIL import Image
from sklearn.datasets import load_sample_images
from workload import captions, drawings

_ROWS_IN_GROUP = 50
_LARGE = (4000, 3000)

_SHARES: dict[str, dict[str, dict[str, float]]] = {
    "easy": {"photo": {"drawing": 1.0}, "caption": {"short": 1.0}},
    "hard": {
        "photo": {
            "icon": 0.70,
            "photograph": 0.02,
            "large CMYK": 0.001,
            "large cut off": 0.002,
            "cut off": 0.05,
            "no image": 0.05,
            "empty": 0.02,
            "null": 0.157,
        },
        "caption": {"short": 0.70, "long": 0.02, "blank": 0.05, "null": 0.23},
    },
}
"""For each job and column, the share of rows of each kind."""

_CODES = {"cut off": "undecodable", "large cut off": "undecodable", "no image": "undecodable"}
_CODES |= {"empty": "empty", "blank": "empty"}


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a job's rows.

    Attributes:
        name: `easy` or `hard`.
        kinds: By column and kind, the distinct contents and the failure code that each should give, or None if it
            gives a vector or is null.
    """

    name: str
    kinds: dict[tuple[str, str], tuple[list[bytes | str | None], str | None]]


def row_kinds(job: str, number: int) -> dict[str, tuple[str, int]]:
    """Return by column the kind of a row's content, and the number of the variant of that kind."""
    draw = np.random.default_rng(number)
    found = {}
    for column, shares in _SHARES[job].items():
        kind = str(draw.choice(list(shares), p=list(shares.values())))
        found[column] = (kind, int(draw.integers(_VARIANTS.get(kind, 1))))
    return found


_VARIANTS = {"drawing": 200, "short": 300, "icon": 300, "photograph": 6, "long": 20, "cut off": 20, "no image": 20}


def contents_of(job: str) -> Contents:
    """Make the contents of a job's rows."""
    made: dict[str, list[bytes | str | None]] = {
        "drawing": [*drawings(_VARIANTS["drawing"])],
        "short": [*captions(_VARIANTS["short"])],
        "null": [None],
    }
    if job == "hard":
        large = [_photograph(seed) for seed in range(_VARIANTS["photograph"])]
        rng = np.random.default_rng(0)
        made |= {
            "icon": [_encoded(_icon(rng), "PNG") for _ in range(_VARIANTS["icon"])],
            "photograph": [_encoded(image, "JPEG", quality=90) for image in large],
            "large CMYK": [_encoded(large[0].convert("CMYK"), "JPEG", quality=90)],
            "large cut off": [_cut(_encoded(large[0], "JPEG", quality=90))],
            "cut off": [_cut(file) for file in drawings(_VARIANTS["cut off"], seed=1)],
            "no image": [b"<html>page %d is gone</html>" % n for n in range(_VARIANTS["no image"])],
            "empty": [b""],
            "blank": [" \n"],
            "long": [" ".join(captions(1_100, seed)) for seed in range(1, _VARIANTS["long"] + 1)],
        }
        if (fewest := min(len(str(text).split()) for text in made["long"])) < 10_000:
            raise RuntimeError(f"a long text has only {fewest} words")
    shares = _SHARES[job]
    return Contents(job, {(c, kind): (made[kind], _CODES.get(kind)) for c in shares for kind in shares[c]})


def write_rows(path: Path, rows: int, contents: Contents) -> Path:
    """Write the rows of a job as a Parquet file with small row groups."""
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="NONE") as writer:
        for first in range(0, rows, _ROWS_IN_GROUP):
            made: list[dict[str, bytes | str | None]] = []
            for number in range(first, min(rows, first + _ROWS_IN_GROUP)):
                kinds = row_kinds(contents.name, number).items()
                values = {column: contents.kinds[column, kind][0][variant] for column, (kind, variant) in kinds}
                made.append({"id": str(number), **values})
            writer.write_table(pa.Table.from_pylist(made, SCHEMA))
    return path


def _photograph(seed: int) -> Image.Image:
    """Return a real photo at 12 megapixels, with grain that makes the file as large as a phone's."""
    rng = np.random.default_rng(seed)
    sources = load_sample_images().images
    source = Image.fromarray(sources[seed % len(sources)])
    left, top = rng.integers(source.width // 4), rng.integers(source.height // 4)
    crop = source.crop((left, top, left + source.width * 3 // 4, top + source.height * 3 // 4))
    pixels = np.asarray(crop.resize(_LARGE, Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-4, 5, pixels.shape[:2], dtype=np.int16)[:, :, None]
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _icon(rng: np.random.Generator) -> Image.Image:
    """Return an image of coloured blocks, 16 pixels wide and high, some of them transparent."""
    blocks = np.kron(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    return Image.fromarray(blocks)


def _encoded(image: Image.Image, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _cut(file: bytes) -> bytes:
    return file[: len(file) // 2]

"""Inputs for the tests of storage, and what is read of them."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from clipmill.datasets import ReaderOptions, Shard, plan_shards, read_documents, read_rows
from clipmill.encoders.testing import fake_text_vector


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def relative(shards: list[Shard], folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for shard in shards for path in shard.paths]


def documents(*inputs: object, rows: int = 1024, **options: object) -> list:
    shards = plan_shards([str(given) for given in inputs], rows_per_shard=rows)
    return [document for shard in shards for document in read_documents(shard, ReaderOptions(**options))]


def rows_of(*inputs: object, rows: int = 1024) -> list:
    return [row for shard in plan_shards([str(i) for i in inputs], rows_per_shard=rows) for row in read_rows(shard)]


def codes(found: list) -> list[str | None]:
    return [str(document.failures[0].code) if document.failures else None for document in found]


def text_vector(text: str) -> list[float]:
    """Return the fake's vector of a text in four values."""
    return fake_text_vector(text, 4).tolist()


def photograph(colour: str = "red", size: tuple[int, int] = (6, 4)) -> bytes:
    """Return a PNG file of one colour, `size` being width and height."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()

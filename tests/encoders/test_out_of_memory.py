"""A row that alone needs too much memory fails; what fails for every row ends the job instead."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from image_files import FILES
from storage_helpers import photograph

from clipmill.datasets import plan_shards, read_rows
from clipmill.datasets.inputs import rows as rows_module
from clipmill.encoders import EncoderSpec, Failure, Vector, load_encoder, preparation
from clipmill.errors import ClipmillError
from clipmill.failures import Code, Stage
from clipmill.media import byte_resizing
from clipmill.media.crops import image_crop
from clipmill.media.options import Preprocessing

BIG = photograph("red", (7, 7))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_a_row_that_is_too_big_to_decode(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(content: bytes) -> bytes:
        if content == BIG:
            raise error
        return content

    monkeypatch.setattr(preparation, "without_metadata", decode)
    first, failed, last = load_encoder("fake::dim=4", device="cpu").embed("image", [photograph(), BIG, photograph()])
    assert isinstance(first, Vector) and isinstance(last, Vector)
    assert isinstance(failed, Failure) and (failed.stage, failed.code) == (Stage.DECODE, Code.OUT_OF_MEMORY)


def test_a_row_that_is_too_big_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetch = preparation.fetch

    def fetch_some(uri: str, *rest: object, **options: object) -> object:
        if uri.endswith("big.png"):
            raise MemoryError
        return fetch(uri, *rest, **options)

    monkeypatch.setattr(preparation, "fetch", fetch_some)
    (tmp_path / "a.png").write_bytes(photograph())
    encoder = load_encoder("fake::dim=4", device="cpu", allow_local_files=True)
    first, failed = encoder.embed("image", [str(tmp_path / "a.png"), str(tmp_path / "big.png")])
    assert isinstance(first, Vector)
    assert isinstance(failed, Failure) and (failed.stage, failed.code) == (Stage.FETCH, Code.OUT_OF_MEMORY)


def test_a_file_that_cannot_be_read_on_is_no_damaged_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Arrow's error is one of memory and one of Arrow at once."""

    def run_out(*given: object) -> Iterator[object]:
        raise pa.ArrowMemoryError("malloc of size 64 failed")
        yield

    monkeypatch.setattr(rows_module, "_line_rows", run_out)
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    (row,) = read_rows(plan_shards([str(tmp_path / "x.jsonl")])[0])
    assert row.failure is not None and (row.failure.code, row.failure.transient) == (Code.OUT_OF_MEMORY, True)


@pytest.mark.parametrize("library", ["cykooz_resizer", "torch"])
def test_a_resizer_that_cannot_be_loaded_ends_the_job(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, every row was `undecodable`, or its pixels were those of another decoder."""

    def load(name: str) -> None:
        raise ImportError("lib.so: failed to map segment from shared object")

    byte_resizing.byte_resizer.cache_clear()
    monkeypatch.setattr(byte_resizing, "is_installed", lambda name: name == library)
    monkeypatch.setattr(importlib, "import_module", load)
    try:
        with pytest.raises(ClipmillError, match=f"{library} is installed, but cannot be loaded"):
            image_crop(FILES["jpeg"], Preprocessing(), EncoderSpec("demo"))
    finally:
        byte_resizing.byte_resizer.cache_clear()

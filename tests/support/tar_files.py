"""Tar archives for tests: samples as webdataset's writer lays them out, and archives that it would never write."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import job_options
import numpy as np
from pictures import encode

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_text_vector
from clipmill.jobs import embed_shard, start_job

SPEC = EncoderSpec("fake::dim=4", device="cpu")
BOTH = {"columns": {"image": "image", "text": "text"}, "drop": ["image"]}
"""What a job does that embeds images and captions."""
BLOCK = tarfile.BLOCKSIZE


def picture(number: int) -> bytes:
    """Return a PNG of 4 × (5 + number) pixels of one grey."""
    return encode(np.full((4, 5 + number, 3), number, np.uint8))


def picture_vector(number: int) -> list[float]:
    """Return the fake's vector of it in four values: height, width, red, green."""
    return [4.0, 5.0 + number, float(number), float(number)]


def text_vector(number: int) -> list[float]:
    """Return the fake's vector of a caption."""
    return fake_text_vector(f"picture {number}", 4).tolist()


def about(number: int) -> dict[str, str]:
    """Return the metadata of a sample."""
    return {
        "url": f"https://example.com/{number}.png",
        "caption": f"picture {number}",
        "key": f"{number:09d}",
    }


def members(numbers: Iterable[int], *, image: str = "png", **more: Any) -> list[tuple[str, bytes]]:
    """Return the files of samples in webdataset's order, metadata spread over lines as img2dataset does it."""
    found = []
    for number in numbers:
        key = f"{number:09d}"
        found += [
            (f"{key}.json", json.dumps({**about(number), **more}, indent=4).encode()),
            (f"{key}.{image}", picture(number)),
            (f"{key}.txt", f"picture {number}".encode()),
        ]
    return found


def tar_bytes(files: Iterable[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT, mtime: float = 1.5) -> bytes:
    """Return an archive. A time with a fraction gives each file an extended header, as webdataset's writer does."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime if format == tarfile.PAX_FORMAT else int(mtime)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files, **options))
    return path


def write_beside(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Write samples as files that stand beside each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files:
        (folder / name).write_bytes(data)
    return folder


def embed(output: object, *inputs: object, spec: EncoderSpec = SPEC, rows: int = 1024, **options: Any) -> Any:
    """Do a whole job in this process; returns its summary."""
    shards = plan_shards([str(given) for given in inputs], rows_per_shard=rows)
    job = job_options.plan(spec, str(output), shards, **options)
    start_job(job, shards, inputs=[str(given) for given in inputs])
    for shard in shards:
        embed_shard(shard, job)
    return finish_job(str(output))


def rows_of(output: object, **options: Any) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a dataset by id; each there once."""
    rows = read_dataset(str(output)).to_pylist()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def codes(output: object) -> list[tuple[Any, str]]:
    """Return the id and the code of each failure of a dataset."""
    return [(failure.get("id"), failure["code"]) for failure in read_failures(str(output))]

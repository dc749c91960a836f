"""Whole jobs in this process, and what their scores should be, computed from the fake's vectors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import job_options
import pyarrow as pa
import pytest
from rank_expected import cosine_of, softmax_of
from storage_helpers import photograph

from clipmill.datasets import finish_job, plan_shards, read_dataset
from clipmill.encoders import EncoderSpec
from clipmill.jobs import embed_shard, start_job

SPEC = EncoderSpec("fake::dim=4", device="cpu")
TOLERANCE = 1e-5
"""Cosines are rounded as float32 is, and a clip_score takes a hundred times of that."""

REASON = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])
SCORES = pa.struct([("clip_score", pa.float64()), ("cosine", pa.float64()), ("position", pa.int32())])
LABELS = pa.list_(pa.struct([("label", pa.string()), ("clip_score", pa.float64()), ("cosine", pa.float64())]))


def ranked_of(candidate: pa.DataType) -> pa.DataType:
    scores = [("position", pa.int32()), ("clip_score", pa.float64()), ("cosine", pa.float64()), ("failure", REASON)]
    return pa.list_(pa.struct([("candidate", candidate), *scores]))


def do_job(output: str, *inputs: object, spec: EncoderSpec = SPEC, rows: int = 1024, **options: Any) -> None:
    """Do a whole job in this process; job and shards travel as they do to workers."""
    shards = plan_shards([str(given) for given in inputs], rows_per_shard=rows)
    job = pickle.loads(pickle.dumps(job_options.plan(spec, output, shards, **options)))
    start_job(job, shards, inputs=[str(given) for given in inputs])
    for shard in pickle.loads(pickle.dumps(shards)):
        embed_shard(shard, job)
    finish_job(output)


def run_job(output: str, *inputs: object, **options: Any) -> list[dict]:
    """Do a whole job in this process; return the rows that it wrote."""
    do_job(output, *inputs, **options)
    return read_dataset(output).to_pylist()


def do(output: str, given: object, plan: Any, **options: Any) -> None:
    do_job(output, given, plan=plan, **options)


def run(output: str, given: object, plan: Any, **options: Any) -> list[dict]:
    return run_job(output, given, plan=plan, **options)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def expected(query: list[float], candidates: list[list[float]]) -> list[tuple[int, float, float]]:
    """Return position, clip_score and cosine of candidates, best first, computed from their vectors."""
    cosines = [cosine_of(query, one) for one in candidates]
    scores = softmax_of([100 * one for one in cosines])
    places = sorted(range(len(cosines)), key=lambda n: -cosines[n])
    return [(n, pytest.approx(scores[n], abs=TOLERANCE), pytest.approx(cosines[n], abs=TOLERANCE)) for n in places]


def scores_of(ranked: list[dict]) -> list[tuple[Any, Any, Any]]:
    return [(one["position"], one["clip_score"], one["cosine"]) for one in ranked]


def photographs(folder: Path) -> Path:
    photos = folder / "photos"
    photos.mkdir()
    for name, colour in (("a", "red"), ("b", "lime")):
        (photos / f"{name}.png").write_bytes(photograph(colour))
    (photos / "c.png").write_bytes(b"no picture")
    return photos

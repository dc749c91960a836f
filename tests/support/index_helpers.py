"""Small datasets for the tests of indexes, and what exact search finds in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.datasets import provenance_of, with_provenance
from clipmill.encoders import EncoderSpec
from clipmill.indexes import open_index

DIM = 16
SPEC = EncoderSpec(f"fake::dim={DIM}", device="cpu")


def clustered(rows: int, dim: int = DIM, *, seed: int = 0, clusters: int = 40) -> np.ndarray:
    """Return vectors of no particular length, around centres, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((clusters, dim))
    near = centres[rng.integers(clusters, size=rows)] + 0.5 * rng.standard_normal((rows, dim))
    return (near * rng.uniform(0.5, 3, (rows, 1))).astype(np.float32)


def write_dataset(
    folder: Path,
    vectors: Sequence[np.ndarray | None],
    *,
    parts: int = 3,
    first: int = 0,
    spec: EncoderSpec | None = SPEC,
    dtype: pa.DataType | None = None,
    ids: Sequence[str] | None = None,
    **columns: Sequence[object],
) -> Path:
    """Write vectors as a dataset of some files with several row groups each; the ids are `r<number>`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(ids) if ids is not None else [f"r{first + number}" for number in range(len(vectors))]
    table = pa.table(
        {
            "id": names,
            "uri": [f"/photos/{name}.jpg" for name in names],
            "number": pa.array(range(first, first + len(vectors)), pa.int32()),
            "embedding": pa.array(list(vectors), pa.list_(dtype or pa.float32())),
            "blob": pa.array([b"bytes"] * len(vectors)),
            **columns,
        }
    )
    if spec is not None:
        table = table.cast(with_provenance(table.schema, {"embedding": provenance_of(spec, "text")}))
    step = -(-len(vectors) // parts) if len(vectors) else 1
    for part in range(parts):
        piece = table.slice(part * step, step)
        pq.write_table(piece, folder / f"part-{part:02d}.parquet", row_group_size=150)
    return folder


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and positions of the k nearest, in float64."""
    left = queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    right = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = left @ right.T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


def recall_of(found: np.ndarray, true: np.ndarray) -> float:
    """Return which share of the true positions was found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))


def files_of(index: Path) -> dict[str, Path]:
    """Return the files of an index by their names without the mark of the run that wrote them."""
    there = [path for path in index.rglob("*") if path.is_file()]
    found = {re.sub(r"-[0-9a-f]{16}\.", ".", str(path.relative_to(index))): path for path in there}
    assert len(found) == len(there)
    return found


def assert_same(one: Path, other: Path) -> None:
    """Assert that two indexes have the same files, but for times and speeds, and find the same."""
    ours, theirs = files_of(one), files_of(other)
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    for name in ours:
        if name != "_index.json":  # which has times and speeds
            assert ours[name].read_bytes() == theirs[name].read_bytes(), name
    left, right = open_index(str(one)), open_index(str(other))
    assert [segment.rows for segment in left.manifest.segments] == [segment.rows for segment in right.manifest.segments]
    queries = clustered(60, seed=2)
    here, there = left.search(queries, 10, nprobe=4, rerank=3), right.search(queries, 10, nprobe=4, rerank=3)
    np.testing.assert_array_equal(here.positions, there.positions)
    np.testing.assert_array_equal(here.scores, there.scores)

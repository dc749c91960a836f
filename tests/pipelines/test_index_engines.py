"""Shards of an index built by Beam, by Spark and in one process: the same files, and the same neighbours."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from index_helpers import assert_same, clustered, write_dataset

from clipmill.indexes.add import add_to_index
from clipmill.indexes.build import IndexOptions, build_index, run_locally
from clipmill.indexes.shard import IndexShard
from clipmill.pipelines.index import _run_beam
from clipmill.udfs import index_shards

VECTORS = clustered(1800)
OPTIONS = IndexOptions(factory="IVF16_HNSW16,SQ8", queries=100, rows_per_shard=450)
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of which some rows were there from the beginning and some were added, all in this process."""
    folder = tmp_path_factory.mktemp("here")
    write_dataset(folder / "data", [*VECTORS[:1000], None])
    write_dataset(folder / "more", list(VECTORS[1000:]), first=1001)
    make(folder, "index", run_locally)
    return folder


def make(folder: Path, name: str, run) -> None:
    seen: list[IndexShard] = []

    def counted(shards, job):
        seen.extend(shards)
        run(shards, job)

    build_index([str(folder / "data")], str(folder / name), OPTIONS, run=counted)
    add_to_index([str(folder / "more")], str(folder / name), OPTIONS, run=counted)
    assert len(seen) > 4


@pytest.mark.parametrize("options", [(), PROCESSES], ids=["one process", "two processes"])
def test_beam_builds_the_same_index(expected, options):
    name = f"beam-{len(options)}"
    make(expected, name, functools.partial(_run_beam, options=options))
    assert_same(expected / "index", expected / name)


def test_spark_builds_the_same_index(expected, spark):
    make(expected, "spark", lambda shards, job: index_shards(spark, shards, job))
    assert_same(expected / "index", expected / "spark")


def test_no_shards(spark):
    index_shards(spark, [], None)

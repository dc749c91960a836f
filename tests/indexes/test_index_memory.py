"""What `clipmill index` and a search hold, as the system counts it: within `--max-memory`, however many rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index import run
from index_helpers import clustered, write_dataset
from places import SUPPORT

DIM, FEW, MANY = 128, 40_000, 240_000
BOUND = 320 * 10**6
"""Close to the least that is taken: what a process holds anyhow, and blocks in work."""

SEARCHED = """
import json, sys
from clipmill.indexes import open_index
from index_helpers import clustered

hits = open_index(sys.argv[1]).search(clustered(2000, 128, seed=3), 10)
print(json.dumps(int(hits.positions.shape[0])))
"""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("data")
    vectors = clustered(MANY, DIM, clusters=300)
    return {rows: write_dataset(folder / str(rows), vectors[:rows], spec=None) for rows in (FEW, MANY)}


@pytest.mark.parametrize("factory", ["Flat", "IVF400,SQ8"])
def test_memory_stays_within_the_bound_and_does_not_follow_the_rows(tmp_path, datasets, factory):
    peaks = {}
    for rows, dataset in datasets.items():
        output = str(tmp_path / str(rows))
        given = ("--factory", factory, "--max-memory", str(BOUND), "--queries", "200", "--rows-per-shard", "20000")
        command = (sys.executable, "-m", "clipmill", "index", str(dataset), "--output", output, *given, "--json")
        built = run(command)
        assert built.printed["rows"] == rows
        searched = run((sys.executable, "-c", SEARCHED, output), PYTHONPATH=str(SUPPORT))
        assert searched.printed == 2000
        peaks[rows] = built.peak_bytes, searched.peak_bytes
        assert 0 < max(peaks[rows]) < BOUND
    more = (MANY - FEW) * DIM * 4  # bytes of vectors; lists stay mapped as long as they fit, full vectors need not
    for few, many in zip(peaks[FEW], peaks[MANY], strict=True):
        assert many - few < more * (0.3 if factory == "Flat" else 1)


def test_a_row_group_of_all_rows_is_indexed_within_the_bound(tmp_path):
    vectors = pa.array(clustered(MANY, DIM, clusters=300).reshape(-1))
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(vectors, DIM)})
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=MANY, use_dictionary=False)
    command = (sys.executable, "-m", "clipmill", "index", str(tmp_path / "one.parquet"))
    given = ("--output", str(tmp_path / "index"), "--factory", "IVF200,SQ8", "--max-memory", str(BOUND), "--json")
    built = run((*command, *given))
    assert built.printed["rows"] == MANY
    assert 0 < built.peak_bytes < BOUND


READ = """
import json, sys
import pyarrow as pa
from clipmill.indexes.source import join_adjacent, open_source, read_piece

source = open_source([sys.argv[1]])
rows = sum(len(batch) for piece in join_adjacent(source.groups) for batch in read_piece(piece, ["embedding"]))
print(json.dumps([rows, pa.default_memory_pool().max_memory()]))
"""


def test_of_a_large_row_group_a_part_is_held(tmp_path):
    vectors = np.random.default_rng(0).standard_normal(80_000 * DIM, dtype=np.float32)
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM)})
    path = tmp_path / "one.parquet"
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False)
    rows, held = run((sys.executable, "-c", READ, str(path))).printed
    assert rows == len(table)
    assert 0 < held < path.stat().st_size / 2

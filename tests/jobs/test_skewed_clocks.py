"""Clocks of hosts that are hours apart change nothing."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from skewed_clocks import check_skewed_clocks

from clipmill.datasets import ShardWriter, finish_job, prepare_directory, write_job


@pytest.mark.parametrize("seed", range(4))
def test_a_job_of_hosts_with_other_clocks(tmp_path, monkeypatch, seed):
    counts = check_skewed_clocks(random.Random(seed), tmp_path / "work", monkeypatch)
    assert counts["locks kept"] + counts["locks replaced"] == 2


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([("a", 0, 10), ("b", 2, 12)], 12),
        ([("a", 0, 10), ("b", 18_000, 18_010)], 20),
        ([("a", 0, 10), ("a", 30, 40)], 40),
    ],
    ids=["at once", "hours apart", "with a pause"],
)
def test_the_rate_of_hosts_with_other_clocks(tmp_path, spans, seconds):
    """Hosts whose clocks are apart count as if they had worked one after the other."""
    directory = prepare_directory(str(tmp_path / "out"))
    write_job(directory, {}, shards=len(spans))
    for number, (host, first, last) in enumerate(spans):
        with ShardWriter(directory, f"{number:05d}-x", pa.schema([("id", pa.string())])) as writer:
            made = {"run": "r", "process": f"{host}:{number}", "first_row_at": 1e9 + first, "last_row_at": 1e9 + last}
            writer.commit({"input_rows": 10, **made})
    assert finish_job(directory).active_seconds == seconds

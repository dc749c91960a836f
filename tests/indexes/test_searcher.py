"""`Searcher`: hits for the queries of rows, and failures for the others, without an engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from index_helpers import DIM, SPEC, clustered, write_dataset

from clipmill.encoders import load_encoder
from clipmill.encoders.plans.row_values import MissingColumn
from clipmill.indexes.search_plan import SearchPlan
from clipmill.indexes.searcher import Searcher
from clipmill.indexes.targets import find_target
from clipmill.metrics.stats import Stats


def getter(row: dict[str, Any]):
    def get(path: str) -> Any:
        if path not in row:
            raise MissingColumn(f"it has {sorted(row)}")
        return row[path]

    return get


@pytest.mark.parametrize("kind", ["vector", "text"])
def test_each_row_gets_hits_or_a_failure(tmp_path, kind: str) -> None:
    encoder = load_encoder(SPEC)
    texts = [f"text {number}" for number in range(50)]
    vectors = clustered(50) if kind == "vector" else encoder.embed_texts(texts)
    target = find_target(str(write_dataset(tmp_path / "data", list(vectors))))
    spec = None if kind == "vector" else SPEC
    plan = SearchPlan(target, query_kind=kind, top_k=2, columns=("number",)).checked(spec)
    searcher = Searcher(plan, encoder if spec else None)
    query = (lambda number: vectors[number]) if kind == "vector" else (lambda number: texts[number])
    bad = np.full(DIM, np.nan, np.float32) if kind == "vector" else ""
    rows = [{"id": "a", "query": query(7)}, {"id": "b"}, {"id": "c", "query": None}, {"id": "d", "query": bad}]
    stats = Stats()
    getters = [getter(row) for row in rows]
    found = searcher.find_rows([(get, searcher.item(get)) for get in getters], stats)
    hits = [one.value["hits"] for one in found]
    assert (len(hits[0]), hits[0][0]["position"], hits[0][0]["id"], hits[0][0]["number"]) == (2, 7, "r7", 7)
    assert hits[1:] == [None, None, None]
    failures = [[(failure.code, failure.column, failure.row) for failure in one.failures] for one in found]
    code = "out_of_range" if kind == "vector" else "empty"
    assert failures == [[], [("missing_column", "query", "b")], [], [(code, "query", "d")]]
    assert (stats.rows, stats.nulls) == (4, 1)

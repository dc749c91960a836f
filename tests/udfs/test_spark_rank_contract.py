"""The contract of ranking and classifying that all engines keep, on `rank`, `rank_groups` and `classify` of Spark."""

from __future__ import annotations

import pytest
from pyspark.sql import Row
from rank_contract import MODEL, ClassifyContract, FlatContract, RankContract, Scored

from clipmill.udfs import classify, rank, rank_groups

ONE = {
    **dict.fromkeys(("id", "note", "query", "candidate", "caption", "group"), "string"),
    **dict.fromkeys(("photo", "sound"), "binary"),
    "number": "long",
    "vector": "array<float>",
    "document": "struct<text: string, uri: string, blob: binary>",
}
TYPES = ONE | {f"{name}s": f"array<{ONE[name]}>" for name in ("candidate", "photo", "vector", "document")}


def frame(spark, rows, names):
    """Make a DataFrame of several partitions."""
    names = list(rows[0]) if rows else list(names)
    schema = ", ".join(f"{name} {TYPES[name]}" for name in names)
    values = [tuple(_as_row(row[name]) for name in names) for row in rows]
    return spark.createDataFrame(values, schema)


def _as_row(value):
    if isinstance(value, dict):
        return Row(**value)
    if isinstance(value, list):
        return [float(one) if isinstance(one, int) else _as_row(one) for one in value]
    return value


def plain(row):
    """Return a row as plain values."""
    if isinstance(row, Row):
        return {name: plain(value) for name, value in row.asDict().items()}
    if isinstance(row, bytearray):
        return bytes(row)
    return [plain(value) for value in row] if isinstance(row, list) else row


@pytest.mark.connect
class TestRank(RankContract):
    @pytest.fixture
    def rank(self, spark):
        def run(rows, *, query="query", candidates="candidates", model=MODEL, **options):
            df = frame(spark, rows, ("id", query, candidates))
            found = df.select("*", rank(query, candidates, model=model, **options)).collect()
            return Scored([plain(row) for row in found], [])

        return run


@pytest.mark.connect
class TestRankGroups(FlatContract):
    @pytest.fixture
    def rank_groups(self, spark):
        def run(rows, *, by="group", query="query", candidate="candidate", model=MODEL, **options):
            df = frame(spark, rows, ("id", "group", query, candidate))
            scored = rank_groups(df, by=by, query=query, candidate=candidate, model=model, **options)
            found = [plain(row) for row in scored.collect()]
            failures = [
                (row["id"], one["column"], one["code"]) for row in found for one in row["embedding_failures"] or []
            ]
            return Scored(found, failures)

        return run


@pytest.mark.connect
class TestClassify(ClassifyContract):
    @pytest.fixture
    def classify(self, spark):
        def run(rows, columns, *, labels, model=MODEL, **options):
            made = [
                classify(name, kind=kind, labels=labels, model=model, failures="struct", **options)
                for name, kind in columns.items()
            ]
            found = [plain(row) for row in frame(spark, rows, ("id", *columns)).select("*", *made).collect()]
            failures = []
            for row in found:
                for name in columns:
                    told = row[f"{name}_labels"]
                    failures += [(row["id"], name, told["failure"]["code"])] if told and told["failure"] else []
                    row[f"{name}_labels"] = told and told["labels"]
            return Scored(found, failures)

        return run

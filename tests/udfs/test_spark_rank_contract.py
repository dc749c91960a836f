"""The contract of ranking and classifying that all engines keep, on `rank`, `rank_groups` and `classify` of Spark."""

from __future__ import annotations

import pytest
from rank_contract import MODEL, ClassifyContract, FlatContract, RankContract, Scored
from spark_rows import frame, plain

from clipmill.udfs import classify, rank, rank_groups


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

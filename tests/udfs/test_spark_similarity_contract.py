"""The contract of scores of pairs that all engines keep, on `clip_similarity` of Spark; and the filter of its docs."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F
from rank_expected import MODEL, Scored, cosine_of
from similarity_contract import SimilarityContract
from spark_rows import frame, plain

from clipmill.encoders.testing import fake_text_vector
from clipmill.udfs import clip_similarity


@pytest.mark.connect
class TestSimilarity(SimilarityContract):
    @pytest.fixture
    def compare(self, spark):
        def run(rows, a, b, *, model=MODEL, **options):
            df = frame(spark, rows, ("id", a, b))
            made = clip_similarity(a, b, model=model, failures="struct", **options).alias("similarity")
            found = [plain(row) for row in df.select("*", made).collect()]
            failures = []
            for row in found:
                if (told := row["similarity"]) and (failure := told["failure"]):
                    column = {"a": a, "b": b}[failure["message"].partition(":")[0]]
                    failures.append((row["id"], column, failure["code"]))
                row["similarity"] = told and told["similarity"]
            return Scored(found, failures)

        return run


def test_a_filter_keeps_what_is_similar_enough(spark):
    """As documented: scored once, persisted, and split; nulls are on neither side of the threshold."""
    pairs = [("one", "one"), ("one", "xyz"), (None, "x"), ("", "x")]
    df = spark.createDataFrame(pairs, "a string, b string")
    scored = df.select("*", clip_similarity("a", "b", model=MODEL)).persist()
    cosine = cosine_of(fake_text_vector("one"), fake_text_vector("xyz"))
    threshold = (1 + cosine) / 2
    kept = scored.where(F.col("clip_similarity") >= threshold).collect()
    rejected = scored.where(~F.coalesce(F.col("clip_similarity") >= threshold, F.lit(False))).collect()
    scored.unpersist()
    assert [(row.a, row.b) for row in kept] == pairs[:1]
    assert sorted((str(row.a), row.b) for row in rejected) == [("", "x"), ("None", "x"), ("one", "xyz")]

"""The contract of scores of pairs that all engines keep, on `clip_similarity` of Spark; and the filter of its docs."""

from __future__ import annotations

import math

import pytest
from contract import png, vector_of_png
from pyspark.sql import functions as F
from rank_expected import MODEL, RED, Scored, cosine_of
from similarity_contract import SimilarityContract
from spark_rows import frame, plain

from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.udfs import ClipClassifier, ClipRanker, clip_similarity, register


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


def test_scores_in_sql_and_in_stages(spark):
    """`pair_score` of pairs, `score` and `min_score` of candidates and labels, as in Python."""
    model = f"{MODEL}&scale=4.5&bias=-2.25"
    labels, photo = ["red", "a blue one"], png(9, 60, RED)
    df = spark.createDataFrame([("red", photo, ["a", "bcd"])], "text string, photo binary, words array<string>")
    options = {"model": model, "query_kind": "image", "candidate_kind": "text", "labels": labels, "templates": ["{}"]}
    register(spark, prefix="probable_", score="sigmoid", min_score=0.0, pair_score="logit", **options)
    df.createOrReplaceTempView("probable")
    sql = "probable_similarity(photo, text) s, probable_rank(photo, words) r, probable_classify(photo) c"
    (found,) = spark.sql(f"select {sql} from probable").collect()
    vector = vector_of_png(9, 60, RED)
    assert found.s == pytest.approx(4.5 * cosine_of(vector, fake_text_vector("red")) - 2.25, abs=1e-5)

    def probability(text):
        return pytest.approx(1 / (1 + math.exp(2.25 - 4.5 * cosine_of(vector, fake_text_vector(text)))), abs=1e-5)

    assert all(one.clip_score == probability(one.candidate) for one in found.r) and len(found.r) == 2
    assert all(one.clip_score == probability(one.label) for one in found.c) and len(found.c) == 2
    of_photos = {"query_kind": "image", "candidate_kind": "text"}
    ranker = ClipRanker(model, query="photo", candidates="words", score="sigmoid", **of_photos)
    assert ranker.transform(df).first().ranked == found.r
    stage = ClipClassifier(model, column="photo", labels=labels, templates=["{}"], score="sigmoid", min_score=0.0)
    assert stage.transform(df).first().photo_labels == found.c
    assert stage.setParams(min_score=1.0).transform(df).first().photo_labels == []
    with pytest.raises(SpecError, match="min_score without labels"):
        register(spark, model=MODEL, min_score=0.5)
    with pytest.raises(SpecError, match="pair_score='softmax' must be one of"):
        register(spark, model=MODEL, pair_score="softmax")


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

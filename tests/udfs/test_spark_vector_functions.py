"""Spark's own functions of vectors, and its `NEAREST BY` joins, on columns that clipmill made (Spark 4.2 and newer)."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import functions as F

from clipmill.encoders import read_provenance
from clipmill.encoders.testing import fake_text_vector
from clipmill.udfs import embed_columns, stamp_provenance

MODEL = "fake::dim=8"
CAPTIONS = {"a": "one two three", "b": "four", "c": "", "d": None, "e": "a longer caption of many words"}
HAS_FUNCTIONS = hasattr(F, "vector_cosine_similarity")

pytestmark = pytest.mark.connect


@pytest.fixture
def vectors(spark):
    df = spark.createDataFrame(list(CAPTIONS.items()), "id string, caption string").coalesce(1)
    made = embed_columns(df, {"caption": "text"}, model=MODEL)
    made.createOrReplaceTempView("vectors")
    return made


def query(spark, sql):
    """Run a query; before Spark 4.2 it is refused, which is what is asserted there."""
    if HAS_FUNCTIONS:
        return spark.sql(sql).collect()
    with pytest.raises((AnalysisException, ParseException), match=r"vector_|nearest|NEAREST|exact|approx"):
        spark.sql(sql).collect()
    return None


def expected_cosine(one, other):
    a, b = (fake_text_vector(CAPTIONS[name]).astype(float) for name in (one, other))
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_cosines_are_those_of_the_vectors(spark, vectors):
    cosine = "vector_cosine_similarity(q.caption_embedding, c.caption_embedding)"
    rows = query(spark, f"select c.id, {cosine} as cosine from vectors q cross join vectors c where q.id = 'a'")
    if rows is None:
        return
    found = {row.id: row.cosine for row in rows}
    assert found["c"] is None and found["d"] is None  # what failed, and nulls
    for name in ("a", "b", "e"):
        assert found[name] == pytest.approx(expected_cosine("a", name), abs=1e-6)


def test_lengths_distances_and_means(spark, vectors):
    columns = "vector_norm(caption_embedding, 2.0f) as norm, vector_normalize(caption_embedding, 2.0f) as unit"
    rows = query(spark, f"select id, caption_embedding as v, {columns} from vectors order by id")
    mean = query(spark, "select vector_avg(caption_embedding) as mean from vectors")
    if rows is None:
        return
    for row in rows:
        if row.v is not None:
            assert row.norm == pytest.approx(np.linalg.norm(row.v), rel=1e-6)
            np.testing.assert_allclose(row.unit, np.array(row.v) / np.linalg.norm(row.v), rtol=1e-6)
    whole = np.mean([fake_text_vector(text) for text in CAPTIONS.values() if text], axis=0)
    np.testing.assert_allclose(mean[0].mean, whole, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "approx"])
@pytest.mark.parametrize(
    "by", ["similarity vector_cosine_similarity(q.{v}, c.{v})", "distance vector_l2_distance(q.{v}, c.{v})"]
)
def test_nearest_by_joins(spark, vectors, kind, by):
    """Rows without a vector are never hits. As queries, a left join keeps them."""
    by = by.format(v="caption_embedding")
    sql = f"select q.id as query, c.id as hit from vectors q left join vectors c {kind} nearest 2 by {by}"
    rows = query(spark, sql)
    if rows is None:
        return
    found = {}
    for row in rows:
        found.setdefault(row.query, set()).add(row.hit)
    names = [name for name, text in CAPTIONS.items() if text]
    assert found["c"] == found["d"] == {None}
    for name in names:
        if by.startswith("similarity"):
            places = sorted(names, key=lambda other: -expected_cosine(name, other))
        else:
            vectors_ = {other: fake_text_vector(CAPTIONS[other]) for other in names}
            places = sorted(names, key=lambda other: np.linalg.norm(vectors_[name] - vectors_[other]))
        assert found[name] == set(places[:2])


def test_provenance_goes_through_a_join_and_is_stamped_after_a_function(spark, vectors):
    sql = "select q.id, c.caption_embedding from vectors q join vectors c exact nearest 1 by similarity "
    sql += "vector_cosine_similarity(q.caption_embedding, c.caption_embedding)"
    if query(spark, sql) is None:
        return
    assert read_provenance(spark.sql(sql))["caption_embedding"]["model"] == MODEL
    unit = spark.sql("select vector_normalize(caption_embedding, 2.0f) as unit from vectors")
    assert "unit" not in (read_provenance(unit) or {})
    stamped = stamp_provenance(unit, "unit", MODEL)
    assert read_provenance(stamped)["unit"]["model"] == MODEL

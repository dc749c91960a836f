"""Vectors in Delta tables: written, merged by id, and as source and sink of streams.

Delta's library belongs to a version of Spark, and there is none for the newest: `make test-versions` runs this file
with those that have one.
"""

from __future__ import annotations

import pytest

from clipmill.encoders import read_provenance
from clipmill.encoders.testing import fake_text_vector
from clipmill.udfs import embed_columns

MODEL = "fake::dim=8"
SCHEMA = "id string, caption string"


@pytest.fixture
def table(tmp_path):
    return str(tmp_path / "table")


def embedded(rows):
    return embed_columns(rows, {"caption": "text"}, model=MODEL)


def stored(spark, table):
    """Return vectors by id; None where the row failed."""
    rows = spark.read.format("delta").load(table).collect()
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row.caption_embedding for row in rows}


def vectors(captions):
    return {key: text and fake_text_vector(text, 8).tolist() for key, text in captions.items()}


def test_a_table_keeps_vectors_and_their_provenance(spark, table):
    captions = {"a": "one", "b": None, "c": "two"}
    embedded(spark.createDataFrame(list(captions.items()), SCHEMA)).write.format("delta").save(table)
    assert stored(spark, table) == vectors(captions)
    assert read_provenance(spark.read.format("delta").load(table))["caption_embedding"]["model"] == MODEL


def test_rows_are_merged_by_id(spark, table):
    for captions in ({"a": "one", "b": "two"}, {"b": "three", "c": "four"}):
        rows = embedded(spark.createDataFrame(list(captions.items()), SCHEMA))
        if captions.keys() == {"a", "b"}:
            rows.write.format("delta").save(table)
        else:
            merge(rows, table)
    assert stored(spark, table) == vectors({"a": "one", "b": "three", "c": "four"})


def merge(rows, table):
    rows.createOrReplaceTempView("new_rows")
    rows.sparkSession.sql(
        f"MERGE INTO delta.`{table}` AS old USING new_rows AS new ON old.id = new.id"
        " WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )


@pytest.mark.parametrize("by_batch", [False, True], ids=["sink", "foreachBatch"])
def test_a_stream_from_table_to_table_embeds_each_row_once(by_batch, spark, tmp_path, table):
    source, checkpoint = str(tmp_path / "source"), str(tmp_path / "checkpoint")
    captions = {}
    spark.createDataFrame([], SCHEMA).write.format("delta").save(source)
    embedded(spark.createDataFrame([], SCHEMA)).write.format("delta").save(table)

    for number in range(2):
        captions |= (some := {f"{number}-a": f"text {number}", f"{number}-b": None})
        spark.createDataFrame(list(some.items()), SCHEMA).write.format("delta").mode("append").save(source)
        stream = embedded(spark.readStream.format("delta").load(source)).writeStream.trigger(availableNow=True)
        stream = stream.option("checkpointLocation", checkpoint)
        if by_batch:
            query = stream.foreachBatch(lambda rows, _: merge(rows, table)).start()
        else:
            query = stream.format("delta").start(table)
        query.awaitTermination()
        assert stored(spark, table) == vectors(captions)
    assert read_provenance(spark.read.format("delta").load(table))["caption_embedding"]["model"] == MODEL

"""Structured Streaming: files as they arrive, checkpoints, restarts, failed batches; every row once."""

from __future__ import annotations

import json

import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import Observation
from pyspark.sql import functions as F

from clipmill.encoders import read_provenance
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.udfs import ClipEmbedder, classify, clip_similarity, embed_columns, embed_text, rank, rank_groups

MODEL = "fake::dim=8"
SCHEMA = "id string, caption string"
CAPTIONS = ["one", None, "", "two"]


@pytest.fixture
def source(tmp_path):
    """A folder to which `add` adds files, and of which `read` makes a stream of one file a batch."""
    return Folder(tmp_path / "in")


class Folder:
    """Files of JSON lines."""

    def __init__(self, path):
        path.mkdir()
        self.path = path

    def add(self, number):
        """Add a file of four rows, of which one fails and one is null."""
        rows = [{"id": f"{number}-{place}", "caption": caption} for place, caption in enumerate(CAPTIONS)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.path / f".{number}").write_text(text, encoding="utf-8")
        (self.path / f".{number}").rename(self.path / f"{number}.json")  # as every producer should

    def read(self, spark):
        return spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).json(str(self.path))


def run(writer, tmp_path):
    writer = writer.option("checkpointLocation", str(tmp_path / "checkpoint")).trigger(availableNow=True)
    query = writer.start()
    query.awaitTermination()
    return query


def ids(numbers):
    return sorted(f"{number}-{place}" for number in numbers for place in range(len(CAPTIONS)))


@pytest.mark.connect
def test_files_are_embedded_once_over_restarts(spark, source, tmp_path):
    def run_again():
        embedded = embed_columns(source.read(spark), {"caption": "text"}, model=MODEL)
        return run(embedded.writeStream.format("parquet").option("path", str(tmp_path / "out")), tmp_path)

    source.add(0)
    source.add(1)
    run_again()
    run_again()  # nothing new
    source.add(2)
    run_again()
    back = spark.read.parquet(str(tmp_path / "out"))
    rows = sorted(back.collect())
    assert [row.id for row in rows] == ids(range(3))
    for row in rows:
        expected = fake_text_vector(row.caption).tolist() if row.caption else None
        assert row.caption_embedding == expected
        assert (row.embedding_failures is not None) == (row.caption == "")
    assert read_provenance(back)["caption_embedding"]["model"] == MODEL


def test_another_model_goes_on_from_the_checkpoint(spark, source, tmp_path):
    """Why docs/streaming.md asks for another checkpoint and output: Spark notices nothing."""
    for number, model in enumerate((MODEL, "fake::dim=4")):
        source.add(number)
        embedded = embed_columns(source.read(spark), {"caption": "text"}, model=model)
        run(embedded.writeStream.format("parquet").option("path", str(tmp_path / "out")), tmp_path)
    rows = spark.read.parquet(str(tmp_path / "out")).collect()
    assert {len(row.caption_embedding) for row in rows if row.caption_embedding} == {8, 4}


def test_a_batch_that_ended_before_its_commit_is_written_again_under_its_number(spark, source, tmp_path):
    attempts = []

    def run_again(fail_at):
        def write(batch, number):
            attempts.append(number)
            batch.write.mode("overwrite").parquet(str(tmp_path / f"out/batch={number}"))
            if number == fail_at:
                raise RuntimeError("the driver ends here")

        return run(
            embed_columns(source.read(spark), {"caption": "text"}, model=MODEL).writeStream.foreachBatch(write),
            tmp_path,
        )

    for number in range(3):
        source.add(number)
    with pytest.raises(StreamingQueryException, match="the driver ends here"):
        run_again(fail_at=1)
    run_again(fail_at=None)
    assert attempts == [0, 1, 1, 2]
    assert sorted(row.id for row in spark.read.parquet(str(tmp_path / "out")).collect()) == ids(range(3))


def test_a_batch_whose_task_failed_is_embedded_again(spark, source, tmp_path):
    """A `failures="raise"` ends the query; after its repair, the restart embeds what was not committed."""

    def run_again(failures):
        embedded = source.read(spark).select("id", embed_text("caption", model=MODEL, failures=failures).alias("v"))
        return run(embedded.writeStream.format("parquet").option("path", str(tmp_path / "out")), tmp_path)

    source.add(0)
    with pytest.raises(StreamingQueryException):
        run_again("raise")
    run_again("null")
    rows = spark.read.parquet(str(tmp_path / "out")).collect()
    assert sorted(row.id for row in rows) == ids(range(1))
    assert sum(row.v is not None for row in rows) == 2


def test_counts_of_each_batch(spark, source, tmp_path):
    source.add(0)
    embedded = embed_columns(source.read(spark), {"caption": "text"}, model=MODEL, observation="embedded")
    query = run(embedded.writeStream.format("noop"), tmp_path)
    (counts,) = [one["observedMetrics"]["embedded"] for one in query.recentProgress if one["numInputRows"]]
    if not isinstance(counts, dict):  # a Row, since Spark 4.0
        counts = counts.asDict()
    assert counts == {"rows": 4, "embedded": 2, "failed": 1}


@pytest.mark.connect
def test_other_functions_in_a_stream(spark, source, tmp_path):
    """Stages of Spark ML and expressions give what they give in a batch."""

    def with_labels(df):
        embedded = ClipEmbedder(MODEL, columns={"caption": "text"}).transform(df)
        return embedded.select(
            "*",
            classify("caption", labels=["one", "two"], top_k=1, model=MODEL),
            rank("caption", F.array(F.lit("two"), F.lit("one")), model=MODEL),
            clip_similarity("id", "caption", model=MODEL),
        )

    source.add(0)
    stream = with_labels(source.read(spark)).writeStream.format("parquet")
    run(stream.option("path", str(tmp_path / "out")), tmp_path)
    rows = sorted(spark.read.parquet(str(tmp_path / "out")).collect())
    assert rows == sorted(with_labels(spark.read.schema(SCHEMA).json(str(source.path))).collect())
    assert [row.caption_labels is None for row in rows] == [False, True, True, False]


@pytest.mark.connect
def test_what_a_stream_cannot_do_is_refused_by_name(spark, source):
    stream = source.read(spark)
    with pytest.raises(SpecError, match=r"an Observation cannot count a stream.*give a name"):
        embed_columns(stream, {"caption": "text"}, model=MODEL, observation=Observation())
    with pytest.raises(SpecError, match=r"rank_groups scores rows among all rows.*foreachBatch"):
        rank_groups(stream.selectExpr("id", "caption query", "caption candidate"), by="id", model=MODEL)


def test_groups_in_each_batch(spark, source, tmp_path):
    source.add(0)
    seen = []

    def score(batch, number):
        seen.extend(rank_groups(batch, by="q", query="q", candidate="caption", top_k=1, model=MODEL).collect())

    run(source.read(spark).selectExpr("'one' as q", "caption").writeStream.foreachBatch(score), tmp_path)
    assert len(seen) == 4
    assert [row.caption for row in seen if row["rank"] == 1] == ["one"]

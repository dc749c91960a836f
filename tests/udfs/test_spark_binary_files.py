"""Folders of images through Spark's `binaryFile`: why clipmill has no data source of its own (docs/ecosystem.md)."""

from __future__ import annotations

import pytest
from pictures import encode, photographs

from clipmill.udfs import embed_columns

MODEL = "fake::dim=8"
PHOTO = encode(photographs()["chelsea"], "JPEG")
FILES = {
    "a.jpg": PHOTO,
    "b c%20ü.JPG": PHOTO,
    "damaged.jpg": PHOTO[:100],
    "empty.jpg": b"",
    "large.jpg": PHOTO + bytes(100_000),
    "readme.txt": b"a text",
    "sub/d.jpg": PHOTO,
    "_hidden/e.jpg": PHOTO,
}
LIMIT = "spark.sql.sources.binaryFile.maxLength"


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read(reader, folder):
    reader = reader.format("binaryFile").option("pathGlobFilter", "*.{jpg,JPG}").option("recursiveFileLookup", "true")
    return reader.load(str(folder))


def names(rows, folder):
    return {row.path.partition(f"{folder}/")[2]: row for row in rows}


@pytest.mark.connect
def test_a_folder_of_images(spark, folder):
    """Damaged files are failures of their rows; empty ones are not listed by Spark, nor hidden ones."""
    embedded = embed_columns(read(spark.read, folder), {"content": "image"}, model=MODEL).drop("content")
    rows = names(embedded.collect(), folder)
    assert set(rows) == {"a.jpg", "b c%20ü.JPG", "damaged.jpg", "large.jpg", "sub/d.jpg"}
    failed = {name: row.embedding_failures[0].code for name, row in rows.items() if row.embedding_failures}
    assert failed == {"damaged.jpg": "undecodable"}
    assert all(row.content_embedding or name in failed for name, row in rows.items())


def test_large_files_are_filtered_before_they_are_read(spark, folder):
    """A file over Spark's limit, by default 2 GB, would end the job."""
    files = read(spark.read, folder)
    spark.conf.set(LIMIT, "50000")
    try:
        with pytest.raises(Exception, match=r"FAILED_READ_FILE|exceeds the max length"):
            files.collect()
        embedded = embed_columns(files.where("length < 50000"), {"content": "image"}, model=MODEL)
        assert set(names(embedded.collect(), folder)) == {"a.jpg", "b c%20ü.JPG", "damaged.jpg", "sub/d.jpg"}
    finally:
        spark.conf.unset(LIMIT)


def test_paths_are_fetched_by_clipmill(spark, folder):
    """A file that is gone fails its row alone; as URIs, names with a percent sign mean something else."""
    paths = read(spark.read, folder).select("path").collect()
    (folder / "a.jpg").unlink()
    df = spark.createDataFrame([(row.path,) for row in paths], "path string")
    rows = names(embed_columns(df, {"path": "image"}, model=MODEL, allow_local_files=True).collect(), folder)
    failed = {name: row.embedding_failures[0].code for name, row in rows.items() if row.embedding_failures}
    assert failed == {"a.jpg": "not_found", "b c%20ü.JPG": "not_found", "damaged.jpg": "undecodable"}
    assert len(rows["sub/d.jpg"].path_embedding) == 8


def test_a_stream_of_images(spark, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("stream")
    reader = spark.readStream.schema("path string, modificationTime timestamp, length long, content binary")
    embedded = embed_columns(read(reader, folder), {"content": "image"}, model=MODEL).drop("content")
    writer = embedded.writeStream.format("parquet").option("checkpointLocation", f"{output}/checkpoint")
    writer.trigger(availableNow=True).start(f"{output}/out").awaitTermination()
    assert len(names(spark.read.parquet(f"{output}/out").collect(), folder)) == 5

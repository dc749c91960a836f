"""Images in every shape in which Spark holds them: bytes, its own image source, files of data sets, URIs, structs."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import functions as F

from clipmill.encoders.testing import fake_image_vector
from clipmill.udfs import embed_columns, embed_image, image_udf

MODEL = "fake::dim=8"
COLOURS = np.array([[[200, 100, 50], [0, 1, 2]], [[9, 9, 9], [255, 0, 255]], [[3, 2, 1], [30, 20, 10]]], np.uint8)


def file_of(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def vector(pixels):
    return fake_image_vector(pixels).tolist()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the same picture with and without alpha, a grey one and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    image = Image.fromarray(COLOURS)
    image.save(folder / "colour.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("L").save(folder / "grey.png")
    (folder / "broken.png").write_bytes(file_of(image)[:40])
    return folder


def expected(name):
    grey = np.asarray(Image.fromarray(COLOURS).convert("L").convert("RGB"))
    return {"colour.png": vector(COLOURS), "alpha.png": vector(COLOURS), "grey.png": vector(grey), "broken.png": None}[
        name
    ]


def test_sparks_image_source_in_embed_columns(spark, pictures):
    images = spark.read.format("image").load(str(pictures))
    rows = embed_columns(images, {"image": "image"}, model=MODEL).collect()
    found = {row.image.origin.split("/")[-1]: row for row in rows}
    assert sorted(found) == ["alpha.png", "broken.png", "colour.png", "grey.png"]
    assert {row.image.nChannels for row in rows} == {-1, 1, 3, 4}
    for name, row in found.items():
        assert row.image_embedding == expected(name), name
    (failure,) = found["broken.png"].embedding_failures
    assert (failure.column, failure.stage, failure.code) == ("image", "read", "undecodable")
    assert "height -1" in failure.message


@pytest.mark.parametrize("embed", [embed_image, lambda name, **options: image_udf(**options)(name)])
def test_sparks_image_source_in_expressions(spark, pictures, embed):
    images = spark.read.format("image").load(str(pictures))
    holes = images.withColumn("image", F.when(~F.col("image.origin").endswith("grey.png"), F.col("image")))
    rows = holes.select("image.origin", embed("image", model=MODEL, failures="struct").alias("v")).collect()
    for row in rows:
        if row.origin is None:
            assert row.v is None or tuple(row.v) == (None, None)
        else:
            assert row.v.embedding == expected(row.origin.split("/")[-1])
            assert (row.v.failure and row.v.failure.code) == ("undecodable" if "broken" in row.origin else None)
    assert len(rows) == 4


def test_files_of_data_sets(spark, pictures):
    """Struct<bytes, path>, as Hugging Face data sets have it."""
    data = file_of(Image.fromarray(COLOURS))
    rows = [((data, "somewhere.png"),), ((None, str(pictures / "colour.png")),), ((None, None),), (None,)]
    df = spark.createDataFrame(rows, "photo struct<bytes: binary, path: string>").coalesce(1)
    found = embed_columns(df, {"photo": "image"}, model=MODEL).collect()
    assert [row.photo_embedding for row in found] == [vector(COLOURS), None, None, None]
    assert [[f.code for f in row.embedding_failures or []] for row in found] == [[], ["forbidden_uri"], [], []]


def test_binary_files_as_spark_reads_them(spark, pictures):
    files = spark.read.format("binaryFile").load(str(pictures))
    rows = files.select("path", embed_image("content", model=MODEL)).collect()
    assert {row.path.split("/")[-1]: row.content_embedding for row in rows} == {
        name: expected(name) for name in ("alpha.png", "broken.png", "colour.png", "grey.png")
    }


def test_strings_are_uris(spark, pictures):
    data_uri = "data:image/png;base64," + base64.b64encode(file_of(Image.fromarray(COLOURS))).decode()
    local, missing = str(pictures / "colour.png"), str(pictures / "nothing.png")
    uris = [data_uri, local, f"file://{local}", missing, None]
    df = spark.createDataFrame([(uri,) for uri in uris], "photo string").coalesce(1)

    def codes(**options):
        rows = df.select(embed_image("photo", model=MODEL, failures="struct", **options).alias("v")).collect()
        return [row.v and (row.v.failure.code if row.v.failure else row.v.embedding) for row in rows]

    whole = vector(COLOURS)
    assert codes() == [whole, "forbidden_uri", "forbidden_uri", "forbidden_uri", None]
    assert codes(allow_local_files=True) == [whole, whole, whole, "not_found", None]
    assert codes(uri_schemes=("https",)) == ["forbidden_uri"] * 4 + [None]


def test_paths_into_structs_and_arrays_in_them(spark):
    photo = file_of(Image.fromarray(COLOURS))
    rows = [((("one", photo), [photo, None]),), (((None, b"no picture"), []),), ((None, None),), (None,)]
    df = spark.createDataFrame(
        rows, "page struct<cover: struct<title: string, photo: binary>, photos: array<binary>>"
    ).coalesce(1)
    columns = {"page.cover.photo": "image", "page.photos": "image", "page.cover.title": "text"}
    found = embed_columns(df, columns, model=MODEL).collect()
    assert [row.page_cover_photo_embedding for row in found] == [vector(COLOURS), None, None, None]
    assert [row.page_photos_embedding for row in found] == [[vector(COLOURS), None], [], None, None]
    assert [row.page_cover_title_embedding is None for row in found] == [False, True, True, True]
    assert [[f.column for f in row.embedding_failures or []] for row in found] == [[], ["page.cover.photo"], [], []]
    single = df.select(embed_image("page.cover.photo", model=MODEL)).collect()
    assert [row.page_cover_photo_embedding for row in single] == [vector(COLOURS), None, None, None]


def test_rows_that_come_in_slices_keep_their_pictures(spark):
    """A column of a batch is an offset into shared buffers; each row must read its own."""
    rows = [((file_of(Image.new("RGB", (n % 9 + 1, n % 5 + 1))),),) for n in range(70)]
    df = spark.createDataFrame(rows, "page struct<photo: binary>").coalesce(1)
    found = embed_columns(df, {"page.photo": "image"}, model=MODEL, max_batch_rows=3).collect()
    assert [row.page_photo_embedding[:2] for row in found] == [[n % 5 + 1, n % 9 + 1] for n in range(70)]
    assert [row.page.photo for row in found] == [photo for ((photo,),) in rows]

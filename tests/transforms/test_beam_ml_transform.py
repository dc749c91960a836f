"""`ClipEmbeddings`: clipmill's encoders in Beam's `MLTransform`."""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.rag.types import Chunk, Content
from apache_beam.ml.transforms.base import MLTransform
from beam_helpers import Keep, kept, pipeline
from pictures import encode, photographs

from clipmill.encoders import unload_all
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.transforms import ClipEmbeddings, Embed
from clipmill.transforms.rows import row_fields


class Photo(NamedTuple):
    id: str
    caption: str | None


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def transformed(directory, elements, transform):
    """Run an `MLTransform`; return its rows and its dead letters."""
    with pipeline() as p:
        good, bad = p | beam.Create(elements) | transform.with_exception_handling()
        _ = good | beam.Reshuffle() | "KeepGood" >> Keep(directory / "good")
        _ = bad | "KeepBad" >> Keep(directory / "bad")
    return kept(directory / "good"), kept(directory / "bad")


def test_columns_of_texts_and_images_and_a_second_pipeline_that_reads_the_artifacts(tmp_path):
    rows = [{"id": "a", "caption": "a cat", "photo": encode(photographs()["chelsea"], "JPEG")}]
    columns = {"caption": "text", "photo": "image"}
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    ((first,), _) = transformed(tmp_path / "1", rows, write.with_transform(ClipEmbeddings("demo", columns=columns)))
    unload_all()
    read = MLTransform(read_artifact_location=str(tmp_path / "artifacts"))
    ((second,), _) = transformed(tmp_path / "2", rows, read)
    assert first == second and list(first) == ["id", "caption", "photo"]
    with pipeline() as p:
        _ = (p | beam.Create(rows) | Embed("demo", columns=columns)).rows | Keep(tmp_path / "embed")
    (embedded,) = kept(tmp_path / "embed")
    for name in columns:
        assert isinstance(first[name], list)
        np.testing.assert_allclose(first[name], embedded[f"{name}_embedding"], rtol=0, atol=1e-5)


def test_options_are_in_the_artifacts(tmp_path):
    columns = {"caption": Column("text", output="vector", truncated="cut")}
    embed = ClipEmbeddings("fake::dim=4", columns=columns, replace=False, vectors="array", normalize=True, key="name")
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts")).with_transform(embed)
    transformed(tmp_path / "1", [], write)
    read = MLTransform(read_artifact_location=str(tmp_path / "artifacts"))
    ((row,), _) = transformed(tmp_path / "2", [{"name": "a", "caption": "ab"}], read)
    assert list(row) == ["name", "caption", "vector", "cut"] and row["cut"] is False
    assert isinstance(row["vector"], np.ndarray) and np.linalg.norm(row["vector"]) == pytest.approx(1)


def test_bad_rows_are_dead_letters_alone(tmp_path):
    rows = [{"id": "a", "caption": "one"}, {"id": "b", "caption": ""}, {"id": "c", "caption": None}]
    embed = ClipEmbeddings("fake::dim=4", columns={"caption": "text"})
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts")).with_transform(embed)
    good, (bad,) = transformed(tmp_path, rows, write)
    found = {row["id"]: row["caption"] for row in good}
    assert found == {"a": fake_text_vector("one", 4).tolist(), "c": None}
    assert bad.element == {"id": "b", "caption": ""}
    assert "'b', column 'caption'" in bad.msg and "empty" in bad.msg


def test_without_exception_handling_a_bad_row_ends_the_job(tmp_path):
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    transform = write.with_transform(ClipEmbeddings("fake::dim=4", columns={"caption": "text"}))
    with pytest.raises(Exception, match="column 'caption' failed at tokenize with empty"), pipeline() as p:
        _ = p | beam.Create([{"id": "a", "caption": "ok"}, {"id": "b", "caption": ""}]) | transform


def test_more_failures_than_the_threshold_end_the_job(tmp_path):
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    transform = write.with_transform(ClipEmbeddings("fake::dim=4", columns={"caption": "text"}))
    rows = [{"caption": "ok"}, {"caption": ""}]
    with pytest.raises(Exception, match="exceeded threshold"), pipeline() as p:
        _ = p | beam.Create(rows) | transform.with_exception_handling(threshold=0.1)


def test_rows_with_a_schema_keep_it(tmp_path):
    embed = ClipEmbeddings("fake::dim=4", columns={"caption": "text"})
    with pipeline() as p:
        photos = p | beam.Create([Photo("a", "one")])
        rows = photos | MLTransform(write_artifact_location=str(tmp_path / "artifacts")).with_transform(embed)
        _ = rows | beam.Reshuffle() | Keep(tmp_path / "rows")
    assert [name for name, _ in row_fields(rows.element_type)] == ["id", "caption"]
    (row,) = kept(tmp_path / "rows")
    assert (row.id, list(row.caption)) == ("a", fake_text_vector("one", 4).tolist())


def test_items_of_rag(tmp_path):
    items = [Chunk(Content(text="one"), id="a"), Chunk(Content(text=""), id="b")]
    write = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    (item,), (bad,) = transformed(tmp_path, items, write.with_transform(ClipEmbeddings("fake::dim=4")))
    assert (item.id, item.embedding.dense_embedding) == ("a", fake_text_vector("one", 4).tolist())
    assert bad.element.id == "b" and "empty" in bad.msg


def test_its_handler_embeds_the_same_columns():
    handler = ClipEmbeddings("fake::dim=4", columns={"caption": "text"}).get_model_handler()
    (result,) = handler.run_inference([{"caption": "one"}], handler.load_model())
    np.testing.assert_array_equal(result.inference["caption_embedding"], fake_text_vector("one", 4))


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"columns": ["caption"]}, SpecError, "columns"),
        ({"columns": {"photo": "audio"}}, SpecError, "photo"),
        ({"columns": {"photo": Column("image", output="vector")}}, SpecError, "replace"),
        ({"columns": {"page.title": "text"}}, SpecError, "replace"),
        ({"columns": {"title": "text"}, "vectors": "tuple"}, SpecError, "vectors"),
        ({"colunms": {}}, TypeError, "columns"),
        ({"model_name": "demo"}, TypeError, "model"),
    ],
)
def test_options_that_cannot_work(options, error, name):
    with pytest.raises(error, match=name):
        ClipEmbeddings("demo", **options)

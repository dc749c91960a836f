"""`Embed` on rows: dicts, `beam.Row`s and NamedTuples, and their schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.coders.row_coder import RowCoder
from apache_beam.typehints import typehints
from beam_helpers import Keep, kept, pipeline

from clipmill.encoders import unload_all
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.failures import Code
from clipmill.transforms import Embed, FailedRow
from clipmill.transforms.rows import row_fields


class Page(NamedTuple):
    title: str
    words: int


class Photo(NamedTuple):
    id: int
    caption: str | None
    page: Page
    captions: Sequence[str]


PHOTO = Photo(7, "one", Page("the title", 3), ["a", "bc"])


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def embed(directory, made, **options):
    """Run `Embed` on what a transform makes, through a shuffle; return rows, failures and the pair."""
    with pipeline() as p:
        embedded = p | made | Embed("fake::dim=8", **options)
        _ = embedded.rows | beam.Reshuffle() | "KeepRows" >> Keep(directory / "rows")
        _ = embedded.failures | "KeepFailures" >> Keep(directory / "failures")
    return kept(directory / "rows"), kept(directory / "failures"), embedded


def test_named_tuples_become_rows_with_a_schema(tmp_path):
    columns = {"caption": "text", "page.title": "text", "captions": "text"}
    (row,), failures, embedded = embed(tmp_path, beam.Create([PHOTO]), columns=columns)
    assert failures == []
    fields = row._asdict()
    assert list(fields) == [
        *Photo._fields,
        "caption_embedding",
        "page_title_embedding",
        "captions_embedding",
    ]
    assert {name: fields[name] for name in ("id", "caption")} == {"id": 7, "caption": "one"}
    assert fields["page"]._asdict() == PHOTO.page._asdict()
    np.testing.assert_array_equal(fields["caption_embedding"], fake_text_vector("one"), strict=True)
    np.testing.assert_array_equal(fields["page_title_embedding"], fake_text_vector("the title"), strict=True)
    np.testing.assert_array_equal(fields["captions_embedding"], [fake_text_vector("a"), fake_text_vector("bc")])
    kinds = dict(row_fields(embedded.rows.element_type))
    assert list(kinds) == list(fields)
    assert kinds["id"] is int
    assert kinds["caption_embedding"] == typehints.Optional[np.ndarray]
    assert kinds["captions_embedding"] == typehints.Optional[typehints.Sequence[typehints.Optional[np.ndarray]]]
    assert isinstance(beam.coders.registry.get_coder(embedded.rows.element_type), RowCoder)


def test_before_a_shuffle_the_user_gets_beam_rows(tmp_path):
    with pipeline() as p:
        embedded = p | beam.Create([PHOTO]) | Embed("fake::dim=8", columns={"caption": "text"})
        _ = embedded.rows | Keep(tmp_path)
    (row,) = kept(tmp_path)
    assert type(row) is beam.Row
    assert row.id == 7
    np.testing.assert_array_equal(row.caption_embedding, fake_text_vector("one"), strict=True)


def test_vectors_are_declared_as_arrays_and_stay_arrays(tmp_path):
    """Declared as a sequence of numbers, a shuffle would give back a list of Python floats."""
    made = beam.Create([beam.Row(id="a", caption="one")])
    (row,), _, embedded = embed(tmp_path, made, columns={"caption": "text"})
    assert dict(row_fields(embedded.rows.element_type))["caption_embedding"] == typehints.Optional[np.ndarray]
    assert isinstance(row.caption_embedding, np.ndarray)


def test_vectors_as_lists_for_other_languages(tmp_path):
    made = beam.Create([beam.Row(id="a", caption="one", captions=["x", "y"])])
    (row,), _, embedded = embed(tmp_path, made, columns={"caption": "text", "captions": "text"}, vectors="list")
    assert row.caption_embedding == fake_text_vector("one").tolist()
    assert [list(vector) for vector in row.captions_embedding] == [fake_text_vector(t).tolist() for t in "xy"]
    kinds = dict(row_fields(embedded.rows.element_type))
    assert kinds["caption_embedding"] == typehints.Optional[typehints.Sequence[np.float32]]


def test_a_schema_reaches_transforms_that_ask_for_one(tmp_path):
    with pipeline() as p:
        rows = p | beam.Create([PHOTO]) | Embed("fake::dim=8", columns={"caption": "text"})
        _ = rows.rows | beam.Select("id", dim=lambda row: len(row.caption_embedding)) | Keep(tmp_path)
    assert [(row.id, row.dim) for row in kept(tmp_path)] == [(7, 8)]


def test_dicts_stay_dicts(tmp_path):
    typed = beam.Create([{"id": "a", "caption": "one"}])
    (row,), _, embedded = embed(tmp_path, typed, columns={"caption": "text"})
    assert type(row) is dict
    assert isinstance(embedded.rows.element_type, typehints.DictConstraint)
    assert embedded.failures.element_type is FailedRow


def test_nothing_in_gives_nothing_of_the_right_type(tmp_path):
    made = beam.Create([]).with_output_types(Photo)
    rows, failures, embedded = embed(tmp_path, made, columns={"caption": "text"})
    assert (rows, failures) == ([], [])
    assert [name for name, _ in row_fields(embedded.rows.element_type)] == [*Photo._fields, "caption_embedding"]


def test_an_output_that_exists_is_refused_at_construction_where_the_schema_is_known():
    p = pipeline()
    rows = p | beam.Create([beam.Row(id="a", caption="x", caption_embedding=[1.0])])
    with pytest.raises(SpecError, match="column 'caption_embedding' exists already; choose a name"):
        _ = rows | Embed("fake::dim=8", columns={"caption": "text"})


def test_a_missing_column_is_refused_at_construction_where_the_schema_is_known():
    p = pipeline()
    rows = p | beam.Create([beam.Row(id="a", caption="x")])
    with pytest.raises(SpecError, match="the rows have no column 'photo'; they have 'id', 'caption'"):
        _ = rows | Embed("fake::dim=8", columns={"photo": "image"})


def test_an_output_that_exists_in_a_dict_is_a_failure_and_is_not_written_over(tmp_path):
    made = beam.Create([{"id": 1, "caption": "x", "caption_embedding": "mine"}, {"id": 2, "caption": "y"}])
    (row,), (failed,), _ = embed(tmp_path, made, columns={"caption": "text"})
    assert row["id"] == 2
    assert failed.row == {"id": 1, "caption": "x", "caption_embedding": "mine"}
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("1", "caption_embedding", Code.MALFORMED)]


def test_a_column_that_a_dict_lacks_is_a_failure(tmp_path):
    made = beam.Create([{"id": 1, "caption": "x"}, {"id": 2}])
    (row,), (failed,), _ = embed(tmp_path, made, columns={"caption": "text"})
    assert row["id"] == 1
    assert failed.row == {"id": 2, "caption_embedding": None}
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("2", "caption", Code.MISSING_COLUMN)]


def test_what_is_no_row_is_a_failure(tmp_path):
    rows, failures, _ = embed(tmp_path, beam.Create(["text", 5]), columns={"caption": "text"})
    assert rows == []
    assert sorted(str(failed.row) for failed in failures) == ["5", "text"]
    assert {f.code for failed in failures for f in failed.failures} == {Code.UNSUPPORTED}


def test_failures_are_named_by_the_key(tmp_path):
    made = beam.Create([{"number": 5, "caption": ""}])
    _, (failed,), _ = embed(tmp_path, made, columns={"caption": "text"}, key="number")
    assert [failure.row for failure in failed.failures] == ["5"]


def test_outputs_and_flags_have_the_names_that_were_chosen(tmp_path):
    long = "word " * 80
    made = beam.Create([beam.Row(id="a", caption="one"), beam.Row(id="b", caption=long)])
    columns = {"caption": Column("text", output="vector", truncated="cut")}
    rows, _, embedded = embed(tmp_path, made, columns=columns)
    assert {row.id: row.cut for row in rows} == {"a": False, "b": True}
    assert {row.id: row.vector.tolist() for row in rows} == {
        "a": fake_text_vector("one").tolist(),
        "b": fake_text_vector(long).tolist(),
    }
    assert dict(row_fields(embedded.rows.element_type))["cut"] is bool


def test_a_struct_of_bytes_and_path_is_a_picture(tmp_path):
    made = beam.Create([{"id": "a", "photo": {"bytes": b"no picture", "path": "x.jpg"}}])
    _, (failed,), _ = embed(tmp_path, made, columns={"photo": "image"})
    assert [failure.code for failure in failed.failures] == [Code.UNDECODABLE]


def test_two_embeds_in_one_pipeline_do_not_clash(tmp_path):
    with pipeline() as p:
        rows = p | beam.Create([{"id": "a", "caption": "one", "title": "two"}])
        first = rows | Embed("fake::dim=8", columns={"caption": "text"})
        second = first.rows | Embed("fake::dim=8", columns={"title": "text"})
        third = rows | Embed("fake::dim=4", columns={"title": "text"})
        _ = second.rows | "KeepSecond" >> Keep(tmp_path / "second")
        _ = third.rows | "KeepThird" >> Keep(tmp_path / "third")
    (row,) = kept(tmp_path / "second")
    assert list(row) == ["id", "caption", "title", "caption_embedding", "title_embedding"]
    (row,) = kept(tmp_path / "third")
    assert row["title_embedding"].shape == (4,)


def test_the_label_names_model_and_columns():
    assert Embed("fake::dim=8").label == "Embed(fake::dim=8)"
    assert Embed("fake::dim=8", columns={"a.b": "text", "c": "image"}).label == "Embed(fake::dim=8, a.b, c)"
    assert "/" not in Embed("hf-hub:org/name").label


@pytest.mark.parametrize("option", [{"access_paths": "@m"}, {"keep_content": True}], ids=str)
def test_options_of_documents_are_refused_for_rows(option):
    with pytest.raises(SpecError, match="is for documents; it has no effect with columns"):
        Embed("fake::dim=8", columns={"a": "text"}, **option)


def test_a_column_of_a_kind_that_the_model_lacks_is_refused():
    with pytest.raises(SpecError, match="column 'sound': fake::dim=8 embeds image and text only"):
        Embed("fake::dim=8", columns={"sound": "audio"})


def test_a_hint_of_dict_is_enough(tmp_path):
    made: Any = beam.Create([{"id": "a", "caption": "one"}]).with_output_types(dict)
    (row,), _, _ = embed(tmp_path, made, columns={"caption": "text"})
    np.testing.assert_array_equal(row["caption_embedding"], fake_text_vector("one"), strict=True)

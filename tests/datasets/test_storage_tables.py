"""Documents and rows as record batches, and the mapping of outcomes to documents."""

from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import pytest
from list_kinds import every_list
from storage_helpers import photograph, text_vector

from clipmill.datasets import documents_batch, documents_schema, failure_records, rows_batch, rows_schema
from clipmill.datasets.tables.column_types import is_list_type, is_vector_type
from clipmill.encoders import Code, Document, EncoderSpec, Failure, Stage, Vector, read_provenance
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError, SpecError

SPEC = EncoderSpec("fake::dim=4", device="cpu")


def tree() -> Document:
    root = Document(id="r", blob=photograph(), tags={"x": 1})
    root.matches = [Document(text="one"), Document(tensor=np.zeros((2, 2, 3), np.uint8))]
    root.matches[0].chunks = [Document(text="chunk")]
    return root


@pytest.mark.parametrize(
    ("paths", "places"),
    [("@r", ["@r"]), ("@m", ["@m[0]", "@m[1]"]), ("@r,mc", ["@r", "@m[0]c[0]"])],
)
def test_outcomes_are_assigned_to_their_documents(paths, places):
    document = tree()
    untouched = copy.deepcopy(document)
    plan = DocumentEmbedPlan(paths, keep_content=True)
    items = plan.items(document)
    assert len(items) == len(places)
    failure = Failure(Stage.ENCODE, Code.ENCODE_FAILED, "x")
    vectors = [Vector(np.full(4, n, np.float32), media_type="text/x") for n in range(len(items) - 1)]
    result = plan.result(document, [*vectors, failure]).value
    place = None if places[-1] == "@r" else places[-1]
    assert result.failures == (failure.at(column=place, row="r"),)
    assert result.matches[0].embedding is None or result.matches[0].embedding.tolist() == [0, 0, 0, 0]
    assert (document.embedding, document.failures, document.matches[0].embedding) == (None, (), None)
    assert (document.blob, document.tags, document.mime_type) == (untouched.blob, untouched.tags, None)
    assert result.blob == document.blob


def test_documents_that_could_not_be_read_pass_through():
    failure = Failure(Stage.READ, Code.MALFORMED, "x", row="x.jsonl:1")
    document = Document(id="r", failures=(failure,))
    assert DocumentEmbedPlan().items(document) == []
    assert DocumentEmbedPlan().result(document, []).failures == (failure,)


def test_content_is_dropped_at_every_level_of_the_copy_only():
    document = tree()
    result = DocumentEmbedPlan("@m").result(document, [None, None]).value
    assert (result.blob, result.matches[1].tensor) == (None, None)
    assert document.blob is not None
    assert document.matches[1].tensor is not None


def test_a_misspelt_access_path_fails_at_once():
    with pytest.raises(SpecError) as refused:
        DocumentEmbedPlan("@x")
    assert refused.value.option == "access_paths"


def test_documents_as_a_batch_with_nested_ones_and_tensors():
    document = tree()
    document.embedding = np.ones(4, np.float32)
    document.matches[0].embedding = np.full(4, 2, np.float32)
    document.tensor = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    schema = documents_schema(SPEC, access_paths="@r,m", keep_content=True)
    batch = documents_batch([document, Document(id="\udcff", text="t")], schema, 4)
    batch.validate(full=True)
    first, second = batch.to_pylist()
    assert (first["id"], first["tags"], first["embedding"]) == ("r", '{"x": 1}', [1, 1, 1, 1])
    assert [match["embedding"] for match in first["matches"]] == [[2, 2, 2, 2], None]
    assert "chunks" not in first["matches"][0]
    assert first["tensor"] == {"shape": [2, 2, 3], "dtype": "uint8", "data": bytes(range(12))}
    assert (second["id"], second["embedding"], second["matches"]) == ("\\xff", None, [])
    assert set(read_provenance(schema)) == {"embedding", "matches"}


def test_no_documents_are_a_batch_of_the_same_type():
    schema = documents_schema(SPEC, access_paths="@r,m")
    assert documents_batch([], schema, 4).schema.equals(schema)


def test_failures_never_hold_image_bytes():
    failure = Failure(Stage.DECODE, Code.UNDECODABLE, "x")
    document = Document(id="d", blob=b"bytes", uri="data:image/png;base64,AAAA", failures=(failure,))
    (record,) = failure_records(DocumentEmbedPlan(), document, document.failures)
    assert record == {**failure.as_dict(), "row": "d", "id": "d"}


def test_rows_as_a_batch():
    plan = ColumnPlan.of({"caption": "text"})
    base = pa.schema([("id", pa.int32()), ("caption", pa.string())])
    schema = rows_schema(base, plan, SPEC, drop=["caption"])
    rows = [
        {"id": 1, "caption": "a", "caption_embedding": fake_text_vector("a", 4)},
        {"id": None, "caption_embedding": None, "stranger": object()},
    ]
    before = copy.deepcopy(rows[0])
    assert rows_batch(rows, schema, plan, 4).to_pylist() == [
        {"id": 1, "caption_embedding": text_vector("a")},
        {"id": None, "caption_embedding": None},
    ]
    assert rows[0].keys() == before.keys()
    with pytest.raises(DatasetError, match="column 'id' is int32"):
        rows_batch([{"id": "x"}], schema, plan, 4)


@every_list
def test_lists_of_every_kind_are_lists(list_of):
    assert is_list_type(list_of(pa.string())) and not is_vector_type(list_of(pa.string()))
    assert is_list_type(list_of(pa.float32())) and is_vector_type(list_of(pa.float16()))
    assert not is_vector_type(list_of(list_of(pa.float32())))
    schema = rows_schema(pa.schema({"texts": list_of(pa.string())}), ColumnPlan.of({"texts": "text"}), SPEC)
    assert schema.field("texts_embedding").type == pa.list_(pa.list_(pa.float32()))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.binary(), pa.float32(), pa.null(), pa.struct({"a": pa.int8()}), pa.map_(pa.string(), pa.int8())],
    ids=str,
)
def test_other_types_are_no_lists(kind):
    assert not is_list_type(kind) and not is_vector_type(kind)

"""What a worker does with Arrow batches, as far as it needs no Spark session."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from list_kinds import every_list
from pyspark.sql import types as T

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.testing import FakeModel, fake_text_vector
from clipmill.errors import EmbeddingError, SpecError
from clipmill.models import spec as spec_module
from clipmill.models.model import Prepared
from clipmill.udfs import scalar_udf
from clipmill.udfs.batches import embed_array, embed_batches
from clipmill.udfs.pandas_functions import embed_series
from clipmill.udfs.schema import InputColumn

SPEC = EncoderSpec("fake::dim=8")
MALFORMED = ("read", "malformed")


@pytest.fixture(autouse=True)
def no_models():
    unload_all()
    yield
    unload_all()


def vector(text):
    return fake_text_vector(text).tolist()


def strings(*values, kind=None):
    """Return an array of strings as Spark sends it: of bytes that nobody checked."""
    return pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind or pa.string())


def failures_of(array):
    return [
        value and value["failure"] and (value["failure"]["stage"], value["failure"]["code"])
        for value in array.to_pylist()
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_a_string_that_is_not_utf8_fails_alone(kind):
    values = strings(b"one", b"\xff\xfe", None, "ключ".encode(), kind=kind)
    found = embed_array(values, SPEC, "text", "struct")
    assert failures_of(found) == [None, MALFORMED, None, None]
    assert "the string is not valid UTF-8" in found[1].as_py()["failure"]["message"]
    vectors = [vector("one"), None, None, vector("ключ")]
    assert [value and value["embedding"] for value in found.to_pylist()] == vectors
    assert embed_array(values, SPEC, "text", "null").to_pylist() == vectors
    with pytest.raises(EmbeddingError, match="row 1 could not be embedded: malformed at read"):
        embed_array(values, SPEC, "text", "raise")


def test_a_uri_or_path_that_is_not_utf8_fails_alone():
    uris = strings(b"/one.png", b"\xff.png")
    files = pa.StructArray.from_arrays([pa.array([b"no picture", None]), uris], ["bytes", "path"])
    assert failures_of(embed_array(uris, SPEC, "image", "struct")) == [("fetch", "forbidden_uri"), MALFORMED]
    assert failures_of(embed_array(files, SPEC, "image", "struct")) == [("decode", "undecodable"), MALFORMED]


def test_in_arrays_only_the_element_fails():
    texts = pa.ListArray.from_arrays([0, 3, 3, 4], strings(b"a", b"\xff", b"c", b"\xfe"))
    files = pa.StructArray.from_arrays([pa.array([None, None, None]), strings(b"\xff", b"/x", None)], ["bytes", "path"])
    photos = pa.ListArray.from_arrays([0, 2, 3, 3], files)
    batch = pa.RecordBatch.from_arrays([texts, photos], ["texts", "photos"])
    plan = ColumnPlan.of({"texts": "text", "photos": "image"})
    sources = [InputColumn("texts", (0,), True), InputColumn("photos", (1,), True)]
    found = pa.Table.from_batches(embed_batches([batch], SPEC, plan, sources))
    assert found.column("texts_embedding").to_pylist() == [[vector("a"), None, vector("c")], [], [None]]
    assert found.column("photos_embedding").to_pylist() == [[None, None], [None], []]
    assert [
        [(f["column"], f["code"]) for f in row or []] for row in found.column("embedding_failures").to_pylist()
    ] == [
        [("texts[1]", "malformed"), ("photos[0]", "malformed"), ("photos[1]", "forbidden_uri")],
        [],
        [("texts[0]", "malformed")],
    ]


def test_workers_ask_the_loaded_model_and_never_the_catalog(monkeypatch):
    """The catalog would build an encoder of somebody's own again, or ask the hub, for each batch."""
    batch = pa.RecordBatch.from_arrays([pa.array(["one", None])], ["caption"])
    plan = ColumnPlan.of({"caption": "text"}, spec=SPEC)

    def facts(*_):
        raise AssertionError("the catalog was asked")

    monkeypatch.setattr(spec_module, "facts_of", facts)
    with pytest.raises(AssertionError):
        _ = EncoderSpec("fake::dim=9").facts
    (written,) = embed_batches([batch], SPEC, plan, [InputColumn("caption", (0,), False)])
    assert written.column("caption_embedding").to_pylist() == [vector("one"), None]
    assert embed_array(batch.column(0), SPEC, "text", "null").to_pylist() == [vector("one"), None]
    series = embed_series(pd.Series(["one", None]), SPEC, "text", "null")
    assert [value is not None and value.tolist() for value in series] == [vector("one"), False]


def test_a_null_that_pandas_makes_a_nan_is_null():
    """Up to Spark 4.1 a pandas UDF gets integers with a null as floats with a NaN."""
    frame = pd.DataFrame({"array": [[0.5, 0.25]] * 3, "sampling_rate": [8000.0, float("nan"), 8000.0]})
    spec = EncoderSpec("fake::dim=8&modalities=audio")
    failures = embed_series(frame, spec, "audio", "struct")["failure"]
    assert [failure and failure["code"] for failure in failures] == [None, "malformed", None]


def test_nulls_of_numbers_and_nans_of_lists_in_pandas_udfs(monkeypatch):
    monkeypatch.setattr(scalar_udf, "_HAS_ARROW_UDFS", False)
    seen = []

    def function(array):
        seen.extend(array.to_pylist())
        return pa.nulls(len(array), pa.float64())

    udf = scalar_udf.arrow_udf(function, "function", T.DoubleType(), deterministic=True)
    udf.func(pd.DataFrame({"rate": [8000.0, np.nan], "samples": [[0.5, np.nan], None]}))
    first, second = seen
    assert (first["rate"], second) == (8000.0, None)
    assert np.isnan(first["samples"][1])
    udf.func(pd.DataFrame({"rate": [np.nan, 1.0], "samples": [[0.5], [0.5]]}))
    assert seen[2] == {"rate": None, "samples": [0.5]}


@pytest.fixture
def slow_pictures(monkeypatch):
    """Let the fake decode four pictures, then wait; gives what was begun, and the event that lets it go on."""
    begun, go_on = [], threading.Event()

    def prepare(self, modality, content, spec):
        begun.append(content)
        if len(begun) > 4:
            assert go_on.wait(60)
        return Prepared(np.zeros((1, 1, 3), np.uint8))

    monkeypatch.setattr(FakeModel, "prepare", prepare)
    yield begun, go_on
    go_on.set()


@pytest.mark.parametrize("end", ["limit", "failing task"])
def test_who_stops_early_leaves_nothing_behind(slow_pictures, end):
    begun, go_on = slow_pictures
    spec = EncoderSpec("fake::dim=8", max_batch_rows=4, preprocess_threads=1)
    batch = pa.RecordBatch.from_arrays([pa.array([b"%d" % n for n in range(64 if end == "limit" else 8)])], ["photo"])

    def batches():
        yield batch
        raise RuntimeError("the task fails")

    rows = embed_batches(batches(), spec, ColumnPlan.of({"photo": "image"}), [InputColumn("photo", (0,), False)])
    if end == "limit":
        assert next(rows).num_rows == 4
        rows.close()
    else:
        with pytest.raises(RuntimeError, match="the task fails"):
            list(rows)
    go_on.set()
    load_encoder(spec)._loaded.pool("decode", 1).submit(int).result(60)  # after all that waits in the same queue
    assert len(begun) <= 5  # the fifth was on its way


@every_list
def test_arrays_of_every_kind_are_embedded_by_their_elements(list_of):
    texts = pa.array([["one", None], None, ["two", "x"]], list_of(pa.string()))
    with pytest.raises(SpecError, match="for an array of them use embed_columns"):
        embed_array(texts, SPEC, "text", "null")
    batch = pa.RecordBatch.from_arrays([texts], ["texts"])
    (found,) = embed_batches([batch], SPEC, ColumnPlan.of({"texts": "text"}), [InputColumn("texts", (0,), True)])
    expected = [[vector("one"), None], None, [vector("two"), vector("x")]]
    assert found.column("texts_embedding").to_pylist() == expected

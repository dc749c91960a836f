"""`ClipModelHandler`: `RunInference` with clipmill's encoders."""

from __future__ import annotations

import os
import pickle
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, ModelMetadata, PredictionResult, RunInference
from apache_beam.testing.util import assert_that, equal_to
from beam_helpers import Keep, counters, kept, pipeline
from pictures import encode, photographs
from places import SUPPORT

from clipmill.encoders import unload_all
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.failures import Code
from clipmill.transforms import ClipModelHandler, Document, Embed, FailedRow, metrics_of, raise_failed


class Photo(NamedTuple):
    id: str
    caption: str | None
    photo: bytes | None


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def infer(directory, elements, handler, **options):
    """Run `RunInference`; return its results, the dead letters of rows and of batches, and the finished pipeline."""
    p = pipeline()
    results, dead = p | beam.Create(elements) | RunInference(handler, **options).with_exception_handling()
    _ = results | beam.Reshuffle() | "KeepResults" >> Keep(directory / "results")
    for number, letters in enumerate(dead.failed_postprocessing):
        _ = letters | f"KeepRows{number}" >> Keep(directory / "rows")
    _ = dead.failed_inferences | "KeepBatches" >> Keep(directory / "batches")
    done = p.run()
    done.wait_until_finish()
    return kept(directory / "results"), kept(directory / "rows"), kept(directory / "batches"), done


def reasons(letters):
    """The reason of each dead letter by the element that failed."""
    return {letter[0].example: letter[0].inference.failures[0] for letter in letters}


def test_values_get_the_vectors_of_embed(tmp_path):
    """Texts, bytes, arrays and documents, with the real pixels of a photograph."""
    photo = photographs()["chelsea"]
    jpeg = encode(photo, "JPEG")
    values = ["a cat", jpeg, photo, Document(id="d", text="a cat"), Document(id="e", blob=jpeg)]
    results, rows, batches, _ = infer(tmp_path, values, ClipModelHandler("demo"))
    assert (rows, batches) == ([], [])
    assert {result.model_id for result in results} == {"demo"}
    given = [Document(id=name, **content) for name, content in (("t", {"text": "a cat"}), ("b", {"blob": jpeg}))]
    given.append(Document(id="a", tensor=photo))
    with pipeline() as p:
        _ = (p | beam.Create(given) | Embed("demo")).rows | Keep(tmp_path / "embed")
    expected = {document.id: document.embedding for document in kept(tmp_path / "embed")}
    names = {str: "t", bytes: "b", np.ndarray: "a", "d": "t", "e": "b"}
    for example, vector, _ in results:
        name = names[example.id if isinstance(example, Document) else type(example)]
        np.testing.assert_allclose(vector, expected[name], rtol=0, atol=1e-5)
    assert len(results) == 5


def test_rows_get_the_columns_of_embed(tmp_path):
    jpeg = encode(photographs()["coffee"], "JPEG")
    columns = {"caption": "text", "photo": "image"}
    elements = [Photo("a", "a cup", jpeg), Photo("b", None, jpeg), Photo("c", "tea", None)]
    results, rows, _, _ = infer(tmp_path, elements, ClipModelHandler("demo", columns=columns))
    with pipeline() as p:
        _ = (p | beam.Create(elements) | Embed("demo", columns=columns)).rows | Keep(tmp_path / "embed")
    expected = {row.id: row for row in kept(tmp_path / "embed")}
    assert rows == [] and len(results) == 3
    for example, inference, _ in results:
        assert list(inference) == ["caption_embedding", "photo_embedding"]
        for name, vector in inference.items():
            other = getattr(expected[example.id], name)
            assert (vector is None) == (other is None)
            if vector is not None:
                np.testing.assert_allclose(vector, other, rtol=0, atol=1e-5)


def test_bad_rows_are_dead_letters_alone(tmp_path):
    """All elements are in one batch, and three of them are bad."""
    handler = ClipModelHandler("fake::dim=8", min_batch_size=8, max_batch_size=8)
    values = ["a", "", "bc", None, b"no image", {"caption": "a row"}]
    results, rows, batches, done = infer(tmp_path, values, handler)
    assert batches == []
    found = {result.example: result.inference for result in results}
    assert found.keys() == {"a", "bc", None} and found[None] is None
    np.testing.assert_array_equal(found["bc"], fake_text_vector("bc", 8))
    codes = {repr(letter[0].example): letter[0].inference.failures[0].code for letter in rows}
    assert codes == {
        repr(""): Code.EMPTY,
        repr(b"no image"): Code.UNDECODABLE,
        repr({"caption": "a row"}): Code.UNSUPPORTED,
    }
    messages = [message for _, (_, message, _) in rows]
    assert any("columns={'name': 'text'}" in message for message in messages)
    assert metrics_of(done)["rows_in"] == 6 and counters(done, "failed_empty") == 1


def test_a_row_with_one_bad_column_keeps_the_other_vector(tmp_path):
    handler = ClipModelHandler("fake::dim=8", columns={"caption": "text", "title": "text"}, key="name")
    results, rows, _, _ = infer(tmp_path, [{"name": "n", "caption": "a", "title": " "}], handler)
    ((letter, (kind, message, _)),) = rows
    assert results == [] and kind.__name__ == "FailedRowError" and "with_exception_handling" not in message
    assert isinstance(letter.inference, FailedRow)
    np.testing.assert_array_equal(letter.inference.row["caption_embedding"], fake_text_vector("a", 8))
    (failure,) = letter.inference.failures
    assert (failure.row, failure.column, failure.code) == ("n", "title", Code.EMPTY)


def test_without_exception_handling_a_bad_row_ends_the_job():
    with pytest.raises(Exception, match="with_exception_handling"), pipeline() as p:
        _ = p | beam.Create(["a", ""]) | RunInference(ClipModelHandler("fake::dim=8"))


def test_bad_rows_may_stay_results(tmp_path):
    handler = ClipModelHandler("fake::dim=8", failures="result")
    results, rows, _, _ = infer(tmp_path, ["a", ""], handler)
    assert rows == []
    (failed,) = [result for result in results if isinstance(result.inference, FailedRow)]
    assert failed.example == "" and failed.inference.failures[0].code is Code.EMPTY
    with pytest.raises(ValueError, match="empty"):
        raise_failed(failed)


def test_keyed_elements(tmp_path):
    inner = ClipModelHandler("fake::dim=8", failures="result")
    handler = KeyedModelHandler(inner).with_postprocess_fn(raise_failed)
    results, rows, batches, _ = infer(tmp_path, [("k", "a"), ("l", "")], handler)
    ((key, result),) = results
    assert key == "k" and isinstance(result, PredictionResult)
    np.testing.assert_array_equal(result.inference, fake_text_vector("a", 8))
    (((key, failed), _),) = rows
    assert key == "l" and failed.inference.failures[0].code is Code.EMPTY and batches == []


def test_a_model_for_each_key(tmp_path):
    """Beam's keyed handler with several models holds each in a process of its own."""
    from apache_beam.ml.inference.base import KeyModelMapping

    models = [
        KeyModelMapping([name], ClipModelHandler(f"fake::dim={dim}", failures="result"))
        for name, dim in (("short", 4), ("long", 8))
    ]
    results, _, batches, _ = infer(tmp_path, [("short", "a"), ("long", "a")], KeyedModelHandler(models))
    assert batches == [] and {key: result.inference.shape for key, result in results} == {"short": (4,), "long": (8,)}


@pytest.mark.parametrize("options", [{"large_model": True}, {"model_copies": 2}], ids=["one copy", "two copies"])
def test_one_process_holds_the_model(options, tmp_path):
    handler = ClipModelHandler("fake::dim=8", **options)
    assert handler.share_model_across_processes() and handler.model_copies() == options.get("model_copies", 1)
    results, rows, batches, done = infer(tmp_path, ["a", "", "bc"], handler)
    assert batches == [] and {result.example for result in results} == {"a", "bc"}
    assert reasons(rows)[""].code is Code.EMPTY
    assert counters(done, "embedded") == 2


@pytest.mark.parametrize(("large_model", "loads"), [(False, 2), (True, 1)], ids=["a copy each", "one for both"])
def test_two_worker_processes(large_model, loads, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
    p = pipeline("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    values = [f"text {number}" for number in range(32)]
    handler = ClipModelHandler("fake::dim=8", large_model=large_model, max_batch_size=4)
    results = p | beam.Create(values) | beam.Reshuffle() | RunInference(handler)
    _ = results | Keep(tmp_path)
    done = p.run()
    done.wait_until_finish()
    assert {result.example for result in kept(tmp_path)} == set(values)
    assert counters(done, "models_loaded") == loads and counters(done, "embedded") == 32


def test_batches_and_their_options(tmp_path):
    handler = ClipModelHandler(
        "fake::dim=8", min_batch_size=2, max_batch_size=3, max_batch_duration_secs=5, max_batch_rows=7
    )
    assert handler.batch_elements_kwargs() == {
        "min_batch_size": 2,
        "max_batch_size": 3,
        "max_batch_duration_secs": 5,
    }
    assert handler.spec.max_batch_rows == 7
    assert ClipModelHandler("fake::dim=8", max_batch_rows=7).batch_elements_kwargs() == {"max_batch_size": 28}
    _, _, _, done = infer(tmp_path, list("abcdefg"), handler)
    query = done.metrics().query()
    sizes = [one.committed for one in query["distributions"] if one.key.metric.name == "inference_request_batch_size"]
    assert sizes[0].max <= 3 and sizes[0].sum == 7


def test_an_option_that_beam_lacks_is_refused_by_name(monkeypatch):
    def old_init(self, min_batch_size=1, max_batch_size=10): ...

    monkeypatch.setattr(beam.BatchElements, "__init__", old_init)
    with pytest.raises(SpecError, match="batch_length_fn") as caught:
        ClipModelHandler("fake::dim=8", batch_length_fn=len)
    assert caught.value.option == "batch_length_fn" and beam.__version__ in str(caught.value)


def test_metrics_of_run_inference(tmp_path):
    _, _, _, done = infer(tmp_path, ["a", "b"], ClipModelHandler("fake::dim=8"))
    query = done.metrics().query()
    own = {one.key.metric.name: one.committed for one in query["counters"] if "BeamML" in one.key.metric.namespace}
    assert own["num_inferences"] == 2
    sizes = {one.key.metric.name: one.committed for one in query["distributions"]}
    assert sizes["inference_request_batch_byte_size"].sum == 2  # the contents, which are not pickled for it
    assert counters(done)["models_loaded"] == 1 and counters(done)["embedded"] == 2


def test_a_model_that_arrives_while_the_job_runs(tmp_path):
    with pipeline() as p:
        models = p | "Models" >> beam.Create([ModelMetadata("fake::dim=4", "smaller")])
        values = p | "Values" >> beam.Create(["a"])
        handler = ClipModelHandler("fake::dim=8")
        results = values | RunInference(handler, model_metadata_pcoll=models)
        shapes = results | beam.Map(lambda result: (result.inference.shape, result.model_id))
        assert_that(shapes, equal_to([((4,), "fake::dim=4")]))


def test_a_handler_travels_without_weights():
    handler = pickle.loads(pickle.dumps(ClipModelHandler("demo", columns={"caption": "text"})))
    assert handler.spec.model == "demo" and len(pickle.dumps(handler)) < 5_000
    assert repr(handler) == "ClipModelHandler('demo')"


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"columns": {}}, SpecError, "columns"),
        ({"columns": {"a": "text"}, "kind": "text"}, SpecError, "kind"),
        ({"kind": "audio"}, SpecError, "kind"),
        ({"key": "name"}, SpecError, "key"),
        ({"failures": "split"}, SpecError, "failures"),
        ({"key": 5, "columns": {"a": "text"}}, SpecError, "key"),
        ({"model_copies": 0}, SpecError, "model_copies"),
        ({"large_model": "no"}, SpecError, "large_model"),
        ({"env_vars": {"OMP_NUM_THREADS": 1}}, SpecError, "env_vars"),
        ({"env_vars": ["A"]}, SpecError, "env_vars"),
        ({"min_batch_size": "4"}, SpecError, "min_batch_size"),
        ({"max_batch_size": 0}, SpecError, "max_batch_size"),
        ({"min_batch_size": 5, "max_batch_size": 2}, SpecError, "min_batch_size"),
        ({"max_batch_duration_secs": "soon"}, SpecError, "max_batch_duration_secs"),
        ({"element_size_fn": 3}, SpecError, "element_size_fn"),
        ({"batch_bucket_boundaries": [9, 3], "batch_length_fn": len}, SpecError, "batch_bucket_boundaries"),
        ({"batch_bucket_boundaries": [3, 9]}, SpecError, "batch_length_fn"),
        ({"worker_processes": 0}, SpecError, "worker_processes"),
        ({"batch_size": 3}, TypeError, "max_batch_rows"),
        ({"max_batch_sise": 3}, TypeError, "max_batch_size"),
    ],
)
def test_options_that_cannot_work(options, error, name):
    with pytest.raises(error, match=name):
        ClipModelHandler("demo", **options)


def test_inference_args_are_refused():
    with pytest.raises(SpecError, match="normalize"), pipeline() as p:
        _ = p | beam.Create(["a"]) | RunInference(ClipModelHandler("demo"), inference_args={"normalize": True})

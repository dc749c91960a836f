"""`Embed` on documents: what of them is embedded, what comes out, what fails."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.transforms import error_handling
from beam_helpers import Keep, counters, kept, pipeline
from http_server import JPEG, LoopbackServer
from PIL import Image

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.testing import fake_image_vector, fake_text_vector
from clipmill.errors import SpecError
from clipmill.failures import Code, Failure, Stage
from clipmill.transforms import Document, Embed, Embedded, FailedRow
from clipmill.transforms.failed_row import FailedRowError

# Seed 002's, letter by letter.
GIF = (
    "data:image/gif;base64,R0lGODlhEAAQAMQAAORHHOVSKudfOulrSOp3WOyDZu6QdvCchPGolfO0o/XBs/fNwfjZ0frl3/zy7/"
    "///wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACH5BAkAABAALAAAAAAQABAAAAVVICSOZG"
    "lCQAosJ6mu7fiyZeKqNKToQGDsM8hBADgUXoGAiqhSvp5QAnQKGIgUhwFUYLCVDFCrKUE1lBavAViFIDlTImbKC5Gm2hB0SlBCBM"
    "QiB0UjIQA7"
)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def embed(directory, documents, *args, **options):
    """Run `Embed` and return what it gave: rows by id, failures by id, and the finished pipeline."""
    p = pipeline()
    embedded = p | beam.Create(documents) | Embed(*args or ["fake::dim=8"], **options)
    _ = embedded.rows | "KeepRows" >> Keep(directory / "rows")
    _ = embedded.failures | "KeepFailures" >> Keep(directory / "failures")
    result = p.run()
    result.wait_until_finish()
    rows = {row.id: row for row in kept(directory / "rows")}
    failures = {failed.row.id: failed for failed in kept(directory / "failures")}
    return rows, failures, result


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def apple() -> np.ndarray:
    return np.full((20, 30, 3), (200, 30, 40), np.uint8)


def test_the_six_documents_of_the_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apple.png").write_bytes(png(apple()))
    with LoopbackServer() as server:
        documents = [
            Document(text="she smiled, with pain"),
            Document(uri="apple.png"),
            Document(uri="apple.png").load_uri_to_image_tensor(),
            Document(blob=Path("apple.png").read_bytes()),
            Document(uri=server.url("/photo.jpg")),
            Document(uri=GIF),
        ]
        rows, failures, _ = embed(tmp_path, documents, allow_local_files=True, allow_private_addresses=True)
    assert failures == {}
    assert len(rows) == 6
    found = [rows[document.id] for document in documents]
    expected = [fake_text_vector("she smiled, with pain"), *[fake_image_vector(apple())] * 3]
    for document, vector in zip(found, expected, strict=False):
        np.testing.assert_array_equal(document.embedding, vector, strict=True)
    photo = np.asarray(Image.open(io.BytesIO(JPEG)).convert("RGB"))
    np.testing.assert_array_equal(found[4].embedding, fake_image_vector(photo), strict=True)
    assert found[5].embedding[:2].tolist() == [16, 16]
    assert [(document.blob, document.tensor) for document in found] == [(None, None)] * 6
    assert [document.uri for document in found] == [document.uri for document in documents]
    assert found[0].text == "she smiled, with pain"


def test_the_vectors_are_those_of_the_encoder(tmp_path):
    """The demo's weights, through the pipeline and by a plain call."""
    (tmp_path / "apple.png").write_bytes(png(apple()))
    documents = [Document(text="a red square"), Document(tensor=apple()), Document(uri=str(tmp_path / "apple.png"))]
    rows, failures, _ = embed(tmp_path, documents, "demo", device="cpu", allow_local_files=True)
    assert failures == {}
    encoder = load_encoder("demo", device="cpu")
    expected = [encoder.embed_texts(["a red square"])[0], *encoder.embed_images([apple(), apple()])]
    for document, vector in zip(documents, expected, strict=True):
        np.testing.assert_allclose(rows[document.id].embedding, vector, rtol=0, atol=1e-5 * np.linalg.norm(vector))


def test_the_seeds_array_of_800_by_224(tmp_path):
    array = np.ones((800, 224, 3), dtype=np.uint8)
    documents = [Document(tensor=array, id="tensor"), Document(blob=array, id="blob")]
    rows, failures, _ = embed(tmp_path, documents)
    assert failures == {}
    for name in ("tensor", "blob"):
        np.testing.assert_array_equal(rows[name].embedding, fake_image_vector(array), strict=True)
        assert rows[name].tensor is None


def test_content_stays_where_it_is_asked_for(tmp_path):
    documents = [Document(blob=png(apple()), id="blob"), Document(tensor=apple(), id="tensor")]
    rows, _, _ = embed(tmp_path, documents, keep_content=True)
    assert rows["blob"].blob == png(apple())
    np.testing.assert_array_equal(rows["tensor"].tensor, apple(), strict=True)


def test_metadata_travels(tmp_path):
    document = Document(text="a", id="x", tags={"n": [1, {"deep": None}]}, uri="http://nowhere.invalid/a.jpg")
    rows, _, _ = embed(tmp_path, [document])
    assert (rows["x"].tags, rows["x"].uri, rows["x"].text) == (document.tags, document.uri, "a")


@pytest.mark.parametrize(
    ("access_paths", "embedded"),
    [
        ("@r", {"root"}),
        ("@m", {"m0", "m1"}),
        ("@c", {"c0"}),
        ("@cc", {"cc0"}),
        ("@r,m", {"root", "m0", "m1"}),
        ("@r,c,cc", {"root", "c0", "cc0"}),
    ],
)
def test_access_paths_embed_what_they_name_and_nothing_else(tmp_path, access_paths, embedded):
    inner = Document(text="c0", id="c0", chunks=[Document(text="cc0", id="cc0")])
    matches = [Document(text="m0", id="m0"), Document(text="m1", id="m1")]
    tree = Document(text="root", id="root", matches=matches, chunks=[inner])
    rows, failures, _ = embed(tmp_path, [tree], access_paths=access_paths)
    assert failures == {}
    root = rows["root"]
    found = [root, *root.matches, *root.chunks, *root.chunks[0].chunks]
    assert [document.id for document in found] == ["root", "m0", "m1", "c0", "cc0"]
    assert {document.id for document in found if document.embedding is not None} == embedded
    for document in found:
        if document.embedding is not None:
            np.testing.assert_array_equal(document.embedding, fake_text_vector(document.id), strict=True)


def test_a_match_that_fails_keeps_the_vectors_of_the_others(tmp_path):
    tree = Document(text="root", id="root", matches=[Document(text="good"), Document(text=""), Document(blob=b"no")])
    rows, failures, _ = embed(tmp_path, [tree], access_paths="@r,m")
    assert rows == {}
    failed = failures["root"]
    places = [(failure.row, failure.column, failure.code) for failure in failed.failures]
    assert places == [("root", "@m[1]", "empty"), ("root", "@m[2]", "undecodable")]
    np.testing.assert_array_equal(failed.row.embedding, fake_text_vector("root"))
    np.testing.assert_array_equal(failed.row.matches[0].embedding, fake_text_vector("good"))
    assert [match.embedding for match in failed.row.matches[1:]] == [None, None]
    assert failed.row.matches[2].blob is None


def test_what_is_no_document_is_a_failure(tmp_path):
    with pipeline() as p:
        embedded = p | beam.Create(["text", b"bytes", {"id": 1}, None]) | Embed("fake::dim=8")
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    assert kept(tmp_path / "rows") == []
    failed = kept(tmp_path / "failures")
    assert sorted(map(repr, (one.row for one in failed))) == sorted(map(repr, ["text", b"bytes", {"id": 1}, None]))
    assert {failure.code for one in failed for failure in one.failures} == {Code.UNSUPPORTED}
    messages = sorted(failure.message for one in failed for failure in one.failures)
    assert messages[0] == "expected a Document, got NoneType; for rows give columns={'name': 'text'}"


def test_a_document_that_was_not_read_passes_as_its_failure(tmp_path):
    unread = Document(
        id="x.jsonl:3", text="half", failures=(Failure(Stage.READ, Code.MALFORMED, "not JSON", row="x.jsonl:3"),)
    )
    rows, failures, result = embed(tmp_path, [unread, Document(text="fine", id="fine")])
    assert set(rows) == {"fine"}
    assert failures["x.jsonl:3"].failures == unread.failures
    assert counters(result, "failed_malformed") == 1
    assert counters(result, "rows_in") == 2


def test_local_files_need_permission(tmp_path):
    (tmp_path / "a.png").write_bytes(png(apple()))
    documents = [
        Document(uri=str(tmp_path / "a.png"), id="stranger's"),
        Document.from_listed_uri(str(tmp_path / "a.png"), id="listed"),
    ]
    rows, failures, _ = embed(tmp_path, documents)
    assert set(rows) == {"listed"}
    assert [failure.code for failure in failures["stranger's"].failures] == [Code.FORBIDDEN_URI]


def test_the_callers_documents_are_unchanged(tmp_path):
    tree = Document(text="a", tags={"k": [1]}, matches=[Document(tensor=apple(), id="m")])
    before = copy.deepcopy(tree)
    embed(tmp_path, [tree], access_paths="@r,m")
    assert tree.embedding is None
    assert tree.matches[0].embedding is None
    assert tree.tags == before.tags
    np.testing.assert_array_equal(tree.matches[0].tensor, before.matches[0].tensor)


def test_nothing_in_gives_nothing_of_the_right_type(tmp_path):
    with pipeline() as p:
        embedded = p | beam.Create([]).with_output_types(Document) | Embed("fake::dim=8")
        assert (embedded.rows.element_type, embedded.failures.element_type) == (Document, FailedRow)
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    assert kept(tmp_path) == []


def test_the_pair_unpacks_and_keeps_its_names():
    p = pipeline()
    embedded = p | beam.Create([Document(text="a")]) | Embed("fake::dim=8")
    rows, failures = embedded
    assert isinstance(embedded, Embedded)
    assert (rows, failures) == (embedded.rows, embedded.failures)
    (node,) = (t for t in p.to_runner_api().components.transforms.values() if t.unique_name == "Embed(fake::dim=8)")
    assert set(node.outputs) == {"rows", "failures"}


def test_raising_names_row_stage_code_and_model(tmp_path):
    with pytest.raises(Exception, match=r"row 'bad' failed at tokenize with empty, model fake::dim=8: the text is"):
        embed(tmp_path, [Document(text="fine"), Document(text="", id="bad")], on_failure="raise")


def test_an_error_handler_gets_the_failures(tmp_path):
    with pipeline() as p, error_handling.ErrorHandler("KeepFailures" >> Keep(tmp_path / "failures")) as handler:
        rows = (
            p
            | beam.Create([Document(text="a"), Document(text="", id="bad")])
            | Embed("fake::dim=8").with_error_handler(handler)
        )
        assert isinstance(rows, beam.PCollection)
        _ = rows | beam.Map(lambda document: document.text) | Keep(tmp_path / "rows")
    assert kept(tmp_path / "rows") == ["a"]
    assert [failed.row.id for failed in kept(tmp_path / "failures")] == ["bad"]


def test_no_error_handler_means_that_failures_end_the_job():
    p = pipeline()
    _ = p | beam.Create([Document(text="", id="bad")]) | Embed("fake::dim=8").with_error_handler(None)
    with pytest.raises(Exception, match="row 'bad' failed at tokenize with empty"):
        p.run().wait_until_finish()


def test_the_coder_keeps_everything_of_a_document():
    document = Document(
        text="t",
        uri="u",
        blob=b"b",
        tensor=np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        id="i",
        tags={"a": 1},
        matches=[Document(text="m", embedding=np.ones(3, np.float32))],
        chunks=[Document.from_listed_uri("/c", id="c")],
        mime_type="image/png",
        embedding=np.array([1.5, -2], np.float32),
        scores={"cosine": 0.5},
        failures=(Failure(Stage.READ, Code.EMPTY, "why"),),
    )
    coder = beam.coders.registry.get_coder(Document)
    again = coder.decode(coder.encode(document))
    assert type(again) is Document
    for name in ("text", "uri", "blob", "id", "tags", "mime_type", "scores", "failures"):
        assert getattr(again, name) == getattr(document, name), name
    for name in ("tensor", "embedding"):
        np.testing.assert_array_equal(getattr(again, name), getattr(document, name), strict=True)
    np.testing.assert_array_equal(again.matches[0].embedding, np.ones(3, np.float32), strict=True)
    assert again.chunks[0].item() == Document.from_listed_uri("/c", id="c").item()
    again.embedding += 1  # owns its memory


def test_a_vector_costs_its_bytes_and_little_more():
    document = Document(text="t", id="i", embedding=np.zeros(512, np.float32))
    assert len(beam.coders.registry.get_coder(Document).encode(document)) < 2048 + 128


def test_documents_survive_a_shuffle(tmp_path):
    with pipeline() as p:
        documents = p | beam.Create([Document(text=str(n), id=str(n)) for n in range(5)]) | "Before" >> beam.Reshuffle()
        _ = (documents | Embed("fake::dim=8")).rows | "After" >> beam.Reshuffle() | Keep(tmp_path)
    found = {document.id: document.embedding for document in kept(tmp_path)}
    assert set(found) == set("01234")
    for text, vector in found.items():
        np.testing.assert_array_equal(vector, fake_text_vector(text), strict=True)


def test_failures_survive_a_shuffle(tmp_path):
    """Beam makes rows of some dataclasses; these stay what they are, with what is inside."""
    with pipeline() as p:
        embedded = p | beam.Create([Document(text="", id="bad", tags={"n": 1})]) | Embed("fake::dim=8")
        _ = embedded.failures | beam.Reshuffle() | Keep(tmp_path)
    (failed,) = kept(tmp_path)
    assert type(failed) is FailedRow
    assert type(failed.row) is Document
    assert failed.row.tags == {"n": 1}
    (failure,) = failed.failures
    assert failure == Failure(Stage.TOKENIZE, Code.EMPTY, failure.message, row="bad")


def test_the_error_that_ends_a_job_survives_a_pickle():
    error = FailedRowError([Failure(Stage.READ, Code.EMPTY, "why", row="a", column="c")], "demo")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "row 'a', column 'c' failed at read with empty, model demo: why" in str(error)


def test_what_cannot_work_fails_before_anything_runs():
    with pytest.raises(SpecError) as refused:
        Embed("fake::dim=8", access_paths="m")
    assert refused.value.option == "access_paths"
    with pytest.raises(SpecError) as refused:
        Embed("fake::dim=8", on_failure="skip")
    assert refused.value.option == "on_failure"
    with pytest.raises(SpecError) as refused:
        Embed("fake::dim=8", max_wait_s=0)
    assert refused.value.option == "max_wait_s"
    with pytest.raises(SpecError) as refused:
        Embed("fake::dim=8", vectors="list")
    assert refused.value.option == "vectors"
    with pytest.raises(ValueError, match="ViT-B-32"):
        Embed("ViT-B-33::openai")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("traversal_paths", "access_paths"),
        ("drop_image_content", "keep_content"),
        ("minibatch_size", "max_batch_rows"),
        ("num_worker_preprocess", "preprocess_threads"),
        ("name", "model"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(old, new):
    with pytest.raises(TypeError, match=f"option '{old}' is called '{new}' here"):
        Embed("fake::dim=8", **{old: 1})


def test_a_misspelt_option_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match="unknown option 'max_wait'; did you mean 'max_wait_s'"):
        Embed("fake::dim=8", max_wait=3)


def test_a_spec_may_stand_in_for_the_name():
    spec = EncoderSpec("fake::dim=8", normalize=True)
    assert Embed(spec, max_batch_rows=3).spec == EncoderSpec("fake::dim=8", normalize=True, max_batch_rows=3)


def test_fields_of_wrong_types_fail_their_document_alone(tmp_path):
    """As a text that pandas read as NaN: such a document must not end the job."""
    wrong = {
        "text": [float("nan"), 5, ["a"], b"a"],
        "uri": [5, b"/a.jpg"],
        "mime_type": [5],
        "tags": [5, "a"],
        "scores": [5],
        "matches": [5, "a"],
        "chunks": [{"text": "a"}],
    }
    documents = [
        Document(**{"text": "one", "id": f"{name}{number}", name: value})
        for name, values in wrong.items()
        for number, value in enumerate(values)
    ]
    rows, failures, _ = embed(tmp_path, [*documents, Document(text="one", id="good")])
    assert set(rows) == {"good"} and set(failures) == {document.id for document in documents}
    for key, failed in failures.items():
        (failure,) = failed.failures
        assert (failure.stage, failure.code, failure.row) == (Stage.READ, Code.MALFORMED, key)
        assert repr(key[:-1]) in failure.message


def test_matches_that_are_no_documents_fail_alone(tmp_path):
    given = [Document(text="one"), {"text": "two"}, {"text": 5}, "three"]
    document = Document(text="a", id="a", matches=given)
    _, failures, _ = embed(tmp_path, [document], access_paths="@r,m")
    row = failures["a"].row
    assert [None if one.embedding is None else one.embedding[0] for one in (row, *row.matches)] == [1, 3, 3, None, None]
    assert [(one.column, one.code) for one in row.failures] == [("@m[2]", "malformed"), ("@m[3]", "malformed")]
    assert len(given) == 4 and given[3] == "three"

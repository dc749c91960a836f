"""`ReadDocuments`: which files it finds, what it makes of tables, and that what it lists may be read."""

from __future__ import annotations

import gzip
import io
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from beam_helpers import Keep, kept, pipeline
from contract import WITH_SOUNDS, tone, vector_of_wav, wav
from PIL import Image

from clipmill.encoders import unload_all
from clipmill.encoders.testing import fake_image_vector, fake_text_vector
from clipmill.errors import DatasetError, SpecError
from clipmill.failures import Code
from clipmill.transforms import Document, Embed, ReadDocuments


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def read(directory, *args, **options):
    """Return the documents that `ReadDocuments` reads, by id."""
    with pipeline() as p:
        documents = p | ReadDocuments(*args, **options)
        assert documents.element_type is Document
        _ = documents | Keep(directory)
    found = kept(directory)
    assert len({document.id for document in found}) == len(found)
    return {document.id: document for document in found}


def photograph(path, colour=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    path.write_bytes(file.getvalue())
    return str(path)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    return folder, [photograph(folder / name) for name in ("top.png", "a/inner.png", "a/b/deep.png")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", {"top.png"}),
        ("**.png", {"top.png", "a/inner.png", "a/b/deep.png"}),
        ("**/*.png", {"top.png", "a/inner.png", "a/b/deep.png"}),
        ("", {"top.png", "a/inner.png", "a/b/deep.png"}),
        ("a/inner.png", {"a/inner.png"}),
    ],
)
def test_patterns_and_folders(tmp_path, photographs, pattern, found):
    folder, _ = photographs
    documents = read(tmp_path / "kept", f"{folder}/{pattern}")
    assert set(documents) == {f"{folder}/{name}" for name in found}
    assert {document.uri for document in documents.values()} == set(documents)
    assert {document.blob for document in documents.values()} == {None}  # their bytes are fetched where they are needed


def test_what_was_listed_may_be_read_though_it_is_local(tmp_path, photographs):
    folder, paths = photographs
    with pipeline() as p:
        embedded = p | ReadDocuments(f"{folder}/**.png") | Embed("fake::dim=8")
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    assert kept(tmp_path / "failures") == []
    vectors = {document.id: document.embedding for document in kept(tmp_path / "rows")}
    assert set(vectors) == set(paths)
    for vector in vectors.values():
        np.testing.assert_array_equal(vector, fake_image_vector(np.full((3, 4, 3), (1, 2, 3), np.uint8)))


def test_a_path_inside_a_table_is_a_strangers(tmp_path, photographs):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "a", "uri": photographs[1][0], "_trusted_uri": True}))
    with pipeline() as p:
        embedded = p | ReadDocuments(tmp_path / "x.jsonl") | Embed("fake::dim=8")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    (failed,) = kept(tmp_path / "failures")
    assert [failure.code for failure in failed.failures] == [Code.FORBIDDEN_URI]


@pytest.mark.parametrize("ending", ["jsonl", "json", "ndjson", "jsonl.gz"])
def test_json_lines(tmp_path, ending):
    lines = '{"id": "a", "text": "one", "n": 5}\n\n{"text": "two", "matches": [{"text": "m"}]}\n'
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(lines.encode()) if ending.endswith("gz") else lines.encode())
    documents = read(tmp_path / "kept", path)
    assert set(documents) == {"a", f"{path}:3"}
    assert (documents["a"].text, documents["a"].tags) == ("one", {"n": 5})
    assert [match.text for match in documents[f"{path}:3"].matches] == ["m"]


def test_csv_and_parquet_with_named_columns(tmp_path):
    (tmp_path / "x.csv").write_text('key,caption,url,who\na,"one, two",http://e.org/a.jpg,me\nb,,http://e.org/b.jpg,\n')
    table = pa.table({"key": ["c"], "caption": ["three"], "url": [None], "who": ["you"]})
    pq.write_table(table, tmp_path / "y.parquet")
    patterns = [tmp_path / "x.csv", tmp_path / "y.parquet"]
    documents = read(tmp_path / "kept", patterns, text="caption", uri="url", id="key", tags=["who"])
    assert {name: (d.text, d.uri, d.tags) for name, d in documents.items()} == {
        "a": ("one, two", "http://e.org/a.jpg", {"who": "me"}),
        "b": (None, "http://e.org/b.jpg", {"who": None}),
        "c": ("three", None, {"who": "you"}),
    }


def test_sounds_of_tables_and_folders_are_embedded(tmp_path):
    """Encoded ones, samples with their rate (16-bit integers stay such), and listed files; a bad one fails alone."""
    (tmp_path / "s.wav").write_bytes(wav(30, 2))
    kind = pa.struct([("array", pa.list_(pa.int16())), ("sampling_rate", pa.int32())])
    steps = (tone(50)[:, 0] * 32768).astype(np.int16)
    waves = [{"array": steps, "sampling_rate": 8000}, {"array": steps, "sampling_rate": None}, None]
    waves_file, files_file = tmp_path / "waves.parquet", tmp_path / "files.parquet"
    pq.write_table(pa.table({"id": ["w", "rateless", "null"], "wave": pa.array(waves, kind)}), waves_file)
    pq.write_table(pa.table({"id": ["f", "noise"], "clip": [wav(40), b"no sound"]}), files_file)
    with pipeline() as p:
        reads = [ReadDocuments(waves_file, audio="wave"), ReadDocuments(files_file, audio="clip")]
        read = [p | reading for reading in (*reads, ReadDocuments(f"{tmp_path}/*.wav"))]
        embedded = read | beam.Flatten() | beam.Reshuffle() | Embed(WITH_SOUNDS)
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    vectors = {document.id: document.embedding.tolist() for document in kept(tmp_path / "rows")}
    expected = {"w": vector_of_wav(50), "f": vector_of_wav(40), str(tmp_path / "s.wav"): vector_of_wav(30, 2)}
    assert vectors == {name: vector.tolist() for name, vector in expected.items()}
    failed = {one.row.id: [str(failure.code) for failure in one.failures] for one in kept(tmp_path / "failures")}
    assert failed == {"rateless": ["malformed"], "null": ["empty"], "noise": ["undecodable"]}


def test_broken_lines_become_failures_of_embed_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "text": "one"}\nnot json\n[1]\n{"id": "d", "text": 5}\n{"id": "e", "text": "five"}\n')
    with pipeline() as p:
        embedded = p | ReadDocuments(path) | Embed("fake::dim=8")
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    vectors = {document.id: document.embedding.tolist() for document in kept(tmp_path / "rows")}
    assert vectors == {"a": fake_text_vector("one").tolist(), "e": fake_text_vector("five").tolist()}
    failed = {one.row.id: [failure.code for failure in one.failures] for one in kept(tmp_path / "failures")}
    assert failed == {f"{path}:2": ["malformed"], f"{path}:3": ["malformed"], "d": ["malformed"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [("*.jpg", r"\*\.jpg' matches no file"), ("nowhere.jpg", r"nowhere\.jpg': no such file or folder")],
)
def test_an_input_without_files_ends_the_job(tmp_path, name, message):
    p = pipeline()
    _ = p | ReadDocuments(f"{tmp_path}/{name}")
    with pytest.raises(Exception, match=message):
        p.run().wait_until_finish()


def test_unless_that_is_allowed(tmp_path):
    assert read(tmp_path / "kept", f"{tmp_path}/*.jpg", allow_empty=True) == {}


def test_relative_patterns_are_made_absolute(tmp_path, photographs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(read(tmp_path / "kept", "photos/*.png")) == {photographs[1][0]}


def test_documents_are_spread_over_workers_behind_reading():
    p = pipeline()
    _ = p | ReadDocuments("/photos/**.jpg")
    names = [t.unique_name for t in p.to_runner_api().components.transforms.values()]
    (spread,) = (name for name in names if name.endswith("/SpreadDocuments"))
    assert spread.startswith("ReadDocuments(")


def test_two_in_one_pipeline_do_not_clash(tmp_path, photographs):
    with pipeline() as p:
        both = [p | ReadDocuments(photographs[1][0]), p | ReadDocuments(photographs[1][1])]
        _ = both | beam.Flatten() | Keep(tmp_path / "kept")
    assert {document.id for document in kept(tmp_path / "kept")} == set(photographs[1][:2])


@pytest.mark.parametrize("nothing", ["", [], [""]], ids=repr)
def test_nothing_named_is_refused(nothing):
    with pytest.raises(SpecError, match="names nothing; give a path, a URL or a glob"):
        ReadDocuments(nothing)


def test_a_name_that_only_looks_like_a_url_is_refused():
    with pytest.raises(DatasetError, match=r"write gs://bucket/1\.jpg, or \./gs:bucket/1\.jpg"):
        ReadDocuments("gs:bucket/1.jpg")

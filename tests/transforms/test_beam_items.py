"""`Embed` on the items of `apache_beam.ml.rag`."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.rag import types
from apache_beam.ml.rag.types import Chunk, Content, EmbeddableItem, Embedding
from apache_beam.ml.transforms.base import MLTransform
from beam_helpers import Keep, kept, pipeline
from pictures import encode, photographs

from clipmill.datasets import read_dataset
from clipmill.encoders import unload_all
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.failures import Code
from clipmill.transforms import Classify, Document, Embed, WriteEmbeddings
from clipmill.transforms.embeddable import document_of, is_item


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def embed(directory, items, *, untyped: bool = False, model: str = "fake::dim=4", **options):
    """Run `Embed` on items; return rows and failures by id, and the pair."""
    with pipeline() as p:
        made = p | beam.Create(items)
        if untyped:
            made = made | beam.Map(lambda item: item).with_output_types(beam.typehints.Any)
        embedded = made | Embed(model, **options)
        _ = embedded.rows | "ShuffleRows" >> beam.Reshuffle() | "KeepRows" >> Keep(directory / "rows")
        _ = embedded.failures | "ShuffleFailures" >> beam.Reshuffle() | "KeepFailures" >> Keep(directory / "failures")
    rows = {item.id: item for item in kept(directory / "rows")}
    return rows, {failed.row.id: failed for failed in kept(directory / "failures")}, embedded


def test_items_come_out_with_the_vectors_of_documents(tmp_path):
    jpeg = encode(photographs()["chelsea"], "JPEG")
    items = [
        EmbeddableItem.from_text("a cat", id="t", metadata={"page": 3}, index=2),
        EmbeddableItem.from_image(jpeg, id="i"),
    ]
    before = copy.deepcopy(items)
    rows, failures, embedded = embed(tmp_path / "items", items, model="demo")
    assert failures == {} and items == before
    assert embedded.rows.element_type is EmbeddableItem
    documents = [Document(id="t", text="a cat"), Document(id="i", blob=jpeg)]
    expected, _, _ = embed(tmp_path / "documents", documents, model="demo")
    for name, item in rows.items():
        assert isinstance(item, EmbeddableItem)
        np.testing.assert_allclose(item.dense_embedding, expected[name].embedding, rtol=0, atol=1e-5)
    assert (rows["t"].metadata, rows["t"].index, rows["t"].content.text) == ({"page": 3}, 2, "a cat")
    assert rows["i"].content.image == jpeg  # writers may need it


def test_bad_items_are_failures_as_they_were(tmp_path):
    items = [Chunk(Content(), id="none"), Chunk(Content(text=" "), id="empty"), Chunk(Content(text="one"), id="good")]
    items.append(EmbeddableItem.from_image("/etc/hostname", id="local"))
    items.append(EmbeddableItem.from_image(b"no image", id="bytes"))
    rows, failures, _ = embed(tmp_path, items)
    assert list(rows) == ["good"] and rows["good"].dense_embedding == fake_text_vector("one", 4).tolist()
    codes = {name: failed.failures[0].code for name, failed in failures.items()}
    assert codes == {
        "none": Code.EMPTY,
        "empty": Code.EMPTY,
        "local": Code.FORBIDDEN_URI,
        "bytes": Code.UNDECODABLE,
    }
    for item in items:
        if item.id in failures:
            assert failures[item.id].row == item and failures[item.id].failures[0].row == item.id


def test_a_list_that_says_no_type_may_hold_items_and_documents(tmp_path):
    """Beam's chunkers don't declare what they give; documents and items come out as what they are."""
    mixed = [Chunk(Content(text="one"), id="a"), Document(id="b", text="one")]
    rows, _, embedded = embed(tmp_path, mixed, untyped=True)
    assert embedded.rows.element_type is beam.typehints.Any
    assert is_item(rows["a"]) and isinstance(rows["b"], Document)
    assert rows["a"].dense_embedding == rows["b"].embedding.tolist() == fake_text_vector("one", 4).tolist()


def test_a_sparse_embedding_stays(tmp_path):
    sparse = Chunk(Content(text="one"), id="a", embedding=Embedding(sparse_embedding=([1], [0.5])))
    rows, _, _ = embed(tmp_path, [sparse])
    assert rows["a"].sparse_embedding == ([1], [0.5]) and rows["a"].dense_embedding is not None


def test_an_item_has_no_matches(tmp_path):
    rows, failures, _ = embed(tmp_path, [Chunk(Content(text="one"), id="a")], access_paths="@m")
    assert rows == {} and failures["a"].failures[0].code is Code.UNSUPPORTED
    assert "@r" in failures["a"].failures[0].message


def test_only_embed_takes_items(tmp_path):
    with pipeline() as p:
        labels = p | beam.Create([Chunk(Content(text="one"), id="a")]) | Classify(["a", "b"], model="fake::dim=4")
        _ = labels.failures | Keep(tmp_path)
    (failed,) = kept(tmp_path)
    assert failed.failures[0].code is Code.UNSUPPORTED


def test_items_are_written_as_documents(tmp_path):
    items = [Chunk(Content(text="one"), id="a", metadata={"page": 3}), Chunk(Content(text=""), id="b")]
    with pipeline() as p:
        _ = p | beam.Create(items) | Embed("fake::dim=4") | WriteEmbeddings(tmp_path / "vectors")
    table = read_dataset(str(tmp_path / "vectors"))
    assert table["id"].to_pylist() == ["a"] and table["tags"].to_pylist() == ['{"page": 3}']
    assert table["embedding"].to_pylist() == [fake_text_vector("one", 4).tolist()]
    failures = list((tmp_path / "vectors" / "_failures").glob("*.jsonl"))
    assert len(failures) == 1 and '"row": "b"' in failures[0].read_text().replace('":"', '": "')


def test_what_older_versions_of_beam_have(monkeypatch):
    """Up to 2.7x there is only `Chunk`, and its content is a text."""
    monkeypatch.delattr(types, "EmbeddableItem")
    chunk = Chunk(id="a", content=SimpleNamespace(text="one"))
    assert is_item(chunk)
    document = document_of(chunk)
    assert (document.id, document.text, document.blob, document.uri) == ("a", "one", None, None)
    monkeypatch.delitem(__import__("sys").modules, "apache_beam.ml.rag.types")
    assert not is_item(chunk)


def test_a_chunker_of_beam_before_embed(tmp_path):
    """Chunks go on from an `MLTransform`, whose output type is not known."""
    from apache_beam.ml.rag.chunking.base import ChunkingTransformProvider

    class Words(ChunkingTransformProvider):
        def get_splitter_transform(self):
            return beam.FlatMap(lambda row: [Chunk(Content(text=word)) for word in row["text"].split()])

    with pipeline() as p:
        chunker = Words(chunk_id_fn=lambda chunk: chunk.content.text)
        chunked = MLTransform(write_artifact_location=str(tmp_path / "artifacts")).with_transform(chunker)
        rows = p | beam.Create([{"text": "one two"}]) | chunked | Embed("fake::dim=4")
        _ = rows.rows | Keep(tmp_path / "rows")
    found = {item.id: item.dense_embedding for item in kept(tmp_path / "rows")}
    assert found == {word: fake_text_vector(word, 4).tolist() for word in ("one", "two")}


def test_access_paths_are_checked_as_for_documents():
    with pytest.raises(SpecError):
        Embed("fake::dim=4", access_paths="m")


def test_items_with_content_of_wrong_types_fail_alone(tmp_path):
    wrong = [Content(text=5), Content(text=b"a"), None, "a"]
    items = [Chunk(content, id=str(number)) for number, content in enumerate(wrong)]
    items += [Chunk(Content(text="one"), id="tags", metadata=5), Chunk(Content(text="one"), id="good")]
    rows, failures, _ = embed(tmp_path, copy.deepcopy(items))
    assert set(rows) == {"good"} and set(failures) == {"0", "1", "2", "3", "tags"}
    for item in items[:-1]:
        (failure,) = failures[item.id].failures
        assert failure.row == item.id and failure.code == (Code.EMPTY if item.content is None else Code.MALFORMED)
        assert failures[item.id].row == item

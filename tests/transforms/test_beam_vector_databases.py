"""Beam's writers of vector databases after `Embed`: Qdrant's local mode, Milvus Lite, PostgreSQL with pgvector."""

from __future__ import annotations

import json

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.rag.ingestion import milvus_search, postgres
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteTransform
from apache_beam.ml.rag.ingestion.jdbc_common import ConnectionConfig
from apache_beam.ml.rag.ingestion.postgres_common import ColumnSpecsBuilder
from apache_beam.ml.rag.ingestion.qdrant import QdrantConnectionParameters, QdrantWriteConfig
from apache_beam.ml.rag.types import Chunk, Content
from apache_beam.ml.rag.utils import MilvusConnectionParameters
from beam_helpers import Keep, kept, pipeline
from pg8000.native import Connection
from postgres_server import running
from pymilvus import MilvusClient
from qdrant_client import QdrantClient, models

from clipmill import load_encoder
from clipmill.encoders import unload_all
from clipmill.failures import Code
from clipmill.transforms import Document, Embed

TEXTS = {"1": "a red circle", "2": "a blue star", "3": "a green square"}


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


def items():
    bad = Chunk(Content(text=""), id="4", metadata={"page": 4})
    return [*(Chunk(Content(text=text), id=key, metadata={"page": int(key)}) for key, text in TEXTS.items()), bad]


def write(directory, config) -> None:
    """Embed the items and write them with one of Beam's writers; the bad one goes to the failures, with its reason."""
    with pipeline() as p:
        embedded = p | beam.Create(items()) | Embed("demo", normalize=True)
        _ = embedded.rows | VectorDatabaseWriteTransform(config)
        _ = embedded.failures | Keep(directory / "failures")
    (failed,) = kept(directory / "failures")
    assert (failed.row.id, failed.failures[0].code) == ("4", Code.EMPTY)


def expected(directory) -> dict[str, np.ndarray]:
    documents = [Document(id=key, text=text) for key, text in TEXTS.items()]
    with pipeline() as p:
        _ = (p | beam.Create(documents) | Embed("demo", normalize=True)).rows | Keep(directory / "embed")
    return {document.id: document.embedding for document in kept(directory / "embed")}


def query() -> list[float]:
    return load_encoder("demo", normalize=True).embed_texts(["a blue star"])[0].tolist()


def test_qdrant(tmp_path):
    folder = str(tmp_path / "qdrant")
    client = QdrantClient(path=folder)
    size = load_encoder("demo").dim
    vectors = {"dense": models.VectorParams(size=size, distance=models.Distance.DOT)}
    client.create_collection("captions", vectors_config=vectors)
    client.close()
    write(tmp_path, QdrantWriteConfig(QdrantConnectionParameters.local(folder), "captions"))
    client = QdrantClient(path=folder)
    points, _ = client.scroll("captions", with_vectors=True)
    nearest = client.query_points("captions", query(), using="dense").points[0]
    client.close()
    assert nearest.id == 2
    assert {str(point.id): point.payload for point in points} == {key: {"page": int(key)} for key in TEXTS}
    for key, vector in expected(tmp_path).items():
        (point,) = [point for point in points if str(point.id) == key]
        np.testing.assert_allclose(point.vector["dense"], vector, rtol=0, atol=1e-5)


def test_milvus(tmp_path):
    uri = str(tmp_path / "milvus.db")
    client = MilvusClient(uri)
    options = {"id_type": "string", "max_length": 64, "vector_field_name": "embedding", "metric_type": "IP"}
    client.create_collection("captions", dimension=load_encoder("demo").dim, **options)
    client.close()
    columns = ColumnSpecsBuilder().with_id_spec().with_embedding_spec(convert_fn=list).with_content_spec()
    config = milvus_search.MilvusVectorWriterConfig(
        MilvusConnectionParameters(uri=uri),
        milvus_search.MilvusWriteConfig("captions"),
        column_specs=columns.with_metadata_spec(convert_fn=dict).build(),
    )
    write(tmp_path, config)
    client = MilvusClient(uri)
    rows = {row["id"]: row for row in client.query("captions", filter="id != ''", output_fields=["*"])}
    ((nearest,),) = client.search("captions", [query()], limit=1)
    client.close()
    assert nearest["id"] == "2"
    found = {key: (row["content"], row["metadata"]) for key, row in rows.items()}
    assert found == {key: (text, {"page": int(key)}) for key, text in TEXTS.items()}
    for key, vector in expected(tmp_path).items():
        np.testing.assert_allclose(rows[key]["embedding"], vector, rtol=0, atol=1e-5)


class _Insert(beam.DoFn):
    """Executes a JDBC statement for each record, with its values in the order of the fields."""

    def __init__(self, port: int, user: str, statement: str) -> None:
        self._port, self._user = port, user
        self._parts = statement.split("?")

    def process(self, record):
        names = [f"value{number}" for number in range(len(record))]
        statement = "".join(f"{part}:{name}" for part, name in zip(self._parts, names, strict=False)) + self._parts[-1]
        connection = Connection(self._user, host="127.0.0.1", port=self._port, database="postgres")
        try:
            connection.run(statement, **dict(zip(names, record, strict=True)))
        finally:
            connection.close()


class _NoJava(beam.PTransform):
    """In place of `WriteToJdbc`, whose Java half is a download: the same statement, by a driver in Python."""

    def __init__(self, table_name, driver_class_name, jdbc_url, username, password, statement, **_):
        super().__init__()
        port = int(jdbc_url.partition("127.0.0.1:")[2].partition("/")[0])
        self._fn = _Insert(port, username, statement)

    def expand(self, pcoll):
        return pcoll | beam.Reshuffle() | beam.ParDo(self._fn)


def test_postgres_with_pgvector(server, tmp_path, monkeypatch):
    """Beam's configuration, records and statements against a real server; only its Java driver is stood in for."""
    monkeypatch.setattr(postgres, "WriteToJdbc", _NoJava)
    connection = server.connect()
    connection.run("CREATE EXTENSION IF NOT EXISTS vector")
    connection.run(
        f"CREATE TABLE captions (id TEXT PRIMARY KEY, embedding vector({load_encoder('demo').dim}),"
        " content TEXT, metadata JSONB)"
    )
    url = f"jdbc:postgresql://127.0.0.1:{server.port}/{server.database}"
    config = postgres.PostgresVectorWriterConfig(ConnectionConfig(url, server.user, ""), "captions")
    write(tmp_path / "1", config)
    write(tmp_path / "2", config)  # the ids are there already, and stay
    rows = connection.run("SELECT id, embedding::text, content, metadata FROM captions ORDER BY id")
    assert [(key, content, metadata["page"]) for key, _, content, metadata in rows] == [
        (key, text, int(key)) for key, text in TEXTS.items()
    ]
    vectors = expected(tmp_path)
    for key, text, *_ in rows:
        np.testing.assert_allclose(json.loads(text), vectors[key], rtol=0, atol=1e-5)
    order = "SELECT id FROM captions ORDER BY embedding <=> CAST(:query AS vector) LIMIT 1"
    assert connection.run(order, query=json.dumps(query())) == [["2"]]
    connection.close()

"""Embed the chunks of Beam's `rag` package, and write them with Beam's own writer of a vector database.

Qdrant's local mode stands in for a server here: pip install qdrant-client. Other writers of
`apache_beam.ml.rag.ingestion` take the same items.

python examples/beam_vector_database.py --runner=FnApiRunner
"""

from __future__ import annotations

import tempfile

import apache_beam as beam
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteTransform
from apache_beam.ml.rag.ingestion.qdrant import QdrantConnectionParameters, QdrantWriteConfig
from apache_beam.ml.rag.types import EmbeddableItem
from apache_beam.options.pipeline_options import PipelineOptions
from qdrant_client import QdrantClient, models

from clipmill import EncoderSpec, load_encoder
from clipmill.transforms import Embed

MODEL = EncoderSpec("demo")


def main(folder: str) -> None:
    client = QdrantClient(path=folder)
    vectors = {"dense": models.VectorParams(size=MODEL.dim, distance=models.Distance.COSINE)}
    client.create_collection("captions", vectors_config=vectors)
    client.close()

    captions = {"1": "a red circle", "2": "a blue star", "3": ""}
    items = [EmbeddableItem.from_text(text, id=key, metadata={"text": text}) for key, text in captions.items()]
    config = QdrantWriteConfig(QdrantConnectionParameters.local(folder), "captions")
    with beam.Pipeline(options=PipelineOptions()) as p:
        embedded = p | beam.Create(items) | Embed(MODEL)
        _ = embedded.rows | VectorDatabaseWriteTransform(config)
        _ = embedded.failures | beam.Map(lambda failed: print("failed", failed.row.id, *map(str, failed.failures)))

    client = QdrantClient(path=folder)
    query = load_encoder(MODEL).embed_texts(["a blue star"])[0].tolist()
    for point in client.query_points("captions", query, using="dense", with_payload=True).points:
        print("found", point.id, point.payload["text"], round(point.score, 3))
    client.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)

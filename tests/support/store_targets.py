"""A vector database of each kind for tests: its URL, and what a collection of it holds, read by its own client."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import numpy as np
from postgres_server import Server
from pymilvus import MilvusClient
from qdrant_client import QdrantClient

Held = dict[object, tuple[np.ndarray, dict[str, object]]]
"""Vector and other columns of each row, by id."""


class Postgres:
    def __init__(self, server: Server, database: str) -> None:
        self._server = server._replace(database=database)
        connection = server.connect()
        connection.run(f"CREATE DATABASE {database}")
        connection.close()
        self.url = f"postgresql://{server.user}@127.0.0.1:{server.port}/{database}"

    def run(self, statement: str) -> list[list]:
        connection = self._server.connect()
        try:
            return connection.run(statement)
        finally:
            connection.close()

    def held(self, name: str) -> Held:
        rows = self.run(f'SELECT id, embedding::text, metadata FROM "{name}"')
        return {key: (np.array(json.loads(text), np.float32), metadata) for key, text, metadata in rows}

    def make_foreign(self, name: str) -> None:
        self.run(f"CREATE TABLE {name} (id text)")

    def drop(self, name: str) -> None:
        self.run(f"DROP TABLE {name}")


class Qdrant:
    def __init__(self, folder: Path) -> None:
        self._folder = str(folder / "qdrant")
        self.url = f"qdrant://{self._folder}"

    def held(self, name: str) -> Held:
        client = QdrantClient(path=self._folder)
        points, _ = client.scroll(name, limit=10_000, with_vectors=True)
        client.close()
        found = {}
        for point in points:
            key = point.payload.pop("id")
            found[key] = (np.array(point.vector, np.float32), point.payload)
        assert len(found) == len(points)
        return found

    def make_foreign(self, name: str) -> None:
        client = QdrantClient(path=self._folder)
        client.create_collection(name, vectors_config={})
        client.close()

    def drop(self, name: str) -> None:
        client = QdrantClient(path=self._folder)
        client.delete_collection(name)
        client.close()


class Milvus:
    def __init__(self, folder: Path) -> None:
        self._file = str(folder / "milvus.db")
        self.url = f"milvus://{self._file}"

    def held(self, name: str) -> Held:
        client = MilvusClient(self._file)
        client.load_collection(name)  # released when the process that wrote it has ended
        rows = client.query(name, filter="metadata['number'] >= 0", output_fields=["*"], limit=10_000)
        client.close()
        return {row["id"]: (np.array(row["embedding"], np.float32), row["metadata"]) for row in rows}

    def make_foreign(self, name: str) -> None:
        client = MilvusClient(self._file)
        client.create_collection(name, dimension=4)
        client.close()

    def drop(self, name: str) -> None:
        client = MilvusClient(self._file)
        client.drop_collection(name)
        client.close()

    def release(self, *names: str) -> None:
        client = MilvusClient(self._file)
        for name in names:
            client.release_collection(name)
        client.close()


class LanceDb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "lancedb"
        self.url = f"lancedb://{self.folder}"

    def held(self, name: str) -> Held:
        rows = lance.dataset(str(self.folder / f"{name}.lance")).to_table().to_pylist()
        return {row.pop("id"): (np.array(row.pop("embedding"), np.float32), row) for row in rows}

    def make_foreign(self, name: str) -> None:
        import pyarrow as pa

        lance.write_dataset(pa.table({"id": ["a"]}), str(self.folder / f"{name}.lance"))

    def drop(self, name: str) -> None:
        import shutil

        shutil.rmtree(self.folder / f"{name}.lance")

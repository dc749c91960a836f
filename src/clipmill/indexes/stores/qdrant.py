"""Qdrant: a collection of points, whose payload has the columns of a row, its id among them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from ...errors import SpecError, require
from ...files.json_text import parse_json
from ...messages import setting
from .collection import KEY, PARTS_SUFFIX, Description, Metric, NewCollection, Rows
from .target import Target

_DISTANCES = {"cosine": "COSINE", "dot": "DOT", "l2": "EUCLID"}
_TIMEOUT_S = 60
_IDS = uuid.UUID("6f1c2c0e-3c0f-5f0a-9b1e-5d8f3a0c7e21")
"""Namespace of the UUIDs that stand for ids of other kinds; never to be changed, or rows would be written twice."""


def connect(target: Target) -> QdrantStore:
    """Open a server (`qdrant://host`, `qdrant+https://host`), or a local folder (`qdrant:///folder`).

    The API key of a server may be in `QDRANT_API_KEY`.
    """
    client = require("qdrant_client", "qdrant", "writing into Qdrant", package="qdrant-client")
    target.check_options()
    if target.host is None:
        with target.errors("open the folder"):
            return QdrantStore(target, None, client.QdrantClient(path=target.path))
    if target.path.strip("/"):
        raise SpecError(
            setting("to") + f" has the path {target.path!r} after the host; name the collection otherwise",
            hint="with " + setting("collection", ...) + ", or write qdrant:///folder for a local folder",
        )
    key = target.secret("QDRANT_API_KEY")
    url = f"{target.over or 'http'}://{target.host}:{target.port or 6333}"
    with target.errors("connect", key):
        return QdrantStore(target, key, client.QdrantClient(url=url, api_key=key, timeout=_TIMEOUT_S))


class QdrantStore:
    """See `Store`. A collection beside the other remembers the parts, as points without vectors."""

    batch_rows = 500
    metrics: tuple[Metric, ...] = ("cosine", "dot", "l2")

    def __init__(self, target: Target, key: str | None, client: Any) -> None:
        self._target, self._key, self._client = target, key, client
        self._name = self._id_column = ""

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with self._target.errors("look for the collection", self._key):
            return bool(self._client.collection_exists(name))

    def describe(self, name: str) -> Description | None:
        """See `Store`. The description is in the metadata of the collection."""
        with self._target.errors("read the collection's metadata", self._key):
            metadata = self._client.get_collection(name).config.metadata or {}
        return Description.of_json(metadata.get(KEY))

    def create(self, new: NewCollection) -> None:
        """See `Store`."""
        from qdrant_client import models

        distance = models.Distance[_DISTANCES[new.description.metric or "cosine"]]
        with self._target.errors("create the collection", self._key):
            self._client.delete_collection(new.name + PARTS_SUFFIX)
            self._client.create_collection(
                new.name,
                vectors_config=models.VectorParams(size=new.description.dim, distance=distance),
                metadata={KEY: new.description.as_json()},
            )

    def open(self, new: NewCollection) -> None:
        """See `Store`."""
        self._name, self._id_column = new.name, new.id_column
        with self._target.errors("create a collection", self._key):
            if not self._client.collection_exists(new.name + PARTS_SUFFIX):
                self._client.create_collection(new.name + PARTS_SUFFIX, vectors_config={})

    def pushed(self, parts: Sequence[str]) -> Collection[str]:
        """See `Store`."""
        with self._target.errors("read what was pushed", self._key):
            found = self._client.retrieve(self._name + PARTS_SUFFIX, list(parts), with_payload=False)
        return {str(point.id) for point in found}

    def upsert(self, rows: Rows, parts: Sequence[str]) -> None:
        """See `Store`."""
        from qdrant_client import models

        with self._target.errors("write rows", self._key):
            if ids := rows.ids.to_pylist():
                payloads = [
                    {self._id_column: key, **parse_json(text)} for key, text in zip(ids, rows.payloads(), strict=True)
                ]
                points = models.Batch(ids=list(map(point_id, ids)), vectors=rows.vectors.tolist(), payloads=payloads)
                self._client.upsert(self._name, points, wait=True)
            if parts:
                marks = [models.PointStruct(id=part, vector={}, payload={}) for part in parts]
                self._client.upsert(self._name + PARTS_SUFFIX, marks, wait=True)

    def close(self) -> None:
        """See `Store`."""
        self._client.close()


def point_id(key: str | int) -> str | int:
    """Return the id of a row's point, which Qdrant wants to be a UUID or an integer that is not negative.

    Such ids stay as they are. Others become a UUID that is always the same, and the payload has them as they were.
    """
    if isinstance(key, int):
        return key if key >= 0 else str(uuid.uuid5(_IDS, str(key)))
    try:
        if str(uuid.UUID(key)) == key:
            return key
    except ValueError:
        pass
    return str(uuid.uuid5(_IDS, key))

"""Milvus and Milvus Lite: a collection with the fields id, embedding and metadata (JSON)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from ...errors import require
from ...files.json_text import parse_json
from .collection import EMBEDDING, ID, KEY, METADATA, PARTS_SUFFIX, Description, Metric, NewCollection, Rows
from .target import Target

_METRICS = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}
_MAX_ID_BYTES = 65_535
_MAX_PART_BYTES = 36
_DATABASE = "default"


def connect(target: Target) -> MilvusStore:
    """Open a server (`milvus://host/database`, `milvus+https://host`), or Milvus Lite's file (`milvus:///file.db`).

    The token of a server (`user:password` or an API key) may be in `MILVUS_TOKEN`.
    """
    client = require("pymilvus", "milvus", "writing into Milvus")
    target.check_options()
    if target.host is None:
        require("milvus_lite", "milvus", "writing into a file of Milvus Lite", package="milvus-lite")
        logging.getLogger("grpc._server").addFilter(_is_news)
        with target.errors("open the file"):
            return MilvusStore(target, None, client.MilvusClient(target.path))
    token = target.secret("MILVUS_TOKEN")
    if target.user and target.password:
        token = f"{target.user}:{target.password}"
    uri = f"{target.over or 'http'}://{target.host}:{target.port or 19530}"
    with target.errors("connect", token):
        database = target.path.strip("/") or _DATABASE
        return MilvusStore(target, token, client.MilvusClient(uri, token=token or "", db_name=database))


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for what Milvus Lite's server logs, as a traceback, about each call that it need not answer."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


class MilvusStore:
    """See `Store`. A collection beside the other remembers the parts."""

    batch_rows = 1000
    metrics: tuple[Metric, ...] = ("cosine", "dot", "l2")

    def __init__(self, target: Target, token: str | None, client: Any) -> None:
        self._target, self._token, self._client = target, token, client
        self._name = ""

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with self._target.errors("look for the collection", self._token):
            return bool(self._client.has_collection(name))

    def describe(self, name: str) -> Description | None:
        """See `Store`. The description is a property of the collection."""
        with self._target.errors("read the collection's properties", self._token):
            found = self._client.describe_collection(name)
        return Description.of_json((found.get("properties") or {}).get(KEY))

    def create(self, new: NewCollection) -> None:
        """See `Store`."""
        from pymilvus import DataType

        with self._target.errors("create the collection", self._token):
            if self._client.has_collection(new.name + PARTS_SUFFIX):
                self._client.drop_collection(new.name + PARTS_SUFFIX)
            schema = self._client.create_schema(auto_id=False)
            if new.description.ids == "integer":
                schema.add_field(ID, DataType.INT64, is_primary=True)
            else:
                schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=_MAX_ID_BYTES)
            schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=new.description.dim)
            schema.add_field(METADATA, DataType.JSON)
            self._make(new.name, schema, _METRICS[new.description.metric or "cosine"], new.description.as_json())

    def open(self, new: NewCollection) -> None:
        """See `Store`."""
        from pymilvus import DataType

        self._name = new.name
        with self._target.errors("open the collection", self._token):
            if not self._client.has_collection(new.name + PARTS_SUFFIX):
                schema = self._client.create_schema(auto_id=False)
                schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=_MAX_PART_BYTES)
                schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=2)  # a collection has to have one
                self._make(new.name + PARTS_SUFFIX, schema, "L2", "{}")
            for name in (new.name, new.name + PARTS_SUFFIX):  # Milvus Lite releases them when its process ends
                self._client.load_collection(name)

    def _make(self, name: str, schema: Any, metric: str, description: str) -> None:
        index = self._client.prepare_index_params()
        index.add_index(EMBEDDING, index_type="AUTOINDEX", metric_type=metric)
        self._client.create_collection(
            name, schema=schema, index_params=index, properties={KEY: description}, consistency_level="Strong"
        )

    def pushed(self, parts: Sequence[str]) -> Collection[str]:
        """See `Store`."""
        with self._target.errors("read what was pushed", self._token):
            found = self._client.query(self._name + PARTS_SUFFIX, ids=list(parts), output_fields=[ID])
        return {row[ID] for row in found}

    def upsert(self, rows: Rows, parts: Sequence[str]) -> None:
        """See `Store`."""
        with self._target.errors("write rows", self._token):
            if ids := rows.ids.to_pylist():
                columns = zip(ids, rows.vectors, map(parse_json, rows.payloads()), strict=True)
                self._client.upsert(
                    self._name, [dict(zip((ID, EMBEDDING, METADATA), row, strict=True)) for row in columns]
                )
            if parts:
                marks = [{ID: part, EMBEDDING: [0.0, 0.0]} for part in parts]
                self._client.upsert(self._name + PARTS_SUFFIX, marks)

    def close(self) -> None:
        """See `Store`."""
        self._client.close()

"""PostgreSQL with pgvector: a table with the columns id, embedding and metadata (JSON)."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import re
import ssl
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ...errors import DatasetError, SpecError, require
from ...messages import setting
from .collection import EMBEDDING, ID, METADATA, Description, Metric, NewCollection, Rows
from .target import Target

_PARTS = "clipmill_pushed_parts"
_BATCH = "clipmill_batch"
_SSL_MODES = {"prefer": None, "disable": False, "require": True, "verify-full": None}
"""Those of libpq, and what pg8000 calls them."""
_JSONB_VERSION = b"\1"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""An escape in JSON, and no text that looks like one."""


def connect(target: Target) -> PostgresStore:
    """Connect to a database. The password may be in `PGPASSWORD`, the user in `PGUSER`."""
    native = require("pg8000.native", "postgres", "writing into PostgreSQL", package="pg8000")
    target.check_options("sslmode")
    if target.host is None:
        raise SpecError(setting("to") + " names no host; write postgresql://user@host/database")
    mode = target.options.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise SpecError(setting("to") + f" has sslmode={mode!r}; it must be one of {', '.join(_SSL_MODES)}")
    user = target.user or os.environ.get("PGUSER") or getpass.getuser()
    password = target.secret("PGPASSWORD")
    with target.errors("connect", password):
        connection = native.Connection(
            user,
            host=target.host,
            port=target.port or 5432,
            database=target.path.strip("/") or user,
            password=password,
            ssl_context=ssl.create_default_context() if mode == "verify-full" else _SSL_MODES[mode],
            application_name="clipmill",
        )
    return PostgresStore(target, password, connection)


class PostgresStore:
    """See `Store`. Rows and the memory of their parts are written in one transaction."""

    batch_rows = 1000
    metrics: tuple[Metric, ...] = ()

    def __init__(self, target: Target, password: str | None, connection: Any) -> None:
        import pg8000.native

        self._target, self._password, self._connection = target, password, connection
        self._quoted, self._literal = pg8000.native.identifier, pg8000.native.literal
        self._name = ""

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with self._errors("look for the table"):
            found = self._connection.run("SELECT to_regclass(:name) IS NOT NULL", name=self._quoted(name))
            return bool(found[0][0])

    def describe(self, name: str) -> Description | None:
        """See `Store`. The description is the comment on the table."""
        with self._errors("read the table's comment"):
            found = self._connection.run(
                "SELECT obj_description(to_regclass(:name), 'pg_class')", name=self._quoted(name)
            )
            return Description.of_json(found[0][0])

    def create(self, new: NewCollection) -> None:
        """See `Store`."""
        kind = "bigint" if new.description.ids == "integer" else "text"
        table, run = self._quoted(new.name), self._connection.run
        with self._errors("create the table"), self._transaction():
            if not run("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
                run("CREATE EXTENSION vector")
            run(
                f"CREATE TABLE {table} ({ID} {kind} PRIMARY KEY, {EMBEDDING} vector({new.description.dim}) NOT NULL, "
                f"{METADATA} jsonb NOT NULL)"
            )
            run(f"COMMENT ON TABLE {table} IS {self._literal(new.description.as_json())}")
            self._make_parts()
            run(f"DELETE FROM {_PARTS} WHERE collection = :name", name=new.name)

    def open(self, new: NewCollection) -> None:
        """See `Store`."""
        self._name = new.name
        kind = "bigint" if new.description.ids == "integer" else "text"
        with self._errors("make a temporary table"):
            self._make_parts()
            self._connection.run(
                f"CREATE TEMPORARY TABLE {_BATCH} ({ID} {kind}, {EMBEDDING} vector({new.description.dim}), "
                f"{METADATA} jsonb) ON COMMIT DELETE ROWS"
            )

    def _make_parts(self) -> None:
        self._connection.run(
            f"CREATE TABLE IF NOT EXISTS {_PARTS} (collection text, part uuid, pushed_at timestamptz NOT NULL "
            "DEFAULT now(), PRIMARY KEY (collection, part))"
        )

    def pushed(self, parts: Sequence[str]) -> Collection[str]:
        """See `Store`."""
        with self._errors("read what was pushed"):
            found = self._connection.run(
                f"SELECT part FROM {_PARTS} WHERE collection = :name AND part = ANY(CAST(:parts AS uuid[]))",
                name=self._name,
                parts=list(parts),
            )
        return {str(part) for (part,) in found}

    def upsert(self, rows: Rows, parts: Sequence[str]) -> None:
        """See `Store`."""
        with self._errors("write rows"), self._transaction():
            if len(rows.ids):
                self._connection.run(f"COPY {_BATCH} FROM STDIN WITH (FORMAT binary)", stream=io.BytesIO(_copied(rows)))
                self._connection.run(
                    f"INSERT INTO {self._quoted(self._name)} ({ID}, {EMBEDDING}, {METADATA}) "
                    f"SELECT {ID}, {EMBEDDING}, {METADATA} FROM {_BATCH} ON CONFLICT ({ID}) DO UPDATE "
                    f"SET {EMBEDDING} = excluded.{EMBEDDING}, {METADATA} = excluded.{METADATA}"
                )
            if parts:
                self._connection.run(
                    f"INSERT INTO {_PARTS} (collection, part) SELECT :name, unnest(CAST(:parts AS uuid[])) "
                    "ON CONFLICT DO NOTHING",
                    name=self._name,
                    parts=list(parts),
                )

    def close(self) -> None:
        """See `Store`."""
        self._connection.close()

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return self._target.errors(doing, self._password)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.run("START TRANSACTION")
        try:
            yield
            self._connection.run("COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):  # where the connection is gone, the server ends the transaction
                self._connection.run("ROLLBACK")
            raise


def _copied(rows: Rows) -> bytes:
    """Return rows in the binary format of COPY, which takes the values of vectors as they are."""
    found = [b"PGCOPY\n\xff\r\n\0", struct.pack(">ii", 0, 0)]
    vectors = rows.vectors.astype(">f4")
    head = struct.pack(">hh", vectors.shape[1], 0)
    for key, vector, payload in zip(rows.ids.to_pylist(), vectors, rows.payloads(), strict=True):
        if "\0" in str(key) or _NUL.search(payload):
            raise DatasetError(
                f"the row {key!r} has a text with a NUL character, which PostgreSQL cannot hold",
                hint="leave the column out with " + setting("drop", ...),
            )
        name = struct.pack(">q", key) if isinstance(key, int) else key.encode()
        fields = (name, head + vector.tobytes(), _JSONB_VERSION + payload.encode())
        found.append(struct.pack(">h", len(fields)))
        found += [part for field in fields for part in (struct.pack(">i", len(field)), field)]
    return b"".join([*found, struct.pack(">h", -1)])

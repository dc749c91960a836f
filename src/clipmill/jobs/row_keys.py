"""Match keys of the rows of the input, without a model: their id, or a hash of their content.

Joins see digests of 128 bits. Among a thousand million rows the odds that any two different keys share one are below
one in 10^20, so that the keys themselves are not compared.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..datasets.inputs.readers import choose_columns
from ..datasets.inputs.rows import read_rows
from ..datasets.inputs.shards import Shard
from ..datasets.tables.column_types import top_level
from ..encoders.content_hash import content_hash, joined_hash
from ..encoders.item import Item, Uri
from ..encoders.plans.plan import Plan
from ..encoders.plans.row_values import MissingColumn, get_by_path
from ..encoders.preparation import fetch_policy
from ..failures import Code, RowError, Stage
from ..files.json_text import key_text
from ..media.fetch import fetch
from ..media.fetch_policy import FetchPolicy
from .job import Job
from .record_adapters import Record, name_of, records_of

DIGEST_BYTES = 16
_AHEAD = 4
"""Rows for each thread that fetches, whose contents are being fetched."""


def keys_wanted(shard: Shard, job: Job) -> Iterator[tuple[bytes, bytes]]:
    """Yield the match keys of the rows of a shard, without rows that have none or cannot be read.

    With content as the match key, the files that rows name are fetched, a few at a time, and none of them is decoded.

    Yields:
        The digest by which a row is looked up, and the one by which it is known again when the shard is embedded: see
        `SkipList`.
    """
    assert job.skip_existing is not None
    if job.skip_existing.by == "content":
        yield from _contents_wanted(shard, job)
        return
    for key in _keys_of_columns(shard, job) if shard.kind in ("parquet", "arrow") else _keys_of(shard, job):
        if key is not None:
            digest = key_digest(key)
            yield digest, digest


# --- by key ----------------------------------------------------------------------------------------------------------


def key_digest(key: str) -> bytes:
    """Return the digest of a key, for joins."""
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def _keys_of(shard: Shard, job: Job) -> Iterator[str | None]:
    records = records_of(job)
    for record in records.read(shard):
        yield records.key(record)


def _keys_of_columns(shard: Shard, job: Job) -> Iterator[str | None]:
    """Yield the keys of rows or documents of a Parquet or Arrow file without reading other columns."""
    plan, column, named = job.plan, "", name_of(job)

    def choose(there: list[str]) -> list[str]:
        nonlocal column
        column = plan.key if plan.of_rows else choose_columns(there, job.reader, shard.paths[0]).get("id", "")
        return top_level([column], there) or there[:1]  # without keys any column counts the rows

    for row in read_rows(shard, choose=choose):
        if row.failure is not None:
            continue
        try:
            value = get_by_path(row.values, column)
        except MissingColumn:
            value = None
        key = key_text(value)
        yield key if plan.of_rows else key or named(row.place)


# --- by content ------------------------------------------------------------------------------------------------------


def hash_digest(hexadecimal: str) -> bytes:
    """Return the digest of a content hash, for joins."""
    return bytes.fromhex(hexadecimal)[:DIGEST_BYTES]


def mark_of(record: Record, plan: Plan) -> bytes | None:
    """Return a digest of a row without fetching anything: of its contents, with URIs as they are spelled.

    It is None for a row without a match key: a value failed already, or all are null.
    """
    return None if record.failure is not None else _mark(plan.places(record.source), plan.items(record.source))


def _mark(places: Sequence[str], items: Sequence[Item]) -> bytes | None:
    lines = []
    for place, item in zip(places, items, strict=True):
        if item.failure is not None:
            return None
        content: str | None = ""
        if isinstance(item.content, Uri):
            content = f"uri {item.content.trusted} {item.content.uri}"
        elif item.content is not None:
            content = content_hash(item.content)
        if content is None:
            return None
        lines.append(f"{place}\t{content}\n")
    if all(item.content is None for item in items):
        return None
    return hashlib.blake2b("".join(lines).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def _contents_wanted(shard: Shard, job: Job) -> Iterator[tuple[bytes, bytes]]:
    policy, threads, plan = fetch_policy(job.spec), job.spec.fetch_threads, job.plan
    waiting: collections.deque[tuple[bytes, list[str], list[Future[str | None]]]] = collections.deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="clipmill-hash") as pool:
        try:
            for record in records_of(job).read(shard):
                if record.failure is not None:
                    continue
                places, items = plan.places(record.source), plan.items(record.source)
                if (mark := _mark(places, items)) is None:
                    continue
                waiting.append((mark, places, [pool.submit(_hash_of, item, policy) for item in items]))
                if len(waiting) >= _AHEAD * threads:
                    yield from _fetched(*waiting.popleft())
            while waiting:
                yield from _fetched(*waiting.popleft())
        finally:
            for _, _, futures in waiting:  # left before the end
                for future in futures:
                    future.cancel()


def _hash_of(item: Item, policy: FetchPolicy) -> str | None:
    """Return a value's content hash, None for null; raise `RowError` if it cannot be fetched or hashed."""
    content: Any = item.content
    if isinstance(content, Uri):
        content = fetch(content.uri, policy, trusted=content.trusted).data
    hashed = None if content is None else content_hash(content)
    if hashed is None and content is not None:
        raise RowError(Stage.READ, Code.UNSUPPORTED, f"a {type(content).__name__} has no content hash")
    return hashed


def _fetched(mark: bytes, places: list[str], futures: list[Future[str | None]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the digests of a row, or nothing if it cannot be fetched: it fails when it is embedded."""
    try:
        joined = joined_hash(places, [future.result() for future in futures])
    except RowError:
        return
    if joined is not None:
        yield hash_digest(joined), mark

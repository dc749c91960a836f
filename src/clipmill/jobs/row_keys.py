"""What tells a row of the input from all others, without a model: its key, or what it holds.

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
from ..datasets.inputs.rows import read_table
from ..datasets.inputs.shards import Shard
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
from .record_adapters import Record, records_of

DIGEST_BYTES = 16
_AHEAD = 4
"""Rows for each thread that fetches, whose contents are on their way."""


def keys_wanted(shard: Shard, job: Job) -> Iterator[tuple[bytes, bytes]]:
    """Yield the match keys of the rows of a shard, without rows that have none or cannot be read.

    By content the files that rows name are fetched, a few at a time, and none of them is decoded.

    Args:
        shard: What is read.
        job: Whose `skip_existing` has the match key.

    Yields:
        The digest by which a row is looked up, and the one by which it is known again when the shard is embedded: see
        `SkipList`.

    Raises:
        ClipmillError: If none of the job's inputs can be fetched, for want of a driver.
    """
    assert job.skip_existing is not None
    if job.skip_existing.by == "content":
        yield from _contents_wanted(shard, job)
        return
    for key in _keys_in_parquet(shard, job) if shard.kind == "parquet" else _keys_of(shard, job):
        if key is not None:
            digest = key_digest(key)
            yield digest, digest


# --- by key ----------------------------------------------------------------------------------------------------------


def key_digest(key: str) -> bytes:
    """Return what stands for a key in joins."""
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def top_level(paths: Sequence[str], there: Sequence[str]) -> list[str]:
    """Return the columns of a table in which values at some paths stand, those that it has."""
    names = [path if path in there else path.partition(".")[0] for path in paths]
    return [name for name in dict.fromkeys(names) if name in there]


def _keys_of(shard: Shard, job: Job) -> Iterator[str | None]:
    records = records_of(job)
    for record in records.read(shard):
        yield records.key(record)


def _keys_in_parquet(shard: Shard, job: Job) -> Iterator[str | None]:
    """Yield the keys of rows or documents of a Parquet file without reading what else they hold."""
    plan, column = job.plan, ""

    def choose(there: list[str]) -> list[str]:
        nonlocal column
        column = plan.key if plan.of_rows else choose_columns(there, job.reader, shard.paths[0]).get("id", "")
        return top_level([column], there) or there[:1]  # without keys any column counts the rows

    for row in read_table(shard, choose):
        if row.failure is not None:
            continue
        try:
            value = get_by_path(row.values, column)
        except MissingColumn:
            value = None
        if plan.of_rows:
            yield key_text(value)
        else:
            named = row.place if value in (None, "") else value
            yield key_text(named if isinstance(named, float) else str(named))


# --- by content ------------------------------------------------------------------------------------------------------


def hash_digest(told: str) -> bytes:
    """Return what stands for a content hash in joins."""
    return bytes.fromhex(told)[:DIGEST_BYTES]


def mark_of(record: Record, plan: Plan) -> bytes | None:
    """Return what a row is known by without fetching anything: what it says of its contents, URIs as they are spelled.

    Args:
        record: The row.
        plan: What would be done with it.

    Returns:
        A digest; None for a row that its content does not identify: a value failed already, or all are null.
    """
    return None if record.failure is not None else _mark(plan.places(record.source), plan.items(record.source))


def _mark(places: Sequence[str], items: Sequence[Item]) -> bytes | None:
    lines = []
    for place, item in zip(places, items, strict=True):
        if item.failure is not None:
            return None
        told: str | None = ""
        if isinstance(item.content, Uri):
            told = f"uri {item.content.trusted} {item.content.uri}"
        elif item.content is not None:
            told = content_hash(item.content)
        if told is None:
            return None
        lines.append(f"{place}\t{told}\n")
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
                    yield from _told(*waiting.popleft())
            while waiting:
                yield from _told(*waiting.popleft())
        finally:
            for _, _, futures in waiting:  # left before the end
                for future in futures:
                    future.cancel()


def _hash_of(item: Item, policy: FetchPolicy) -> str | None:
    """Return what tells a value's content, None for null.

    Raises:
        RowError: If it cannot be fetched, or has no content that can be hashed.
    """
    content: Any = item.content
    if isinstance(content, Uri):
        content = fetch(content.uri, policy, trusted=content.trusted).data
    told = None if content is None else content_hash(content)
    if told is None and content is not None:
        raise RowError(Stage.READ, Code.UNSUPPORTED, f"a {type(content).__name__} has no content hash")
    return told


def _told(mark: bytes, places: list[str], futures: list[Future[str | None]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the digests of a row; nothing of one that cannot be fetched: embedding it says why."""
    try:
        told = joined_hash(places, [future.result() for future in futures])
    except RowError:
        return
    if told is not None:
        yield hash_digest(told), mark

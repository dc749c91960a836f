"""Inputs of any size that are broken in one way throughout, and what reading them costs: linear in their size."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import random
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from plan_files import PART, write_index

from clipmill.datasets import read_failures
from clipmill.datasets.dataset import parse_manifest
from clipmill.datasets.directory import PLAN
from clipmill.datasets.inputs import plan_shards, read_rows
from clipmill.datasets.inputs.planning import read_plan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.errors import DatasetError, SpecError
from clipmill.files.folder import Folder
from clipmill.files.lock import read_lock

MARGIN = 2.0
"""How much more than four times as long four times the input may take, for noise and caches; a square takes 4."""
LEAST_S = 0.3
"""CPU time below which ratios say nothing."""


def repeated(unit: bytes, *, start: bytes = b"", end: bytes = b"") -> Callable[[int], bytes]:
    """Return a builder of content in which a unit repeats."""
    return lambda size: start + unit * max(1, size // len(unit)) + end


def _block(name: bytes = b"a.txt", kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def _extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return _block(b"x", kind, len(content)) + content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)


_END = b"\0" * 1024
_RECORD = b"7 aa=b\n"
_SPARSE = b"31 GNU.sparse.name=a/b/c/d.jpg\n"


def _tar_of(member: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def build(size: int) -> bytes:
        made, number = bytearray(), 0
        while len(made) < size:
            made += member(number)
            number += 1
        return bytes(made) + _END

    return build


def _long_record(size: int) -> bytes:
    """Return one record of an extended header whose value has about this many bytes."""
    digits = len(str(size))
    return b"%d path=%s\n" % (size, b"a" * (size - digits - len(" path=\n")))


def _big_header(size: int) -> bytes:
    """Return an archive whose extended headers are as large as they may be, and full of tiny records."""
    piece = 2**20 - len(_RECORD)
    one = _extended(_RECORD * (min(size, piece) // len(_RECORD)))
    return (one + _block()) * max(1, size // piece) + _END


def _members(unit: bytes, pack: Callable[[bytes], bytes]) -> Callable[[int], bytes]:
    packed = pack(unit)
    return lambda size: packed * max(1, size // len(packed))


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


def _parquet(table: Callable[[int], pa.Table], **options: Any) -> Callable[[int], bytes]:
    def build(size: int) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table(size), sink, **options)
        return sink.getvalue()

    return build


def _cut(build: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return the builder of a Parquet file whose pages are damaged, but not its footer."""

    def damage(size: int) -> bytes:
        made = bytearray(build(size))
        footer = int.from_bytes(made[-8:-4], "little") + 8
        for at in range(100, len(made) - footer, 300):
            made[at] ^= 0xFF
        return bytes(made)

    return damage


def _texts(size: int) -> pa.Table:
    draw = random.Random(1)
    return pa.table({"text": [f"{draw.random()} {number}" for number in range(size // 25)]})


BROKEN: dict[str, Callable[[int], bytes]] = {
    "unclosed.jsonl": repeated(b'{"a":\n'),
    "unclosed-strings.jsonl": repeated(b'{"a": "\n'),
    "arrays.jsonl": repeated(b"[\n"),
    "deep.jsonl": repeated(b"[" * 500 + b"\n"),
    "deep-objects.jsonl": repeated(b'{"a":' * 500 + b"\n"),
    "deep-whole.jsonl": repeated(b'{"a":' * 100 + b"1" + b"}" * 100 + b"\n"),
    "one-line.jsonl": repeated(b'{"text": "a"} '),
    "one-array.jsonl": repeated(b"[],", start=b'{"text": "a", "b": [', end=b"[]]}"),
    "one-object.jsonl": lambda size: json.dumps({f"k{n}": n for n in range(size // 14)}).encode(),
    "one-string.jsonl": repeated(b"\\u00e9", start=b'{"text": "'),
    "escapes.jsonl": repeated(b"\\", start=b'{"text": "'),
    "number.jsonl": repeated(b"9", start=b'{"text": '),
    "blank.jsonl": repeated(b"\n"),
    "blanks.jsonl": repeated(b" " * 999 + b"\n"),
    "returns.jsonl": repeated(b"\r"),
    "no-utf8.jsonl": repeated(b'{"text": "\xff"}\n'),
    "quotes.csv": repeated(b'a","\n', start=b"text,b\n"),
    "opened.csv": repeated(b'"\n', start=b"text,b\n"),
    "commas.csv": repeated(b",", start=b"text,b\n"),
    "wide-header.csv": lambda size: ",".join(f"c{n}" for n in range(size // 6)).encode() + b"\n1,2\n",
    "no-utf8.csv": repeated(b'a,"\xff\n', start=b"text,b\n"),
    "quotes.tsv": repeated(b'a"\t"\n', start=b"text\tb\n"),
    "opened.tsv": repeated(b'"a\n', start=b"text\tb\n"),
    "doubled.tsv": repeated(b'""', start=b'text\tb\n"'),
    "tabs.tsv": repeated(b"\t", start=b"text\tb\n"),
    "schemes.txt": repeated(b"data:\n"),
    "no-utf8.txt": repeated(b"http://\xff\n", start=b"http://a/b\n" * 400),
    "empty-members.tar": _tar_of(lambda number: _block(b"%d.jpg" % number)),
    "one-key.tar": _tar_of(lambda number: _block(b"a.%d" % number)),
    "two-endings.tar": _tar_of(lambda number: _block(b"a.%d" % (number % 2))),
    "hidden.tar": _tar_of(lambda number: _block(b".%d" % number)),
    "links.tar": _tar_of(lambda number: _block(b"a.jpg", tarfile.SYMTYPE)),
    "sizes-lie.tar": _tar_of(lambda number: _block(b"%d.jpg" % number, size=8**11 - 1)),
    "tiny-records.tar": _big_header,
    "long-names.tar": _tar_of(lambda number: _extended(b"n" * 9000 + b"\0", tarfile.GNUTYPE_LONGNAME) + _block()),
    "long-paths.tar": _tar_of(lambda number: _extended(_long_record(99_999)) + _block()),
    "headers-only.tar": _tar_of(lambda number: _extended(b"%d %s=\n" % (14, b"a%08d" % number))),
    "global-headers.tar": _tar_of(lambda number: _extended(_RECORD * 50, tarfile.XGLTYPE)),
    "sparse.tar": _tar_of(lambda number: _extended(_SPARSE) + _block()),
    "zeros.tar": repeated(_block() + _END),
    "only-zeros.tar": repeated(b"\0" * 512, start=_block()),
    "metadata.tar": _tar_of(lambda number: _block(b"%d.json" % number, size=512) + b"[" * 512),
    "members.jsonl.gz": _members(b'{"text": "a"}\n', gzip.compress),
    "empty-members.jsonl.gz": _members(b"", gzip.compress),
    "garbage.jsonl.gz": repeated(b"\x1f\x8b\x08garbage", start=gzip.compress(b'{"text": "a"}\n')),
    "zero-padding.jsonl.gz": repeated(b"\0", start=gzip.compress(b'{"text": "a"}\n')),
    "members.tar.gz": _members(_block(), gzip.compress),
    "frames.jsonl.zst": _members(b'{"text": "a"}\n', _zstd),
    "empty-frames.jsonl.zst": _members(b"", _zstd),
    "skipped-frames.jsonl.zst": repeated(b"\x50\x2a\x4d\x18\0\0\0\0", start=_zstd(b'{"text": "a"}\n')),
    "streams.jsonl.bz2": _members(b'{"text": "a"}\n', bz2.compress),
    "pages.parquet": _parquet(_texts, data_page_size=1, write_batch_size=1, use_dictionary=False),
    "groups.parquet": _parquet(lambda size: _texts(size // 10), row_group_size=1),
    "columns.parquet": _parquet(lambda size: pa.table({f"c{n}": ["a"] for n in range(size // 400)})),
    "nested.parquet": _parquet(lambda size: pa.table({"text": [[["a"]] * 100] * (size // 400)}), data_page_size=100),
    "damaged.parquet": _cut(_parquet(lambda size: _texts(size // 2), row_group_size=10, use_dictionary=False)),
    "footer.parquet": repeated(b"\x19\xfc\xff\xff\xff\x07", start=b"PAR1", end=b"\xff\xff\xff\x07PAR1"),
}
"""Builders of inputs of about a size, by their names; the ending says how they are read."""


def write_broken(name: str, size: int, folder: Path) -> Path:
    """Write an input of about `size` bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((OTHERS[name][0] if name in OTHERS else BROKEN[name])(size))
    return path


def read_all(path: Path) -> tuple[int, int]:
    """Plan an input as one shard and read it; return the numbers of its rows and of those that failed."""
    rows = failed = 0
    for shard in plan_shards([str(path)], kind=None if path.suffix != ".txt" else "uris", rows_per_shard=10**9):
        for row in read_rows(shard):
            rows += 1
            failed += row.failure is not None
    return rows, failed


def _refused(error: type[Exception], read: Callable[..., Any], *arguments: Any) -> tuple[int, int]:
    try:
        read(*arguments)
    except error:
        return 1, 1
    return 1, 0


def _read_part(folder: Path) -> tuple[int, int]:
    write_index(folder)
    plan = read_plan(Folder.of(folder))
    assert plan is not None
    return _refused(DatasetError, list, plan)


OTHERS: dict[str, tuple[Callable[[int], bytes], Callable[[Path], tuple[int, int]]]] = {
    "labels-blank.txt": (repeated(b" \n"), lambda path: _refused(SpecError, LabelSet.of, str(path))),
    "labels-equal.txt": (repeated(b"cat\n"), lambda path: _refused(SpecError, LabelSet.of, str(path))),
    "labels.json": (repeated(b"[", end=b"]"), lambda path: _refused(SpecError, LabelSet.of, str(path))),
    "_failures/part-0.jsonl": (
        repeated(b'{"row": "a"}\n', end=b"{"),
        lambda path: _refused(DatasetError, list, read_failures(str(path.parent.parent))),
    ),
    "_manifest/part-0.json": (
        repeated(b'{"a":'),
        lambda path: _refused(DatasetError, parse_manifest, str(path), path.read_bytes()),
    ),
    "_lock.json": (repeated(b"["), lambda path: (1, int(not read_lock(Folder.of(path.parent))))),
    PLAN: (repeated(b"["), lambda path: _refused(DatasetError, read_plan, Folder.of(path.parent))),
    PART: (lambda size: gzip.compress(b"{}\n" * (size * 20)), lambda path: _read_part(path.parent.parent)),
}
"""The other files that are read, broken throughout: their builders and readers, by their names."""
ALL = (*BROKEN, *OTHERS)


def read_one(name: str, path: Path) -> tuple[int, int]:
    """Read an input of `write_broken`; return the numbers of its rows and of those that failed."""
    return OTHERS[name][1](path) if name in OTHERS else read_all(path)


def time_readers(draw: random.Random, folder: Path) -> dict[str, int]:
    """Read every broken input in three sizes, and check that CPU time grows with the size, not with its square."""
    figures = {"inputs": 0, "rows": 0, "failed": 0, "peak ns per byte": 0}
    size = draw.randrange(2**19, 2**20)
    for name in ALL:
        for attempt in range(3):  # noise on a busy machine: the fault would be there each time
            seconds = []
            for factor in (1, 4):
                path = write_broken(name, factor * size, folder)
                spent, (rows, failed) = cpu_seconds(functools.partial(read_one, name, path))
                seconds.append(spent)
                nbytes = path.stat().st_size
            if seconds[1] <= max(LEAST_S, 4 * MARGIN * seconds[0]):
                break
            assert attempt < 2, f"{name}: {seconds[0]:.2f} s, and {seconds[1]:.2f} s for four times the input"
        figures["inputs"] += 1
        figures["rows"] += rows
        figures["failed"] += failed
        if nbytes > size:  # the cost of a process's start says nothing about small files
            figures["peak ns per byte"] = max(figures["peak ns per byte"], int(1e9 * seconds[1] / nbytes))
    return figures


def steps_of(work: Callable[[], Any]) -> int:
    """Return how many lines of Python a call executes in this thread."""
    steps = 0

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a call in this process, and its result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result

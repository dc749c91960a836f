"""Targets: the files that clipmill itself writes, as someone else or a full disk may have left them.

Nothing but a `ClipmillError` may be raised, and nothing outside the directory may change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyarrow as pa
from fuzz_target import Target, changed_json, empty_folder
from plan_files import PART, write_part

from clipmill.datasets.dataset import finish_job, read_failures, read_job, summarise
from clipmill.datasets.directory import JOB, PLAN, is_own
from clipmill.datasets.if_exists import look_at_directory
from clipmill.datasets.inputs.planning import number_of, read_plan
from clipmill.datasets.inputs.shards import Shard
from clipmill.datasets.tables.provenance import KEY, SPARK_SCHEMA_KEY, differences, read_provenance, spec_of_provenance
from clipmill.errors import ClipmillError, DatasetError
from clipmill.files import lock
from clipmill.files.folder import Folder
from clipmill.indexes.manifest import MANIFEST as INDEX_MANIFEST
from clipmill.indexes.manifest import check_files
from clipmill.indexes.manifest import read_manifest as read_index_manifest
from clipmill.jobs.attempts import Attempt
from clipmill.jobs.resume import look_back, read_previous_run
from clipmill.models.catalog import manifest as exported

_SHARD = Shard(name="00000-0a1b2c3d", kind="jsonl", paths=("/data/a.jsonl",), fingerprint="4fefe9b99c6c0648", nbytes=43)
_PROVENANCE = {
    "clipmill": "0.1.0",
    "model": "fake::dim=4",
    "weights": "dim=4",
    "modality": "auto",
    "dim": 4,
    "normalize": False,
    "image": {"preprocess": True, "apply_exif": False, "decode": "fast", "mean": [0.5, 0.5, 0.5]},
    "text": {"context_length": 77, "on_long_text": "truncate"},
    "versions": {"torch": "2.15.0"},
}
_JOB = {
    "format": "clipmill dataset",
    "format_version": 1,
    "shards": 1,
    "signature": "a74fd55bfeed35ec",
    "spec": {"model": "fake::dim=4"},
    "rows_as": "parquet",
    "provenance": {"embedding": _PROVENANCE},
    "inputs": ["/data/a.jsonl"],
    "arguments": {"rows_per_shard": 1024},
}
_MANIFEST = {
    "shard": _SHARD.identity(),
    "signature": _JOB["signature"],
    "input_rows": 2,
    "failed_rows": 1,
    "failed": {"empty": 1},
    "first_row_at": 1795986015.3,
    "last_row_at": 1795986015.4,
    "embedded": 1,
    "resolved": {"runtime": "fake", "weights_sha256": None},
    "process": "vm:23690",
    "run": "8f68cd0a",
    "loads": 1,
    "seconds": 0.036,
    "name": _SHARD.name,
    "rows": 1,
    "files": [{"name": f"part-{_SHARD.name}.parquet", "bytes": 4}],
}
_LOCK = {"token": "0a", "host": "vm", "place": "vm boot pid:[1]", "pid": 1, "started": 5, "since": "2026", "beat": 1.0}
_INDEX: dict[str, Any] = {
    "format": "clipmill index",
    "format_version": 1,
    **dict(clipmill="0.1.0", created="2026", updated="2026", column="embedding", dim=4, rows=2, dtype="float32"),
    **dict(kind="exact", factory="Flat", plan={}, provenance=_PROVENANCE),
    "search": {"nprobe": None, "ef_search": None, "rerank": 2},
    "recall": {
        **dict(k=10, queries=5, target=0.9, reached=True, recall=0.95, queries_per_second=10.0),
        "curve": [{"search": {"nprobe": 1}, "recall": 0.9, "queries_per_second": 20.0}],
    },
    **dict(nulls=0, failed={"zero": 1}, skipped=0, datasets=[{"path": "/d"}], trained_rows=0),
    "segments": [{"number": 0, "rows": 2, "run": "ab"}],
    "index_file": "index.faiss",
    "files": {"vectors/00000-ab.npy": 4},
    "ids": {"missing": 0, "repeated": 0},
}
_EXPORTED = {
    **dict(format=1, model="ViT-B-32::openai", dim=512, modalities=["image", "text"], kind="fp32", runtime="onnx"),
    **dict(precision="fp32", graphs={"image": "image.onnx"}, files={"image.onnx": "00"}),
}
_QUICK = mock.patch("clipmill.files.processes.started", lambda pid: 5 if pid == 1 else None)
"""When processes started; asking the system takes longer than all the rest."""
_FAILURE = {"row": "b", "column": None, "stage": "read", "code": "empty", "message": "m", "transient": False}
_SEEDS = (b"", b"\0\0", bytes(range(24)), b"{", b"[]", b"{}", b'{"a":1}', b"[" * 3000)


def _seeds_of(base: Any) -> Callable[[], list[bytes]]:
    """Return seeds for JSON: the value itself, and each of its values replaced by something of another type."""
    return lambda: [json.dumps(base).encode(), *_SEEDS, *(bytes([at, at * 7 % 256]) for at in range(40))]


# --- datasets ---------------------------------------------------------------------------------------------------------


def check_lock(data: bytes) -> None:
    """A lock is respected, or replaced; afterwards it is ours."""
    patched = [mock.patch(f"clipmill.files.lock.{name}") for name in ("time.sleep", "threading.Thread")]
    with empty_folder("lock") as folder, patched[0], patched[1], _QUICK:
        (folder / lock.LOCK).write_bytes(changed_json(_LOCK, data))
        found = lock.read_lock(Folder.of(str(folder)))
        assert found is None or isinstance(found, dict)
        with contextlib.suppress(DatasetError):
            lock.refuse_if_held(Folder.of(str(folder)))
        with contextlib.suppress(DatasetError), lock.DirectoryLock(str(folder)) as held:
            held.check()


def check_attempt(data: bytes) -> None:
    """Marks of dead processes are counted, and forgotten."""
    with empty_folder("attempt") as folder, _QUICK:
        marks = folder / "_attempts"
        marks.mkdir()
        head, _, rest = data.partition(b"\n")
        mark = changed_json({**_LOCK, "fingerprint": _SHARD.fingerprint}, head) + b"\n" + rest
        for number in range(2):
            (marks / f"{_SHARD.name}.{number}.jsonl").write_bytes(mark)
        with contextlib.suppress(ClipmillError), Attempt(str(folder), _SHARD) as attempt:
            assert attempt.is_dangerous in (True, False)
            assert all(isinstance(place, str) for place in attempt.blamed)
            attempt.forget()


def check_job(data: bytes) -> None:
    """A description: `DatasetError`, or that of a dataset; nothing outside it would be deleted."""
    with empty_folder("job") as folder:
        (folder / JOB).write_bytes(changed_json(_JOB, data))
        write_part(folder, json.dumps(_SHARD.as_dict()).encode())
        is_own(Folder.of(str(folder)))
        for if_exists in ("fail", "replace", "replace_unfinished"):
            with contextlib.suppress(DatasetError):
                found = look_at_directory(str(folder), if_exists=if_exists)
                assert {*found.leftovers, *found.replaced} <= {JOB, PLAN, PART}
        with contextlib.suppress(DatasetError):
            assert read_job(str(folder))["format"] == "clipmill dataset"
        with contextlib.suppress(DatasetError):
            previous = read_previous_run(str(folder))
            if previous is not None:
                look_back(str(folder), [_SHARD], previous)


def check_plan(data: bytes) -> None:
    """A plan: `DatasetError`, or shards that can be named and read; raw bytes where it isn't even compressed."""
    with empty_folder("plan") as folder:
        if data[:1] == b"?":
            (folder / PLAN).write_bytes(changed_json({"id": "0a", "starts": [0, 1]}, data[1:]))
        else:
            write_part(folder, changed_json(_SHARD.as_dict(), data))
        if data[:1] == b"!":
            (folder / PART).write_bytes(data[1:])
        with contextlib.suppress(DatasetError):
            for shard in read_plan(Folder.of(str(folder))) or ():
                number_of(shard)
                shard.identity()
                hash(shard)


def check_manifest(data: bytes) -> None:
    """A manifest: `DatasetError`, or counts; finishing and resuming touch nothing outside the dataset."""
    with empty_folder("manifest") as folder:
        (folder / "_manifest").mkdir()
        (folder / JOB).write_text(json.dumps(_JOB))
        if data[:1] > b"\x7f":  # an older plan, whose shards are deleted
            other = dataclasses.replace(_SHARD, name="00001-0a")
            write_part(folder, json.dumps(other.as_dict()).encode())
        (folder / "_manifest" / f"part-{_SHARD.name}.json").write_bytes(changed_json(_MANIFEST, data[1:]))
        (folder / f"part-{_SHARD.name}.parquet").write_bytes(b"rows")
        previous = None
        with contextlib.suppress(DatasetError):
            previous = read_previous_run(str(folder))
        if previous is not None:
            with contextlib.suppress(DatasetError):
                look_back(str(folder), [_SHARD], previous)
        for read in (summarise, finish_job):
            with contextlib.suppress(DatasetError):
                assert isinstance(read(str(folder)).rows_per_second, float | None)


def check_failures(data: bytes) -> None:
    """A file of failures: `DatasetError`, or one record for each line."""
    with empty_folder("failures") as folder:
        (folder / "_failures").mkdir()
        head, _, rest = data.partition(b"\n")
        content = changed_json(_FAILURE, head) + b"\n" + rest
        (folder / "_failures" / f"part-{_SHARD.name}.jsonl").write_bytes(content)
        with contextlib.suppress(DatasetError):
            found = list(read_failures(str(folder)))
            assert all(isinstance(one, dict) for one in found)


# --- indexes, exported models, provenance -----------------------------------------------------------------------------


def check_index_manifest(data: bytes) -> None:
    """The manifest of an index: `DatasetError`, or an index whose files are checked."""
    with empty_folder("index") as folder:
        (folder / INDEX_MANIFEST).write_bytes(changed_json(_INDEX, data))
        with contextlib.suppress(DatasetError):
            found = read_index_manifest(str(folder))
            assert all(".." not in one.vectors + one.keys for one in found.segments)
            check_files(Folder.of(str(folder)), found)


def check_exported(data: bytes) -> None:
    """The manifest of exported graphs: `WeightsError`, or one that names files of its own directory."""
    content = changed_json(_EXPORTED, data)
    with empty_folder("exported") as folder:
        with contextlib.suppress(ValueError, RecursionError):  # signed, or every change would be refused for that
            fields = json.loads(content)
            if isinstance(fields, dict):
                fields["manifest_sha256"] = exported._digest(fields)
                content = json.dumps(fields).encode()
        (folder / exported.FILE).write_bytes(content)
        for read in (exported.named_model, exported.read_manifest):
            with contextlib.suppress(ClipmillError):
                read(folder)


def check_provenance(data: bytes) -> None:
    """Metadata of columns and of the footer: `DatasetError`, or a provenance that can be compared and searched with."""
    first, _, second = data.partition(b"\n")
    field = pa.field("embedding", pa.list_(pa.float32()), metadata={KEY: changed_json(_PROVENANCE, first)})
    columns = [{"name": "other", "type": "string", "nullable": True, "metadata": {KEY: json.dumps(_PROVENANCE)}}]
    footer = {SPARK_SCHEMA_KEY: changed_json({"type": "struct", "fields": columns}, second)}
    try:
        found = read_provenance(pa.schema([field, pa.field("other", pa.string())], metadata=footer))
    except DatasetError:
        return
    for one in found.values():
        assert isinstance(one, dict)
        differences(one, _PROVENANCE)
        with contextlib.suppress(ClipmillError, TypeError):
            spec_of_provenance(one)


def _raw_plans() -> list[bytes]:
    return [b"!" + gzip.compress(b"{}\n", mtime=0), b"!" + gzip.compress(b"")[:9]]


TARGETS = {
    "lock": Target("locks of directories: respected or replaced", _seeds_of(_LOCK), check_lock),
    "attempt": Target("marks of killed processes: counted", _seeds_of({**_LOCK, "fingerprint": 1}), check_attempt),
    "job": Target("descriptions of datasets: refused, or read", _seeds_of(_JOB), check_job),
    "plan": Target(
        "plans of shards: refused, or read",
        lambda: [*_seeds_of(_SHARD.as_dict())(), *_raw_plans()],
        check_plan,
    ),
    "manifest": Target(
        "manifests of shards: refused, or counted; nothing outside the dataset is touched",
        lambda: [bytes([n % 2 * 255]) + seed for n, seed in enumerate(_seeds_of(_MANIFEST)())],
        check_manifest,
    ),
    "failures": Target("files of failures: refused, or read", _seeds_of(_FAILURE), check_failures),
    "index-manifest": Target("manifests of indexes: refused, or read", _seeds_of(_INDEX), check_index_manifest),
    "exported": Target(
        "manifests of exported models: refused, or read",
        _seeds_of(_EXPORTED),
        check_exported,
    ),
    "provenance": Target(
        "provenance in the metadata of files: refused, or read",
        _seeds_of(_PROVENANCE),
        check_provenance,
    ),
}

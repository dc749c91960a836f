"""A shard from its input to its files: the one function that every engine distributes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..datasets.formats.base import Format, check_format, default_dtype
from ..datasets.formats.part_writers import schema_in_format
from ..datasets.formats.shard_writer import ShardWriter
from ..datasets.inputs.rows import schema_of
from ..datasets.inputs.shards import Shard
from ..datasets.tables.column_types import column_type
from ..datasets.tables.schemas import documents_schema, rows_schema
from ..encoders.encoder import Encoder
from ..encoders.plans.columns import ColumnPlan
from ..encoders.plans.document_plan import DocumentPlan
from ..encoders.plans.rank_plan import PairPlan
from ..encoders.registry import count_loads, load_encoder
from ..errors import SpecError, WeightsError
from ..files.file_systems import Folder
from ..files.plain import json_text
from ..metrics.counts import counts_of_manifest, record
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from .attempts import Attempt
from .careful import RowByRow, embed_carefully
from .existing import Existing, comparing
from .first_look import READER_OPTIONS, check_has_matches, check_reader
from .modes import Plan, is_of_rows, mode_of
from .output import Output
from .skip_lists import passing_over, read_skip_list

_USUAL_KEY = "id"
MAY_DIFFER = frozenset(
    {
        *("device", "runtime", "decode", "cache_dir", "fetch_timeout_s", "preprocess_threads", "fetch_threads"),
        *("max_batch_rows", "max_batch_bytes", "max_batch_pixels", "max_cache_bytes"),
    }
)
"""Fields of a spec that say how vectors are made and not which; workers of one job may differ in them too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is done with every shard; pickles to its fields. Made by `Job.of`.

    Attributes:
        spec: The encoder.
        directory: The dataset that is written.
        schema: Columns of its files.
        plan: What is done with rows or documents.
        reader: Arguments of `read_documents`.
        fail_fast: Whether the first failure ends the job.
        format: What its files are: `parquet`; `jsonl`, a JSON object for each row; `clip-retrieval` or `lance`.
        run: Tells what one start of the job did from what others did.
        weights_sha256: Of the weights with which the job was begun, where it goes on; they must be the same.
        existing: Datasets whose rows are passed over.
        content_hash: Whether what tells the content of each row is written beside its vectors.
    """

    spec: EncoderSpec
    directory: str
    schema: pa.Schema
    plan: Plan = dataclasses.field(default_factory=DocumentPlan)
    reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fail_fast: bool = False
    format: Format = "parquet"
    run: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4), compare=False)
    weights_sha256: str | None = None
    existing: Existing | None = None
    content_hash: bool = False

    @property
    def signature(self) -> str:
        """Tells jobs that make the same of the same input from all others, whichever start or worker asks."""
        usual = {field.name: field.default for field in dataclasses.fields(self.spec)}
        given = self.spec.as_dict().items()
        # Without what has its default: later versions may have fields that this one lacks.
        spec = {name: value for name, value in given if name not in MAY_DIFFER and value != usual.get(name)}
        columns = [(field.name, str(field.type)) for field in self.schema]
        asked = [spec, described(self.plan), dict(self.reader), columns, self.format, self.content_hash]
        return hashlib.sha256(json_text(asked).encode()).hexdigest()[:16]

    @classmethod
    def of(
        cls,
        spec: EncoderSpec,
        directory: str,
        shards: Sequence[Shard],
        *,
        columns: Mapping[str, Any] | ColumnPlan | None = None,
        plan: Plan | None = None,
        reader: Mapping[str, Any] | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        tags: Mapping[str, pa.DataType] | Sequence[str] = (),
        drop: Sequence[str] = (),
        dtype: str | None = None,
        fail_fast: bool = False,
        format: Format = "parquet",
        existing: Existing | None = None,
        content_hash: bool = False,
    ) -> Job:
        """Check what a user asked for and decide the columns of the output, on the driver, without weights.

        Args:
            spec: The encoder.
            directory: The dataset that is written; made absolute.
            shards: All shards of the job.
            columns: Embeds these columns of rows; without it and without a plan documents are embedded.
            plan: What else is done: ranking or classifying rows or documents, checked for this spec.
            reader: `text`, `uri`, `image`, `id` and `tags` of `read_documents`.
            access_paths: Which documents of a tree are embedded; a plan says its own.
            keep_content: Whether documents keep `blob` and `tensor`; a plan says its own.
            tags: Columns (of JSON lines, fields) that travel along as tags of documents; with types, as columns of
                their own.
            drop: Columns of rows that are left out.
            dtype: `float32` or `float16`; None is float16 for clip-retrieval's layout and float32 otherwise.
            fail_fast: Whether the first failure ends the job.
            format: `parquet`, `jsonl`, `clip-retrieval` or `lance`.
            existing: Datasets whose rows are passed over; where rows are told by content, `content_hash` is implied.
            content_hash: Whether a column `content_hash` is written, the SHA-256 of each row's text or bytes.

        Raises:
            SpecError: If the options contradict each other.
            DatasetError: If the inputs don't have the columns that are named.
        """
        directory = Folder.of(directory).url
        reader = dict(reader or {})
        check_format(format)
        dtype = dtype or default_dtype(format)
        if unknown := sorted(set(reader) - set(READER_OPTIONS)):
            raise SpecError(f"reader has no option {unknown[0]!r}; it has {', '.join(READER_OPTIONS)}")
        if plan is not None and (columns is not None or access_paths != "@r" or keep_content):
            raise SpecError("a plan says its own columns, access_paths and keep_content")
        if columns is not None:
            plan = columns if isinstance(columns, ColumnPlan) else ColumnPlan.of(columns, spec=spec)
        if plan is None or not is_of_rows(plan):
            if drop:
                raise SpecError("drop leaves out columns of rows, and without columns={…} documents are embedded")
            plan = plan or DocumentPlan(access_paths, keep_content)
            check_has_matches(plan, shards)
            reader.setdefault("tags", tuple(tags))
            check_reader(shards, reader)
            declared = tags if isinstance(tags, Mapping) else None
            schema = documents_schema(spec, tags=declared, dtype=dtype, plan=plan)  # type: ignore[arg-type]
            job = cls(spec, directory, schema, plan, reader, fail_fast, format)
            return _in_format(comparing(job, existing, content_hash=content_hash))
        if reader or tags or keep_content or access_paths != "@r":
            raise SpecError(
                f"columns={{…}} embeds rows; {', '.join(READER_OPTIONS)}, access_paths and keep_content are for"
                " documents"
            )
        if isinstance(plan, PairPlan):
            raise SpecError(
                "a job takes its rows one by one, and flat rows are ranked within groups: Rank(by=…) on Beam and "
                "rank_groups(by=…) on Spark do that"
            )
        there = schema_of(shards, plan)  # type: ignore[arg-type]
        if plan.key != _USUAL_KEY:  # type: ignore[union-attr]  # which rows need not have
            column_type(there, plan.key)  # type: ignore[union-attr]
        schema = rows_schema(there, plan, spec, drop=drop, dtype=dtype)  # type: ignore[arg-type]
        job = cls(spec, directory, schema, plan, fail_fast=fail_fast, format=format)
        return _in_format(comparing(job, existing, content_hash=content_hash, there=there))


def _in_format(job: Job) -> Job:
    """Return a job with the schema that its format needs."""
    schema = schema_in_format(job.format, job.schema, plan=job.plan, spec=job.spec, directory=job.directory)
    return dataclasses.replace(job, schema=schema)


def described(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    if isinstance(plan, ColumnPlan):
        columns = {path: dataclasses.asdict(column) for path, column in plan.columns.items()}
        return {"columns": columns, "key": plan.key, "access_paths": "@r"}
    if isinstance(plan, DocumentPlan):
        return {"columns": None, "access_paths": plan.access_paths}
    return {"plan": {"name": type(plan).__name__, **dataclasses.asdict(plan)}}  # type: ignore[call-overload]


def embed_shard(shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False) -> dict[str, Any]:
    """Read a shard, embed it (rank it, classify it: what the job's plan says), write its files.

    What has a vector, and rows whose columns were all null, are in the files of rows. What failed is in the failures:
    a row that was embedded in part is in both, one without any vector only there. With scores instead of vectors it is
    the same; a candidate that failed leaves its row whole, and is in the failures too.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.
        exclusive: See `load_encoder`.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the output cannot be written, or a value failed and the job is to end then.
        WeightsError, DeviceError: If the encoder cannot be loaded.
        SpecError: If the model cannot do what the plan says, as only its weights tell.
    """
    with Attempt(job.directory, shard) as attempt:
        if attempt.is_dangerous:
            manifest = embed_carefully(shard, job, attempt, cpus=cpus, exclusive=exclusive)
        else:
            manifest = embed_rows(shard, job, cpus=cpus, exclusive=exclusive)
        attempt.forget()
    record(counts_of_manifest(manifest))
    return manifest


def embed_rows(
    shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False, careful: RowByRow | None = None
) -> dict[str, Any]:
    """Do the work of `embed_shard` in this process, counting nothing in its totals.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: As in `embed_shard`.
        exclusive: As in `embed_shard`.
        careful: How rows are embedded that may kill; without it in micro-batches.

    Returns:
        The manifest that was written.

    Raises:
        ClipmillError: As `embed_shard` does.
    """
    started = time.perf_counter()
    encoder = load_encoder(job.spec, cpus=cpus, exclusive=exclusive)
    _check_weights(encoder, job)
    mode = mode_of(job.plan, encoder, job.reader, job.schema, hashed=job.content_hash)
    stats = Stats()
    with (
        encoder.session(stats, hashed=job.content_hash) as session,
        ShardWriter(job.directory, shard.name, job.schema, format=job.format) as writer,
    ):
        out = Output(writer, mode, stats, fail_fast=job.fail_fast)
        rows = passing_over(mode.read(shard), read_skip_list(job, shard.name), mode, out.skip)
        if careful is None:
            for token, items in rows:
                out.take(session.push(token, items))
        else:
            for finished in careful.embed(rows, session, lambda failure: mode.unread(shard, failure)):
                out.take(finished)
        out.take(session.flush())
        out.flush()
        return writer.commit(
            {
                "shard": shard.identity(),
                "signature": job.signature,
                **out.counts(),
                **_timings(stats),
                "resolved": dict(encoder.resolved),
                "process": f"{socket.gethostname()}:{os.getpid()}",
                "run": job.run,
                "loads": count_loads(),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )


def _check_weights(encoder: Encoder, job: Job) -> None:
    """Refuse to go on with other weights under the same name: their vectors don't belong into one dataset."""
    found = encoder.resolved.get("weights_sha256")
    if job.existing is not None:
        job.existing.check_weights(found)
    if job.weights_sha256 is not None and found is not None and found != job.weights_sha256:
        raise WeightsError(
            f"{job.directory} was begun with weights of SHA-256 {job.weights_sha256}, and those of {job.spec.model} "
            f"have {found} now; bring the old ones back, or replace the dataset with overwrite=True (--overwrite)"
        )


def _timings(stats: Stats) -> dict[str, Any]:
    return {
        "embedded": stats.embedded,
        "given": stats.given,
        "nulls": stats.nulls,
        "cache_hits": stats.cache_hits,
        "cache_misses": stats.cache_misses,
        "truncated_texts": stats.truncated_texts,
        "batches": stats.batches,
        "batch_rows": {str(rows): calls for rows, calls in sorted(stats.batch_rows.items())},
        "fetch_msec": round(stats.fetch_msec, 1),
        "decode_msec": round(stats.decode_msec, 1),
        "encode_msec": round(stats.encode_msec, 1),
        "out_of_memory_retries": stats.out_of_memory_retries,
    }

"""`overview`: all figures of a dataset, in one object."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..datasets.dataset import read_failures, read_job, read_manifests, summarise
from ..datasets.directory import JOB, REJECTED
from ..datasets.summary import DatasetSummary
from ..encoders.plans.rank_plan import CLIP_SCORE
from ..errors import DatasetError
from ..files.folder import Folder
from ..indexes import IndexManifest, open_index
from ..indexes.manifest import BUILDING, MANIFEST
from ..media.fetch_policy import FetchPolicy
from .columns import Content, ScoreColumn, VectorColumn, check_content, content_of, score_columns, vector_columns
from .indexes import IndexRows, job_of_index, trusted_rows_of_index
from .integrity import damages_of, missing_of, reads_own_files
from .pair_scores import PairScores, pair_columns, pair_scores_of
from .parts import Parts, open_parts
from .pictures import PictureRules
from .reasons import Reason, draw_examples, reasons_of
from .scores import ColumnScores, scores_of
from .vectors import SampleOptions, VectorSection, vector_section
from .work import Work


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """The options of an overview.

    Attributes:
        columns: Columns of vectors; those that the dataset has if there are none.
        content: The columns of the content of the vectors, if the dataset does not record them.
        fetch_remote: Whether remote URIs are fetched for thumbnails.
        allow_local_files: Whether local files that rows name are read for thumbnails, even in untrusted rows.
        allow_private_addresses: Whether http(s) may go to addresses that are not public.
        allow_buckets: Buckets of object stores that rows may name.
    """

    sample: SampleOptions = dataclasses.field(default_factory=SampleOptions)
    columns: Sequence[str] = ()
    content: Content | None = None
    fetch_remote: bool = False
    allow_local_files: bool = False
    allow_private_addresses: bool = False
    allow_buckets: str | tuple[str, ...] = ()

    @property
    def policy(self) -> FetchPolicy:
        """Limits of a fetch."""
        return FetchPolicy(
            timeout_s=10.0, allow_private_addresses=self.allow_private_addresses, buckets=self.allow_buckets
        )


@dataclasses.dataclass
class Overview:
    """The figures of a dataset, or of files that clipmill did not write.

    Attributes:
        location: Path or URL.
        job: What made it, as `_job.json` says; None for files of another origin.
        rows: Rows in the files; None where they are not Parquet.
        warnings: What is wrong with it, for the top of the page.
        index: The index, if it is one; there is no job then.
    """

    location: str
    job: Mapping[str, Any] | None = None
    summary: DatasetSummary | None = None
    work: Work | None = None
    reasons: list[Reason] = dataclasses.field(default_factory=list)
    rows: int | None = None
    files: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    vectors: list[VectorSection] = dataclasses.field(default_factory=list)
    scores: list[ColumnScores] = dataclasses.field(default_factory=list)
    pairs: list[PairScores] = dataclasses.field(default_factory=list)
    index: IndexManifest | None = None


def overview(location: str, looked: Looked) -> Overview:
    """Look at a dataset, finished or not, at an index, or at Parquet files with vectors of any origin.

    Args:
        location: Path or URL of a directory, or of a Parquet file.
        looked: At what.

    Raises:
        DatasetError: If there are no rows, or the chosen column does not hold vectors.
        SpecError: If UMAP is chosen and not installed.
    """
    folder = Folder.of(location)
    found = Overview(folder.url)
    if folder.exists(MANIFEST) or folder.exists(BUILDING):
        return _of_index(found, looked)
    manifests: list[dict[str, Any]] = []
    if folder.kind() == "directory" and folder.exists(JOB):
        found.job = read_job(location)
        manifests = read_manifests(location)
        found.summary = summarise(location)
        found.work = Work.of(manifests)
        found.reasons = reasons_of(read_failures(location))
        allowed = looked.allow_local_files or reads_own_files(found.job, manifests)
        draw_examples(found.reasons, PictureRules(looked.fetch_remote, lambda _: allowed, looked.policy))
        if lacks := missing_of(found.job, found.summary):
            found.warnings.append(f"This dataset is not complete: {lacks}. The figures below are of the existing part.")
        found.warnings += [f"This dataset is damaged: {said}." for said in damages_of(location, manifests)]
    rows_as = (found.job or {}).get("rows_as") or "parquet"
    if rows_as != "parquet":
        if looked.columns:
            raise DatasetError(f"{location}: vectors are read from Parquet files, and its rows are {rows_as}")
        found.notes.append(
            f"Vectors and scores are read from Parquet files, and the rows of this dataset are {rows_as}."
        )
        return found
    try:
        parts = open_parts(location)
    except DatasetError as err:
        if found.job is None or looked.columns:
            raise
        found.notes.append(f"Vectors and scores are read from Parquet files. {err}")
        return found
    found.rows, found.files = parts.rows, len(parts.parts)
    _look_inside(found, parts, manifests, looked)
    found.warnings += _unreadable(parts)
    return found


def _of_index(found: Overview, looked: Looked) -> Overview:
    index = open_index(found.location)
    manifest = found.index = index.manifest
    if looked.columns and list(looked.columns) != [manifest.column]:
        raise DatasetError(f"{looked.columns[0]!r} is not the column of vectors of the index: {manifest.column!r}")
    source, job = IndexRows(index), job_of_index(manifest)
    check_content(source.schema, looked.content)
    content = looked.content or content_of(manifest.column, source.schema, job)
    column = VectorColumn(manifest.column, False, manifest.provenance, content)
    trusted = (lambda _: True) if looked.allow_local_files else trusted_rows_of_index(manifest)
    rules = PictureRules(looked.fetch_remote, trusted, looked.policy)
    found.rows = manifest.rows
    found.vectors.append(vector_section(source, column, looked.sample, rules, index=index))
    return found


def _look_inside(found: Overview, parts: Parts, manifests: Sequence[Mapping[str, Any]], looked: Looked) -> None:
    columns = vector_columns(parts.schema, found.job, names=looked.columns, content=looked.content)
    scores = score_columns(parts.schema)
    rules = PictureRules(
        looked.fetch_remote, _trusted_rows(parts, found.job, manifests, looked.allow_local_files), looked.policy
    )
    for column in columns:
        found.vectors.append(vector_section(parts, column, looked.sample, rules))
    for one in scores:
        found.scores.append(scores_of(one, _batches(parts, one)))
    for pair in pair_columns(parts.schema):
        rejected = _rejected(found) if pair.min_score is not None else None
        read = [functools.partial(one.batches, [pair.name]) if one is not None else list for one in (parts, rejected)]
        found.pairs.append(pair_scores_of(pair, *read))
        found.warnings += _unreadable(rejected)
    if not columns:
        what = "scores, no vectors" if scores or found.pairs else "neither vectors nor scores"
        found.notes.append(f"Its columns hold {what}: {', '.join(parts.schema.names)}.")


def _unreadable(parts: Parts | None) -> list[str]:
    unreadable = {} if parts is None else parts.unreadable
    return [f"A file cannot be read: {path}: {why}" for path, why in sorted(unreadable.items())]


def _rejected(found: Overview) -> Parts | None:
    """Return the files of rejected rows; None if there are none, with a warning if they cannot be read."""
    folder = Folder.of(found.location)
    if not any(name.endswith(".parquet") for name in folder.list(REJECTED)):
        return None
    try:
        return open_parts(f"{found.location.rstrip('/')}/{REJECTED}")
    except DatasetError as err:
        found.warnings.append(f"Rejected rows are not in the figures: {err}.")
        return None


def _batches(parts: Parts, column: ScoreColumn) -> Iterator[Any]:
    return parts.batches([column.name] if column.is_list else [column.name, CLIP_SCORE])


def _trusted_rows(
    parts: Parts, job: Mapping[str, Any] | None, manifests: Sequence[Mapping[str, Any]], allowed: bool
) -> Any:
    """Return a function that says whether the user allowed a job to read the local file of a row."""
    if allowed:
        return lambda _: True
    trusted = [one for one in manifests if reads_own_files(job or {}, [one])]
    own = {str(file["name"]) for one in trusted for file in one.get("files") or ()}
    flags = [part.path.rpartition("/")[2] in own for part in parts.parts]
    ends = np.cumsum([part.rows for part in parts.parts])
    return lambda position: bool(flags[int(np.searchsorted(ends, position, side="right"))])

"""Whether a job is compatible with the datasets whose rows it skips, and the match key of their rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..datasets.dataset import read_job
from ..datasets.tables.column_types import column_type, top_level
from ..datasets.tables.provenance import differences, read_provenance
from ..datasets.tables.schemas import CONTENT_HASH, with_content_hash
from ..encoders.document import AccessPaths
from ..encoders.plans.row_values import MissingColumn, get_by_path
from ..errors import DatasetError, SpecError
from ..files.file_systems import dataset_errors
from ..files.folder import Folder
from ..messages import by_surface, setting
from .job import Job
from .skip_existing import files_of, finished_shards, shard_manifest

_RELATIVE = "relative_ids"
COMPARISON = (CONTENT_HASH, "skip_existing", "skip_by", _RELATIVE)
"""Settings that must not change when a job is resumed."""
_OTHER_KEY = setting("id", ...) + ", or skip with " + setting("by", "content")


def compared(job: Job, there: pa.Schema | None) -> Job:
    """Add the job's column of content hashes, if it writes one, and check the datasets whose rows are skipped.

    `there` are the columns of its input rows; None for documents.

    Raises:
        SpecError: If its rows have no key.
        DatasetError: If there is no such dataset, it lacks the match key, or it was made by another model or with other
            settings; the message says what differs.
    """
    skip = job.skip_existing
    if skip is not None and skip.by == "id" and there is not None:
        try:
            column_type(there, job.plan.key)
        except SpecError as err:
            raise SpecError(err.text, hint="rows are skipped by their key: name its column, " + _OTHER_KEY) from err
    if job.content_hash:
        job = dataclasses.replace(job, schema=with_content_hash(job.schema, of_documents=there is None))
    if skip is not None:
        job = dataclasses.replace(job, skip_existing=dataclasses.replace(skip, weights=_check_existing(job)))
    return job


def described_comparison(job: Job) -> dict[str, Any]:
    """Return what a dataset's description says of the rows that its job skips; by name all of `COMPARISON`."""
    skip_existing = job.skip_existing
    return {
        CONTENT_HASH: job.content_hash,
        "skip_existing": None if skip_existing is None else list(skip_existing.datasets),
        "skip_by": None if skip_existing is None else skip_existing.by,
        _RELATIVE: bool(job.relative_to) or None,
    }


def _check_existing(job: Job) -> tuple[tuple[str, str], ...]:
    """Refuse datasets whose vectors this job would not make; return the weights that made them."""
    assert job.skip_existing is not None
    own = job.directory.rstrip("/") + "/"
    first = {number: (number, name) for number, name in reversed(finished_shards(job.skip_existing))}
    weights = []
    for number, directory in enumerate(job.skip_existing.datasets):
        theirs = directory.rstrip("/") + "/"
        if own.startswith(theirs) or theirs.startswith(own):
            raise DatasetError(
                f"the output {job.directory} and {directory}, whose rows are skipped, contain one another; choose "
                "another output"
            )
        _check_description(read_job(directory), directory, job)
        if number in first:
            manifest = shard_manifest(first[number], job.skip_existing)
            for file in files_of(manifest):
                if file.endswith(".parquet"):
                    check_schema(_schema_of(directory, file), directory, job)
            if sha256 := (manifest.get("resolved") or {}).get("weights_sha256"):
                weights.append((directory, str(sha256)))
    return tuple(weights)


def _check_description(description: Mapping[str, Any], directory: str, job: Job) -> None:
    assert job.skip_existing is not None
    if "plan" in description:
        raise DatasetError(f"{directory} holds scores and no vectors, so that none of its rows can be skipped")
    if (rows_as := description.get("rows_as", "parquet")) != "parquet":
        raise DatasetError(f"the rows of {directory} are {rows_as}, and only those of Parquet datasets can be skipped")
    if not job.plan.of_rows:
        theirs, ours = str(description.get("access_paths", "@r")), str(job.plan.description()["access_paths"])
        if set(AccessPaths.parse(theirs).paths) != set(AccessPaths.parse(ours).paths):
            raise DatasetError(_refusal(directory, f"access_paths is {theirs!r} there and {ours!r} here"))
    key = description.get("key")
    if job.skip_existing.by == "id" and job.plan.of_rows and key not in (None, job.plan.key):
        raise DatasetError(
            f"the rows of {directory} are named by their column {key!r}, and those of this job by {job.plan.key!r}",
            hint="name the same one, " + _OTHER_KEY,
        )
    if job.skip_existing.by == "id" and bool(description.get(_RELATIVE)) != bool(job.relative_to):
        theirs, ours = ("relative", "absolute") if description.get(_RELATIVE) else ("absolute", "relative")
        raise DatasetError(
            f"ids of files are {theirs} in {directory}, and {ours} in this job, so that none of them would be found",
            hint=by_surface(
                python=f"make them {theirs} here too (relative_to), or skip with ",
                flags=f"give --id {theirs}, or skip with ",
            )
            + setting("by", "content"),
        )
    if job.skip_existing.by == "content" and not description.get(CONTENT_HASH):
        raise DatasetError(
            f"{directory} does not say what its rows held: it was written without " + setting("content_hash", True),
            hint="skip its rows with " + setting("by", "id") + ", or embed it once more with that option",
        )
    if description.get("provenance"):
        _check_provenances(description["provenance"], directory, job)


def check_schema(schema: pa.Schema, where: str, job: Job) -> None:
    """Refuse a file of another provenance, or without the match key."""
    _check_provenances(read_provenance(schema), where, job)
    wanted = key_column(job)
    if not top_level([wanted], schema.names):
        raise DatasetError(
            f"{where} has no column {wanted!r}, which is the match key (it has {', '.join(map(repr, schema.names))})",
            hint="name another column, " + _OTHER_KEY,
        )


def _check_provenances(theirs: Mapping[str, Mapping[str, Any]], where: str, job: Job) -> None:
    for name, ours in own_provenances(job).items():
        if name not in theirs:
            has = f"it has them in {', '.join(map(repr, theirs))}" if theirs else "it has none"
            raise DatasetError(f"{where} has no vectors in the column {name!r}, which this job makes ({has})")
        differing = differences(ours, theirs[name])
        differing += ["modality"] if ours.get("modality") != theirs[name].get("modality") else []
        if differing:
            said = [f"{one} is {_at(theirs[name], one)} there and {_at(ours, one)} here" for one in differing]
            raise DatasetError(_refusal(where, "; ".join(said)))


def _refusal(where: str, differing: str) -> str:
    return (
        f"the vectors of {where} are not those that this job makes, so that none of its rows can be skipped: "
        f"{differing}; embed as it was embedded there, or without skipping its rows"
    )


def _at(provenance: Mapping[str, Any], path: str) -> str:
    try:
        return json.dumps(get_by_path(provenance, path))
    except MissingColumn:
        return "not said"


def own_provenances(job: Job) -> dict[str, dict[str, Any]]:
    """Return the provenance of the vectors that a job makes, by column, without those of its input."""
    found = read_provenance(job.schema)
    plan: Any = job.plan
    return {name: found[name] for name in plan.new_names if name in found} if plan.of_rows else found


def key_column(job: Job) -> str:
    """Return the match key: a column of the dataset's files."""
    assert job.skip_existing is not None
    if job.skip_existing.by == "content":
        return CONTENT_HASH
    return job.plan.key


def _schema_of(directory: str, file: str) -> pa.Schema:
    import pyarrow.parquet as pq  # late: it loads all of pyarrow's file systems, and ssl

    folder = Folder.of(directory)
    with dataset_errors("read", f"{folder.url}/{file}"), folder.fs.open(folder.at(file), "rb") as raw:
        return pq.read_schema(raw)

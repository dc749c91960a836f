"""The missing parts of a dataset: shards that were not written, and listed files that are missing or truncated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..datasets.dataset import read_job, read_manifests
from ..datasets.summary import DatasetSummary
from ..errors import DatasetError
from ..files.folder import Folder
from ..files.json_text import some_of


def missing_of(job: Mapping[str, Any], summary: DatasetSummary) -> str | None:
    """Say what a dataset lacks whose job did not end; None for one that is whole."""
    if summary.complete:
        return None
    planned = job.get("shards")
    if planned and summary.shards < planned:
        return f"{summary.shards} of {planned} shards are there"
    return "its job has not ended (no _SUCCESS)"


def reads_own_files(job: Mapping[str, Any], manifests: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the user allowed the job of a dataset to read the local files that its rows name.

    Those of folders, globs and tars are: the job listed them itself. Those in records are if the job was allowed
    local files; else a record's own words would open any picture on this machine.
    """
    if (job.get("spec") or {}).get("allow_local_files"):
        return True
    kinds = [(manifest.get("shard") or {}).get("kind") for manifest in manifests]
    return bool(kinds) and all(kind in ("files", "tar") for kind in kinds)


def trusts_local_files(datasets: Iterable[str]) -> bool:
    """Return whether all of some datasets still exist, and whether their jobs read their own files."""
    try:
        return all(reads_own_files(read_job(one), read_manifests(one)) for one in datasets)
    except DatasetError:  # one is gone, or is no dataset of ours: nobody knows who named the files
        return False


def damages_of(directory: str, manifests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which files are not as their manifests say, a few of them by name."""
    there = Folder.of(directory).list()
    gone, other = [], []
    for manifest in manifests:
        for file in manifest.get("files") or ():
            name, nbytes = str(file.get("name")), file.get("bytes")
            if name not in there:
                gone.append(name)
            elif nbytes is not None and there[name] != nbytes:
                other.append(f"{name} ({there[name]:,} of {nbytes:,} bytes)")
    said = []
    if gone:
        said.append(f"files named in manifests are missing: {some_of(gone)}")
    if other:
        said.append(f"files differ in size from their manifests: {some_of(other)}")
    return said

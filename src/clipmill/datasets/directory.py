"""The directory of a dataset: its files, and checks of them.

    part-<shard>.parquet            rows with vectors or scores; part-<shard>.jsonl with the format jsonl,
                                    part-<shard>.tar with the format webdataset
    _failures/part-<shard>.jsonl    one line for each value that failed
    _rejected/part-<shard>.parquet  rows that a plan rejected, each with the reason; .jsonl with the format jsonl
    _manifest/part-<shard>.json     results of a shard; written last, so that a shard with a manifest is complete
    _job.json                       description of the job; written first
    _plan.json, _plan/              the shards; written second (see `files.parted_list`)
    _SUCCESS                        written when all shards are complete
    _lock.json                      the process that is writing the dataset, while there is one
    _attempts/                      which process is working on which shard, or died while it was
    _staging/                       files that an engine has not committed yet, and lists for its workers
    _next/                          the dataset that is about to replace this one, with all of these files

Spark and pyarrow ignore names that begin with `_`: the directory reads as an ordinary Parquet dataset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ..errors import DatasetError
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import TEMPORARY, Folder
from ..files.hub import check_is_no_hub
from ..files.json_text import json_object, some_of
from ..files.lock import LOCK

JOB, PLAN, SUCCESS = "_job.json", "_plan.json", "_SUCCESS"
PLAN_PARTS = PLAN.removesuffix(".json")
FAILURES, MANIFESTS, REJECTED = "_failures", "_manifest", "_rejected"
STAGING, ATTEMPTS, NEXT = "_staging", "_attempts", "_next"
SKIP_LISTS, LISTS = f"{STAGING}/skip", f"{STAGING}/lists"
FORMAT = "clipmill dataset"

_SHARD_FILES = (
    r"part-[^/]+\.(?:parquet|jsonl)|(?:img_emb|text_emb|metadata)/(?:img_emb|text_emb|metadata)_[^/]+\.(?:npy|parquet)"
    rf"|{FAILURES}/part-[^/]+\.jsonl|{REJECTED}/part-[^/]+\.(?:parquet|jsonl)"
)
SHARD_FILE = re.compile(_SHARD_FILES)
"""Matches the names of the files of shards, which their manifests name; those of Lance have names of their own."""
_NAMES = (
    rf"{_SHARD_FILES}|dataset\.lance/.+|{MANIFESTS}/part-[^/]+\.json"
    rf"|(?:{STAGING}|{ATTEMPTS})/.+|{JOB}|{PLAN}|{PLAN_PARTS}/[^/]+\.jsonl\.gz|{SUCCESS}|{LOCK}"
)
OWN = re.compile(rf"(?:{NEXT}/)?(?:{_NAMES})")
"""Matches the names of all files that belong to a dataset, and to the one that is about to replace it."""
_FOLDERS = {
    MANIFESTS,
    FAILURES,
    REJECTED,
    PLAN_PARTS,
    STAGING,
    ATTEMPTS,
    NEXT,
    "dataset.lance",
    "img_emb",
    "text_emb",
    "metadata",
}
_START = re.compile(rf"\.(?:{JOB}|{PLAN}|[0-9a-f]+-[0-9]+\.jsonl\.gz)\..+")
_TEMPORARY = re.compile(rf"(?:{NEXT}/)?\.[^/]+{re.escape(TEMPORARY)}")


def manifest_name(shard: str) -> str:
    """Return the name of a shard's manifest."""
    return f"{MANIFESTS}/part-{shard}.json"


def is_plan(name: str) -> bool:
    """Return whether a file is the plan, or a part of it."""
    return name == PLAN or name.startswith(f"{PLAN_PARTS}/")


def is_start(name: str) -> bool:
    """Return whether a temporary file is one that a job writes before it has a shard to write."""
    return _START.fullmatch(name) is not None


def check_is_no_file(folder: Folder) -> None:
    """Raise `DatasetError` if the output is a file, a device, a link to nothing, or on a hub."""
    check_is_no_hub(folder.url)
    with dataset_errors("look at", folder.url):
        if is_local(folder.fs):
            is_other = os.path.lexists(folder.path) and not os.path.isdir(folder.path)
        else:
            is_other = folder.kind() == "file"
        if is_other:
            what = "a link to nothing" if is_local(folder.fs) and not os.path.exists(folder.path) else "a file"
            raise DatasetError(f"{folder.url} is {what}; the output must be a directory")


def check_folders(folder: Folder, names: Iterable[str]) -> None:
    """Raise `DatasetError` if a folder of a dataset is a file or a link, through which a job would write elsewhere."""
    if wrong := sorted(_FOLDERS.intersection(names)):
        raise DatasetError(
            f"{folder.url}/{wrong[0]} is a link or a file, and must be a folder of the dataset; choose another one"
        )


def is_orphan(name: str) -> bool:
    """Return whether a file is a temporary one that a dead process left, given that no other job is running.

    This process may be writing its own heartbeat file at this moment; that one is not an orphan.
    """
    return _TEMPORARY.fullmatch(name) is not None and not name.startswith(f".{LOCK}.{os.getpid()}-")


def is_own(folder: Folder) -> bool:
    """Return whether a directory holds a clipmill dataset, finished or not."""
    try:
        job = json_object(folder.read(JOB))
    except FileNotFoundError:
        return False
    return job is not None and job.get("format") == FORMAT


def check_own(folder: Folder, names: list[str]) -> None:
    """Raise `DatasetError` if files of a folder are not those of a clipmill dataset, so that none is deleted."""
    if not is_own(folder):
        raise DatasetError(
            f"{folder.url} holds {some_of(names)} and is not a clipmill dataset (no valid {JOB}), so it is not "
            "overwritten; choose another directory"
        )
    if foreign := [name for name in names if not OWN.fullmatch(name)]:
        raise DatasetError(
            f"{folder.url} holds files that are not part of the dataset ({some_of(foreign)}), so it is not "
            "overwritten; move them away or choose another directory"
        )

"""The directory of a dataset: its files, and how it is prepared for a job.

    part-<shard>.parquet            rows with vectors or scores; part-<shard>.jsonl with the format jsonl
    _failures/part-<shard>.jsonl    one line for each value that failed
    _manifest/part-<shard>.json     results of a shard; written last, so that a shard with a manifest is complete
    _job.json                       description of the job; written first
    _plan.jsonl.gz                  the shards; written second
    _SUCCESS                        written when all shards are complete
    _lock.json                      the process that is writing the dataset, while there is one
    _attempts/                      which process is working on which shard, or died while it was
    _staging/                       files that an engine has not committed yet

Spark and pyarrow ignore names that begin with `_`: the directory reads as an ordinary Parquet dataset.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable

from ..errors import DatasetError
from ..files.file_systems import TEMPORARY, Folder, dataset_errors, remove_temporaries
from ..files.json_text import json_object, some_of
from ..files.lock import LOCK, clear_lock, refuse_if_held
from ..messages import setting
from .formats.shard_writer import FAILURES, MANIFESTS

JOB, PLAN, SUCCESS = "_job.json", "_plan.jsonl.gz", "_SUCCESS"
STAGING, ATTEMPTS = "_staging", "_attempts"
SKIP_LISTS = f"{STAGING}/skip"
FORMAT = "clipmill dataset"

OWN = re.compile(
    rf"part-[^/]+\.(?:parquet|jsonl)|(?:img_emb|text_emb|metadata)/(?:img_emb|text_emb|metadata)_[^/]+\.(?:npy|parquet)"
    rf"|dataset\.lance/.+|{FAILURES}/part-[^/]+\.jsonl|{MANIFESTS}/part-[^/]+\.json"
    rf"|(?:{STAGING}|{ATTEMPTS})/.+|{JOB}|{re.escape(PLAN)}|{SUCCESS}|{LOCK}"
)
"""Matches the names of all files that belong to a dataset."""
_FOLDERS = {MANIFESTS, FAILURES, STAGING, ATTEMPTS, "dataset.lance", "img_emb", "text_emb", "metadata"}
_TEMPORARY = re.compile(rf"\.[^/]+{re.escape(TEMPORARY)}")


def prepare_directory(directory: str, *, overwrite: bool = False, can_resume: bool = True) -> None:
    """Prepare a directory for a new dataset: afterwards it exists, is empty and is writable.

    A directory that holds only the description of a job that never wrote anything counts as empty.

    Args:
        directory: Path or URL.
        overwrite: Whether an existing dataset there may be deleted. Nothing else is ever deleted.
        can_resume: Whether the caller has an option to continue an unfinished dataset, for the message.

    Raises:
        DatasetError: If the directory is not empty and `overwrite` is False, holds files that are not part of a
            dataset, is being written by another job, or cannot be written.
    """
    folder = Folder.of(directory)
    for name in files_to_delete(directory, overwrite=overwrite, can_resume=can_resume):
        folder.delete(name)
    clear_lock(folder)
    remove_temporaries(folder)
    folder.make()
    probe = f".{secrets.token_hex(4)}{TEMPORARY}"
    folder.write(probe, b"")
    folder.delete(probe)


def files_to_delete(directory: str, *, overwrite: bool = False, can_resume: bool = True) -> list[str]:
    """Return the files that `prepare_directory` would delete, in deletion order; it does not try to write there."""
    folder = Folder.of(directory)
    check_is_no_file(folder)
    refuse_if_held(folder)
    names = [name for name in folder.list() if name != LOCK]
    orphans = [name for name in names if is_orphan(name)]
    held = [name for name in names if name not in set(orphans)]
    # Only these count as unfinished: other temporary files may belong to a running sink, which holds no lock.
    unfinished = [name for name in orphans if name.startswith((f".{JOB}.", f".{PLAN}."))]
    never_wrote = set(names) - set(unfinished) <= {JOB, PLAN} and is_own(folder)
    if held and not (overwrite or never_wrote):
        resumed = "continue the job there (" + setting("resume", True) + "), " if can_resume and PLAN in held else ""
        is_replaceable = is_own(folder) and all(map(OWN.fullmatch, held))
        replaced = ", or replace the dataset there with " + setting("overwrite", True) if is_replaceable else ""
        what = f"{folder.url} is not empty (it holds {some_of(held)})"
        raise DatasetError(what, hint=resumed + "choose another directory" + replaced)
    if held:
        _check_own(folder, held)
    # The description is deleted last, so that an interrupted deletion can be resumed.
    return [*sorted(held, key=lambda name: (name == JOB, name != SUCCESS, name)), *orphans]


def check_is_no_file(folder: Folder) -> None:
    """Raise `DatasetError` if the output is a file."""
    with dataset_errors("look at", folder.url):
        if folder.fs.isfile(folder.path):
            raise DatasetError(f"{folder.url} is a file; the output must be a directory")


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


def _check_own(folder: Folder, names: list[str]) -> None:
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

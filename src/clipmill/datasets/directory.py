"""The directory of a dataset: what stands in it, and how it is made ready.

    part-<shard>.parquet            rows with vectors or scores; part-<shard>.jsonl where JSON lines were asked for
    _failures/part-<shard>.jsonl    one line for each value that failed
    _manifest/part-<shard>.json     what became of a shard; written last, so that a shard with one is whole
    _job.json                       what made the dataset; written first
    _plan.jsonl.gz                  the shards; written second
    _SUCCESS                        written when every shard is there
    _lock.json                      who writes the dataset, while somebody does
    _attempts/                      who works on which shard now, or died over it
    _staging/                       files that an engine has not counted yet

Spark and pyarrow ignore names that begin with `_`: the directory reads as an ordinary Parquet dataset.
"""

from __future__ import annotations

import os
import re
import secrets

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
"""Names of the files that a dataset is made of."""
_TEMPORARY = re.compile(rf"\.[^/]+{re.escape(TEMPORARY)}")


def prepare_directory(directory: str, *, overwrite: bool = False) -> None:
    """Make a directory ready for a new dataset: there, empty and writable.

    One that holds nothing but the description of a job that never wrote anything counts as empty.

    Args:
        directory: Path or URL.
        overwrite: Whether a dataset that stands there may be deleted. Nothing else is ever deleted.

    Raises:
        DatasetError: If it holds something and `overwrite` is False, holds strangers' files, is written by another job,
            or cannot be written.
    """
    folder = Folder.of(directory)
    for name in in_the_way(directory, overwrite=overwrite):
        folder.delete(name)
    clear_lock(folder)
    remove_temporaries(folder)
    folder.make()
    probe = f".{secrets.token_hex(4)}{TEMPORARY}"
    folder.write(probe, b"")
    folder.delete(probe)


def in_the_way(directory: str, *, overwrite: bool = False) -> list[str]:
    """Return the files that `prepare_directory` deletes, in its order.

    Raises:
        DatasetError: As there, but for what only writing tells.
    """
    folder = Folder.of(directory)
    with dataset_errors("look at", folder.url):
        if folder.fs.isfile(folder.path):
            raise DatasetError(f"{folder.url} is a file; the output is a directory")
    refuse_if_held(folder)
    names = [name for name in folder.list() if name != LOCK]
    orphans = [name for name in names if is_orphan(name)]
    held = [name for name in names if name not in set(orphans)]
    # What a worker was writing may be of a sink that is at work now, which holds no lock.
    begun = [name for name in orphans if name.startswith((f".{JOB}.", f".{PLAN}."))]
    never_wrote = set(names) - set(begun) <= {JOB, PLAN} and is_own(folder)
    if held and not (overwrite or never_wrote):
        resumed = "go on with what is there (" + setting("resume", True) + "), " if PLAN in held else ""
        raise DatasetError(
            f"{folder.url} is not empty (it holds {some_of(held)})",
            hint=resumed + "choose another directory, or replace the dataset there with " + setting("overwrite", True),
        )
    if held:
        _check_own(folder, held)
    # The description goes last: until then an interrupted deletion can be taken up again.
    return [*sorted(held, key=lambda name: (name == JOB, name != SUCCESS, name)), *orphans]


def is_orphan(name: str) -> bool:
    """Return whether a file was being written by a process that is gone, where no other job is at work.

    This process's own heartbeat may be being written at this moment.
    """
    return _TEMPORARY.fullmatch(name) is not None and not name.startswith(f".{LOCK}.{os.getpid()}-")


def is_own(folder: Folder) -> bool:
    """Return whether a directory holds a dataset of clipmill, begun at least."""
    try:
        job = json_object(folder.read(JOB))
    except FileNotFoundError:
        return False
    return job is not None and job.get("format") == FORMAT


def _check_own(folder: Folder, names: list[str]) -> None:
    if not is_own(folder):
        raise DatasetError(
            f"{folder.url} holds {some_of(names)} and is no dataset of clipmill (no {JOB}), so it is not overwritten; "
            "choose another directory"
        )
    if strangers := [name for name in names if not OWN.fullmatch(name)]:
        raise DatasetError(
            f"{folder.url} holds files that are no part of the dataset ({some_of(strangers)}), so it is not "
            "overwritten; move them away or choose another directory"
        )

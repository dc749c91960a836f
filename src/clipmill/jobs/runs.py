"""The current start of a job, and how workers of an earlier one notice that they belong to it no more.

The driver of a job may die while its workers go on, and the job is resumed or replaced meanwhile. Its description names
the start that is current. A worker reads it before it begins a shard and before it publishes one: one of an earlier
start ends with an error, and writes nothing. So does one whose dataset is just being replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datasets.dataset import read_job, write_job
from ..datasets.directory import manifest_name
from ..datasets.inputs.planning import read_plan
from ..datasets.replacing import is_being_replaced
from ..errors import DatasetError, StoreError
from ..files.file_systems import is_local
from ..files.folder import Folder
from ..files.lock import one_at_a_time
from .job import Job

_RUN = "run"


def write_current(directory: str, job: Job, description: Mapping[str, Any], *, shards: int) -> None:
    """Write the description of a job, and that this start of it is the current one; see `write_job`.

    On a local file system this waits until a worker that is publishing a shard has done so.
    """
    with one_at_a_time(Folder.of(directory)):
        write_job(directory, {**description, _RUN: job.run}, shards=shards)


def check_is_current(job: Job) -> None:
    """Raise `DatasetError` if the job was started again, or replaced, after the start that this worker belongs to."""
    current = read_job(job.directory).get(_RUN)
    if current is not None and current != job.run:
        raise DatasetError(
            f"the job that writes {job.directory} was started again, and this worker belongs to an earlier start "
            f"({job.run}, and {current} is current), so it writes nothing more"
        )
    if is_being_replaced(job.directory):
        raise DatasetError(f"{job.directory} is being replaced, and this worker writes nothing more to it")


def take_back_if_late(job: Job, manifest: Mapping[str, Any]) -> None:
    """Delete a shard that was published on an object store when the job had been started again, if no plan has it.

    There, a job may be started again and end between a worker's last look and its last request.

    Raises:
        DatasetError: As `check_is_current`.
    """
    folder = Folder.of(job.directory)
    if is_local(folder.fs):
        return  # looking and publishing are one step
    try:
        check_is_current(job)
    except StoreError:
        raise  # of a store that does not answer, nothing is known
    except DatasetError:
        if not any(shard.name == manifest["name"] for shard in read_plan(folder) or ()):
            for name in (manifest_name(manifest["name"]), *(file["name"] for file in manifest["files"])):
                folder.delete(name)
        raise

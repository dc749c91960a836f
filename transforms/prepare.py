"""The first step of a job that writes a dataset: its run gets an id, and its directory is prepared.

Nothing of this happens while a pipeline is built: one pipeline, or template, may run any number of times. The id comes
through a shuffle before it is used, so that a repeated bundle prepares the directory for the same run, which changes
nothing. What is prepared goes to the other steps as a side input, so that none of them starts before.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

from ..datasets.dataset import read_job, write_job
from ..datasets.directory import JOB, PLAN, SUCCESS, check_is_no_file, is_own
from ..datasets.if_exists import IfExists, prepare_directory
from ..datasets.replacing import directory_of, folder_written
from ..errors import DatasetError, options_noted
from ..files.folder import Folder
from ..files.lock import one_at_a_time
from ..jobs.start import changes_of

Output = tuple[str, str]
"""A run's id, and the folder that it writes to: the directory, or `_next/` in it while it replaces a dataset."""

_EARLIER_RUNS = "earlier_runs"
"""Ids of the runs that prepared the directory before, in the description."""
_KEPT_RUNS = 100


class PrepareOutput(beam.PTransform):
    """Prepares a directory for a dataset, once in each run of the pipeline; gives one `Output`."""

    def __init__(self, directory: str, description: Mapping[str, Any], if_exists: IfExists) -> None:
        """Set what is written where; `description` is what `write_job` stores."""
        super().__init__()
        self._fn = _PrepareFn(directory, description, if_exists)

    def expand(self, begin: PBegin) -> PCollection:
        """Make an id, then prepare; each comes through a shuffle, so that it is the same for all later steps."""
        return (
            begin
            | "Once" >> beam.Create([None])
            | "Run" >> beam.Map(lambda _: uuid.uuid4().hex).with_output_types(str)
            | "OneRun" >> beam.Reshuffle()
            | "Directory" >> beam.ParDo(self._fn).with_output_types(Output)
            | "OneDirectory" >> beam.Reshuffle()
        )


class _PrepareFn(beam.DoFn):
    """Prepares the directory for a run."""

    def __init__(self, directory: str, description: Mapping[str, Any], if_exists: IfExists) -> None:
        self._directory = directory
        self._description = description
        self._if_exists = if_exists

    def process(self, run: str) -> Iterable[Output]:
        with options_noted():
            yield run, prepare_output(self._directory, run, self._description, self._if_exists)


def prepare_output(directory: str, run: str, description: Mapping[str, Any], if_exists: IfExists) -> str:
    """Prepare a directory for a run, and return the folder to write to; safe to repeat.

    The last run that prepares a directory has it: an earlier one, whose workers may still run, is refused from then on.

    Args:
        directory: Path or URL.
        run: Id of the run.
        description: What `write_job` stores.
        if_exists: What is done with an existing dataset. `resume` adds to the files of an unfinished one, which is
            right for streams only: they don't read their input again.

    Raises:
        DatasetError: As `prepare_directory`; if the dataset cannot be resumed; or if another run has prepared the
            directory since this one did.
    """
    whole = Folder.of(directory)
    check_is_no_file(whole)
    whole.make()
    with one_at_a_time(whole):  # against another attempt, and another run that prepares or finishes
        folder = folder_written(directory)
        there = read_job(folder.url) if is_own(folder) else {}
        if there.get("signature") == run:
            return folder.url
        earlier = there.get(_EARLIER_RUNS, [])
        if run in earlier:
            raise _taken_over(folder)
        ours = {**description, "signature": run, _EARLIER_RUNS: [*earlier, there.get("signature")][-_KEPT_RUNS:]}
        if there and if_exists == "resume":
            _check_resumable(whole, folder, there, description)
            write_job(folder.url, ours)
            return folder.url
        target = prepare_directory(directory, if_exists=if_exists, can_resume=False)
        write_job(target, ours)
        return target


def check_prepared(location: str, run: str) -> None:
    """Raise `DatasetError` if a directory was prepared for another run since it was for this one.

    `location` is the directory, or `_next/` in it.
    """
    folder = folder_written(directory_of(location).url)
    if read_job(folder.url).get("signature") != run:
        raise _taken_over(folder)


def _taken_over(folder: Folder) -> DatasetError:
    return DatasetError(f"another job has prepared {folder.url} since this one started, and writes there now")


def _check_resumable(folder: Folder, written: Folder, there: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Refuse to add to a dataset that is finished, has a plan or another schema, or was made with other options."""
    names = folder.list()
    why = None
    if SUCCESS in names:
        why = "is finished"
    elif PLAN in names:
        why = "has a plan of its shards, which clipmill embed --resume continues"
    elif written != folder:
        why = "is being replaced by a job that did not finish"
    if why is not None:
        raise DatasetError(f"{folder.url} {why}, so that a stream cannot add to it", hint="choose another directory")
    if changed := changes_of(there, description):
        raise DatasetError(
            f"{folder.url}/{JOB}: the dataset was started with different arguments: {'; '.join(changed)}",
            hint="give the same arguments to add to it, or choose another directory",
        )

"""Jobs: process shards from their input to their files.

- `options`: `JobOptions`, the options of a job; `planning`: `plan_job`, which checks them; `preflight`: checks of the
  input; `input_use`: what of the input is embedded; `job`: `Job`, which is sent to workers
- `start`: starts a job; `resume`: finds out what a previous run has left to do; `runs`: workers of an earlier start
- `embed`: `embed_shard`, which every engine distributes; `shard`: the work on a shard; `record_adapters`: how rows and
  documents are read and written
- `attempts`, `isolated_run`, `row_by_row`: shards that kill their processes
- `skip_existing`: `SkipExisting`, datasets whose rows are skipped; `comparison`: whether a job is compatible with them;
  `row_keys`, `embedded_keys`: match keys of the input and of those datasets; `skip_lists`: rows to skip of each shard
- `job_counts`: the counts of a running job
- `sample`: pieces of an input that are spread over it; `measurement`: embeds them without an engine, and measures it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .embed import embed_shard
    from .job import Job
    from .options import JobOptions
    from .planning import plan_job
    from .resume import read_previous_run
    from .skip_existing import SkipExisting
    from .start import start_job
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "embed": ("embed_shard",),
            "job": ("Job",),
            "options": ("JobOptions",),
            "planning": ("plan_job",),
            "resume": ("read_previous_run",),
            "skip_existing": ("SkipExisting",),
            "start": ("start_job",),
        },
    )

__all__ = ["Job", "JobOptions", "SkipExisting", "embed_shard", "plan_job", "read_previous_run", "start_job"]

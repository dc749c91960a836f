"""Jobs: a shard from its input to its files, and what holds all shards of a job together.

- `options`: `JobOptions`, what a user asks for; `planning`: `plan_job`, which checks it; `preflight`: checks of the
  input; `job`: `Job`, what travels to workers
- `start`: the start of a job; `resume`: what a previous run of it left
- `embed`: `embed_shard`, what every engine distributes; `shard`: the work on a shard; `record_adapters`: documents,
  rows
- `attempts`, `isolated_run`, `row_by_row`: shards over which processes die
- `skip_existing`: `SkipExisting`, datasets whose rows are skipped; `comparison`: whether a job is compatible with them;
  `row_keys`, `embedded_keys`: match keys of the input and of those datasets; `skip_lists`: rows to skip of each shard
- `job_counts`: what a job has done so far
"""

from .embed import embed_shard
from .job import Job
from .options import JobOptions
from .planning import plan_job
from .resume import read_previous_run
from .skip_existing import SkipExisting
from .start import start_job

__all__ = ["Job", "JobOptions", "SkipExisting", "embed_shard", "plan_job", "read_previous_run", "start_job"]

"""Jobs: a shard from its input to its files, and what holds all shards of a job together.

- `job`: what a job is; `planning`: `plan_job`, from what a user asked for; `first_look`: at the input
- `begin`: the beginning of a job; `resume`: what an earlier start of it left
- `embed`: `embed_shard`, what every engine distributes; `shard`: the work on a shard; `modes`: documents, rows;
  `output`: what is finished, on its way into the files
- `attempts`, `careful`, `row_by_row`: shards over which processes die
- `existing`: `Existing`, datasets whose rows are passed over; `comparison`: whether a job goes together with them;
  `row_keys`, `existing_rows`: what tells rows apart, here and there; `skip_lists`: what is passed over of each shard
- `job_counts`: what a job has done so far
"""

from .begin import begin_job
from .embed import embed_shard
from .existing import Existing
from .job import Job
from .planning import plan_job
from .resume import read_earlier

__all__ = ["Existing", "Job", "begin_job", "embed_shard", "plan_job", "read_earlier"]

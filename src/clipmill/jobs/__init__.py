"""Jobs: a shard from its input to its files, and what holds all shards of a job together.

- `job`: `embed_shard`, what every engine distributes; `modes`: documents, rows; `output`: what is finished, on its way
  into the files
- `first_look`: at the input; `begin`: the beginning of a job; `resume`: what an earlier start of it left
- `attempts`, `careful`: shards over which processes die
- `existing`: `Existing`, datasets whose rows are passed over; `row_keys`, `existing_rows`: what tells rows apart, here
  and there; `skip_lists`: what is passed over of each shard
- `job_counts`: what a job has done so far
"""

from .begin import begin_job
from .existing import Existing
from .job import Job, embed_shard
from .resume import read_earlier

__all__ = ["Existing", "Job", "begin_job", "embed_shard", "read_earlier"]

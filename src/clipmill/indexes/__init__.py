"""Indexes: from datasets of vectors to something that is searched.

- `plan`: which kind, from rows, dimension and the memory allowed, with reasons; `library`: Faiss, imported late
- `source`: the vectors, in Parquet files; `units`: out of Arrow, scaled to length 1; `sample`: some of them, by seed
- `shard`: `build_shard`, some of the rows from datasets to files: what every engine distributes; `shard_files`: those
  files; `coder`: vectors as codes; `sizes`: bytes as people write them
- `build`: `build_index`, the whole of it; `assemble`, `merge`: codes of shards into one file; `add`: more rows;
  `ids`: which rows are there already, and how many have no id of their own
- `truth`: exact neighbours block by block; `recall`: what searches find of them, and the least that reaches a target
- `manifest`: the directory of an index, and what it says of itself
- `opened`: `open_index`, once in a process; `candidates`: what the codes propose; `keys`: the metadata of the rows;
  `pages`: mapped files; `fetched`: out of object stores
- `exact`: top-k of vectors in memory, without an index; `corpus`: those of a dataset; `hits`: what a search found
- `targets`: what a search can be made in, an index or a dataset; `search_plan`, `searcher`: what is nearest to the
  queries of rows
"""

from .add import Added, add_to_index
from .build import IndexOptions, build_index
from .hits import Hits
from .manifest import IndexManifest, SearchParameters
from .opened import OpenIndex, open_index
from .plan import IndexPlan, plan_factory, plan_index

__all__ = [
    "Added",
    "Hits",
    "IndexManifest",
    "IndexOptions",
    "IndexPlan",
    "OpenIndex",
    "SearchParameters",
    "add_to_index",
    "build_index",
    "open_index",
    "plan_factory",
    "plan_index",
]

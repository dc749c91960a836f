"""Indexes: from datasets of vectors to nearest neighbours.

- `plan`: the kind of index, from rows, dimension and memory; `library`: Faiss, imported late; `footprint`, `sizes`
- `source`: the vectors, in Parquet files; `units`: as matrices, scaled to length 1; `sample`: rows drawn at random
- `shard`: `build_shard`, which every engine distributes; `shard_files`: its files of vectors and keys; `list_encoder`:
  its codes for inverted lists; `staged`: names of the files between workers and the command
- `build`: `build_index`; `add`: `add_to_index`; `assemble`: the steps that both share; `codes`, `merge`: codes of
  shards, merged into one index file; `compatible`: whether rows fit an index; `ids`: ids that it has already
- `recall`: recall of an index against the ground truth, and the search parameters for a target; `neighbours`: the share
  of neighbours that other vectors of the same rows keep
- `manifest`: the directory of an index and its manifest; `prepare`: prepares the directory, keeping an old index
- `opened`: `open_index`; `candidates`: search in the codes; `keys`: metadata of rows; `pages`: memory-mapped files;
  `local_copy`: copies of an index in an object store
- `exact`: exact search and ground truth; `corpus`: the vectors of a dataset in memory; `hits`: results
- `targets`: an index or a dataset as the target of a search; `search_plan`, `searcher`: search for queries of rows
- `stores`: vector databases, into which `push_dataset` writes vectors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .add import Added, add_to_index
    from .build import IndexOptions, build_index
    from .hits import Hits
    from .manifest import IndexManifest, SearchParameters
    from .opened import OpenIndex, open_index
    from .plan import IndexPlan, plan_factory, plan_index
    from .stores import Pushed, push_dataset
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "add": (
                "Added",
                "add_to_index",
            ),
            "build": (
                "IndexOptions",
                "build_index",
            ),
            "hits": ("Hits",),
            "manifest": (
                "IndexManifest",
                "SearchParameters",
            ),
            "opened": (
                "OpenIndex",
                "open_index",
            ),
            "plan": (
                "IndexPlan",
                "plan_factory",
                "plan_index",
            ),
            "stores": (
                "Pushed",
                "push_dataset",
            ),
        },
    )

__all__ = [
    "Added",
    "Hits",
    "IndexManifest",
    "IndexOptions",
    "IndexPlan",
    "OpenIndex",
    "Pushed",
    "SearchParameters",
    "add_to_index",
    "build_index",
    "open_index",
    "plan_factory",
    "plan_index",
    "push_dataset",
]

"""Beam transforms: documents and rows in, vectors and failures out.

- `embed`: `Embed`; `rank`: `Rank`, with flat rows in `groups`; `classify`: `Classify`
- `similarity`: `Similarity`, which scores pairs and rejects those below a least score
- `search`: `Search`, which finds the nearest rows of an index or a dataset
- `encoding`: the base of these, and the pair `Embedded` that they return; `failed_row`: `FailedRow`, an element of its
  failures
- `read`: `ReadDocuments`, from globs of files on any of Beam's file systems
- `write`: `WriteEmbeddings`, Parquet with provenance beside failures as JSON lines; `prepare`: its first step;
  `bundles`: the steps that write; `finished_rows`: converts elements to rows of files
- `shards`: `EmbedShards`, pieces of a job, each from its input to its files, for the command line
- `stored_items`: `StoredItems`, the items of a stored list, whose address alone is in the graph
- `skip_existing`: finds their rows that other datasets have already; `index_shards`: `IndexShards`, pieces of an index
- `elements`: adapters of elements and outputs; `rows`: dicts, `beam.Row`s and NamedTuples
- `embed_fn`: the `DoFn` that fetches, decodes and encodes, in one stage; `waiting`: batches across bundles
- `model_handler`: `ClipModelHandler`, for Beam's `RunInference`; `embeddings`: `ClipEmbeddings`, for its `MLTransform`;
  `embeddable`: items of its `rag` package, which `Embed` takes like documents
- `windowed`: elements that waited for others keep their timestamp, window and pane
- `document_coder`: the coder of `Document`; `meter`: the metrics, and `metrics_of`, which returns them; `worker`: the
  cores of a worker; `templates`: values of classic templates
- `yaml`: these transforms in Beam YAML
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError

try:
    import apache_beam as _beam  # noqa: F401 - only to report a missing extra before other modules import it
except ModuleNotFoundError as err:
    if err.name != "apache_beam":
        raise
    raise MissingExtraError("apache_beam", "beam", "clipmill.transforms") from err

from ..encoders.document import Document as Document  # for convenience; its home is clipmill.encoders
from .classify import Classify
from .embed import Embed, Embedded
from .failed_row import FailedRow
from .index_shards import IndexShards
from .meter import metrics_of
from .rank import Rank
from .read import ReadDocuments
from .search import Search
from .shards import EmbedShards
from .similarity import Compared, Similarity
from .write import WriteEmbeddings

if TYPE_CHECKING:
    from .embeddings import ClipEmbeddings
    from .model_handler import ClipModelHandler, raise_failed

__all__ = [
    "Classify",
    "ClipEmbeddings",
    "ClipModelHandler",
    "Compared",
    "Embed",
    "EmbedShards",
    "Embedded",
    "FailedRow",
    "IndexShards",
    "Rank",
    "ReadDocuments",
    "Search",
    "Similarity",
    "WriteEmbeddings",
    "metrics_of",
    "raise_failed",
]

_LAZY = {"ClipEmbeddings": "embeddings", "ClipModelHandler": "model_handler", "raise_failed": "model_handler"}
"""Adapters of `apache_beam.ml`, which takes a second to import."""


def __getattr__(name: str) -> Any:
    """Import an adapter of `apache_beam.ml` on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value

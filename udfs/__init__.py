"""Spark: embeddings and scores as column expressions, on whole DataFrames, in SQL; embeddings as pandas UDFs too.

- `frames`: `embed_columns`, several columns of a DataFrame in one pass; `stamp_provenance`
- `expressions`: `embed_text`, `embed_image`, `embed_audio` as columns
- `rankings`: `rank` and `clip_similarity` as columns; `classification`: `classify`
- `search`: `search`, the nearest neighbours of queries in an index or a dataset, as a column
- `groups`: `rank_groups`, flat rows scored among those of their query
- `sql`: `register`, all that is an expression as functions of SQL
- `pandas_functions`: `text_udf`, `image_udf`, `audio_udf`, for those who compose pandas UDFs
- `ml_transformers`: `ClipEmbedder`, `ClipRanker`, `ClipClassifier`, stages of Spark ML pipelines; `ml_params`: their
  Params, and how they are saved
- `shards`: `embed_shards`, the files of a job spread over a cluster; `index_shards`: pieces of an index
- `pieces`: how each task finds its own shard, by number
- `skip_existing`: the rows of a job that other datasets have already
- `batches`: what a worker does with an Arrow batch that is embedded; `score_batches`: ranked, compared or classified
- `partitions`: a partition's rows through an encoder; `values`: Arrow's values as Python's
- `meter`: what workers count, `metrics_of`
- `worker`: the encoder of a task, its device and threads
- `scalar_udf`: UDFs of Arrow arrays, on every version of Spark
- `driver`: checks on the driver; `schema`: the columns that go in and those that are added;
  `kind_types`: which types of columns can be ranked

Works on classic Spark and on Spark Connect, and never imports Beam.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import pyspark  # noqa: F401 - only checks that it is installed
except ImportError as err:
    from ..errors import MissingExtraError

    raise MissingExtraError("pyspark", "spark", "clipmill.udfs") from err

from .classification import classify
from .expressions import embed_audio, embed_image, embed_text
from .frames import embed_columns, stamp_provenance
from .groups import rank_groups
from .index_shards import index_shards
from .meter import metrics_of, spark_counts
from .pandas_functions import audio_udf, image_udf, text_udf
from .rankings import clip_similarity, rank
from .search import search
from .shards import embed_shards
from .sql import register

if TYPE_CHECKING:
    from .ml_transformers import ClipClassifier, ClipEmbedder, ClipRanker

__all__ = [
    "ClipClassifier",
    "ClipEmbedder",
    "ClipRanker",
    "audio_udf",
    "classify",
    "clip_similarity",
    "embed_audio",
    "embed_columns",
    "embed_image",
    "embed_shards",
    "embed_text",
    "image_udf",
    "index_shards",
    "metrics_of",
    "rank",
    "rank_groups",
    "register",
    "search",
    "spark_counts",
    "stamp_provenance",
    "text_udf",
]

_OF_ML = ("ClipClassifier", "ClipEmbedder", "ClipRanker")
"""Stages of `pyspark.ml`, which takes half a second to import."""


def __getattr__(name: str) -> Any:
    """Import a stage of Spark ML on first use."""
    if name not in _OF_ML:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(".ml_transformers", __name__), name)
    globals()[name] = value
    return value

"""Spark: embeddings as column expressions, on whole DataFrames, in SQL, and as pandas UDFs.

- `frames`: `embed_columns`, several columns of a DataFrame in one pass; `stamp_provenance`
- `expressions`: `embed_text`, `embed_image`, `embed_audio` as columns; `register` for SQL
- `pandas_functions`: `text_udf`, `image_udf`, `audio_udf`, for those who compose pandas UDFs
- `shards`: `embed_shards`, the files of a job spread over a cluster
- `batches`: what a worker does with an Arrow batch; `worker`: its encoder, device and threads
- `driver`: what is checked where the job is planned; `schema`: the columns that go in and those that are added

Works on classic Spark and on Spark Connect, and never imports Beam.
"""

from __future__ import annotations

try:
    import pyspark  # noqa: F401 - only whether it is there
except ImportError as err:
    from ..encoders.errors import MissingExtraError

    raise MissingExtraError("pyspark", "spark", "clipmill.udfs") from err

from .expressions import embed_audio, embed_image, embed_text, register
from .frames import embed_columns, stamp_provenance
from .pandas_functions import audio_udf, image_udf, text_udf
from .shards import embed_shards

__all__ = [
    "audio_udf",
    "embed_audio",
    "embed_columns",
    "embed_image",
    "embed_shards",
    "embed_text",
    "image_udf",
    "register",
    "stamp_provenance",
    "text_udf",
]

"""CLIP embeddings and cross-modal reranking for data pipelines, on Apache Beam and Spark.

- `clipmill.encoders`: specs, encoders and scores, without an engine; `clipmill.encoders.testing`: a fake encoder.
- `clipmill.transforms`: Beam transforms.
- `clipmill.udfs`: Spark functions for columns and DataFrames.
- `clipmill.pipelines`: runnable jobs and the command line.

The modules beside them are `errors` (of a whole job), `failures` (of a row), `messages` (the text of both), `threads`
(how many cores a worker may use) and `lazy` (names that are imported on first use). The other packages also work
without an engine. Each imports only from those before it: `files` and `metrics`, `media`, `models`, `encoders`,
`datasets`, `jobs`, `indexes`, `reports`.

The public names below are loaded on first use: `import clipmill` alone loads neither torch nor an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .encoders import Document, EncoderSpec, Head, load_encoder, read_provenance, score
    from .transforms import Classify, Embed, Rank, ReadDocuments, Similarity, WriteEmbeddings
    from .udfs import classify, clip_similarity, embed_columns, embed_image, embed_text, rank, rank_groups
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "encoders": ("Document", "EncoderSpec", "Head", "load_encoder", "read_provenance", "score"),
            "transforms": ("Classify", "Embed", "Rank", "ReadDocuments", "Similarity", "WriteEmbeddings"),
            "udfs": (
                *("classify", "clip_similarity", "embed_columns", "embed_image", "embed_text", "rank", "rank_groups"),
            ),
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Classify",
    "Document",
    "Embed",
    "EncoderSpec",
    "Head",
    "Rank",
    "ReadDocuments",
    "Similarity",
    "WriteEmbeddings",
    "__version__",
    "classify",
    "clip_similarity",
    "embed_columns",
    "embed_image",
    "embed_text",
    "load_encoder",
    "rank",
    "rank_groups",
    "read_provenance",
    "score",
]

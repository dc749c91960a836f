"""CLIP embeddings and cross-modal reranking for data pipelines, on Apache Beam and Spark.

- `clipmill.encoders`: specs, encoders and scores, without an engine; `clipmill.encoders.testing`: a fake encoder.
- `clipmill.transforms`: Beam transforms.
- `clipmill.udfs`: Spark functions for columns and DataFrames.
- `clipmill.pipelines`: runnable jobs and the command line.

The modules beside them are `errors` (of a whole job), `failures` (of a row), `messages` (the text of both) and
`threads` (how many cores a worker may use). The other packages also work without an engine. Each imports only from
those before it: `files` and `metrics`, `media`, `models`, `encoders`, `datasets`, `jobs`, `indexes`, `reports`.

The public names below are loaded on first use: `import clipmill` alone loads neither torch nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoders import Document, EncoderSpec, Head, load_encoder, read_provenance, score
    from .transforms import Classify, Embed, Rank, ReadDocuments, Similarity, WriteEmbeddings
    from .udfs import classify, clip_similarity, embed_columns, embed_image, embed_text, rank, rank_groups

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

_HOMES = {
    name: home
    for home, names in {
        "encoders": ("Document", "EncoderSpec", "Head", "load_encoder", "read_provenance", "score"),
        "transforms": ("Classify", "Embed", "Rank", "ReadDocuments", "Similarity", "WriteEmbeddings"),
        "udfs": ("classify", "clip_similarity", "embed_columns", "embed_image", "embed_text", "rank", "rank_groups"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    """Import a public name from its package on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})

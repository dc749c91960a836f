"""Encoders: loading models once, and turning rows into vectors.

- `registry`: `load_encoder`, one copy of a model per process and device; `loaded`: that copy's streams and threads
- `encoder`: `Encoder`; `session`: the hot path, from pushed rows over micro-batches to `outcome`s in order;
  `batch_sizes`: how many rows it takes; `in_flight`: the values in a session, and batching texts by length;
  `micro_batch`: one call of the model, which is split if it fails; `calls`: those that run at once
- `item`, `document`: values to embed; `preparation`: fetching and decoding one item in a thread
- `vector_cache`: equal values are embedded once; `content_hash`: the hash that identifies content
- `plans`: what is embedded, ranked, scored or classified in a row or document, and where the results go
- `testing`: the fake encoder, for your tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..failures import Code, Failure, Stage
from ..lazy import lazy_names
from ..metrics.stats import Stats
from ..models.model import Model, Prepared
from ..models.spec import EncoderSpec
from .document import AccessPaths, Document
from .encoder import Encoder
from .item import Item, Uri
from .outcome import Vector
from .plans.heads import Head
from .plans.scores import Scores, score
from .registry import count_loads, load_encoder, unload_all

if TYPE_CHECKING:
    from ..datasets.tables.provenance import read_provenance
else:  # late, since that module imports this package
    __getattr__, __dir__ = lazy_names(__name__, {".datasets.tables.provenance": ("read_provenance",)})

__all__ = [
    "AccessPaths",
    "Code",
    "Document",
    "Encoder",
    "EncoderSpec",
    "Failure",
    "Head",
    "Item",
    "Model",
    "Prepared",
    "Scores",
    "Stage",
    "Stats",
    "Uri",
    "Vector",
    "count_loads",
    "load_encoder",
    "read_provenance",
    "score",
    "unload_all",
]

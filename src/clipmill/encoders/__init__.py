"""Encoders: models that are loaded once, and how rows become vectors.

- `registry`: `load_encoder`, one copy of a model for each process and device; `loaded`: that copy's lock and threads
- `encoder`: `Encoder`; `session`: the hot path, rows in, micro-batches, `outcome`s in order; `in_flight`: what it
  holds, and how texts are cut by length; `micro_batch`: one call of the model, in halves where it must be
- `item`, `document`: what can be embedded; `preparation`: what a thread does with one item
- `vector_cache`: equal values are embedded once; `content_hash`: what content is told by
- `plans`: what of a row or document is embedded, ranked, scored or classified, and where the results go
- `testing`: the fake encoder, for your tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..failures import Code, Failure, Stage
from ..metrics.stats import Stats
from ..models.model import Model, Prepared
from ..models.spec import EncoderSpec
from .document import AccessPaths, Document
from .encoder import Encoder
from .item import Item, Uri
from .outcome import Vector
from .plans.scores import Scores, score
from .registry import count_loads, load_encoder, unload_all

if TYPE_CHECKING:
    from ..datasets.tables.provenance import read_provenance

__all__ = [
    "AccessPaths",
    "Code",
    "Document",
    "Encoder",
    "EncoderSpec",
    "Failure",
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


def __getattr__(name: str) -> Any:
    """Load `read_provenance` when it is first used: it is public here, and its home is built on this package."""
    if name != "read_provenance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..datasets.tables import provenance

    globals()[name] = provenance.read_provenance
    return provenance.read_provenance

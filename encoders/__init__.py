"""The engine-free core: what an encoder is, how it is loaded once, and how rows become vectors.

- `spec`: `EncoderSpec`, the frozen description that travels to workers; `catalog`: what model names mean
- `registry`: `load_encoder`, one copy of a model for each process and device; `loaded`: that copy's lock and threads
- `encoder`: `Encoder`; `session`: the hot path, rows in, micro-batches, `outcome`s in order; `stats`: what it counts;
  `in_flight`: what it holds, and how texts are cut by length; `micro_batch`: encoded, in halves where it must be;
  `calls`: one call of the model
- `metrics`: the names of what is counted, and a process's totals; `exposition`: the same for Prometheus;
  `told_process`: a process that its environment tells to write or serve them
- `item`, `document`: what can be embedded; `preparation`: what a thread does with one item
- `failure`, `errors`: what goes wrong with a row, and with a job
- `media`: fetching, decoding, preprocessing; `tokenizers`; `towers`: the networks; `runtimes`: what executes them
- `columns`, `document_plan`: what of a row or document is embedded, and where the vectors go
- `scores`: cosines and clip_scores of vectors; `ranking`: the candidates of a query, ranked; `kinds`, `rank_plan`: what
  of a row or document is ranked, and where the scores go; `labels`, `classify_plan`: zero-shot classification
- `search_plan`, `searcher`: what is nearest to queries, in an index or a dataset
- `plans`: what `columns`, `document_plan`, `rank_plan` and `classify_plan` have in common
- `vector_cache`: equal values are embedded once; `content_hash`: what content is told by
- `downloads`: weights and other files from elsewhere; `cache`: where this machine keeps them
- `threads`: how many cores this worker may use; `drivers`: which packages open which object stores
- `combinations`: which runtime computes in which precision on what; `exporting`: models as graphs in a directory
- `storage`: Parquet files with provenance, failures, manifests
- `testing`: a fake encoder; `demo`: the small model inside the package
"""

from .document import AccessPaths, Document
from .encoder import Encoder
from .failure import Code, Failure, Stage
from .item import Item, Uri
from .model import Model, Prepared
from .outcome import Vector
from .registry import count_loads, load_encoder, unload_all
from .scores import Scores, score
from .spec import EncoderSpec
from .stats import Stats
from .storage import read_provenance

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

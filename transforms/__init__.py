"""Beam transforms: documents and rows in, vectors and failures out.

- `embed`: `Embed`; `rank`: `Rank`, and what it does with flat rows in `groups`; `classify`: `Classify`
- `search`: `Search`, what is nearest to queries in an index or a dataset
- `encoding`: what these have in common, and the pair `Embedded` that they return; `failed_row`: `FailedRow`, an element
  of its failures
- `read`: `ReadDocuments`, from globs of files on any of Beam's file systems
- `write`: `WriteEmbeddings`, Parquet with provenance beside failures as JSON lines; `bundles`: its two steps;
  `finished_rows`: what of an element goes to its files
- `shards`: `EmbedShards`, whole pieces of a job, from their input to their files: the command line's way
- `skip_existing`: the rows of them that other datasets have already; `index_shards`: `IndexShards`, pieces of an index
- `elements`: what an element is, and what comes out for it; `rows`: dicts, `beam.Row`s and NamedTuples
- `embed_fn`: the `DoFn` that fetches, decodes and encodes, in one stage; `waiting`: batches across bundles
- `windowed`: elements that waited for others keep their timestamp, window and pane
- `document_coder`: how a `Document` travels; `meter`: the metrics, and `metrics_of`, which returns them; `worker`: how
  many cores a worker may use
"""

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
from .write import WriteEmbeddings

__all__ = [
    "Classify",
    "Embed",
    "EmbedShards",
    "Embedded",
    "FailedRow",
    "IndexShards",
    "Rank",
    "ReadDocuments",
    "Search",
    "WriteEmbeddings",
    "metrics_of",
]

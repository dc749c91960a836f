"""`Search`: finds the nearest neighbours of queries in an index or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from apache_beam.pvalue import PCollection

from ..encoders.encoder import Encoder
from ..encoders.item import Item
from ..encoders.plans.kinds import Kind
from ..encoders.plans.scores import SCALE, Scale
from ..indexes.search_plan import HITS, TOP_K, SearchPlan, spec_of_search
from ..indexes.searcher import Searcher
from ..indexes.targets import find_target
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec, explains_slips, reject_unknown_keywords
from ..threads import Cores
from .elements import read_row
from .encoding import Embedded, Encoding, check_columns, label_of
from .failed_row import FailedRow
from .meter import BundleMeter
from .rows import STRUCTS, RowFields, make_row, widened_type
from .templates import with_known_values
from .windowed import InBatches, OneByOne, OnFailure, Place, PlacedFn

_BATCH_BYTES = 64 * 2**20
"""Bytes of content, such as encoded images, that wait to be searched together."""

_VECTORS = "none: the queries are vectors"


class Search(Encoding):
    """Finds the nearest neighbours of each query in an index or among the vectors of a dataset.

    Elements are rows with a query: a text, an image or an audio clip, which is embedded with the model of the index or
    dataset, or a vector. They get the column `hits`: a list of dicts of `position`, `id`, `score` (the cosine) and the
    columns asked for, best first, equal scores in order of position. With `rerank` they have `cosine` and `clip_score`
    too, as `Rank` computes them with the full vectors, and are sorted by those. A query that is null has the hits None.

    A row fails, and goes to `failures`, if its query cannot be embedded, or is a vector of another dimension, with a
    NaN in it or of zeros.

    An index is memory-mapped: a process opens it once, and the processes of a machine share its pages. Of a dataset
    every process holds the vectors, which are compared exactly; up to 2 GB are. Queries of a bundle are searched
    together, up to 1,024 at a time.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import Document, Embed, Search, WriteEmbeddings
    >>> with beam.Pipeline() as p:
    ...     documents = [Document(id=text, text=text) for text in ("red circle", "blue square")]
    ...     _ = p | beam.Create(documents) | Embed("demo") | WriteEmbeddings("shapes")
    >>> with beam.Pipeline() as p:
    ...     found = p | beam.Create([{"q": "red circle"}]) | Search("shapes", query="q", top_k=1)
    ...     _ = found.rows | beam.Map(lambda row: print(row["hits"][0]["id"]))
    red circle

    Attributes:
        spec: What embeds queries; None where they are vectors.
        plan: What is searched for, and where.
    """

    spec: EncoderSpec | None  # type: ignore[assignment]  # of the others there is always one
    plan: SearchPlan  # type: ignore[assignment]  # which is no plan of items and results

    @with_known_values
    @explains_slips
    def __init__(
        self,
        index: str,
        *,
        query: str,
        query_kind: Kind = "auto",
        top_k: int = TOP_K,
        columns: Sequence[str] = (),
        column: str | None = None,
        rerank: bool = False,
        scale: Scale = SCALE,
        nprobe: int | None = None,
        ef_search: int | None = None,
        output: str = HITS,
        model: str | EncoderSpec | None = None,
        key: str = "id",
        max_wait_s: float | None = None,
        on_failure: OnFailure = "split",
        **spec_options: Any,
    ) -> None:
        """Open the index or dataset, and check everything that can be checked without vectors and weights.

        Args:
            index: Directory of an index; or of a dataset, or a Parquet file, whose vectors are compared one by one.
            query: Column, or path into a struct, of the query.
            query_kind: `text`, `image`, `audio` (as `Embed` takes such columns: strings in the last two are URIs),
                `vector`, or `auto`: strings are texts, bytes are identified by their content, structs are documents.
            top_k: Neighbours per query.
            columns: Columns of the found rows that each hit includes.
            column: The column of vectors of a dataset that has several.
            rerank: Whether hits are scored with the full vectors.
            scale: What cosines are multiplied by before the softmax over a query's hits: a number, or `model`.
            nprobe: Inverted lists to look into, where the index has them; what reached its recall if None.
            ef_search: Rows of the graph to keep in view, where the index is one; what reached its recall if None.
            output: Name of the column of hits.
            model: The model that made what is searched; it is known, and another one is refused.
            key: Column that names a row in its failures.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits until the bundle ends.
            on_failure: `split`, or `raise` to end the job at the first failure.
            **spec_options: Fields of `EncoderSpec`, such as `device`.

        Raises:
            SpecError: If something cannot work, or the model is another one; the message says what differs.
            DatasetError: If there is no index and no dataset, or it is damaged.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, Search)
        target = find_target(index, column)
        spec = spec_of_search(target, query_kind, model, **spec_options)
        super().__init__(spec, max_wait_s=max_wait_s, on_failure=on_failure)  # type: ignore[arg-type]
        hit_columns: Any = columns if isinstance(columns, str) else tuple(columns)  # a text is refused below
        self.plan = SearchPlan(
            target,
            query,
            query_kind,
            top_k,
            hit_columns,
            rerank,
            scale,
            nprobe,
            ef_search,
            output,
            key,
        ).checked(spec)

    def default_label(self) -> str:
        """Name the index and the column, so that a pipeline can use two of these."""
        return label_of("Search", [self.plan.target.location, self.plan.query])

    def display_data(self) -> dict[str, Any]:
        """Show the index in the runner's user interface."""
        model = self.spec.model if self.spec is not None else _VECTORS
        return {"index": self.plan.target.location, "model": model, "top_k": self.plan.top_k}

    def expand(self, pcoll: PCollection) -> Embedded | PCollection:
        """Put the stage into the pipeline.

        Raises:
            SpecError: If rows with a schema lack the column, or have one already that would be added.
        """
        check_columns(pcoll.element_type, self.plan, [self.plan.query])
        rows_type = widened_type(pcoll.element_type, {self.plan.output: STRUCTS})
        fns = (SearchFn, SearchBatchFn)
        found = self._staged(pcoll, "Search", fns, (self.spec, self.plan), self.plan.batch_rows, rows_type)
        return self._hand_out(found)


class _SearchingFn(PlacedFn):
    """Searches for the queries of a bundle together, in batches."""

    def __init__(self, spec: EncoderSpec | None, plan: SearchPlan, *, on_failure: OnFailure, cores: Cores) -> None:
        """Store what is sent to workers: no weights, no vectors. `spec` is None where queries are vectors."""
        super().__init__(spec.model if spec is not None else _VECTORS, on_failure)
        self._spec = spec
        self._plan = plan
        self._cores = cores

    def setup(self) -> None:
        """Load the model and open what is searched, unless another of these in this process did."""
        self._meter = BundleMeter()
        encoder: Encoder | None = None
        if self._spec is not None:
            encoder = self._meter.load(self._spec, cpus=self._cores.here())
        self._searcher = Searcher(self._plan, encoder, cpus=self._cores.here())

    def start_bundle(self) -> None:
        """Start with nothing waiting, even if the last bundle failed."""
        self._stats = Stats()
        self._waiting: list[_Waiting] = []
        self._bytes = 0

    def finish_bundle(self) -> Iterable[Any]:
        """Search for the rest, output each row in its window, and count."""
        outputs = self._search()
        self._meter.report(self._stats.take())
        return outputs

    def _push(self, element: Any, place: Place) -> list[Any]:
        row = read_row(element, self._plan)
        if isinstance(row, FailedRow):
            return [self._refused(row, place)]
        item = self._searcher.item(row)
        self._waiting.append(_Waiting(element, place, row, item))
        self._bytes += item.nbytes
        return self._search() if len(self._waiting) >= self._plan.batch_rows or self._bytes >= _BATCH_BYTES else []

    def _search(self) -> list[Any]:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        found = self._searcher.find_rows([(one.row, one.item) for one in waiting], self._stats)
        outputs = []
        for (element, place, fields, _), made in zip(waiting, found, strict=True):
            row = make_row(element, fields.fields, made.value)
            failed = FailedRow(row, tuple(made.failures)) if made.failures else None
            outputs.append(place.at(row) if failed is None else self._failed(failed, place))
        self._meter.report(self._stats.take())
        return outputs


class _Waiting(NamedTuple):
    """A row that waits to be searched for."""

    element: Any
    place: Place
    row: RowFields
    item: Item


class SearchFn(_SearchingFn, OneByOne):
    """Searches for the queries of elements."""


class SearchBatchFn(_SearchingFn, InBatches):
    """Searches for the queries of batches of elements."""

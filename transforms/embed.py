"""`Embed`: a PCollection of documents or rows in, the same with vectors out, and apart from them what failed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, get_args

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..encoders.columns import Column, ColumnPlan
from ..encoders.document import Document
from ..encoders.document_plan import DocumentPlan
from ..encoders.errors import SpecError
from ..encoders.spec import EncoderSpec, Modality, reject_unknown_options
from . import document_coder as _document_coder  # noqa: F401 - registers the coder of documents
from .elements import DocumentElements, Elements, RowElements
from .embed_fn import FAILURES, EmbedBatchFn, EmbedFn, OnFailure
from .failed_row import FailedRow
from .rows import Vectors, embedded_type, row_fields
from .waiting import WaitForBatches
from .worker import cpus_per_process

_OWN_OPTIONS = ("columns", "access_paths", "keep_content", "key", "max_wait_s", "on_failure", "vectors")
_WAITING_ROWS = 128


class Embedded(NamedTuple):
    """What `Embed` returns; `WriteEmbeddings` takes it whole.

    Attributes:
        rows: Everything of which nothing failed, with its vectors. Null in, null vector out.
        failures: `FailedRow`s: everything else.
    """

    rows: PCollection
    failures: PCollection


class Embed(beam.PTransform):
    """Embeds documents, or columns of rows; every element comes out once, as a row or as a failure.

    Without `columns` elements are `Document`s, and copies of them with `embedding` come out. With `columns` they are
    dicts, `beam.Row`s or NamedTuples, and get a column of vectors for each one named: dicts come out as dicts, the
    others as `beam.Row`s, with a schema where there was one.

    Other than most of Beam, a bad row never ends the job unless it is told to (`on_failure="raise"`): it goes to
    `failures`, with its reason and everything that was made of it.

    Batches are collected within a bundle. In streams, whose bundles are small, `max_wait_s` collects them across
    bundles, for so long at most. Windows, timestamps and panes stay as they are. An element in several windows is
    embedded once for each: embed first, then slide.

    Fetching, decoding and encoding happen in one stage, overlapped: `.with_resource_hints(accelerator=…)` on this
    transform brings all of it to a GPU.

    Attributes:
        spec: The encoder.
        columns: The columns of rows, checked; None for documents.
        documents: How documents are embedded; None for rows.
    """

    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        columns: Mapping[str, Modality | Column] | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        key: str = "id",
        max_wait_s: float | None = None,
        on_failure: OnFailure = "split",
        vectors: Vectors = "array",
        **spec_options: Any,
    ) -> None:
        """Check everything that can be checked without weights.

        Args:
            model: Name of a model or a spec; `ViT-B-32::openai` without one.
            columns: Kind (`text`, `image`, `audio`, or a `Column`) by column or path into a struct; None for documents.
            access_paths: Which documents of a tree are embedded: `@r` themselves, `@m` matches, `@c` chunks, `@r,m`.
            keep_content: Whether documents keep `blob` and `tensor`.
            key: Column that names a row in its failures.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits for the bundle's end only.
                Says nothing in bounded pipelines, whose bundles are large.
            on_failure: `split`, or `raise` to end the job at the first failure.
            vectors: `array`: float32 arrays. `list`: lists of numbers, for SQL and transforms in other languages.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work.
            TypeError: If an option is unknown, or has another name here.
        """
        super().__init__()
        reject_unknown_options(spec_options, {*EncoderSpec.__dataclass_fields__, *_OWN_OPTIONS} - {"model"})
        self.spec = EncoderSpec.of(model, **spec_options)
        self.columns = None if columns is None else ColumnPlan.of(columns, spec=self.spec, key=key)
        self.documents = DocumentPlan(access_paths, keep_content) if columns is None else None
        for name, given in {"access_paths": access_paths != "@r", "keep_content": keep_content}.items():
            if given and columns is not None:
                raise SpecError(f"{name} is for documents; with columns it says nothing")
        for name, value, allowed in (
            ("on_failure", on_failure, get_args(OnFailure)),
            ("vectors", vectors, get_args(Vectors)),
        ):
            if value not in allowed:
                raise SpecError(f"{name}={value!r} is none of {', '.join(map(repr, allowed))}")
        if vectors != "array" and columns is None:
            raise SpecError(f"vectors={vectors!r} is for rows; a document's embedding is an array")
        if max_wait_s is not None and not max_wait_s > 0:
            raise SpecError(f"max_wait_s={max_wait_s!r} is not a number of seconds above 0")
        self._vectors: Vectors = vectors
        self._max_wait_s = max_wait_s
        self._on_failure: OnFailure = on_failure
        self._error_handler: Any = None
        self._single_output = False

    def default_label(self) -> str:
        """Name the model and the columns, so that two of these can stand in one pipeline."""
        names = [self.spec.model, *(self.columns.columns if self.columns else ())]
        return f"Embed({', '.join(names)})".replace("/", "_")  # a slash would make a level of it

    def display_data(self) -> dict[str, Any]:
        """Show the model and the columns on the runner's page."""
        columns = self.columns.columns if self.columns else {}
        shown = ", ".join(f"{path}: {column.modality}" for path, column in columns.items())
        return {"model": self.spec.model, "columns": shown or "documents"}

    def with_error_handler(self, error_handler: Any) -> Self:
        """Send failures to one of Beam's error handlers, and return the rows alone.

        Args:
            error_handler: From `apache_beam.transforms.error_handling`; None, as everywhere in Beam, ends the job at
                the first failure.

        Returns:
            A copy of this transform whose output is one PCollection.
        """
        twin = copy.copy(self)
        twin._single_output = True
        twin._error_handler = error_handler
        if error_handler is None:
            twin._on_failure = "raise"
        return twin

    def expand(self, pcoll: PCollection) -> Embedded | PCollection:
        """Put the stage into the pipeline."""
        rows_type, elements = self._plan(pcoll.element_type)
        fn: type[EmbedFn] | type[EmbedBatchFn] = EmbedFn
        if self._max_wait_s is not None and not pcoll.is_bounded:
            pcoll = pcoll | WaitForBatches(self.spec.max_batch_rows or _WAITING_ROWS, self._max_wait_s)
            fn = EmbedBatchFn
        cpus = cpus_per_process(pcoll.pipeline.options, pcoll.pipeline.runner)
        stage = fn(self.spec, elements, on_failure=self._on_failure, cpus=cpus)
        outputs = pcoll | "Encode" >> beam.ParDo(stage).with_outputs(FAILURES, main="rows")
        embedded = Embedded(outputs.rows, outputs[FAILURES])
        embedded.rows.element_type = rows_type
        embedded.failures.element_type = FailedRow
        if not self._single_output:
            return embedded
        if self._error_handler is not None:
            self._error_handler.add_error_pcollection(embedded.failures)
        return embedded.rows

    def _plan(self, element_type: Any) -> tuple[Any, Elements]:
        if self.documents is not None:
            return Document, DocumentElements(self.documents)
        assert self.columns is not None
        fields = row_fields(element_type)
        if fields is not None:
            names = [name for name, _ in fields]
            self.columns.check_free(names)
            if missing := [path for path in self.columns.columns if path.partition(".")[0] not in names]:
                raise SpecError(f"the rows have no column {missing[0]!r}; they have {', '.join(map(repr, names))}")
        return embedded_type(element_type, self.columns, self._vectors), RowElements(self.columns, self._vectors)


def embed_of(pcoll: PCollection) -> Embed | None:
    """Return the `Embed` that a PCollection came right out of, None if there is none."""
    applied = pcoll.producer
    while applied is not None:
        if isinstance(applied.transform, Embed):
            return applied.transform
        applied = applied.parent
    return None

"""`Encoding`: the base of `Embed`, `Rank`, `Similarity` and `Classify`, and the pair `Embedded` that most return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, get_args

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..encoders.document import Document
from ..encoders.plans.plan import Plan, RowPlan
from ..errors import SpecError, check_choice
from ..indexes.search_plan import SearchPlan
from ..messages import setting
from ..models.spec import EncoderSpec
from . import document_coder as _document_coder  # noqa: F401 - registers the coder of documents
from .elements import DocumentElements, Elements, RowElements
from .embed_fn import EmbedBatchFn, EmbedFn
from .failed_row import KEEP_FAILED, FailedRow
from .rows import Vectors, planned_type, row_fields
from .waiting import WaitForBatches
from .windowed import FAILURES, OnFailure, PlacedFn
from .worker import cores_per_process

_WAITING_ROWS = 128


class Embedded(NamedTuple):
    """The output of `Embed`, `Rank` and `Classify`, and an input of `WriteEmbeddings`; `Similarity` has `Compared`.

    Attributes:
        rows: The elements of which nothing failed, with their results. Null in, null out.
        failures: A `FailedRow` for each of the others.
    """

    rows: PCollection
    failures: PCollection


class Encoding(beam.PTransform):
    """Processes documents or rows with an encoder. Every element comes out once, as a row or as a failure."""

    plan: Plan
    _row_options: str
    """The options for rows, for an error message."""
    _vectors: Vectors = "array"
    _more_outputs: tuple[str, ...] = ()
    """Tags of outputs beside rows and failures."""

    def __init__(self, spec: EncoderSpec, *, max_wait_s: float | None, on_failure: OnFailure) -> None:
        """Check the common options.

        An element of a stream waits up to `max_wait_s` seconds for others; None waits until the bundle ends.
        `on_failure` is `split`, or `raise` to end the job at the first failure.
        """
        super().__init__()
        check_choice("on_failure", on_failure, get_args(OnFailure))
        if max_wait_s is not None and not max_wait_s > 0:
            raise SpecError(setting("max_wait_s", max_wait_s) + " is not a number of seconds above 0")
        self.spec = spec
        self._max_wait_s = max_wait_s
        self._on_failure: OnFailure = on_failure
        self._error_handler: Any = None
        self._single_output = False
        self._hint = KEEP_FAILED

    def with_error_handler(
        self, error_handler: Any, *, hint: str = "with_error_handler(handler) takes such rows"
    ) -> Self:
        """Send failures to one of Beam's error handlers, and return the rows alone.

        Args:
            error_handler: From `apache_beam.transforms.error_handling`; None, as everywhere in Beam, ends the job at
                the first failure.
            hint: How to keep rows that fail, for the message of a job that they end.

        Returns:
            A copy of this transform whose output is one PCollection.
        """
        twin = copy.copy(self)
        twin._single_output = True
        twin._error_handler = error_handler
        if error_handler is None:
            twin._on_failure = "raise"
            twin._hint = hint
        return twin

    def expand(self, pcoll: PCollection) -> Embedded | PCollection:
        """Add the stage; raise `SpecError` if rows with a schema lack a column, or have a new one already."""
        return self._hand_out(self._encode(pcoll, *self._elements(pcoll.element_type)))

    def _elements(self, element_type: Any) -> tuple[Any, Elements]:
        """Return the output type and the adapter of the elements, or raise `SpecError` as `expand` does."""
        plan: Any = self.plan
        if not plan.of_rows:
            return Document, DocumentElements(plan, self._row_options)
        check_columns(element_type, plan, [*plan.reads, *plan.by])
        return planned_type(element_type, plan, self._vectors), RowElements(plan, self._vectors)

    def _encode(self, pcoll: PCollection, rows_type: Any, elements: Elements) -> Embedded:
        """Add the stage with the model."""
        rows = self.spec.max_batch_rows or _WAITING_ROWS
        return self._staged(pcoll, "Encode", (EmbedFn, EmbedBatchFn), (self.spec, elements), rows, rows_type)

    def _staged(
        self,
        pcoll: PCollection,
        label: str,
        fns: tuple[Callable[..., PlacedFn], Callable[..., PlacedFn]],
        arguments: tuple[Any, ...],
        waiting_rows: int,
        rows_type: Any,
    ) -> Embedded:
        """Add a stage that delays elements, after one that waits for batches if requested.

        `fns` are what takes elements, and what takes batches of at most `waiting_rows` of them.
        """
        one_by_one, in_batches = fns
        fn = one_by_one
        if self._max_wait_s is not None and not pcoll.is_bounded:
            pcoll = pcoll | WaitForBatches(waiting_rows, self._max_wait_s)
            fn = in_batches
        cores = cores_per_process(pcoll.pipeline.options, pcoll.pipeline.runner)
        stage = fn(*arguments, on_failure=self._on_failure, cores=cores)
        stage.hint = self._hint
        outputs = pcoll | label >> beam.ParDo(stage).with_outputs(FAILURES, *self._more_outputs, main="rows")
        outputs.rows.element_type = rows_type
        outputs[FAILURES].element_type = FailedRow
        return self._named(outputs)

    def _named(self, outputs: Any) -> Any:
        """Return the outputs of the stage by their names."""
        return Embedded(outputs.rows, outputs[FAILURES])

    def _hand_out(self, embedded: Embedded) -> Embedded | PCollection:
        """Return the pair, or only the rows if an error handler takes the failures."""
        if not self._single_output:
            return embedded
        if self._error_handler is not None:
            self._error_handler.add_error_pcollection(embedded.failures)
        return embedded.rows


def label_of(verb: str, names: Sequence[str]) -> str:
    """Return a label that names a model and columns, so that a pipeline can use two of a kind."""
    return f"{verb}({', '.join(names)})".replace("/", "_")  # a slash would make a level of it


def check_columns(element_type: Any, plan: RowPlan | SearchPlan, reads: Sequence[str]) -> None:
    """Raise `SpecError` for rows whose schema does not fit; without a schema, each row is checked when processed."""
    fields = row_fields(element_type)
    if fields is None:
        return
    names = [name for name, _ in fields]
    if taken := sorted(set(plan.new_names) & set(names)):
        raise SpecError(f"column {taken[0]!r} exists already", hint=plan.hint_for(taken[0]))
    if missing := [path for path in reads if path not in names and path.partition(".")[0] not in names]:
        raise SpecError(f"the rows have no column {missing[0]!r}; they have {', '.join(map(repr, names))}")

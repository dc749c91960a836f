"""Ranks, compares and classifies Arrow batches in a Python worker."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from ..datasets.tables.column_types import field_names
from ..encoders.plans.embed_plan import FAILURES_COLUMN
from ..encoders.plans.kinds import Kind, item_of_kind
from ..encoders.plans.labels import Classifier, LabelSet
from ..encoders.plans.pair_plan import LOGIT, PairPlan
from ..encoders.plans.plan import PlanResult
from ..encoders.plans.rank_plan import COSINE, RankPlan
from ..encoders.plans.runner import Done, PlanRunner
from ..encoders.plans.similarity_plan import SimilarityPlan
from ..errors import SpecError
from ..failures import Failure
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from .batches import failures_array, with_failures
from .kind_types import check_candidates, check_shape, shape_of_arrow
from .meter import NO_DRIVER, PartitionMeter
from .partitions import NewArrays, Values, getter, run_partition
from .schema import ARROW_LABELS, ARROW_RANKED, InputColumn
from .values import reader_of
from .worker import encoder_of_task

_PIECE_ROWS = 128
"""Rows of lists that are held as values of Python."""

# --- expressions -----------------------------------------------------------------------------------------------------


def rank_array(
    queries: pa.Array, candidates: pa.Array, spec: EncoderSpec, plan: RankPlan, meter: PartitionMeter = NO_DRIVER
) -> pa.Array:
    """Rank the candidates of an Arrow batch, and return lists of position, clip_score, cosine and failure, best first.

    All queries share micro-batches. The plan's `query` and `candidates` name the columns in failures.
    """
    check_shape("the query", "query_kind", plan.query_kind, shape_of_arrow(queries.type))
    check_candidates("candidate_kind", plan.candidate_kind, candidates.type)
    rows = _rows({plan.query: queries, plan.candidates: candidates})
    runner = PlanRunner(plan, encoder_of_task(spec))
    with meter.counting() as stats:
        ranked = (done.result.value[plan.output] for done in _done(runner, rows, stats))
        return _array_of(ranked, ARROW_RANKED)  # the type selects the fields: without the candidate itself


def rank_array_with_candidates(
    queries: pa.Array,
    candidates: pa.Array,
    spec: EncoderSpec,
    plan: RankPlan,
    declared: T.DataType,
    meter: PartitionMeter = NO_DRIVER,
) -> pa.Array:
    """Rank as `rank_array` does, with each candidate beside its position, clip_score, cosine and failure.

    Candidates of another type than `declared` raise `SpecError`: Spark would cast them to it without a word.
    """
    ranked = rank_array(queries, candidates, spec, plan, meter)
    if pa.types.is_null(candidates.type):
        return ranked
    found = from_arrow_type(candidates.type.value_type)
    if not isinstance(found, T.NullType) and found.simpleString() != declared.simpleString():
        raise SpecError(
            f"candidates were registered as {declared.simpleString()}, and are {found.simpleString()} here:"
            " register(spark, candidate_type='…', prefix='…') makes a function for those"
        )
    places = ranked.flatten()
    lengths = pc.list_value_length(ranked).fill_null(0).to_numpy()
    given = pc.list_value_length(candidates).fill_null(0).to_numpy().astype(np.int64)
    indices = np.repeat(given.cumsum() - given, lengths) + places.field("position").to_numpy()
    taken = candidates.flatten().take(pa.array(indices))
    whole = pa.StructArray.from_arrays([taken, *places.flatten()], ["candidate", *field_names(places.type)])
    return pa.ListArray.from_arrays(ranked.offsets, whole, mask=ranked.is_null())


def similarity_array(
    left: pa.Array,
    right: pa.Array,
    spec: EncoderSpec,
    plan: SimilarityPlan,
    failures: str,
    meter: PartitionMeter = NO_DRIVER,
    names: tuple[str, str] = ("a", "b"),
) -> pa.Array:
    """Compare two columns of an Arrow batch row by row, and return scores, or structs of similarity and failure.

    The plan's `a` and `b` name the columns in failures, and `names` in errors of their types.
    """
    check_shape(f"column {names[0]!r}", "a_kind", plan.a_kind, shape_of_arrow(left.type))
    check_shape(f"column {names[1]!r}", "b_kind", plan.b_kind, shape_of_arrow(right.type))
    rows = _rows({plan.a: left, plan.b: right})
    runner = PlanRunner(plan, encoder_of_task(spec))
    with meter.counting() as stats:
        made = [done.result for done in _done(runner, rows, stats, least_rows=_PIECE_ROWS)]
    scores = [row.value[plan.output] for row in made]
    outcomes = [_of_pair(row.failures[0]) if row.failures else row.value[plan.output] for row in made]
    return with_failures("similarity", pa.array(scores, pa.float64()), outcomes, failures)


def _of_pair(failure: Failure) -> Failure:
    """Return the failure with its column in the message, because the failure of an expression has no column."""
    message = f"{failure.column}: {failure.message}"
    return Failure(failure.stage, failure.code, message, failure.transient, failure.column)


def classify_array(
    values: pa.Array, spec: EncoderSpec, kind: Kind, labels: LabelSet, failures: str, meter: PartitionMeter = NO_DRIVER
) -> pa.Array:
    """Classify one column, and return lists of label, clip_score and cosine, or structs of labels and failure.

    Lists are sorted best first. A label that cannot be embedded raises `SpecError`.
    """
    check_shape("the column", "kind", kind, shape_of_arrow(values.type))
    encoder = encoder_of_task(spec)
    classifier = Classifier(labels, encoder)
    read = reader_of(values.type)
    items = (item_of_kind(kind, read(value)) for value in values)
    with meter.counting() as stats:
        embedded = encoder.embed_items(items, stats)
        outcomes = [classifier.classify(outcome) for outcome in embedded]
        for before, after in zip(embedded, outcomes, strict=True):
            if isinstance(after, Failure):
                stats.count_new([after], [before])
    found = [None if outcome is None or isinstance(outcome, Failure) else outcome.values for outcome in outcomes]
    return with_failures("labels", pa.array(found, ARROW_LABELS), outcomes, failures)


def _array_of(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Make an array piece by piece: as values of Python a million candidates would take hundreds of megabytes."""
    values = iter(values)
    pieces = []
    while some := list(itertools.islice(values, _PIECE_ROWS)):
        pieces.append(pa.array(some, kind))
    return pa.concat_arrays(pieces) if pieces else pa.array([], kind)


def _rows(columns: dict[str, pa.Array]) -> Iterator[Values]:
    readers = [reader_of(values.type) for values in columns.values()]
    for scalars in zip(*columns.values(), strict=True):
        yield {name: read(scalar) for name, read, scalar in zip(columns, readers, scalars, strict=True)}


def _done(runner: PlanRunner, rows: Iterable[Values], stats: Stats, *, least_rows: int = 1) -> Iterator[Done]:
    """Yield each row as soon as it is done."""
    with runner.session(stats, least_rows=least_rows) as session:
        for values in rows:
            yield from session.push(None, getter(values))
        yield from session.flush()


# --- whole DataFrames ------------------------------------------------------------------------------------------------


def score_batches(
    batches: Iterable[pa.RecordBatch],
    spec: EncoderSpec,
    plan: PairPlan,
    sources: Sequence[InputColumn],
    meter: PartitionMeter = NO_DRIVER,
) -> Iterator[pa.RecordBatch]:
    """Score the pairs of a partition, and yield the same rows in order, with cosine, logit and failures."""
    plan = dataclasses.replace(plan, by=())  # Spark groups by those columns: they are not read here

    def make(made: Sequence[PlanResult]) -> list[pa.Array]:
        scores = [pa.array([row.value[name] for row in made], pa.float64()) for name in (COSINE, LOGIT)]
        return [*scores, failures_array(made)]

    added = NewArrays([COSINE, LOGIT, FAILURES_COLUMN], make)
    runner = PlanRunner(plan, encoder_of_task(spec))
    yield from run_partition(batches, runner, sources, added, meter, reader=reader_of)

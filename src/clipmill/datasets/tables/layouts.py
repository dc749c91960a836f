"""How the results of each plan for rows stand in files: their columns, their types, and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from ...encoders.plans.classify_plan import ClassifyPlan
from ...encoders.plans.columns import Column, ColumnPlan
from ...encoders.plans.labels import LabelSet
from ...encoders.plans.plan import RowPlan
from ...encoders.plans.rank_plan import CLIP_SCORE, COSINE, RANK, PairPlan, RankPlan
from ...errors import SpecError
from ...files.plain import clean_text, json_text
from ...models.spec import EncoderSpec
from .column_types import column_type, is_array
from .provenance import provenance_of
from .vectors import nested_vector_array, vector_array, vector_type

REASON = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])
"""Why a candidate has no scores."""
LABELS = pa.list_(pa.struct([("label", pa.string()), (CLIP_SCORE, pa.float64()), (COSINE, pa.float64())]))
"""The best labels of a value, best first."""


def ranked_type(candidate: pa.DataType) -> pa.DataType:
    """Return the type of a column of ranked candidates, given that of one candidate."""
    fields = [("candidate", candidate), ("position", pa.int32()), (CLIP_SCORE, pa.float64()), (COSINE, pa.float64())]
    return pa.list_(pa.struct([*fields, ("failure", REASON)]))


class InnerFailure(NamedTuple):
    """A part of a row's value that failed, while the row is whole.

    Attributes:
        place: Column and element, such as `captions[3]`.
        reason: `stage`, `code` and `message`.
        kind: What the part was taken for.
        value: The part.
    """

    place: str
    reason: dict[str, Any]
    kind: str
    value: Any


class RowLayout(Protocol):
    """What a plan adds to rows in files."""

    makes_vectors: bool
    """Whether what is made is vectors; else it is scores."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """What each column that is read is taken for, by path."""
        ...

    @property
    def lists(self) -> frozenset[str]:
        """Those of them that hold lists whatever the row."""
        ...

    def check_free(self, existing: Sequence[str]) -> None:
        """Refuse to write over columns that are there already.

        Raises:
            SpecError: Naming one, and the way out.
        """
        ...

    def fields(self, base: pa.Schema, dtype: str) -> list[pa.Field]:
        """Return the columns that are added to those of `base`.

        Raises:
            SpecError: If `base` lacks a column, or has one of a type that cannot work.
        """
        ...

    def provenances(self, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
        """Return where the new columns come from, by name."""
        ...

    def array(self, values: Sequence[Any], field: pa.Field, dim: int) -> pa.Array | None:
        """Return a new column's values as Arrow; None for a column that holds nothing special, such as flags."""
        ...

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """Return every vector or score of a row, None for what is null."""
        ...

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """Return what failed inside the values of a row that is whole."""
        ...


def layout_of(plan: RowPlan) -> RowLayout:
    """Return how a plan's results stand in files."""
    if isinstance(plan, RankPlan):
        return RankLayout(plan)
    if isinstance(plan, PairPlan):
        return PairLayout(plan)
    if isinstance(plan, ClassifyPlan):
        return ClassifyLayout(plan)
    if isinstance(plan, ColumnPlan):
        return VectorLayout(plan)
    raise SpecError(f"what a {type(plan).__name__} makes of rows has no place in files")


@dataclasses.dataclass(frozen=True)
class VectorLayout:
    """Rows that were embedded: a column of vectors for each column."""

    plan: ColumnPlan
    makes_vectors = True
    lists = frozenset[str]()

    @property
    def kinds(self) -> Mapping[str, str]:
        """See `RowLayout`."""
        return {path: column.modality for path, column in self.plan.columns.items()}

    def check_free(self, existing: Sequence[str]) -> None:
        """See `RowLayout`."""
        self.plan.check_free(existing)

    def fields(self, base: pa.Schema, dtype: str) -> list[pa.Field]:
        """See `RowLayout`; of an array the new column holds lists of vectors."""
        return _column_fields(self.plan, base, lambda nested: vector_type(dtype, nested=nested))

    def provenances(self, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
        """See `RowLayout`."""
        return {name: provenance_of(spec, column.modality) for name, column in self.plan.outputs.items()}

    def array(self, values: Sequence[Any], field: pa.Field, dim: int) -> pa.Array | None:
        """See `RowLayout`."""
        if field.name not in self.plan.outputs:
            return None
        nested = pa.types.is_list(field.type.value_type)
        inner = field.type.value_type.value_type if nested else field.type.value_type
        dtype = "float16" if inner == pa.float16() else "float32"
        return (nested_vector_array if nested else vector_array)(values, dim, dtype)

    def made(self, row: Mapping[str, Any]) -> list[np.ndarray | None]:
        """See `RowLayout`; an array column has one for each element."""
        values = [row.get(name) for name in self.plan.outputs]
        return [vector for value in values for vector in (value if isinstance(value, list) else [value])]

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """See `RowLayout`."""
        return []


@dataclasses.dataclass(frozen=True)
class ClassifyLayout:
    """Rows that were classified: a list of labels for each column."""

    plan: ClassifyPlan
    makes_vectors = False
    lists = frozenset[str]()

    @property
    def kinds(self) -> Mapping[str, str]:
        """See `RowLayout`."""
        return VectorLayout(self.plan.columns).kinds

    def check_free(self, existing: Sequence[str]) -> None:
        """See `RowLayout`."""
        self.plan.columns.check_free(existing)

    def fields(self, base: pa.Schema, dtype: str) -> list[pa.Field]:
        """See `RowLayout`; of an array the new column holds a list of labels for each element."""
        return _column_fields(self.plan.columns, base, lambda nested: pa.list_(LABELS) if nested else LABELS)

    def provenances(self, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
        """See `RowLayout`."""
        outputs = self.plan.columns.outputs
        return {name: label_provenance(spec, column.modality, self.plan.labels) for name, column in outputs.items()}

    def array(self, values: Sequence[Any], field: pa.Field, dim: int) -> pa.Array | None:
        """See `RowLayout`."""
        return pa.array(values, field.type) if field.name in self.plan.columns.outputs else None

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """See `RowLayout`; an array column has one for each element."""
        found: list[Any] = []
        for name in self.plan.columns.outputs:
            value = row.get(name)
            is_array = value is not None and (len(value) == 0 or not isinstance(value[0], Mapping))
            found += value or () if is_array else (value,)
        return found

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """See `RowLayout`."""
        return []


@dataclasses.dataclass(frozen=True)
class RankLayout:
    """Rows whose lists of candidates were ranked: the list, sorted, with scores."""

    plan: RankPlan
    makes_vectors = False

    @property
    def kinds(self) -> Mapping[str, str]:
        """See `RowLayout`."""
        return {self.plan.query: self.plan.query_kind, self.plan.candidates: self.plan.candidate_kind}

    @property
    def lists(self) -> frozenset[str]:
        """See `RowLayout`."""
        return frozenset([self.plan.candidates])

    def check_free(self, existing: Sequence[str]) -> None:
        """See `RowLayout`."""
        if self.plan.output in existing:
            raise SpecError(f"column {self.plan.output!r} exists already; choose a name: output='…'")

    def fields(self, base: pa.Schema, dtype: str) -> list[pa.Field]:
        """See `RowLayout`; a candidate keeps its type."""
        column_type(base, self.plan.query)
        kind = column_type(base, self.plan.candidates)
        if kind is not None and not is_array(kind):
            raise SpecError(
                f"the column of candidates {self.plan.candidates!r} is {kind}, not a list; where each row holds one "
                "candidate, Rank(by=…) on Beam and rank_groups(by=…) on Spark rank them"
            )
        return [pa.field(self.plan.output, ranked_type(pa.string() if kind is None else kind.value_type))]

    def provenances(self, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
        """See `RowLayout`."""
        return {self.plan.output: rank_provenance(spec, self.plan)}

    def array(self, values: Sequence[Any], field: pa.Field, dim: int) -> pa.Array | None:
        """See `RowLayout`."""
        if field.name != self.plan.output:
            return None
        kind = field.type.value_type.field("candidate").type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return pa.array([None if row is None else [_entry(one, is_text) for one in row] for row in values], field.type)

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """See `RowLayout`; one for each candidate."""
        return [one[CLIP_SCORE] for one in row.get(self.plan.output) or ()]

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """See `RowLayout`: the candidates that failed."""
        return [
            InnerFailure(
                f"{self.plan.candidates}[{one['position']}]",
                {name: one["failure"][name] for name in REASON.names},
                self.plan.candidate_kind,
                one["candidate"],
            )
            for one in row.get(self.plan.output) or ()
            if one["failure"] is not None
        ]


@dataclasses.dataclass(frozen=True)
class PairLayout:
    """Flat rows that were ranked within their groups: a column for each score."""

    plan: PairPlan
    makes_vectors = False
    lists = frozenset[str]()

    @property
    def kinds(self) -> Mapping[str, str]:
        """See `RowLayout`."""
        return {self.plan.query: self.plan.query_kind, self.plan.candidate: self.plan.candidate_kind}

    def check_free(self, existing: Sequence[str]) -> None:
        """See `RowLayout`."""
        if taken := [name for name in self.plan.new_names if name in existing]:
            raise SpecError(f"column {taken[0]!r} exists already, and ranking adds one of that name: rename it before")

    def fields(self, base: pa.Schema, dtype: str) -> list[pa.Field]:
        """See `RowLayout`."""
        for path in (self.plan.query, self.plan.candidate, *self.plan.by):
            column_type(base, path)
        return [pa.field(name, pa.int64() if name == RANK else pa.float64()) for name in self.plan.new_names]

    def provenances(self, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
        """See `RowLayout`."""
        return dict.fromkeys(self.plan.new_names, rank_provenance(spec, self.plan))

    def array(self, values: Sequence[Any], field: pa.Field, dim: int) -> pa.Array | None:
        """See `RowLayout`."""
        return None

    def made(self, row: Mapping[str, Any]) -> list[Any]:
        """See `RowLayout`."""
        return [row.get(CLIP_SCORE)]

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """See `RowLayout`."""
        return []


def rank_provenance(spec: EncoderSpec, plan: Any) -> dict[str, Any]:
    """Return what made the scores of a ranking.

    Args:
        spec: What made the vectors.
        plan: What was ranked, with its scale and, of rows, its kinds.
    """
    kinds = {name: getattr(plan, name) for name in ("query_kind", "candidate_kind") if hasattr(plan, name)}
    return {**provenance_of(spec, "auto"), "scores": {"scale": plan.scale, "top_k": plan.top_k, **kinds}}


def label_provenance(spec: EncoderSpec, modality: str, labels: LabelSet) -> dict[str, Any]:
    """Return what made the scores of a classification; thousands of labels are told by their number and their hash."""
    digest = hashlib.sha256(json.dumps(labels.labels).encode()).hexdigest()
    about = {"labels": len(labels.labels), "labels_sha256": digest, "templates": list(labels.templates)}
    return {**provenance_of(spec, modality), "scores": {"scale": labels.scale, "top_k": labels.top_k, **about}}


def _entry(ranked: Mapping[str, Any], is_text: bool) -> dict[str, Any]:
    """Return a ranked candidate as Arrow takes it."""
    candidate, failure = ranked["candidate"], ranked["failure"]
    if is_text and candidate is not None:
        candidate = clean_text(candidate if isinstance(candidate, str) else json_text(candidate))
    if failure is not None:
        failure = {**failure, "message": clean_text(failure["message"])}
    return {**ranked, "candidate": candidate, "failure": failure}


def _column_fields(plan: ColumnPlan, base: pa.Schema, new_type: Any) -> list[pa.Field]:
    fields: list[pa.Field] = []
    for path, column in plan.columns.items():
        kind = column_type(base, path)
        fields += _new_fields(column, new_type(kind is not None and is_array(kind)))
    return fields


def _new_fields(column: Column, kind: pa.DataType) -> list[pa.Field]:
    fields = [pa.field(str(column.output), kind)]
    return [*fields, pa.field(column.truncated, pa.bool_())] if column.truncated else fields

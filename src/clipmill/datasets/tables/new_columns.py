"""The columns that plans add: the type of each new column, its values as Arrow arrays, and their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...encoders.plans.plan import NewColumn, Plan, RowPlan
from ...encoders.plans.rank_plan import CLIP_SCORE, COSINE
from ...errors import SpecError
from ...files.json_text import clean_text, json_text
from ...models.spec import EncoderSpec
from .column_types import column_type, is_list_type
from .provenance import provenance_of
from .vectors import dtype_of, nested_vector_array, vector_array, vector_type

REASON = pa.struct([("stage", pa.string()), ("code", pa.string()), ("message", pa.string())])
"""Type of the reason why a candidate has no scores."""
LABELS = pa.list_(pa.struct([("label", pa.string()), (CLIP_SCORE, pa.float64()), (COSINE, pa.float64())]))
"""Type of the best labels of a value, best first."""
MATCH_SCORES = pa.struct([(CLIP_SCORE, pa.float64()), (COSINE, pa.float64()), ("position", pa.int32())])
"""Type of a match's scores and its position before ranking."""
_SINGLE = {
    "score": pa.float64(),
    "rank": pa.int64(),
    "flag": pa.bool_(),
    "match_scores": MATCH_SCORES,
    "reason": REASON,
}


def ranked_type(candidate: pa.DataType) -> pa.DataType:
    """Return the type of a column of ranked candidates, given the type of one candidate."""
    fields = [("candidate", candidate), ("position", pa.int32()), (CLIP_SCORE, pa.float64()), (COSINE, pa.float64())]
    return pa.list_(pa.struct([*fields, ("failure", REASON)]))


def row_fields(plan: RowPlan, base: pa.Schema, dtype: str) -> list[pa.Field]:
    """Return the columns a plan adds to `base`; raise `SpecError` if one it reads is missing or unsupported."""
    types = {path: column_type(base, path) for path in (*plan.reads, *plan.by)}
    plan.check_arrays([path for path, kind in types.items() if kind is not None and is_list_type(kind)])
    return [new_field(column, dtype, types.get(column.source or "")) for column in plan.added]


def new_field(column: NewColumn, dtype: str, source: pa.DataType | None = None) -> pa.Field:
    """Return the Arrow field of a new column, with vectors of `dtype`; raise `SpecError` for an unsupported source.

    `source` is the type of the column it is made from; None if no file declares it.
    """
    nested = source is not None and is_list_type(source)
    match column.holds:
        case "vector":
            kind = vector_type(dtype, nested=nested)
        case "labels":
            kind = pa.list_(LABELS) if nested else LABELS
        case "ranked":
            if source is not None and not nested:
                raise SpecError(
                    f"the column of candidates {column.source!r} is {source}, not a list",
                    hint="where each row holds one candidate, clipmill.transforms.Rank(by=…) on Beam and "
                    "clipmill.udfs.rank_groups(by=…) on Spark rank them",
                )
            kind = ranked_type(pa.string() if source is None else source.value_type)
        case _:
            kind = _SINGLE[column.holds]
    return pa.field(column.name, kind)


def new_array(column: NewColumn, values: Sequence[Any], kind: pa.DataType, dim: int) -> pa.Array:
    """Return the values of a new column, one for each row, as an Arrow array; `kind` is from `new_field`."""
    if column.holds == "vector":
        make = nested_vector_array if is_list_type(kind.value_type) else vector_array
        return make(values, dim, dtype_of(kind))
    if column.holds == "ranked":
        candidate = kind.value_type.field("candidate").type
        is_text = pa.types.is_string(candidate) or pa.types.is_large_string(candidate)
        return pa.array([None if row is None else [_entry(one, is_text) for one in row] for row in values], kind)
    return pa.array(values, kind)


def new_provenance(plan: Plan, spec: EncoderSpec, modality: str = "auto") -> dict[str, Any]:
    """Return the provenance of what a plan makes."""
    scoring = plan.scoring()
    return provenance_of(spec, modality) | ({} if scoring is None else {"scores": scoring})


def row_provenances(plan: RowPlan, spec: EncoderSpec) -> dict[str, dict[str, Any]]:
    """Return the provenance of the columns that a plan adds, by name; flags have none."""
    columns = [column for column in plan.added if column.holds != "flag"]
    found = {modality: new_provenance(plan, spec, modality) for modality in {column.modality for column in columns}}
    return {column.name: found[column.modality] | dict(column.provenance or {}) for column in columns}


def _entry(ranked: Mapping[str, Any], is_text: bool) -> dict[str, Any]:
    """Return a ranked candidate with values that its Arrow type accepts."""
    candidate, failure = ranked["candidate"], ranked["failure"]
    if is_text and candidate is not None:
        candidate = clean_text(candidate if isinstance(candidate, str) else json_text(candidate))
    if failure is not None:
        failure = {**failure, "message": clean_text(failure["message"])}
    return {**ranked, "candidate": candidate, "failure": failure}

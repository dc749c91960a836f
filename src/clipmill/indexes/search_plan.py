"""What is searched for, where, and what embeds it, checked where a search is planned: the same for every engine."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import pyarrow as pa

from ..datasets.tables.provenance import check_comparable, spec_of_provenance
from ..encoders.plans.kinds import Kind, check_kind
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE
from ..encoders.plans.ranking import check_any_scale
from ..encoders.plans.scores import SCALE, Scale
from ..errors import SpecError
from ..models.spec import EncoderSpec
from .exact import check_k
from .targets import Target

HITS = "hits"
TOP_K = 10
POSITION, ID, SCORE = "position", "id", "score"
BATCH_ROWS = 1024
"""Queries that are searched together, where the engine itself makes no batches."""
_BATCH_HITS = 100_000
"""Hits that are held as values of Python, at most: some 50 MB."""
_OWN = (POSITION, ID, SCORE, COSINE, CLIP_SCORE)


@dataclasses.dataclass(frozen=True, slots=True)
class SearchPlan:
    """What is searched for, where, and what is told of it.

    Attributes:
        target: The index or dataset.
        query: Path of the query's column.
        query_kind: What a query is; a `vector` needs no model.
        top_k: How many of the nearest are told.
        columns: Columns of the rows that were found, beside their id.
        rerank: Whether the hits are scored with the full vectors.
        scale: What cosines are multiplied by before the softmax over the hits.
        nprobe: Inverted lists of an index that are looked into; as the index says if None.
        ef_search: Rows of an index's graph that are kept in view; as the index says if None.
        output: Name of the column that is added.
        key: Column that names a row in its failures.
    """

    target: Target
    query: str = "query"
    query_kind: Kind = "auto"
    top_k: int = TOP_K
    columns: tuple[str, ...] = ()
    rerank: bool = False
    scale: Scale = SCALE
    nprobe: int | None = None
    ef_search: int | None = None
    output: str = HITS
    key: str = "id"
    rename_hint = "choose a name: output='…'"

    def checked(self, spec: EncoderSpec | None) -> Self:
        """Return the plan, which this model can do.

        Args:
            spec: What embeds the queries; None for vectors.

        Raises:
            SpecError: If something of it cannot work.
        """
        for name in ("query", "output", "key"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise SpecError(f"{name}={value!r} names no column")
        if spec is not None:
            check_kind("query_kind", self.query_kind, spec)
        elif self.scale == "model":
            raise SpecError(
                "scale='model' asks what the model learnt, and query_kind='vector' loads none: give a number"
            )
        check_k(self.top_k, self.target.rows)
        check_any_scale(self.scale)
        if self.scale != SCALE and not self.rerank:
            raise SpecError(f"scale={self.scale!r} is of clip_scores, which hits have with rerank=True alone")
        self._check_effort()
        self._check_columns()
        return self

    def _check_effort(self) -> None:
        for name, value in self.effort.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(f"{name}={value!r} is not a whole number of at least 1")
            if getattr(self.target.effort, name, None) is None:
                what = "an index of this kind" if self.target.effort else "a dataset, which is compared as a whole"
                raise SpecError(f"{name}={value!r} says nothing to {what} ({self.target.location})")

    def _check_columns(self) -> None:
        if isinstance(self.columns, str):
            raise SpecError(f"columns is the text {self.columns!r}; give several: ({self.columns!r},)")
        there = self.target.schema.names
        for name in self.columns:
            if name not in there:
                raise SpecError(f"{self.target.location} has no column {name!r}; it has {', '.join(map(repr, there))}")
            if name in _OWN and name != ID:
                raise SpecError(f"column {name!r} cannot be told of a hit, whose own {name} has that name")
        if len(set(self.columns)) < len(self.columns):
            raise SpecError(f"columns={self.columns!r} names one twice")

    @property
    def new_names(self) -> list[str]:
        """The columns that are added."""
        return [self.output]

    @property
    def batch_rows(self) -> int:
        """Queries that are searched together, where the engine itself makes no batches."""
        return max(1, min(BATCH_ROWS, _BATCH_HITS // self.top_k))

    @property
    def effort(self) -> dict[str, int]:
        """How much of an index is looked at, where that is said."""
        given = {"nprobe": self.nprobe, "ef_search": self.ef_search}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def told(self) -> list[str]:
        """The columns of the rows that were found, without their id."""
        return [name for name in self.columns if name != ID]

    @property
    def hit_type(self) -> pa.StructType:
        """What a hit is: `position`, `id`, `score`, with `rerank` `cosine` and `clip_score`, and the columns."""
        scores = [SCORE, *((COSINE, CLIP_SCORE) if self.rerank else ())]
        fields = [(POSITION, pa.int64()), (ID, pa.string()), *((name, pa.float64()) for name in scores)]
        return pa.struct([*fields, *((name, self.target.schema.field(name).type) for name in self.told)])


def spec_of_search(
    target: Target, query_kind: Kind, model: str | EncoderSpec | None, **options: Any
) -> EncoderSpec | None:
    """Return what embeds queries: the model that made what is searched.

    Args:
        target: What is searched.
        query_kind: What queries are.
        model: A name or a spec, which has to be that model; None takes it.
        **options: Fields of the spec.

    Returns:
        The spec, None where queries are vectors.

    Raises:
        SpecError: If it is another model, none is known, or an option cannot work or says nothing.
        TypeError: If an option is unknown, or has another name here.
    """
    if query_kind == "vector":
        if given := [*(["model"] if model is not None else []), *options]:
            raise SpecError(f"{given[0]} says nothing of queries that are vectors (query_kind='vector')")
        return None
    provenance = target.provenance
    if isinstance(model, EncoderSpec) or (provenance is None and model is not None):
        spec = EncoderSpec.of(model, **options)
        if provenance is not None:
            check_comparable(spec, provenance)
    elif provenance is None:
        raise SpecError(
            f"{target.location} does not say which model made its vectors: name it (model='…'), or search for vectors"
            " (query_kind='vector')"
        )
    else:
        spec = spec_of_provenance(provenance, **({} if model is None else {"model": model}), **options)
    if spec.dim != target.dim:
        raise SpecError(
            f"{spec.model} makes vectors of {spec.dim} values, and those of {target.location} have {target.dim}"
        )
    return spec

"""`SearchPlan`: queries, target and options of a search, checked when it is planned; the same for every engine."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import pyarrow as pa

from ..datasets.tables.provenance import check_comparable, spec_of_provenance
from ..encoders.plans.kinds import Kind, check_kind
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE
from ..encoders.plans.ranking import check_any_scale
from ..encoders.plans.scores import SCALE, Scale
from ..errors import SpecError, check_flags, check_integer
from ..messages import by_surface, setting
from ..models.spec import EncoderSpec
from .exact import check_k
from .targets import Target

HITS = "hits"
TOP_K = 10
POSITION, ID, SCORE = "position", "id", "score"
BATCH_ROWS = 1024
"""Queries that are searched at a time, where the engine makes no batches."""
_BATCH_HITS = 100_000
"""Hits that are Python objects at a time, at most: some 50 MB."""
_OWN = (POSITION, ID, SCORE, COSINE, CLIP_SCORE)


@dataclasses.dataclass(frozen=True, slots=True)
class SearchPlan:
    """The queries, the target and the options of a search.

    Attributes:
        target: The index or dataset.
        query: Path of the column of queries.
        query_kind: What a query is; a `vector` needs no model.
        top_k: Hits for each query.
        columns: Columns of the found rows that a hit has, besides the id.
        rerank: Whether hits have a cosine and a clip_score of the full vectors.
        scale: What cosines are multiplied by before the softmax over the hits.
        nprobe: Inverted lists of an index that are searched; the default of the index if None.
        ef_search: `efSearch` of a graph; the default of the index if None.
        output: Name of the column that is added.
        key: Column that identifies a row in its failures.
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
    rename_hint = "choose a name: " + setting("output", ...)

    def hint_for(self, name: str) -> str:
        """Return how the new column gets another name."""
        return self.rename_hint

    def checked(self, spec: EncoderSpec | None) -> Self:
        """Check the plan against the target and the model, None for vectors, and return it, or raise `SpecError`."""
        for name in ("query", "output", "key"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise SpecError(setting(name, value) + " is not a column name", hint="give a text")
        check_flags(rerank=self.rerank)
        if spec is not None:
            check_kind("query_kind", self.query_kind, spec)
        elif self.scale == "model":
            raise SpecError(
                setting("scale", "model")
                + " is the scale that a model learnt, and there is none with "
                + setting("query_kind", "vector"),
                hint="give a number",
            )
        check_k(self.top_k, self.target.rows)
        check_any_scale(self.scale)
        if self.scale != SCALE and not self.rerank:
            needed = setting("rerank", True)
            raise SpecError(setting("scale", self.scale) + " is for clip_scores, which hits have only with " + needed)
        self._check_parameters()
        self._check_columns()
        return self

    def _check_parameters(self) -> None:
        for name, value in self.parameters.items():
            check_integer(name, value)
            if getattr(self.target.parameters, name, None) is None:
                what = (
                    "an index of this kind" if self.target.parameters else "a dataset, whose vectors are all compared"
                )
                raise SpecError(
                    setting(name, value) + f" has no effect with {what} ({self.target.location})", hint="leave it out"
                )

    def _check_columns(self) -> None:
        if isinstance(self.columns, str):
            raise SpecError(f"columns is the text {self.columns!r}; give several: ({self.columns!r},)")
        there = self.target.schema.names
        for name in self.columns:
            if name not in there:
                raise SpecError(f"{self.target.location} has no column {name!r}; it has {', '.join(map(repr, there))}")
            if name in _OWN and name != ID:
                raise SpecError(
                    f"columns={self.columns!r}: a hit has its own {name!r}; leave that column out, or rename it"
                )
        if len(set(self.columns)) < len(self.columns):
            raise SpecError(f"columns={self.columns!r} has a name twice; give each once")

    @property
    def new_names(self) -> list[str]:
        """The columns that are added."""
        return [self.output]

    @property
    def batch_rows(self) -> int:
        """Queries that are searched at a time, where the engine makes no batches."""
        return max(1, min(BATCH_ROWS, _BATCH_HITS // self.top_k))

    @property
    def parameters(self) -> dict[str, int]:
        """The parameters `nprobe` and `ef_search`, where they are given."""
        given = {"nprobe": self.nprobe, "ef_search": self.ef_search}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def extra_columns(self) -> list[str]:
        """The columns that a hit has besides the id."""
        return [name for name in self.columns if name != ID]

    @property
    def hit_type(self) -> pa.StructType:
        """The type of a hit: `position`, `id`, `score`, with `rerank` `cosine` and `clip_score`, and `columns`."""
        scores = [SCORE, *((COSINE, CLIP_SCORE) if self.rerank else ())]
        fields = [(POSITION, pa.int64()), (ID, pa.string()), *((name, pa.float64()) for name in scores)]
        return pa.struct([*fields, *((name, self.target.schema.field(name).type) for name in self.extra_columns)])


def spec_of_search(
    target: Target, query_kind: Kind, model: str | EncoderSpec | None, **options: Any
) -> EncoderSpec | None:
    """Return the spec of the model that embeds queries: the model of the target.

    Args:
        target: The index or dataset.
        query_kind: What a query is.
        model: A name or a spec, which must be the model of the target; None takes it from the target.
        **options: Fields of the spec.

    Returns:
        The spec, None where queries are vectors.

    Raises:
        SpecError: If it is another model, the model is unknown, or an option is wrong or has no effect.
        TypeError: If an option is unknown.
    """
    if query_kind == "vector":
        if given := [*(["model"] if model is not None else []), *options]:
            raise SpecError(
                setting(given[0]) + " has no effect with " + setting("query_kind", "vector") + ", which needs no model",
                hint="leave it out",
            )
        return None
    provenance = target.provenance
    if isinstance(model, EncoderSpec) or (provenance is None and model is not None):
        spec = EncoderSpec.of(model, **options)
        if provenance is not None:
            check_comparable(spec, provenance)
    elif provenance is None:
        raise SpecError(
            f"{target.location} has no provenance, so its model is unknown",
            hint="name it ("
            + setting("model", ...)
            + by_surface(python="), or search for vectors (query_kind='vector')", flags=")"),
        )
    else:
        spec = spec_of_provenance(provenance, **({} if model is None else {"model": model}), **options)
    if spec.dim != target.dim:
        raise SpecError(
            f"{spec.model} makes vectors of {spec.dim} values, and those of {target.location} have {target.dim}"
        )
    return spec

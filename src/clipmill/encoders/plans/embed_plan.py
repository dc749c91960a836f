"""Embedding of rows: which columns, and where the vectors go."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from ...errors import SpecError, check_flags
from ...failures import Code, Failure, RowError, Stage
from ...messages import by_surface, setting
from ...models.spec import EncoderSpec, Modality
from ..item import Item, is_pair, item_of_value
from ..outcome import Classified, Labelled, Outcome, Vector
from .fusion import Fusion, checked_fusions, fuse_as_given
from .heads import Head, HeadPlan, checked_heads
from .kinds import check_names
from .plan import NewColumn, PlanResult, RowPlan
from .row_values import Getter, MissingColumn, row_name, value_or_none

SUFFIX = "_embedding"
FAILURES_COLUMN = "embedding_failures"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """How one column is embedded.

    Attributes:
        modality: `text`, `image` or `audio`.
        output: Name of the column of vectors; `<column>_embedding` if None.
        truncated: Name of a boolean column that flags texts cut to the context length. No such column if None.
    """

    modality: Modality
    output: str | None = None
    truncated: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnPlan(RowPlan):
    """Embeds columns of rows.

    Attributes:
        columns: The columns by path (`photo`, or `page.photo` into a struct), all with an output name.
        key: Column that identifies a row in its failures. A row without it is not identified.
        fused: Columns of vectors that are made of those of several columns.
        keep_parts: Whether columns that are part of a fused vector have a column of their own vectors, too.
        heads: What makes columns of scores from these vectors.
    """

    columns: dict[str, Column]
    key: str = "id"
    fused: tuple[Fusion, ...] = ()
    keep_parts: bool = True
    heads: tuple[HeadPlan, ...] = ()
    rename_hint = by_surface(
        python="choose a name: Column('image', output=…)", flags="leave the old one out: --drop NAME"
    )

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Modality | Column],
        *,
        spec: EncoderSpec | None = None,
        key: str = "id",
        suffix: str = SUFFIX,
        fuse: Mapping[str, Mapping[str, float]] | None = None,
        keep_parts: bool = True,
        heads: Mapping[str, Head | str] | None = None,
    ) -> ColumnPlan:
        """Check the columns of a call, and complete the names of their outputs.

        Args:
            columns: Modality or `Column` by path.
            spec: If given, columns that its model cannot embed are refused.
            key: Column that identifies a row in its failures.
            suffix: Default outputs are the column's name with this suffix.
            fuse: Weights by column path, by the name of a column that gets their fused vector; see `fusion`.
            keep_parts: See `ColumnPlan`.
            heads: A linear head, or the path of its file, by the name of its column of scores; see `heads`.

        Raises:
            SpecError: If there are no columns, a modality is unknown, two outputs have one name, the model lacks a
                tower, or a fused column or a head cannot work.
        """
        if not (isinstance(columns, Mapping) and all(isinstance(path, str) for path in columns)):
            raise SpecError(f"columns must be a mapping such as {{'photo': 'image'}}, got {columns!r}")
        if not columns:
            raise SpecError(
                setting("columns", {}) + " names nothing to embed",
                hint="give for instance {'caption': 'text', 'photo': 'image'}",
            )
        plan: dict[str, Column] = {}
        for path, given in columns.items():
            column = given if isinstance(given, Column) else Column(given)
            if column.modality not in get_args(Modality):
                raise SpecError(
                    f"column {path!r} is {column.modality!r}; it must be one of {', '.join(get_args(Modality))}"
                )
            if spec is not None and column.modality not in spec.modalities:
                raise SpecError(f"column {path!r}: {spec.model} embeds {' and '.join(sorted(spec.modalities))} only")
            plan[path] = dataclasses.replace(column, output=column.output or path.replace(".", "_") + suffix)
        check_names({"key": key})
        check_flags(keep_parts=keep_parts)
        fused = checked_fusions(fuse, plan)
        if not fused and not keep_parts:
            raise SpecError(setting("keep_parts", False) + " has no effect without " + setting("fuse"))
        planned = checked_heads(heads, plan, [fusion.output for fusion in fused], spec)
        made = cls(plan, key, fused, keep_parts, planned)
        names = made.new_names
        if len(set(names)) < len(names):
            raise SpecError(f"two output columns have the same name: {sorted(names)}")
        return made

    def hint_for(self, name: str) -> str:
        """See `RowPlan`. Fused vectors and scores are named by `fuse` and `heads`."""
        options = {"fuse": [fusion.output for fusion in self.fused]}
        options["heads"] = [output for head in self.heads for output in head.names]
        of = next((option for option, names in options.items() if name in names), None)
        return self.rename_hint if of is None else "choose another name in " + setting(of)

    @property
    def outputs(self) -> dict[str, Column]:
        """The columns whose own vectors are written, by output name."""
        return {str(column.output): column for path, column in self.columns.items() if self._is_written(path)}

    def _is_written(self, path: str) -> bool:
        return self.keep_parts or not any(path in fusion.weights for fusion in self.fused)

    def check_arrays(self, arrays: Collection[str]) -> None:
        """See `RowPlan`. Fused vectors and scores are made of single values."""
        for fusion in self.fused:
            if found := [path for path in fusion.weights if path in arrays]:
                raise SpecError(
                    fuse_as_given(fusion.output, dict(fusion.weights))
                    + f": column {found[0]!r} holds arrays, and a fused vector is made of single values",
                    "fuse",
                )
        if scored := [head for head in self.heads if head.column in arrays]:
            raise SpecError(
                setting("heads") + f": column {scored[0].column!r} holds arrays, and {scored[0].names[0]!r} scores "
                "single values"
            )

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return {path: column.modality for path, column in self.columns.items()}

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`. Each column of vectors is followed by its flag, if it has one; then fused vectors; scores."""
        vectors = [*self.new_columns("vector"), *map(self._fused_column, self.fused)]
        return [*vectors, *(column for head in self.heads for column in self._score_columns(head))]

    def _score_columns(self, head: HeadPlan) -> list[NewColumn]:
        own = self.columns.get(head.column)
        modality = "auto" if own is None else own.modality
        return [
            NewColumn(name, "score", modality=modality, provenance=head.provenance(number))
            for number, name in enumerate(head.names)
        ]

    def _fused_column(self, fusion: Fusion) -> NewColumn:
        modalities = {self.columns[path].modality for path in fusion.weights}
        modality = modalities.pop() if len(modalities) == 1 else "auto"
        provenance = {"normalize": True, "fused": dict(fusion.weights)}
        return NewColumn(fusion.output, "vector", modality=modality, provenance=provenance)

    def new_columns(self, holds: Literal["vector", "labels"]) -> list[NewColumn]:
        """Return the new columns, each followed by its flag, if it has one."""
        added: list[NewColumn] = []
        for path, column in self.columns.items():
            if self._is_written(path):
                added.append(NewColumn(str(column.output), holds, path, column.modality))
            added += [NewColumn(column.truncated, "flag")] if column.truncated else []
        return added

    def items(self, source: Getter) -> list[Item]:
        """Return the items of a row.

        Returns:
            One item for each column, in order. An array column (a list or tuple) has one for each element.
        """
        return [item for path, column in self.columns.items() for item in _items(source, path, column)]

    def places(self, source: Getter) -> list[str]:
        """Return the place of each of a row's `items`: `caption`, or `captions[3]` in an array."""
        found: list[str] = []
        for path, column in self.columns.items():
            length = _array_length(value_or_none(source, path), column.modality)
            found += [path] if length is None else [f"{path}[{number}]" for number in range(length)]
        return found

    def result(self, source: Getter, outcomes: Sequence[Outcome | Classified], tool: Any = None) -> PlanResult:
        """See `Plan`. For classified outcomes, the values are lists of labels."""
        values: dict[str, Any] = {}
        failures: list[Failure] = []
        parts: dict[str, Any] = {}
        remaining = iter(outcomes)
        for path, column in self.columns.items():
            length = _array_length(value_or_none(source, path), column.modality)
            own = [next(remaining)] if length is None else [next(remaining) for _ in range(length)]
            for number, outcome in enumerate(own):
                if isinstance(outcome, Failure):  # only failures need the row's name, and they are rare
                    place = path if length is None else f"{path}[{number}]"
                    failures.append(outcome.at(column=place, row=row_name(source, self.key)))
            vectors = [o.values if isinstance(o, Vector | Labelled) else None for o in own]
            parts[path] = vectors[0] if length is None else vectors
            if self._is_written(path):
                values[str(column.output)] = parts[path]
            if column.truncated:
                values[column.truncated] = any(isinstance(o, Vector | Labelled) and o.truncated for o in own)
        for fusion in self.fused:
            fused = fusion.vector(parts)
            if isinstance(fused, Failure):
                failures.append(fused.at(row=row_name(source, self.key)))
            values[fusion.output] = parts[fusion.output] = None if isinstance(fused, Failure) else fused
        for head in self.heads:
            scores = head.scores(parts[head.column])
            if isinstance(scores, Failure):
                failures.append(scores.at(row=row_name(source, self.key)))
                scores = [None] * len(head.names)
            values |= zip(head.names, scores, strict=True)
        return PlanResult(values, failures)

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`. An array column has one vector for each element; scores of heads are not counted."""
        values = [value.get(name) for name in (*self.outputs, *(fusion.output for fusion in self.fused))]
        return [vector for one in values for vector in (one if isinstance(one, list) else [one])]

    def holds_results(self, value: Mapping[str, Any]) -> bool:
        """See `Plan`. A score is a result too, also of a vector that is not written."""
        scores = (value.get(name) for head in self.heads for name in head.names)
        return RowPlan.holds_results(self, value) or any(score is not None for score in scores)

    def description(self) -> dict[str, Any]:
        """See `Plan`."""
        columns = {path: dataclasses.asdict(column) for path, column in self.columns.items()}
        fuse = {fusion.output: dict(fusion.weights) for fusion in self.fused}
        fused = {"fuse": fuse, "keep_parts": self.keep_parts} if fuse else {}
        heads = {"heads": [head.description() for head in self.heads]} if self.heads else {}
        return {"columns": columns, "key": self.key, "access_paths": "@r", **fused, **heads}


def _array_length(value: Any, modality: str) -> int | None:
    """Return the length of an array of values, or None for a single value, such as the samples of one audio clip."""
    if not isinstance(value, list | tuple):
        return None
    is_clip = modality == "audio" and (is_pair(value) or (value and isinstance(value[0], int | float)))
    return None if is_clip else len(value)


def _items(get: Getter, path: str, column: Column) -> list[Item]:
    try:
        value = get(path)
    except MissingColumn as err:
        missing = RowError(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}")
        return [Item(column.modality, failure=missing)]
    values = [value] if _array_length(value, column.modality) is None else value
    return [item_of_value(column.modality, element) for element in values]

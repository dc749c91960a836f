"""`ClipEmbeddings`: clipmill's encoders in Beam's `MLTransform`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, get_args

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.transforms.base import EmbeddingsManager, EmbeddingTypeAdapter
from apache_beam.pvalue import PCollection

from ..encoders.plans.embed_plan import Column, ColumnPlan
from ..encoders.plans.kinds import check_names
from ..errors import SpecError, check_choice, check_flags
from ..messages import setting
from ..models.spec import EncoderSpec, Modality, explains_slips, reject_unknown_keywords
from .embed import Embed
from .embeddable import is_item, with_vectors
from .encoding import label_of
from .failed_row import FailedRow, FailedRowError
from .model_handler import ClipModelHandler
from .rows import Vectors, fields_of, make_row, row_fields, widened_type

__all__ = ["ClipEmbeddings", "EmbedColumns"]


class ClipEmbeddings(EmbeddingsManager):
    """Embeds columns of texts, images and audio clips in an `MLTransform`, with the same vectors as `Embed`.

    As with Beam's own embeddings, a column's vectors take its place, as lists of numbers. `replace=False` keeps the
    column, and adds `<column>_embedding`. Without `columns`, elements are the `EmbeddableItem`s of
    `apache_beam.ml.rag`, which get their `embedding`.

    The artifact location stores the model's name with all options, and no weights. A second pipeline that reads it
    embeds with the same model.

    A bad row ends the job. With `MLTransform(…).with_exception_handling()` it goes alone to the dead letters, as a row
    of `element` (the input), `msg` (the reason) and `stack`.

    >>> import apache_beam as beam
    >>> from apache_beam.ml.transforms.base import MLTransform
    >>> from clipmill.transforms import ClipEmbeddings
    >>> with beam.Pipeline() as p:
    ...     rows = p | beam.Create([{"id": "a", "caption": "a red bicycle"}])
    ...     embed = ClipEmbeddings("demo", columns={"caption": "text"})
    ...     embedded = rows | MLTransform(write_artifact_location="artifacts").with_transform(embed)
    ...     _ = embedded | beam.Map(lambda row: print(row["id"], len(row["caption"])))
    a 96
    """

    @explains_slips
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        columns: Mapping[str, Modality | Column] | None = None,
        replace: bool = True,
        key: str = "id",
        vectors: Vectors = "list",
        **spec_options: Any,
    ) -> None:
        """Check everything that can be checked without weights.

        Args:
            model: Name of a model or a spec; `ViT-B-32::openai` without one.
            columns: Kind (`text`, `image`, `audio`, or a `Column`) by column; None for items of `apache_beam.ml.rag`.
            replace: Whether vectors take the place of what was embedded.
            key: Column that names a row in its failures.
            vectors: `list`: lists of numbers. `array`: float32 arrays.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, ClipEmbeddings)
        self._transform = EmbedColumns(
            EncoderSpec.of(model, **spec_options).as_dict(),
            None if columns is None else _plain_columns(columns),
            replace=replace,
            key=key,
            vectors=vectors,
        )
        if columns is not None:
            super().__init__(columns=list(columns))
        else:
            super().__init__(type_adapter=EmbeddingTypeAdapter(input_fn=list, output_fn=with_vectors))

    def get_model_handler(self) -> ModelHandler:
        """Return the handler for `RunInference` of the same columns."""
        given = self._transform
        columns = None if given.columns is None else given.embedded_columns()
        return ClipModelHandler(EncoderSpec(**given.spec), columns=columns, key=given.key)

    def get_ptransform_for_processing(self, **kwargs: Any) -> beam.PTransform:
        """Return the transform, which `MLTransform` applies, and stores for a later pipeline."""
        return self._transform


class EmbedColumns(beam.PTransform):
    """`Embed` as `MLTransform` wants it. Its state is plain values, which become the JSON of the artifact."""

    def __init__(
        self,
        spec: dict[str, Any],
        columns: dict[str, list[Any]] | None,
        *,
        replace: bool = True,
        key: str = "id",
        vectors: Vectors = "list",
    ) -> None:
        """Take a spec as plain values, and the fields of a `Column` by column; check them."""
        super().__init__()
        self.spec = spec
        self.columns = columns
        self.replace = replace
        self.key = key
        self.vectors: Vectors = vectors
        self._handling: dict[str, Any] | None = None
        check_flags(replace=replace)
        check_names({"key": key})
        check_choice("vectors", vectors, get_args(Vectors))
        if columns is None:
            return
        plan = ColumnPlan.of(self.embedded_columns(), spec=EncoderSpec(**spec), key=key)
        for path, column in plan.columns.items():
            if replace and (columns[path][1] is not None or "." in path):
                name = setting("output", column.output) if columns[path][1] is not None else f"column {path!r}"
                raise SpecError(name + " cannot take the column's place", hint="give " + setting("replace", False))

    def __getstate__(self) -> dict[str, Any]:
        """Return plain values only."""
        names = ("spec", "columns", "replace", "key", "vectors")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check the values again, which may come from a file."""
        EmbedColumns.__init__(self, **state)

    def default_label(self) -> str:
        """Name the model and the columns, so that an `MLTransform` can have two of these."""
        return label_of("ClipEmbeddings", [self.spec["model"], *(self.columns or ())])

    def with_exception_handling(self, **handling: Any) -> Self:
        """Give rows and dead letters, as Beam's `with_exception_handling` does with these arguments."""
        self._handling = handling
        return self

    def expand(self, pcoll: PCollection) -> Any:
        """Embed; without exception handling, the first bad row ends the job."""
        spec = EncoderSpec(**self.spec)
        if self.columns is None:
            embed = Embed(spec)
        else:
            embed = Embed(spec, columns=self.embedded_columns(), key=self.key, vectors=self.vectors)
        rows, failures = pcoll | embed
        rows_type = rows.element_type
        if self.columns is not None and self.replace:
            places = {str(column.output): path for path, column in embed.plan.columns.items()}  # type: ignore[union-attr]
            rows_type = _replaced_type(rows.element_type, places)
            rows = rows | "Replace" >> beam.Map(_replaced, places).with_output_types(rows_type)
        checked = (rows, failures) | beam.Flatten() | "Check" >> self._check(spec.model, rows_type)
        if self._handling is None:
            return checked
        good, bad = checked
        new = [] if self.columns is None else embed.plan.new_names  # type: ignore[union-attr]
        return good, bad | "Inputs" >> beam.MapTuple(lambda failed, error: (_input_of(failed, new), error))

    def _check(self, model: str, rows_type: Any) -> Any:
        """Return a step that raises what failed, row by row, so that Beam's own handling decides about it."""
        check: Any = beam.Map(_raise_failed, model).with_output_types(rows_type)
        return check if self._handling is None else check.with_exception_handling(**self._handling)

    def embedded_columns(self) -> dict[str, Modality | Column]:
        """Return how each column is embedded."""
        return {path: Column(*one) for path, one in (self.columns or {}).items()}


def _plain_columns(columns: Mapping[str, Modality | Column]) -> dict[str, list[Any]]:
    ColumnPlan.of(columns)  # refuses what is no mapping of columns
    given = {path: one if isinstance(one, Column) else Column(one) for path, one in columns.items()}
    return {path: list(dataclasses.astuple(one)) for path, one in given.items()}


def _raise_failed(element: Any, model: str) -> Any:
    if isinstance(element, FailedRow):
        hint = "MLTransform(…).with_exception_handling() gives such rows apart"
        raise FailedRowError(element.failures, model, hint)
    return element


def _replaced(row: Any, places: Mapping[str, str]) -> Any:
    """Return a row in which each vector stands where its value was."""
    fields = dict(fields_of(row) or {})
    for output, path in places.items():
        fields[path] = fields.pop(output)
    return make_row(row, fields, {})


def _replaced_type(rows_type: Any, places: Mapping[str, str]) -> Any:
    fields = row_fields(rows_type)
    if fields is None:
        return rows_type
    types = dict(fields)
    for output, path in places.items():
        types[path] = types.pop(output)
    return widened_type(beam.typehints.row_type.RowTypeConstraint.from_fields([]), types)


def _input_of(failed: FailedRow, new: list[str]) -> Any:
    """Return the element that failed, without the columns that were made before."""
    fields = None if is_item(failed.row) else fields_of(failed.row)
    return failed.row if fields is None else make_row(failed.row, {k: v for k, v in fields.items() if k not in new}, {})

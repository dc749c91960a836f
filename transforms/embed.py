"""`Embed`: adds vectors to a PCollection of documents or rows, and separates the failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from apache_beam.pvalue import PCollection

from ..encoders.plans.document_embed_plan import DocumentEmbedPlan
from ..encoders.plans.embed_plan import Column, ColumnPlan
from ..encoders.plans.heads import Head
from ..errors import SpecError, check_choice
from ..messages import setting
from ..models.spec import EncoderSpec, Modality, reject_unknown_keywords
from .elements import Elements
from .embeddable import ItemElements, type_of_items
from .encoding import Embedded, Encoding, label_of
from .rows import Vectors
from .templates import with_known_values
from .windowed import OnFailure

__all__ = ["Embed", "Embedded", "embed_of"]


class Embed(Encoding):
    """Embeds documents or columns of rows. Every element comes out once, as a row or as a failure.

    Without `columns`, elements are `Document`s, and copies with `embedding` come out; the same for the items of
    `apache_beam.ml.rag` (`EmbeddableItem`, or `Chunk`), which Beam's writers of vector databases take. With `columns`,
    elements are dicts, `beam.Row`s or NamedTuples, and each column gets a column of vectors: dicts come out as dicts,
    the others as `beam.Row`s, with a schema if the input has one.

    A bad row does not end the job, unless `on_failure="raise"`. It goes to `failures` with the reason and with the
    vectors of its other columns.

    Batches are collected within a bundle. Streams have small bundles, so `max_wait_s` collects batches across bundles.
    Windows, timestamps and panes do not change. An element in several windows is embedded once for each window, so
    embed before you assign sliding windows.

    Fetching, decoding and encoding run in one stage and overlap. `.with_resource_hints(accelerator=…)` on this
    transform therefore moves all of them to a GPU.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import Embed
    >>> with beam.Pipeline() as p:
    ...     rows = p | beam.Create([{"id": "a", "caption": "a red bicycle"}])
    ...     embedded = rows | Embed("demo", columns={"caption": "text"})
    ...     _ = embedded.rows | beam.Map(lambda row: print(row["caption_embedding"].shape))
    (96,)

    Attributes:
        spec: The encoder.
        plan: The columns of rows, or how documents are embedded, checked.
    """

    plan: ColumnPlan | DocumentEmbedPlan
    _row_options = "columns={'name': 'text'}"

    @with_known_values
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        columns: Mapping[str, Modality | Column] | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        key: str = "id",
        fuse: Mapping[str, Mapping[str, float]] | None = None,
        keep_parts: bool = True,
        heads: Mapping[str, Head | str] | None = None,
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
            fuse: Columns of one vector of several columns: `{"embedding": {"photo": 0.7, "caption": 0.3}}` normalises
                the vectors of both, adds them with these weights, and normalises the sum. It is None if one of them is.
            keep_parts: Whether columns that are fused have a column of their own vectors, too.
            heads: Columns of scores of these vectors: a linear `Head`, or the path of its file, by the column's name.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits until the bundle ends. It
                has no effect in bounded pipelines, whose bundles are large.
            on_failure: `split`, or `raise` to end the job at the first failure.
            vectors: `array`: float32 arrays. `list`: lists of numbers, for SQL and transforms in other languages.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, Embed)
        super().__init__(EncoderSpec.of(model, **spec_options), max_wait_s=max_wait_s, on_failure=on_failure)
        if columns is None:
            self.plan = DocumentEmbedPlan(access_paths, keep_content)
        else:
            self.plan = ColumnPlan.of(columns, spec=self.spec, key=key, fuse=fuse, keep_parts=keep_parts, heads=heads)
        for name, given in {"fuse": fuse, "keep_parts": None if keep_parts else False, "heads": heads}.items():
            if given is not None and columns is None:
                raise SpecError(setting(name) + " is for rows; it has no effect without columns")
        for name, given in {"access_paths": access_paths != "@r", "keep_content": keep_content}.items():
            if given and columns is not None:
                raise SpecError(setting(name) + " is for documents; it has no effect with columns")
        check_choice("vectors", vectors, get_args(Vectors))
        if vectors != "array" and columns is None:
            raise SpecError(setting("vectors", vectors) + " is for rows; a document's embedding is an array")
        self._vectors: Vectors = vectors

    def _elements(self, element_type: Any) -> tuple[Any, Elements]:
        """Return the output type and the adapter of the elements; see `Encoding`."""
        if self.plan.of_rows:
            return super()._elements(element_type)
        plan: Any = self.plan
        return type_of_items(element_type), ItemElements(plan, self._row_options)

    def default_label(self) -> str:
        """Name the model and the columns, so that a pipeline can use two of these."""
        return label_of("Embed", [self.spec.model, *self.plan.reads])

    def display_data(self) -> dict[str, Any]:
        """Show the model and the columns in the runner's user interface."""
        shown = ", ".join(f"{path}: {kind}" for path, kind in self.plan.reads.items())
        return {"model": self.spec.model, "columns": shown or "documents"}


def embed_of(pcoll: PCollection) -> Encoding | None:
    """Return the `Embed`, `Rank` or other transform that a PCollection came right out of, None if there is none."""
    applied = pcoll.producer
    while applied is not None:
        if isinstance(applied.transform, Encoding):
            return applied.transform
        applied = applied.parent
    return None

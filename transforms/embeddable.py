"""Elements without columns: documents, single values, and the items of `apache_beam.ml.rag`.

Items are of the class `EmbeddableItem`, which older versions of Beam call `Chunk`. Beam's chunkers give them, and its
writers of vector databases take them. `Embed` takes them like documents, and gives copies with their `embedding`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from apache_beam.typehints import typehints

from ..encoders.document import Document
from ..encoders.plans.runner import Done
from ..encoders.plans.value_plan import ValuePlan
from ..failures import Code, Failure, Stage
from .elements import DocumentElements
from .failed_row import FailedRow
from .rows import fields_of

_TYPES = "apache_beam.ml.rag.types"


def item_type() -> type[Any] | None:
    """Return Beam's class of items; None if its module was never imported, so that there can be none."""
    module = sys.modules.get(_TYPES)
    return None if module is None else getattr(module, "EmbeddableItem", None) or module.Chunk


def is_item(value: Any) -> bool:
    """Return whether a value is one of Beam's items."""
    kind = item_type()
    return kind is not None and isinstance(value, kind)


def type_of_items(element_type: Any) -> Any:
    """Return the type of what `Embed` gives for elements of a type: documents, items, or either if it is unknown."""
    kind = item_type()
    if isinstance(element_type, type) and (element_type is Document or (kind and issubclass(element_type, kind))):
        return element_type
    return typehints.Any


def document_of(item: Any) -> Document:
    """Return an item as a document: its text, or else its image, as bytes or as a URI, with its id and metadata.

    One that could not be read, for instance because a chunker left its content out, has the reason in its failures.
    """
    image = getattr(item.content, "image", None)  # older versions have texts only
    content: dict[str, Any] = {"uri": image} if isinstance(image, str) else {"blob": image}
    vector = getattr(item.embedding, "dense_embedding", None)
    embedding = None if vector is None else np.asarray(vector, np.float32)
    text = getattr(item.content, "text", None)
    document = Document(text=text, **content, id=item.id, tags=item.metadata, embedding=embedding)
    if item.content is not None and not hasattr(item.content, "text"):
        message = f"the content of an item is a Content of text or image, got {type(item.content).__name__}"
        document.failures = (Failure(Stage.READ, Code.MALFORMED, message),)
    return document


def _readable(item: Any) -> Document | FailedRow:
    document = document_of(item)
    if document.failures:
        return FailedRow(item, tuple(failure.at(row=item.id) for failure in document.failures))
    return document


def with_vector(item: Any, vector: np.ndarray) -> Any:
    """Return a copy of an item with a dense embedding, a list of numbers; a sparse one stays."""
    sparse = None if item.embedding is None else item.embedding.sparse_embedding
    embedding = sys.modules[_TYPES].Embedding(dense_embedding=vector.tolist(), sparse_embedding=sparse)
    return dataclasses.replace(item, embedding=embedding)


def with_vectors(items: Sequence[Any], vectors: Sequence[np.ndarray]) -> list[Any]:
    """Return copies of items with their vectors."""
    return [with_vector(item, vector) for item, vector in zip(items, vectors, strict=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class ItemElements(DocumentElements):
    """Elements that are documents or Beam's items."""

    def read(self, element: Any) -> Document | FailedRow:
        """See `DocumentElements`; refuse items if only matches or chunks are embedded, which they don't have."""
        if not is_item(element):
            return DocumentElements.read(self, element)
        if "" not in self.plan.tree_paths:
            message = "an item has no matches or chunks; embed the item itself: access_paths='@r'"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message, row=element.id),))
        return _readable(element)

    def output(self, done: Done) -> Any:
        """Return the document, or the item with its vector. An item that failed stays as it was."""
        document: Document = done.result.value
        element = done.token[0]
        if not is_item(element):
            return document
        return (
            element if done.result.failures or document.embedding is None else with_vector(element, document.embedding)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ValueElements:
    """Elements that are single values (a text, an encoded image), documents or items; their output is the vector.

    Attributes:
        row_options: The options for rows, for an error message.
    """

    plan: ValuePlan
    row_options: str

    def read(self, element: Any) -> Any:
        """Return the value; refuse rows, and pass on documents that could not be read."""
        if is_item(element):
            return _readable(element)
        if fields_of(element) is not None:
            message = f"expected a value or a Document, got {type(element).__name__}; for rows give {self.row_options}"
            return FailedRow(element, (Failure(Stage.READ, Code.UNSUPPORTED, message),))
        if isinstance(element, Document) and element.failures:
            return FailedRow(element, tuple(failure.at(row=element.key()) for failure in element.failures))
        return element

    def output(self, done: Done) -> Any:
        """Return the vector; for a failure the value itself."""
        return done.token[0] if done.result.failures else done.result.value

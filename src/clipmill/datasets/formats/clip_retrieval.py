"""clip-retrieval's layout: `img_emb/img_emb_<n>.npy`, `text_emb/text_emb_<n>.npy`, `metadata/metadata_<n>.parquet`.

Row i of the three files of one `<n>` belongs together. Readers count rows over all files, ordered by name. Therefore a
row that lacks one of its vectors cannot be written, and a shard without rows has no files. This module decides which
column goes where; `clip_retrieval_part` writes the files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from ...encoders.document import Document
from ...encoders.plans.document_embed_plan import EMBEDDING
from ...encoders.plans.plan import DocumentPlan, Plan, RowPlan
from ...errors import SpecError
from ...failures import Code, Failure, Stage
from ...messages import setting
from ...models.spec import EncoderSpec
from ..tables.column_types import REST_KEY, TAGS, is_list_type
from .base import CLIP_RETRIEVAL

IMAGES, TEXTS = "img_emb", "text_emb"
"""Folders of vectors, and the prefixes of their files."""
LAYOUT_KEY = b"clipmill.clip_retrieval"
"""Metadata key of a schema whose rows are written in this layout; the value is `Layout` as JSON."""
_NESTED = {"m": "matches", "c": "chunks"}
IMAGE_PATH, CAPTION, URL = "image_path", "caption", "url"
"""Columns of the metadata that clip-retrieval reads."""
_FORMAT = setting("format", CLIP_RETRIEVAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a job fill which files and columns of the layout.

    Attributes:
        image_path: Columns that may name the image, in order; the first value that is not null is used.
    """

    image: str | None
    text: str | None
    image_path: tuple[str, ...] = ()
    caption: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, schema: pa.Schema) -> Layout:
        """Return the layout that `with_layout` stored in the schema; raise `SpecError` if there is none."""
        stored = (schema.metadata or {}).get(LAYOUT_KEY)
        if stored is None:
            raise SpecError(_FORMAT + " is for jobs, which know the columns of images and texts")
        fields = json.loads(stored)
        return cls(**{**fields, "image_path": tuple(fields["image_path"])})

    @property
    def vectors(self) -> dict[str, str]:
        """The folder (and file prefix) of each column of vectors."""
        folders = {self.image: IMAGES, self.text: TEXTS}
        return {column: folder for column, folder in folders.items() if column is not None}


def vectors_beside(names: Iterable[str]) -> str | None:
    """Return where a directory of these files in this layout holds its vectors; None for any other directory."""
    folders = {name.partition("/")[0] for name in names if name.endswith(".npy")}
    return " and ".join(f"{folder}/*.npy" for folder in (IMAGES, TEXTS) if folder in folders) or None


def with_layout(schema: pa.Schema, plan: Plan, spec: EncoderSpec) -> pa.Schema:
    """Return the schema of a job with its layout in the metadata; raise `SpecError` if the output does not fit it."""
    if not spec.normalize:
        raise SpecError(
            _FORMAT + " requires vectors of length 1, which clip-retrieval's index assumes",
            hint="add " + setting("normalize", True),
        )
    if getattr(plan, "keep_content", False):
        raise SpecError(_FORMAT + " cannot hold content", hint="leave " + setting("keep_content") + " out")
    if not plan.makes_vectors:
        raise SpecError(_FORMAT + " holds vectors, not scores; use parquet or jsonl")
    layout = _layout_of_rows(schema, plan) if plan.of_rows else _layout_of_documents(plan)  # type: ignore[arg-type]
    stored = json.dumps(dataclasses.asdict(layout)).encode()
    return schema.with_metadata({**(schema.metadata or {}), LAYOUT_KEY: stored})


def _layout_of_documents(plan: DocumentPlan) -> Layout:
    if plan.tree_paths != {""}:
        others = " and ".join(sorted({_NESTED[path[0]] for path in plan.tree_paths if path}))
        raise SpecError(_FORMAT + f" holds one image per row and no {others}; embed only '@r'")
    return Layout(EMBEDDING, None, ("uri", "id"), f"{TAGS}.{CAPTION}", f"{TAGS}.{URL}")


def _layout_of_rows(schema: pa.Schema, plan: RowPlan) -> Layout:
    found: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for column in plan.added:
        if column.holds != "vector":
            continue
        is_array = is_list_type(schema.field(column.name).type.value_type)
        if column.modality not in ("image", "text") or column.modality in found or is_array:
            raise SpecError(
                _FORMAT + f" holds at most one image and one text per row; it cannot hold the vectors of "
                f"{column.source!r} too"
            )
        found[column.modality], outputs[column.modality] = str(column.source), column.name
    texts = {field.name for field in schema if _is_text(field.type)}
    image_path = tuple(path for path in (found.get("image"), IMAGE_PATH, plan.key) if path and path in texts)
    caption = found.get("text")
    if caption is not None and caption.split(".")[0] not in schema.names:
        raise SpecError(_FORMAT + " needs the captions", hint=f"leave {caption!r} out of " + setting("drop"))
    return Layout(
        outputs.get("image"),
        outputs.get("text"),
        image_path if "image" in found else (),
        caption or _path_of(schema, CAPTION, "text"),
        _path_of(schema, URL),
    )


def _path_of(schema: pa.Schema, *names: str) -> str | None:
    """Return the first of the named columns that exists, else the path in `tags` if that holds undeclared fields."""
    existing = next((name for name in names if name in schema.names), None)
    has_rest = TAGS in schema.names and REST_KEY in (schema.field(TAGS).metadata or {})
    return existing or (f"{TAGS}.{names[0]}" if has_rest else None)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def mismatch_of(schema: pa.Schema) -> Callable[[Any], Failure | None]:
    """Return a function that returns why an embedded row or document does not fit the layout, or None if it does."""
    layout = Layout.of(schema)

    def mismatch(row: Any) -> Failure | None:
        if isinstance(row, Document):
            return _document_mismatch(row)
        for column, folder in layout.vectors.items():
            if row.get(column) is None:
                kind = "image" if folder == IMAGES else "text"
                needed = "both an image and a text" if len(layout.vectors) > 1 else "one"
                message = f"the row has no {kind}, but clip-retrieval's layout needs {needed} in each row"
                return Failure(Stage.READ, Code.EMPTY, message, column=column)
        return None

    return mismatch


def _document_mismatch(document: Document) -> Failure | None:
    kind = "text/" if document.item().modality == "text" else document.mime_type or ""
    if kind.startswith(("text/", "audio/")):
        what = "a text" if kind.startswith("text/") else "audio"
        message = f"the document is {what}, but clip-retrieval's layout of documents holds only images"
        return Failure(Stage.READ, Code.UNSUPPORTED, message)
    return None if document.embedding is not None else Failure(Stage.READ, Code.EMPTY, "the document has no vector")

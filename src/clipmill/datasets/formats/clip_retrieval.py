"""clip-retrieval's layout: `img_emb/img_emb_<n>.npy`, `text_emb/text_emb_<n>.npy`, `metadata/metadata_<n>.parquet`.

Row i of the three belongs together, and so do the files of one `<n>` in the order of their names: what reads them
counts rows. So a row without one of its vectors has no place here, and a shard without rows has no files. What becomes
of which column is decided here; `clip_retrieval_part` writes it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from ...encoders.document import Document
from ...encoders.plans.embed_plan import EMBEDDING
from ...encoders.plans.plan import DocumentPlan, Plan, RowPlan
from ...errors import SpecError
from ...failures import Code, Failure, Stage
from ...messages import setting
from ...models.spec import EncoderSpec
from ..tables.column_types import REST_KEY, TAGS, is_list_type
from .base import CLIP_RETRIEVAL

IMAGES, TEXTS = "img_emb", "text_emb"
"""Folders of vectors, and what their files begin with."""
LAYOUT_KEY = b"clipmill.clip_retrieval"
"""Metadata of a schema whose rows are written so: `Layout` as JSON."""
_NESTED = {"m": "matches", "c": "chunks"}
IMAGE_PATH, CAPTION, URL = "image_path", "caption", "url"
"""Columns of the metadata that clip-retrieval looks for."""
_FORMAT = setting("format", CLIP_RETRIEVAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a job become what.

    Attributes:
        image: Column of the images' vectors.
        text: Column of the texts' vectors.
        image_path: Paths to what names an image, the first that is not null.
        caption: Path to the caption.
        url: Path to the URL that an image came from.
    """

    image: str | None
    text: str | None
    image_path: tuple[str, ...] = ()
    caption: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, schema: pa.Schema) -> Layout:
        """Return the layout that `with_layout` decided.

        Raises:
            SpecError: If there is none.
        """
        said = (schema.metadata or {}).get(LAYOUT_KEY)
        if said is None:
            raise SpecError(_FORMAT + " is for jobs, which say what images and texts are")
        fields = json.loads(said)
        return cls(**{**fields, "image_path": tuple(fields["image_path"])})

    @property
    def vectors(self) -> dict[str, str]:
        """Folders (and what their files begin with) by the columns whose vectors they hold."""
        folders = {self.image: IMAGES, self.text: TEXTS}
        return {column: folder for column, folder in folders.items() if column is not None}


def vectors_beside(names: Iterable[str]) -> str | None:
    """Say where a directory in this layout has its vectors; None of one in another.

    Args:
        names: Of its files.
    """
    folders = {name.partition("/")[0] for name in names if name.endswith(".npy")}
    return " and ".join(f"{folder}/*.npy" for folder in (IMAGES, TEXTS) if folder in folders) or None


def with_layout(schema: pa.Schema, plan: Plan, spec: EncoderSpec) -> pa.Schema:
    """Return the schema of a job with its layout noted in the metadata.

    Args:
        schema: Columns of the rows or documents with their vectors.
        plan: What is done with them.
        spec: What makes the vectors.

    Raises:
        SpecError: If the job makes something that the layout does not hold.
    """
    if not spec.normalize:
        raise SpecError(
            _FORMAT + " holds vectors of length 1, as its index takes for granted",
            hint="add " + setting("normalize", True),
        )
    if getattr(plan, "keep_content", False):
        raise SpecError(_FORMAT + " has no place for content", hint="leave " + setting("keep_content") + " out")
    if not plan.makes_vectors:
        raise SpecError(_FORMAT + " holds vectors, and scores are no such: parquet or jsonl")
    layout = _layout_of_rows(schema, plan) if plan.of_rows else _layout_of_documents(plan)  # type: ignore[arg-type]
    said = json.dumps(dataclasses.asdict(layout)).encode()
    return schema.with_metadata({**(schema.metadata or {}), LAYOUT_KEY: said})


def _layout_of_documents(plan: DocumentPlan) -> Layout:
    if plan.tree_paths != {""}:
        others = " and ".join(sorted({_NESTED[path[0]] for path in plan.tree_paths if path}))
        raise SpecError(_FORMAT + f" has one image a row, and no place for {others}: embed '@r' alone")
    return Layout(EMBEDDING, None, ("uri", "id"), f"{TAGS}.{CAPTION}", f"{TAGS}.{URL}")


def _layout_of_rows(schema: pa.Schema, plan: RowPlan) -> Layout:
    found: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for column in plan.added:
        if column.holds != "vector":
            continue
        is_array = is_list_type(schema.field(column.name).type.value_type)
        if column.modality not in ("image", "text") or column.modality in found or is_array:
            raise SpecError(_FORMAT + f" holds one image and one text a row, and {column.source!r} is more than that")
        found[column.modality], outputs[column.modality] = str(column.source), column.name
    texts = {field.name for field in schema if _is_text(field.type)}
    image_path = tuple(path for path in (found.get("image"), IMAGE_PATH, plan.key) if path and path in texts)
    caption = found.get("text")
    if caption is not None and caption.split(".")[0] not in schema.names:
        raise SpecError(_FORMAT + " writes captions", hint=f"leave {caption!r} out of " + setting("drop"))
    return Layout(
        outputs.get("image"),
        outputs.get("text"),
        image_path if "image" in found else (),
        caption or _path_of(schema, CAPTION, "text"),
        _path_of(schema, URL),
    )


def _path_of(schema: pa.Schema, *names: str) -> str | None:
    """Return the first of some columns that there is, else where what no file declares may hold it."""
    there = next((name for name in names if name in schema.names), None)
    has_rest = TAGS in schema.names and REST_KEY in (schema.field(TAGS).metadata or {})
    return there or (f"{TAGS}.{names[0]}" if has_rest else None)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def mismatch_of(schema: pa.Schema) -> Callable[[Any], Failure | None]:
    """Return what says of a row or document with vectors why it has no place in the layout, None if it has one."""
    layout = Layout.of(schema)

    def mismatch(row: Any) -> Failure | None:
        if isinstance(row, Document):
            return _document_mismatch(row)
        for column, folder in layout.vectors.items():
            if row.get(column) is None:
                kind, other = ("image", "text") if folder == IMAGES else ("text", "image")
                beside = f", and its {other} cannot stand there alone" if len(layout.vectors) > 1 else ""
                message = f"the row has no {kind}, of which clip-retrieval's layout has one a row{beside}"
                return Failure(Stage.READ, Code.EMPTY, message, column=column)
        return None

    return mismatch


def _document_mismatch(document: Document) -> Failure | None:
    kind = "text/" if document.item().modality == "text" else document.mime_type or ""
    if kind.startswith(("text/", "audio/")):
        what = "text" if kind.startswith("text/") else "sound"
        message = f"the document is a {what}, and clip-retrieval's layout of documents holds images"
        return Failure(Stage.READ, Code.UNSUPPORTED, message)
    return None if document.embedding is not None else Failure(Stage.READ, Code.EMPTY, "the document has no vector")

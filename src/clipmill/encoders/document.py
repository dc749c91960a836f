"""`Document`: content to embed, with its metadata, matches and chunks."""

from __future__ import annotations

import copy
import dataclasses
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..errors import SpecError
from ..failures import Code, Failure, RowError, Stage
from ..media.audio import Waveform
from ..messages import setting
from .item import Item, Uri

CONTENT_FIELDS = ("blob", "tensor")
"""Fields that hold the content itself. Results don't contain them unless `keep_content` is set."""


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclasses.dataclass(slots=True, eq=False)
class Document:
    """Content to embed, with its metadata.

    At least one of `text`, `tensor`, `blob` and `uri` holds the content. If several do, the first in this order is
    embedded. An empty text is ignored if there is other content. A field of a wrong type ends no job: the document
    fails as `malformed` when it is embedded.

    >>> from clipmill.encoders import Document
    >>> document = Document(id="a", text="a red circle", tags={"source": "drawn"})
    >>> document.item().modality
    'text'

    Attributes:
        text: Text to embed.
        uri: A path, or a `gs://`, `s3://`, `http(s)://` or `data:` URI. The content determines the modality, not the
            extension.
        blob: Encoded bytes. An array given here becomes `tensor`.
        tensor: (H, W, 3) RGB image, uint8 or float in [0, 1]; normalised float32 with `preprocess=False`. Or audio,
            (n,) or (2, n), float in [-1, 1] or int16, with its sample rate in Hz in `tags["sample_rate"]`.
        id: Identifies the document in results and failures. A random id if omitted.
        tags: Other values, which are passed through.
        matches: Candidates that belong to this document; embedded with `access_paths="@m"`.
        chunks: Parts of this document; embedded with `access_paths="@c"`.
        mime_type: Media type. If omitted, it is set to the detected type. If it is `text/…`, bytes are read as text.
        embedding: (dim,) float32, set by `Embed`.
        scores: Set by ranking.
        failures: Why this document, or one nested in it, could not be read or embedded.
    """

    text: str | None = None
    uri: str | None = None
    blob: bytes | None = None
    tensor: np.ndarray | None = None
    id: str = dataclasses.field(default_factory=_new_id)
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)
    matches: list[Document] = dataclasses.field(default_factory=list)
    chunks: list[Document] = dataclasses.field(default_factory=list)
    mime_type: str | None = None
    embedding: np.ndarray | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    _trusted_uri: bool = dataclasses.field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Move an array given as `blob` to `tensor`, and replace None by an empty list or dict.

        What cannot be tags, scores, matches or chunks is left out with a failure, so that a tree can be walked.
        """
        self.tags = {} if self.tags is None else self.tags
        self.scores = {} if self.scores is None else self.scores
        self.matches = [] if self.matches is None else self.matches
        self.chunks = [] if self.chunks is None else self.chunks
        for name in ("tags", "scores"):
            if not isinstance(getattr(self, name), Mapping):
                self._leave_out(name, "a dict", {})
        for name in _NESTED:
            inner = getattr(self, name)
            if not isinstance(inner, list | tuple):
                self._leave_out(name, "a list", [])
            elif not all(isinstance(one, Document) for one in inner):
                setattr(self, name, [self._inner(one, f"{name}[{n}]", self.id) for n, one in enumerate(inner)])
        if isinstance(self.blob, bytearray | memoryview):
            self.blob = bytes(self.blob)
        if isinstance(self.blob, np.ndarray):
            if self.tensor is None:
                self.tensor = self.blob
            self.blob = None

    def _leave_out(self, name: str, expected: str, empty: Any) -> None:
        message = f"field {name!r} is not {expected} but {getattr(self, name)!r:.60}"
        self.failures = (*self.failures, Failure(Stage.READ, Code.MALFORMED, message))
        setattr(self, name, empty)

    @classmethod
    def from_listed_uri(cls, uri: str, **fields: Any) -> Self:
        """Create a document for a file that the job's own reader listed. Even a local file may be read."""
        document = cls(uri=uri, **fields)
        document._trusted_uri = True
        return document

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Create a document from plain values, such as a JSON line. Unknown fields go to `tags`.

        A malformed match or chunk becomes a document with `failures`. It does not affect the others.

        Raises:
            RowError: `malformed` if a field has the wrong type.
        """
        known: dict[str, Any] = {}
        tags = fields.get("tags")
        tags = dict(tags) if isinstance(tags, Mapping) else {} if tags is None else {"tags": tags}
        for name, value in fields.items():
            if name in _NESTED:
                if not isinstance(value, list):
                    raise RowError(Stage.READ, Code.MALFORMED, f"field {name!r} is not a list of objects")
                known[name] = [cls._inner(inner, f"{name}[{n}]", fields.get("id")) for n, inner in enumerate(value)]
            elif name in _PLAIN:
                if value is not None and not isinstance(value, str) and not (name == "id" and isinstance(value, int)):
                    raise RowError(Stage.READ, Code.MALFORMED, f"field {name!r} is not a string but {value!r:.60}")
                if value is not None:
                    known[name] = str(value)
            elif name != "tags":
                tags[name] = value
        return cls(**known, tags=tags)

    @classmethod
    def _inner(cls, value: Any, place: str, root: Any) -> Self:
        """Create a match or chunk. A malformed one becomes a document with a failure."""
        if isinstance(value, Document):
            return value  # type: ignore[return-value]
        try:
            if not isinstance(value, Mapping):
                raise RowError(Stage.READ, Code.MALFORMED, f"{place} is not a document but {value!r:.60}")
            return cls.from_dict(value)
        except RowError as err:
            own_id = value.get("id") if isinstance(value, Mapping) else None
            letter, _, number = place.partition("[")
            path = f"{root}@{letter[0]}[{number}"  # as its siblings are named
            name = own_id if isinstance(own_id, str) and own_id else None if root is None else path
            failed = cls(failures=(err.failure,))
            failed.id = name or failed.id
            return failed

    def item(self) -> Item:
        """Return the content to embed. A document that could not be read gives an item with the same failure."""
        if self.failures:
            first = self.failures[0]
            return Item("auto", failure=RowError(first.stage, first.code, first.message, transient=first.transient))
        for name in _CONTENT_TEXTS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                message = f"field {name!r} is not a string but {value!r:.60}"
                return Item("auto", failure=RowError(Stage.READ, Code.MALFORMED, message))
        has_other = self.tensor is not None or self.blob is not None or bool(self.uri)
        if self.text is not None and (self.text.strip() or not has_other):
            return Item("text", self.text)
        if self.tensor is not None:
            # An invalid tensor fails when it is embedded.
            shape: tuple[int, ...] = getattr(self.tensor, "shape", ())
            if len(shape) == 1 or (len(shape) == 2 and shape[0] <= 2):
                return Item("audio", Waveform(self.tensor, self.tags.get("sample_rate")))
            return Item("image", self.tensor)
        if self.blob is not None:
            return Item("auto", self.blob, self.mime_type)
        if self.uri:
            return Item("auto", Uri(self.uri, self._trusted_uri), self.mime_type)
        nothing = RowError(Stage.READ, Code.EMPTY, "the document has no text, uri, blob or tensor")
        return Item("auto", failure=nothing)

    def key(self) -> str:
        """Return the name of this document in failures: its id, else its URI."""
        return self.id or self.uri or ""

    def copy(self) -> Self:
        """Return a copy with its own lists, dicts and nested documents. Arrays are shared with the original."""
        twin = copy.copy(self)
        twin.tags, twin.scores = dict(self.tags), dict(self.scores)
        twin.matches = [inner.copy() for inner in self.matches]
        twin.chunks = [inner.copy() for inner in self.chunks]
        return twin

    def drop_content(self) -> None:
        """Set `blob` and `tensor` to None, here and in all nested documents."""
        self.blob = self.tensor = None
        for inner in (*self.matches, *self.chunks):
            inner.drop_content()

    def load_uri_to_image_tensor(self) -> Self:
        """Return a copy whose `tensor` is the RGB image at `uri`. Local files may be read, since the caller named them.

        Raises:
            RowError: If the URI cannot be fetched or does not contain an image.
        """
        from ..media.fetch import fetch
        from ..media.fetch_policy import FetchPolicy
        from ..media.images import open_image, sniff_media_type
        from ..models.spec import EncoderSpec

        if not self.uri:
            raise RowError(Stage.READ, Code.EMPTY, "the document has no uri to load")
        data = fetch(self.uri, FetchPolicy(), trusted=True).data
        twin = self.copy()
        twin.tensor = np.array(open_image(data, max_pixels=EncoderSpec().max_image_pixels).convert("RGB"))
        twin.mime_type = twin.mime_type or sniff_media_type(data)
        return twin


_CONTENT_TEXTS = ("text", "uri", "mime_type")
_PLAIN = ("text", "uri", "id", "mime_type")
_NESTED = ("matches", "chunks")
_STEPS = {"m": "matches", "c": "chunks"}


@dataclasses.dataclass(frozen=True, slots=True)
class AccessPaths:
    """Selects documents of a tree, in docarray's syntax: `@r` roots, `@m` matches, `@c` chunks, `@r,m`, `@cc`.

    >>> from clipmill.encoders import AccessPaths, Document
    >>> query = Document(text="red", matches=[Document(text="circle"), Document(text="square")])
    >>> [(place, found.text) for place, found in AccessPaths.parse("@r,m").select(query)]
    [('@r', 'red'), ('@m[0]', 'circle'), ('@m[1]', 'square')]

    Attributes:
        paths: One string of steps for each path; "" is the root.
    """

    paths: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> AccessPaths:
        """Parse a string of access paths.

        Raises:
            SpecError: If it is not valid.
        """
        parts = [part.strip().lstrip("@") for part in str(text).split(",")]
        if not str(text).startswith("@") or not all(re.fullmatch(r"r?[mc]*", part) and part for part in parts):
            raise SpecError(setting("access_paths", text) + " is not '@' and paths such as 'r', 'm', 'c', 'cc', 'r,m'")
        return cls(tuple(dict.fromkeys(part.removeprefix("r") for part in parts)))

    def select(self, root: Document) -> Iterator[tuple[str, Document]]:
        """Yield the selected documents, each with its place below the root (`@m[3]`; `@r` is the root itself)."""
        for path in self.paths:
            yield from _walk(root, path, "@")


def _walk(document: Document, steps: str, place: str) -> Iterator[tuple[str, Document]]:
    if not steps:
        yield ("@r" if place == "@" else place), document
        return
    for number, inner in enumerate(getattr(document, _STEPS[steps[0]])):
        yield from _walk(inner, steps[1:], f"{place}{steps[0]}[{number}]")

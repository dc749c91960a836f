"""What all formats have in common: their names, those of their files, and what writes the rows of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import pyarrow as pa

from ...errors import SpecError
from ...messages import setting

Format = Literal["parquet", "jsonl", "clip-retrieval", "lance"]
FORMATS: tuple[Format, ...] = get_args(Format)
CLIP_RETRIEVAL, LANCE = FORMATS[2:]


class Published(NamedTuple):
    """The files of a shard's rows, in their places.

    Attributes:
        files: Bytes by name in the dataset's directory.
        said: What the shard's manifest says of them besides.
    """

    files: dict[str, int]
    said: Mapping[str, Any] = {}


class Part(Protocol):
    """The rows of one shard on their way into its files; nothing is in its place before `publish`."""

    @property
    def temporary(self) -> Path:
        """Where rows are written until then, or one of the places."""
        ...

    def write_table(self, table: pa.Table) -> None:
        """Add rows of the schema."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...

    def publish(self) -> Published:
        """Put the files in place, now that they are closed."""
        ...

    def discard(self) -> None:
        """Close and remove what is not in place, and let nothing of it raise."""
        ...


class PartWriter(Protocol):
    """Writes tables of one schema to an open file."""

    is_open: bool

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Write what is left; the file itself stays open."""
        ...


def check_format(format: str) -> None:
    """Refuse what is no format.

    Raises:
        SpecError: Saying what there is.
    """
    if format not in FORMATS:
        raise SpecError(setting("format", format) + f" must be one of {', '.join(map(repr, FORMATS))}")


def default_dtype(format: str) -> str:
    """Return what vectors are written as where nobody says: float16 in clip-retrieval's layout, as it does itself."""
    return "float16" if format == CLIP_RETRIEVAL else "float32"


def part_name(shard: str, format: Format = "parquet") -> str:
    """Return the name of a shard's file of rows, or of the folder that it is in."""
    if format == CLIP_RETRIEVAL:
        return f"metadata/metadata_{shard}.parquet"
    return "dataset.lance" if format == LANCE else f"part-{shard}.{format}"

"""What all formats share: their names, the names of their files, and the protocol of their writers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import pyarrow as pa

Format = Literal["parquet", "jsonl", "clip-retrieval", "lance", "webdataset"]
FORMATS: tuple[Format, ...] = get_args(Format)
CLIP_RETRIEVAL: Format = "clip-retrieval"
LANCE: Format = "lance"
PARQUET: Format = "parquet"
WEBDATASET: Format = "webdataset"


class Published(NamedTuple):
    """The published files of a shard's rows.

    Attributes:
        files: Size in bytes of each file, by its name in the dataset's directory.
        manifest: More fields for the shard's manifest.
    """

    files: dict[str, int]
    manifest: Mapping[str, Any] = {}


class Part(Protocol):
    """Writes the rows of one shard to temporary files; `publish` moves them to their final names."""

    @property
    def temporary(self) -> Path:
        """The temporary file, or one of them."""
        ...

    def write_table(self, table: pa.Table) -> None:
        """Add rows of the schema."""
        ...

    def close(self) -> None:
        """Write the remaining data and close the temporary files."""
        ...

    def publish(self) -> Published:
        """Move the closed files to their final names."""
        ...

    def discard(self) -> None:
        """Close and remove all files that are not published; never raises."""
        ...


def default_dtype(format: str) -> str:
    """Return the default dtype of vectors: float16 in clip-retrieval's layout, as clip-retrieval itself writes them."""
    return "float16" if format == CLIP_RETRIEVAL else "float32"


def part_name(shard: str, format: Format = "parquet") -> str:
    """Return the name of a shard's file of rows, or of the folder that holds its rows."""
    if format == CLIP_RETRIEVAL:
        return f"metadata/metadata_{shard}.parquet"
    if format == LANCE:
        return "dataset.lance"
    return f"part-{shard}.{'tar' if format == WEBDATASET else format}"

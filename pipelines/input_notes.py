"""Says what a job makes of its input: at its start, and for `--dry-run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..datasets.inputs.listing import Kind
from ..files.json_text import some_of
from ..jobs.input_use import InputUse
from ..jobs.job import Job
from ..reports.words import many

_NAMES: Mapping[Kind, str] = {
    "files": "file",
    "jsonl": "file of JSON lines",
    "csv": "CSV file",
    "uris": "list of URIs",
    "parquet": "Parquet file",
    "arrow": "Arrow file",
    "tar": "tar",
}
_PLURALS = {"jsonl": "files of JSON lines", "uris": "lists of URIs"}
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_NAMED = 3
"""Files with a problem that are named."""


def lines_of(uses: Sequence[InputUse], *, of_rows: bool) -> list[str]:
    """Return sentences that say what is embedded, and what is not although it could be."""
    return [line for use in uses for line in _lines_of(use, of_rows)]


def lines_of_job(uses: Sequence[InputUse], job: Job) -> list[str]:
    """Return what a job says of its input: `lines_of`, and columns that its format does not hold."""
    return [*lines_of(uses, of_rows=job.plan.of_rows), *_lines_of_bytes(job)]


def _lines_of_bytes(job: Job) -> list[str]:
    """Return a sentence that names the columns of bytes of which JSON lines hold the sizes alone; none without them."""
    names = [field.name for field in job.schema if _holds_bytes(field.type)] if job.format == "jsonl" else []
    if not names:
        return []
    drop = f", --drop {names[0]} leaves it out" if job.plan.of_rows else ""
    said = f"JSON lines hold no bytes: of {', '.join(map(repr, names))} only a note of their size is written"
    return [f"{said}; --format parquet keeps them{drop}"]


def _holds_bytes(kind: pa.DataType) -> bool:
    if any(is_kind(kind) for is_kind in _BYTES):
        return True
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))


def as_dicts(uses: Sequence[InputUse]) -> list[dict[str, Any]]:
    """Return what is embedded, and what is not, for programs."""
    return [
        {
            "kind": use.kind,
            "files": use.files + len(use.problems),
            "first": next(iter([*use.paths, *use.problems])),
            "embedded": dict(use.embedded),
            "left_out": dict(use.left_out),
            "embedded_otherwise": dict(use.otherwise),
            "nothing_to_embed": dict(use.problems),
        }
        for use in uses
    ]


def _lines_of(use: InputUse, of_rows: bool) -> list[str]:
    number = use.files
    has_own = number > 1 and use.kind in _PLURALS
    counted = f"{number:,} {_PLURALS[use.kind]}" if has_own else many(number, _NAMES[use.kind])
    shown = f"{counted} ({_named(use)})"
    lines = [f"{shown}: {_embedded(use)}"] if use.paths else []
    if not use.beside_images:
        said = {"not embedded": use.left_out, f"embedded only where {_names(use.embedded)} is empty": use.otherwise}
        lines += [f"{shown}: {what}: {_with_flags(use, of, of_rows)}" for what, of in said.items() if of]
    if use.problems:
        lines += [f"{path} will fail: it is {what}" for path, what in list(use.problems.items())[:_NAMED]]
        if (more := len(use.problems) - _NAMED) > 0:
            lines.append(f"{many(more, 'more file')} will fail, too")
    if use.beside_images:
        lines.append(
            f"{_named(use)}: beside images, but embedded as rows of its own; for the images alone, give a "
            "pattern such as 'folder/**/*.jpg'"
        )
    return lines


def _named(use: InputUse) -> str:
    return some_of(list(map(os.path.basename, use.paths)), use.files)


def _embedded(use: InputUse) -> str:
    if not use.embedded:
        whose = {"files": "each an image or audio", "tar": "the image or audio of each sample"}
        return whose.get(use.kind, "nothing is known of their columns yet")
    return ", ".join(f"{column!r} is embedded as {modality}" for column, modality in use.embedded.items())


def _names(columns: Mapping[str, str]) -> str:
    return ", ".join(map(repr, columns))


def _with_flags(use: InputUse, columns: Mapping[str, str], of_rows: bool) -> str:
    """Return the names of columns, and the flags that embed the first of them."""
    named = ", ".join(f"{column!r} ({modality})" for column, modality in columns.items())
    column, modality = next(iter(columns.items()))
    kind = "audio" if modality == "audio" else "image"
    if of_rows:
        return f"{named}; --column {column}={kind} embeds it too"
    flag = "--uri-column" if use.kind == "jsonl" else f"--{kind}-column"
    also = [f"--column {name}={one if one in ('text', 'audio') else 'image'}" for name, one in use.embedded.items()]
    both = " ".join([f"--column {column}={kind}", *also])
    return f"{named}; {flag} {column} embeds it instead, {both} embeds both"

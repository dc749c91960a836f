"""The manifest of a shard, checked when it is read: its numbers are added up, and its files are deleted."""

from __future__ import annotations

from typing import Any

from ...errors import DatasetError
from ...files.json_shape import fits, is_inside, mismatches
from ...files.json_text import json_object

_COUNT = (float, None)
_SHAPE = {
    **dict.fromkeys(
        ("input_rows?", "failed_rows?", "skipped?", "rows?", "rejected?", "embedded?", "scored?", "given?"), _COUNT
    ),
    **dict.fromkeys(("nulls?", "truncated_texts?", "cache_hits?", "cache_misses?", "failures?", "batches?"), _COUNT),
    **dict.fromkeys(("loads?", "seconds?", "out_of_memory_retries?", "first_row_at?", "last_row_at?"), _COUNT),
    **dict.fromkeys(("fetch_msec?", "decode_msec?", "encode_msec?"), _COUNT),
    "failed?": ({str: float}, None),
    "batch_rows?": (lambda sizes: fits(sizes, {str: float}) and all(map(str.isdecimal, sizes)), None),
    "files?": ([{"name": is_inside, "bytes": int}], None),
    "name?": (lambda name: is_inside(name) and "/" not in name),
    "shard?": ({"kind?": str, "first_path?": str}, None),
    "resolved?": ({}, None),
    "signature?": (str, None),
    "process?": (str, int, None),
    "run?": (str, int, None),
    "fragments?": ([{"files?": [{"path": is_inside}]}], None),  # of Lance
}


def parse_manifest(path: str, content: bytes) -> dict[str, Any]:
    """Parse a manifest; `path` is for the error message. Raise `DatasetError` if it is not the manifest of a shard."""
    if (manifest := json_object(content)) is None:
        raise DatasetError(f"{path} is damaged: it does not hold a JSON object; run its shard again")
    if wrong := mismatches(manifest, _SHAPE):
        raise DatasetError(
            f"{path} is damaged: clipmill does not write such values of {', '.join(wrong)}; run its shard again"
        )
    return manifest


def manifest_or_none(content: bytes) -> dict[str, Any] | None:
    """Parse a manifest; return None if it is damaged."""
    try:
        return parse_manifest("", content)
    except DatasetError:
        return None

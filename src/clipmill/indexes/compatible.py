"""Whether rows can be added to an index: their model, dimension and columns, and the memory; and when to rebuild."""

from __future__ import annotations

import pyarrow as pa
from rich.filesize import decimal

from ..datasets.tables.provenance import differences, value_at
from ..errors import DatasetError, SpecError
from .footprint import filled_bytes
from .library import make_index
from .manifest import IndexManifest
from .plan import PROCESS_BYTES, WORK_BYTES, plan_index
from .source import VectorSource

_REBUILD_GROWTH = 4
"""An index that has this many times the rows that it was trained for should be rebuilt."""


def rebuild_hint(manifest: IndexManifest) -> str | None:
    """Return why an index should be rebuilt, None if it need not be."""
    plan = manifest.plan
    if not plan.get("asked", True) and manifest.rows > plan["rows"]:
        grown = plan_index(manifest.rows, manifest.dim, int(plan["max_memory_bytes"]), dtype=manifest.dtype).kind
        if grown != manifest.kind:
            return f"for {manifest.rows:,} rows an index of the kind {grown} would be planned; rebuild it"
    if manifest.trained_rows and manifest.rows > _REBUILD_GROWTH * manifest.trained_rows:
        return f"it was trained when it had {manifest.trained_rows:,} rows, and has {manifest.rows:,}; rebuild it"
    return None


def check_fits(where: str, old: IndexManifest, source: VectorSource) -> None:
    """Raise `DatasetError` for rows of another dimension, or vectors of another model."""
    if source.dim != old.dim:
        raise DatasetError(
            f"the vectors have {source.dim} values, and those of the index {where} have {old.dim}; build an index "
            "of their own"
        )
    if (old.provenance is None) != (source.provenance is None):
        who = "the index" if old.provenance is None else "the dataset"
        raise DatasetError(
            f"{who} has no provenance, so the vectors may come from different models; build an index of their own"
        )
    ours, theirs = old.provenance or {}, source.provenance or {}
    if differing := differences(ours, theirs):
        values = ", ".join(f"{name}: {value_at(ours, name)!r} and {value_at(theirs, name)!r}" for name in differing)
        raise DatasetError(
            f"the vectors come from another model than those of the index {where} ({values}) and cannot be "
            "compared; build an index of their own"
        )


def check_memory(old: IndexManifest, rows: int) -> None:
    """Raise `SpecError` if more rows exceed the memory planned, for kinds that cannot be merged from parts."""
    if old.index_file is None or not rows:
        return
    allowed = int(old.plan["max_memory_bytes"])
    filled = filled_bytes(make_index(old.dim, old.factory), old.rows + rows)
    needed = PROCESS_BYTES + WORK_BYTES + filled
    if filled and needed > allowed:
        raise SpecError(
            f"with {rows:,} more rows {old.factory} takes some {decimal(needed)} to build, and the index was planned "
            f"for {decimal(allowed)}; rebuild it with more memory or as another kind"
        )


def unify_columns(old: pa.Schema, new: pa.Schema) -> pa.Schema:
    """Return the columns of an index and of new rows; raise `DatasetError` if a column has two types."""
    try:
        return pa.unify_schemas([old, new])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise DatasetError(
            f"a column has another type than in the index: {err}; cast it, or build an index of its own"
        ) from err

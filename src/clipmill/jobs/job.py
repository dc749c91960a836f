"""`Job`: the description of a job that is sent to workers."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from typing import Any

import pyarrow as pa

from ..datasets.tables.column_types import type_key
from ..files.json_text import json_text
from ..models.spec import EncoderSpec
from .options import JobOptions

MAY_DIFFER = frozenset(
    {
        *("device", "runtime", "decode", "cache_dir", "fetch_timeout_s", "preprocess_threads", "fetch_threads"),
        *("max_batch_rows", "max_batch_bytes", "max_batch_pixels", "max_cache_bytes", "encoder_process"),
        "force_dimensions",
    }
)
"""Fields of a spec that do not change the vectors; workers of one job may differ in them too."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job(JobOptions):
    """The options of a job, with what `plan_job` derived from them. Pickles to its fields.

    Attributes:
        spec: The encoder.
        directory: The dataset that is written.
        schema: Columns of its files.
        run: Identifies one start of the job.
        weights_sha256: Of the weights with which the job was started, if it is resumed; they must be the same.
    """

    spec: EncoderSpec
    directory: str
    schema: pa.Schema
    run: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4), compare=False)
    weights_sha256: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, with the schema in Arrow's own format too; see `_unpickled`."""
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return state | {"schema": (self.schema, self.schema.serialize().to_pybytes())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the fields."""
        for name, value in (state | {"schema": _unpickled(*state["schema"])}).items():
            object.__setattr__(self, name, value)

    @property
    def read_as(self) -> dict[str, Any]:
        """The columns that documents are made of, as plain values; empty for rows."""
        return {} if self.plan.of_rows else self.reader.as_dict()

    @property
    def signature(self) -> str:
        """Identifies the output for an input: equal for every run and worker of one job."""
        usual = {field.name: field.default for field in dataclasses.fields(self.spec)}
        given = self.spec.as_dict().items()
        # Without default values: later versions may have fields that this one lacks.
        spec = {name: value for name, value in given if name not in MAY_DIFFER and value != usual.get(name)}
        columns = [(field.name, type_key(field.type)) for field in self.schema]
        asked = [spec, self.plan.description(), self.read_as, columns, self.format, self.content_hash]
        asked += ["relative ids"] if self.relative_to else []
        return hashlib.sha256(json_text(asked).encode()).hexdigest()[:16]


def _unpickled(pickled: pa.Schema, serialized: bytes) -> pa.Schema:
    """Return a schema with the types of Arrow's format where they are whole, else those that were pickled.

    Pickling loses whether the keys of a map are sorted, and Arrow does not cast all types from one to the other.
    Arrow's format loses extension types that this process has not registered.
    """
    read = pa.ipc.read_schema(pa.py_buffer(serialized))
    fields = []
    for whole, field in zip(read, pickled, strict=True):
        is_whole = type_key(whole.type) == type_key(field.type)
        fields.append(field.with_type(whole.type) if is_whole else field)
    return pa.schema(fields, metadata=pickled.metadata)

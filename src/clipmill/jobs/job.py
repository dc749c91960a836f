"""What a job is: `Job`, the one value that travels to whoever works on its shards."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..datasets.formats.base import Format
from ..encoders.plans.document_plan import DocumentEmbedPlan
from ..encoders.plans.plan import Plan
from ..files.plain import json_text
from ..models.spec import EncoderSpec
from .existing import Existing

MAY_DIFFER = frozenset(
    {
        *("device", "runtime", "decode", "cache_dir", "fetch_timeout_s", "preprocess_threads", "fetch_threads"),
        *("max_batch_rows", "max_batch_bytes", "max_batch_pixels", "max_cache_bytes"),
    }
)
"""Fields of a spec that say how vectors are made and not which; workers of one job may differ in them too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is done with every shard; pickles to its fields. Made by `plan_job`.

    Attributes:
        spec: The encoder.
        directory: The dataset that is written.
        schema: Columns of its files.
        plan: What is done with rows or documents.
        reader: Arguments of `read_documents`.
        fail_fast: Whether the first failure ends the job.
        format: What its files are: `parquet`; `jsonl`, a JSON object for each row; `clip-retrieval` or `lance`.
        run: Tells what one start of the job did from what others did.
        weights_sha256: Of the weights with which the job was begun, where it goes on; they must be the same.
        existing: Datasets whose rows are passed over.
        content_hash: Whether what tells the content of each row is written beside its vectors.
    """

    spec: EncoderSpec
    directory: str
    schema: pa.Schema
    plan: Plan = dataclasses.field(default_factory=DocumentEmbedPlan)
    reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fail_fast: bool = False
    format: Format = "parquet"
    run: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4), compare=False)
    weights_sha256: str | None = None
    existing: Existing | None = None
    content_hash: bool = False

    @property
    def signature(self) -> str:
        """Tells jobs that make the same of the same input from all others, whichever start or worker asks."""
        usual = {field.name: field.default for field in dataclasses.fields(self.spec)}
        given = self.spec.as_dict().items()
        # Without what has its default: later versions may have fields that this one lacks.
        spec = {name: value for name, value in given if name not in MAY_DIFFER and value != usual.get(name)}
        columns = [(field.name, str(field.type)) for field in self.schema]
        asked = [spec, self.plan.description(), dict(self.reader), columns, self.format, self.content_hash]
        return hashlib.sha256(json_text(asked).encode()).hexdigest()[:16]

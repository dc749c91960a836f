"""The features that Hugging Face's `datasets` keeps in a schema's metadata, brought up to the columns of an output."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from .column_types import is_list_type, is_text_type

FEATURES_KEY = b"huggingface"
"""Key of a schema's metadata: JSON with the features at `info`, `features`, as `datasets` writes and reads it."""

_NAMES = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64"}
"""Where `datasets` has other names than Arrow."""


class _NoFeatureError(Exception):
    """Raised for a type that has no feature here."""


def with_features(schema: pa.Schema) -> pa.Schema:
    """Return the schema with features for its columns; one without features stays as it is.

    Columns that are known keep their features, such as `Image` and `ClassLabel`. If a new column has a type without a
    feature, or the metadata cannot be read, the features are left out: `datasets` then takes them from the types.
    """
    metadata = dict(schema.metadata or {})
    if FEATURES_KEY not in metadata:
        return schema
    try:
        known = json.loads(metadata.pop(FEATURES_KEY))["info"]["features"]
        features = {field.name: known[field.name] if field.name in known else _feature(field.type) for field in schema}
    except (_NoFeatureError, ValueError, KeyError, TypeError):
        return schema.with_metadata(metadata)
    return schema.with_metadata({**metadata, FEATURES_KEY: json.dumps({"info": {"features": features}}).encode()})


def _feature(kind: pa.DataType) -> Any:
    """Return the feature of a type."""
    types = pa.types
    if is_list_type(kind):
        # `Sequence` is what all versions read; newer ones call it `List`.
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    if types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    is_plain = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or is_text_type(kind)
    # Moments and decimals have names of their own in `datasets`.
    if isinstance(kind, pa.BaseExtensionType) or not is_plain:
        raise _NoFeatureError(kind)
    return {"dtype": _NAMES.get(kind, str(kind)), "_type": "Value"}

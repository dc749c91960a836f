"""Rows of the contracts of `rank_contract` and `similarity_contract` as dicts and as `beam.Row`s with a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type
from apache_beam.typehints.row_type import RowTypeConstraint

LISTS = {"candidates": "candidate", "photos": "photo", "vectors": "vector", "documents": "document"}
TYPES: dict[str, Any] = dict.fromkeys(("id", "note"), str)
TYPES |= dict.fromkeys(("query", "candidate", "caption", "group"), str | None)
TYPES |= {"number": int | None, "photo": bytes | None, "sound": bytes | None, "vector": Sequence[float] | None}
TYPES |= {"document": Mapping[str, Any] | None}
TYPES |= {name: Sequence[TYPES[one]] | None for name, one in LISTS.items()}


def to_dicts(names):
    return beam.Map(dict).with_output_types(dict[str, Any])


def to_rows(names):
    """Return a step from dicts to `beam.Row`s with a schema; the fields are those of the first dict."""
    fields = [(name, convert_to_beam_type(TYPES[name])) for name in names or TYPES]
    return beam.Map(lambda row: beam.Row(**row)).with_output_types(RowTypeConstraint.from_fields(fields))

"""The contract of rows, run by `Embed` on the local runner; see `contract.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type
from apache_beam.typehints.row_type import RowTypeConstraint
from beam_helpers import Keep, kept, pipeline
from contract import Contract, Result
from vectors_contract import VectorsContract

from clipmill.encoders import unload_all
from clipmill.transforms import Embed

TYPES = {"id": str, "title": str | None, "caption": str | None, "photo": bytes | None, "captions": Sequence[str | None]}
TYPES |= {"sound": bytes | None, "wave": Any}


def to_dicts(names):
    return beam.Map(dict).with_output_types(dict[str, Any])


def to_rows(names):
    """Return a step from dicts to `beam.Row`s with a schema; the fields are those of the first dict."""
    fields = [(name, convert_to_beam_type(TYPES[name])) for name in names or TYPES]
    return beam.Map(lambda row: beam.Row(**row)).with_output_types(RowTypeConstraint.from_fields(fields))


def embedding(directory, make, read, *, shuffled=False):
    """Return the contract's `embed`, on rows that `make` makes of dicts and `read` makes dicts of again."""

    def embed(rows, columns, *, model="fake::dim=8", **options):
        unload_all()
        with pipeline() as p:
            made = p | beam.Create(rows) | make(list(rows[0]) if rows else [])
            embedded = made | Embed(model, columns=columns, **options)
            out = embedded.rows | beam.Reshuffle() if shuffled else embedded.rows
            _ = out | "KeepRows" >> Keep(directory / "rows")
            _ = embedded.failures | "KeepFailures" >> Keep(directory / "failures")
        failed = kept(directory / "failures")
        return Result(
            [read(row) for row in kept(directory / "rows")] + [read(one.row) for one in failed],
            [(failure.row, failure.column, str(failure.code)) for one in failed for failure in one.failures],
        )

    return embed


class TestDicts(Contract, VectorsContract):
    @pytest.fixture
    def embed(self, tmp_path):
        return embedding(tmp_path / "kept", to_dicts, dict)


class TestRowsAfterAShuffle(Contract, VectorsContract):
    """Rows with a schema go through Beam's own coder of it, which declares how every field comes back."""

    @pytest.fixture
    def embed(self, tmp_path):
        return embedding(tmp_path / "kept", to_rows, lambda row: row._asdict(), shuffled=True)

"""Rows whose vectors are in other datasets are passed over on Beam; see `existing_contract.py`."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("existing_contract")

import apache_beam as beam  # noqa: E402
from beam_helpers import pipeline  # noqa: E402
from existing_contract import ExistingContract  # noqa: E402

from clipmill.encoders.storage import Shard  # noqa: E402
from clipmill.transforms import EmbedShards  # noqa: E402


class TestBeam(ExistingContract):
    @pytest.fixture
    def embed(self):
        def embed(shards, job):
            with pipeline() as p:
                dicts = p | beam.Create([shard.as_dict() for shard in shards]) | beam.Reshuffle()
                _ = dicts | beam.Map(Shard.from_dict).with_output_types(Shard) | EmbedShards(job)

        return embed

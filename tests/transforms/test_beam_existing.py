"""Rows whose vectors are in other datasets are passed over on Beam; see `existing_contract.py`."""

from __future__ import annotations

import apache_beam as beam
import pytest
from beam_helpers import pipeline
from existing_contract import ExistingContract

from clipmill.datasets import Shard
from clipmill.transforms import EmbedShards


class TestBeam(ExistingContract):
    @pytest.fixture
    def embed(self):
        def embed(shards, job):
            with pipeline() as p:
                dicts = p | beam.Create([shard.as_dict() for shard in shards]) | beam.Reshuffle()
                _ = dicts | beam.Map(Shard.from_dict).with_output_types(Shard) | EmbedShards(job)

        return embed

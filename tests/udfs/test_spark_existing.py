"""Rows whose vectors are in other datasets are passed over on Spark; see `existing_contract.py`."""

from __future__ import annotations

import pytest
from existing_contract import ExistingContract

from clipmill.udfs import embed_shards


class TestSpark(ExistingContract):
    @pytest.fixture
    def embed(self, spark):
        return lambda shards, job: embed_shards(spark, shards, job)

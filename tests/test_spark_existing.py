"""Rows whose vectors are in other datasets are passed over on Spark; see `existing_contract.py`."""

from __future__ import annotations

import pytest

from clipmill.udfs import embed_shards

pytest_plugins = ["spark_session"]
pytest.register_assert_rewrite("existing_contract")

from existing_contract import ExistingContract  # noqa: E402


class TestSpark(ExistingContract):
    @pytest.fixture
    def embed(self, spark):
        return lambda shards, job: embed_shards(spark, shards, job)

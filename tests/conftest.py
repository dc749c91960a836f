"""What all tests share: the environment of Spark's workers, and which tests need Java."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

import pytest

# Spark starts its workers with the first `python3` in PATH, which knows nothing of this environment.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)

# Graphs and downloads of the tests are kept for this session alone, and shared by the processes that it starts.
os.environ["CLIPMILL_CACHE"] = tempfile.mkdtemp(prefix="clipmill-tests-")
atexit.register(shutil.rmtree, os.environ["CLIPMILL_CACHE"], ignore_errors=True)

# Shared test bodies: their assertions should show values, too.
pytest.register_assert_rewrite("contract", "rank_contract", "rank_kinds_contract", "flat_rank_contract")
pytest.register_assert_rewrite("classify_contract", "rank_expected", "resume_jobs", "fetch_helpers")


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks, directly or not, for a fixture named `spark`."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.spark)

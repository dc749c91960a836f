"""What all tests share: one cache of graphs, the Spark session, and which tests need Java."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Spark starts its workers with the first `python3` in PATH, which knows nothing of this environment.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)

# JVMs live for seconds here: compiled lightly, collected by one thread. Of every Spark that is started from here.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# Graphs and downloads are kept for this run alone, and shared by all the processes that it starts: pytest-xdist's
# workers have the environment of the process that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["CLIPMILL_CACHE"] = tempfile.mkdtemp(prefix="clipmill-tests-")
    atexit.register(shutil.rmtree, os.environ["CLIPMILL_CACHE"], ignore_errors=True)

# Processes of a run that is spread over the cores have their share of them, and so have the JVMs, thread pools and
# worker processes that they start: with all cores for each of them they would wait for one another.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    workers, number = int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), int(os.environ["PYTEST_XDIST_WORKER"][2:])
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[number::workers] or [cpus[number % len(cpus)]])

# Shared test bodies: their assertions should show values, too.
pytest.register_assert_rewrite(
    *(path.stem for room in ("contracts", "fuzz", "support") for path in (HERE / room).glob("*.py"))
)


@pytest.fixture(scope="session")
def spark():
    """The session of this process: classic Spark, or Spark Connect in `make test-connect`."""
    from spark_session import open_session

    return open_session()  # never stopped: it ends with the process, and other modules have the same one


@pytest.fixture(scope="module")
def small_architectures():
    """Some of open_clip's architectures with few and narrow layers, in this process; see the module of that name."""
    from small_architectures import made_small

    with made_small():
        yield


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks, directly or not, for a fixture named `spark`."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.spark)

"""On a standalone cluster: a master and two workers. `make test-cluster` runs these, `make soak` many more."""

from __future__ import annotations

import os
import signal

import cluster_jobs
import kills
import pytest
from spark_cluster import SETTINGS, running_cluster, same_path, wait_until
from spark_session import MASTER

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_the_contract_of_rows(cluster, tmp_path):
    """That of `embed_columns`, as the tests of the local Spark have it, in a process of its own."""
    given = {**SETTINGS, **same_path()}
    tests = ["tests/udfs/test_spark_contract.py", "-k", "TestEmbedColumns"]
    assert cluster_jobs.run_tests(tmp_path, given, {MASTER: cluster.url}, *tests)["tests passed"] > 10


def test_an_executor_is_killed_and_a_task_ends_only_as_its_speculative_copy(cluster, tmp_path):
    """No row is lost or repeated."""
    folder, output = cluster_jobs.write_inputs(tmp_path), tmp_path / "out"
    process = cluster_jobs.start_speculative_job(cluster, folder, output)
    wait_until(lambda: kills.manifests(output) or process.poll() is not None, "a shard is finished")
    os.kill(cluster.executors[0], signal.SIGKILL)
    cluster_jobs.check_end(cluster, folder, output, process)

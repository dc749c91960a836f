"""Runs the tests of Spark Connect, in a process of their own: a classic session and a Connect one can't share it."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from places import ROOT
from spark_session import CONNECT

HERE = Path(__file__).parent
SUITE = (
    "spark_connect_suite.py",
    # What both kinds of session promise.
    "test_spark_contract.py::TestEmbedColumns",
    "test_spark_contract.py::TestExpressions",
    "test_spark_rank_contract.py::TestRank",
    "test_spark_rank_contract.py::TestRankGroups",
    "test_spark_rank_contract.py::TestClassify",
    "test_spark_payloads.py::test_no_payloads",
    "test_spark_payloads.py::test_payloads_are_spread_evenly_and_in_order",
    "test_spark_shards.py::test_every_shard_is_embedded_and_reported_in_order",
)


@pytest.mark.spark
def test_on_spark_connect(tmp_path):
    report = tmp_path / "report.xml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    pytest_options = ["-q", "-n0", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *pytest_options, *(str(HERE / name) for name in SUITE)],
        cwd=ROOT,
        env=environment | {CONNECT: "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (totals,) = ET.parse(report).getroot().findall("testsuite")
    assert int(totals.get("tests")) > 40
    assert totals.get("skipped") == "0"

"""Runs the tests of Spark Connect, in a process of their own: a classic session and a Connect one can't share it."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("spark_connect_suite.py")


@pytest.mark.spark
def test_on_spark_connect(tmp_path):
    report = tmp_path / "report.xml"
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(SUITE)],
        cwd=SUITE.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (totals,) = ET.parse(report).getroot().findall("testsuite")
    assert int(totals.get("tests")) > 40
    assert totals.get("skipped") == "0"

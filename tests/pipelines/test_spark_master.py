"""The master and the settings that an operator gave are kept; a laptop's are for a local Spark that nobody set up."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyspark")

from clipmill.pipelines import spark_session
from clipmill.pipelines.spark_session import is_local_master, operator_settings

pytestmark = pytest.mark.spark


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """No session, no settings."""
    from pyspark import SparkContext

    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "MASTER", "PYSPARK_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    return tmp_path / "spark-defaults.conf"


def test_nobody_gave_a_master(nobody):
    assert operator_settings() == {}
    assert is_local_master(None) and is_local_master("local[2]") and not is_local_master("yarn")


def test_settings_come_from_the_file_the_arguments_and_the_environment(nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("MASTER", "spark://c:7077")
    assert operator_settings() == {"spark.master": "spark://c:7077"}
    nobody.write_text("# a comment\nspark.master  spark://a:7077\nspark.ui.port=4050\n\nspark.x : y z\n")
    assert operator_settings() == {"spark.master": "spark://a:7077", "spark.ui.port": "4050", "spark.x": "y z"}
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master spark://b:7077 --name nightly -c spark.x=1 pyspark-shell")
    found = operator_settings()
    assert (found["spark.master"], found["spark.app.name"], found["spark.x"]) == ("spark://b:7077", "nightly", "1")
    other = tmp_path / "other.conf"
    other.write_text("spark.master yarn")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", f"--properties-file {other} pyspark-shell")
    assert operator_settings() == {"spark.master": "yarn"}
    assert not is_local_master(None)


def test_a_laptops_settings_fill_in_what_nobody_gave(nobody, monkeypatch, tmp_path):
    made = spark_session._for_a_laptop({}, tmp_path)
    assert made["spark.ui.enabled"] == "false"
    assert "log4j2.configurationFile" in made["spark.driver.extraJavaOptions"]
    assert os.environ["PYSPARK_PYTHON"] == sys.executable
    monkeypatch.delenv("PYSPARK_PYTHON")
    given = {
        "spark.ui.enabled": "true",
        "spark.pyspark.python": "./env/bin/python",
        "spark.driver.extraJavaOptions": "-Djavax.net.ssl.trustStore=x",
    }
    made = spark_session._for_a_laptop(given, tmp_path)
    assert "spark.ui.enabled" not in made and "PYSPARK_PYTHON" not in os.environ
    assert made["spark.driver.extraJavaOptions"].startswith("-Djavax.net.ssl.trustStore=x -Dlog4j2")
    own = {"spark.driver.extraJavaOptions": "-Dlog4j2.configurationFile=file:/x"}
    assert "spark.driver.extraJavaOptions" not in spark_session._for_a_laptop(own, tmp_path)


def test_the_interpreter_of_the_settings_starts_workers(nobody, monkeypatch):
    """As spark-submit takes it: before that of the environment."""
    monkeypatch.setenv("PYSPARK_PYTHON", "python3")
    assert spark_session._for_a_command({}) == {"spark.ui.showConsoleProgress": "false"}
    assert os.environ["PYSPARK_PYTHON"] == "python3"
    given = {"spark.pyspark.python": "./env/bin/python", "spark.ui.showConsoleProgress": "true"}
    assert spark_session._for_a_command(given) == {}
    assert os.environ["PYSPARK_PYTHON"] == "./env/bin/python"


@pytest.mark.parametrize("name", ["py4j.java_gateway", "py4j.clientserver", "root"])
def test_stacks_that_py4j_logs_are_left_out(name, caplog, monkeypatch):
    """It raises the same error, of which the command says one line. It logs some by its own name, some as root."""
    from py4j import java_gateway

    caplog.set_level(logging.NOTSET, logger="py4j")
    monkeypatch.setattr(logging.getLogger(), "filters", [])
    logger = logging.getLogger(None if name == "root" else name)

    def log():
        if logger.isEnabledFor(logging.ERROR):
            logger.handle(record)

    record = logging.LogRecord(name, logging.ERROR, java_gateway.__file__, 1, "while sending", (), None)
    log()
    spark_session._leave_out_stacks_of_py4j()
    log()
    assert caplog.messages == ["while sending"]
    logging.getLogger().error("another")
    assert caplog.messages[-1] == "another"


def test_spark_submit_decides_where_a_job_runs(tmp_path):
    """Its master and name hold; the first line says where the job runs."""
    from pyspark.find_spark_home import _find_spark_home

    (tmp_path / "in.jsonl").write_text('{"id": "1", "text": "a ring"}\n')
    (tmp_path / "job.py").write_text(
        "from clipmill.pipelines.cli import main\n"
        "from pyspark import SparkContext\n"
        "import clipmill.pipelines.spark_session as s\n"
        "stop = s.console.say\n"
        "def say(text):\n"
        "    stop(text)\n"
        "    if text.startswith('Engine'):\n"
        "        stop('name ' + SparkContext._active_spark_context.appName)\n"
        "s.console.say = say\n"
        "main()\n"
    )
    submit = Path(_find_spark_home()) / "bin" / "spark-submit"
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    options = ["--master", "local[1]", "--name", "nightly", "--conf", "spark.ui.enabled=false"]
    command = ["embed", tmp_path / "in.jsonl", "--engine", "spark", "--model", "fake::dim=4", "-o", tmp_path / "out"]
    done = subprocess.run(
        [submit, *options, tmp_path / "job.py", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Engine", "name"))]
    assert lines == ["Engine: Spark, local[1]", "name nightly"]

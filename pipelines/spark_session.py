"""The Spark session of a command: the operator's master and settings, or a local one where nobody gave a master."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import console
from .interrupts import kept_handlers
from .limits import check_open_files_for_spark

LOCAL_MASTER = "local[*]"
_QUIET = """
rootLogger.level = fatal
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark: %m%n
"""
"""log4j settings of a local Spark: only errors, which clipmill prints itself."""
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_PYTHON = "spark.pyspark.python"
_SPARKS_BAR = "spark.ui.showConsoleProgress"
_FLAGS = {"--master": "spark.master", "--name": "spark.app.name"}
_PROPERTY = re.compile(r"([^\s=:#!][^\s=:]*)\s*[=:\s]\s*(.*)")


def is_local_master(master: str | None) -> bool:
    """Return whether a job would run on a Spark of this machine: of `--master`, or else of the operator's settings."""
    return (master or operator_settings().get("spark.master") or LOCAL_MASTER).startswith("local")


def operator_settings() -> dict[str, str]:
    """Return the settings that the operator gave to Spark, not to clipmill.

    They come from `spark-submit`, from `PYSPARK_SUBMIT_ARGS`, from `spark-defaults.conf` and from `MASTER`, in this
    order of precedence, or from the application that is running already.
    """
    from pyspark import SparkConf, SparkContext

    if SparkContext._active_spark_context is not None:
        return dict(SparkContext._active_spark_context.getConf().getAll())
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit runs this process, and knows all settings
        SparkContext._ensure_initialized()
        return dict(SparkConf().getAll())
    arguments = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", ""))
    given: dict[str, str] = {}
    defaults = _conf_directory() / "spark-defaults.conf"
    for flag, value in itertools.pairwise(arguments):
        if flag in ("--conf", "-c") and "=" in value:
            name, _, setting = value.partition("=")
            given[name] = setting
        elif flag in _FLAGS:
            given[_FLAGS[flag]] = value
        elif flag == "--properties-file":
            defaults = Path(value)
    from_environment = {"spark.master": os.environ["MASTER"]} if os.environ.get("MASTER") else {}
    return {**from_environment, **_properties(defaults), **given}


def _conf_directory() -> Path:
    from pyspark.find_spark_home import _find_spark_home

    return Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home()) / "conf")


def _properties(path: Path) -> dict[str, str]:
    """Return the settings of a file in the format of `spark-defaults.conf`; none if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = (_PROPERTY.fullmatch(line.strip()) for line in lines)
    return {match[1]: match[2] for match in found if match}


@contextlib.contextmanager
def open_session(master: str | None, remote: str | None, conf: Sequence[str]) -> Iterator[Any]:
    """Yield a Spark session, and stop it unless it existed before. The first line on standard error says where it is.

    Args:
        master: The master of `--master`; by default the operator's, or a local one if there is none.
        remote: The URL of a Spark Connect server.
        conf: Settings, `NAME=VALUE`.
    """
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from ..udfs import embed_shards as _  # noqa: F401 - fails with the command that installs Spark

    settings = dict(pair.split("=", 1) for pair in conf)
    # an existing session belongs to the caller; only its thread knows the active one
    was_there = not remote and SparkContext._active_spark_context is not None
    with tempfile.TemporaryDirectory() as home:
        builder: Any = SparkSession.builder
        if remote:
            builder = builder.appName("clipmill").remote(remote)
        else:
            given = operator_settings()
            chosen = master or given.get("spark.master") or LOCAL_MASTER
            if master or "spark.master" not in given:
                builder = builder.master(chosen)
            if "spark.app.name" not in given:
                builder = builder.appName("clipmill")
            if not was_there:
                check_open_files_for_spark()
                settings = {**_for_a_command({**given, **settings}), **settings}
            if chosen.startswith("local") and not was_there:
                settings = {**_for_a_laptop({**given, **settings}, Path(home)), **settings}
        for name, value in settings.items():
            builder = builder.config(name, value)
        _leave_out_stacks_of_py4j()
        with kept_handlers():
            session = builder.getOrCreate()
        context = SparkContext._active_spark_context
        if server := getattr(context, "_accumulatorServer", None):
            server.handle_error = _ignore  # it prints a stack for each connection that ends with Spark's process
        console.say(f"Engine: Spark, {remote or getattr(context, 'master', None)}")
        try:
            yield session
        finally:
            if not was_there:
                session.stop()


def _for_a_command(given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of any Spark that a command starts, where nobody gave them.

    Workers start with the interpreter of `spark.pyspark.python`: PySpark leaves that setting to spark-submit.
    """
    if _PYTHON in given:
        os.environ["PYSPARK_PYTHON"] = given[_PYTHON]
    # clipmill has a bar of its own, and each would overwrite the other
    return {} if _SPARKS_BAR in given else {_SPARKS_BAR: "false"}


def _for_a_laptop(given: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the settings of a local Spark that nobody gave: quiet, without its web pages, with this interpreter."""
    if _PYTHON not in given:
        # Spark starts local workers by name from PATH, which may be another environment
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {} if "spark.ui.enabled" in given else {"spark.ui.enabled": "false"}
    java = given.get(_JAVA_OPTIONS, "")
    if "log4j2.configurationFile" not in java:
        log4j = home / "log4j2.properties"
        log4j.write_text(_QUIET)
        settings[_JAVA_OPTIONS] = f"{java} -Dlog4j2.configurationFile={log4j.as_uri()}".strip()
    return settings


def _leave_out_stacks_of_py4j() -> None:
    """Show no stack of an interrupt or of a lost JVM: py4j raises the same, and logs it by its own name or as root."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_is_not_of_py4j)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    return "py4j" not in Path(record.pathname).parts


def _ignore(*of_request: Any) -> None:
    pass

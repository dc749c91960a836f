"""Checks of `clipmill doctor`: Python, Java, cores, memory, open files and disks."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import DeviceError
from ..files.cache import VARIABLE
from ..models.encoder_process.choice import memory_bytes
from ..models.installed import version_of
from .check import Check, absent, not_installed, ok, problem, shown_path, warning
from .limits import check_open_files_for_spark, limit_of

MIN_JAVA = 17
_MIN_JAVA_OF_SPARK_3 = 8
_LITTLE_MEMORY = 2 * 2**30
"""Of a process with ViT-B-32 in float32, torch took 1.2 GB and OpenVINO 1.7 GB."""
_LITTLE_DISK = 2 * 2**30
"""The weights of ViT-B-32 are 0.6 GB, and its graphs are as large again for each runtime."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_IDENTIFY = (
    "import importlib.util, sys; "
    "print(sys.prefix, '%d.%d' % sys.version_info[:2], bool(importlib.util.find_spec('clipmill')), sep='\\n')"
)


def machine_checks(cpus: int | None, allowed: int, java: int | None, cache: Path, *, writable: bool) -> Iterator[Check]:
    """Yield the checks of this machine.

    Args:
        cpus: The cores that it has.
        allowed: The cores that this process may use.
        java: The major version of Java, None without one.
        cache: The cache directory.
        writable: Whether files can be created in it.
    """
    yield _python()
    yield spark_python()
    yield _java(java, version_of("pyspark"), os.environ.get("JAVA_HOME"))
    yield ok("cores", f"{allowed} of {cpus} allowed, so many threads are used")
    yield threads(allowed)
    yield _memory()
    yield _open_files()
    yield _cache(cache, writable)
    yield _temporary_folder()


def java_version() -> int | None:
    """Return the major version of the Java that Spark would start, or None without one."""
    home = os.environ.get("JAVA_HOME")
    command = os.path.join(home, "bin", "java") if home else "java"
    if shutil.which(command) is None:
        return None
    try:
        said = subprocess.run(
            [command, "-version"], capture_output=True, text=True, errors="replace", check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):  # of another processor, or a script without an interpreter
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found else None


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.platform()}"
    if sys.platform != "linux":
        return warning("python", found, "clipmill is tested on Linux only; a container has one (docs/docker.md)")
    return ok("python", found)


def spark_python() -> Check:
    """Check the interpreter with which Spark starts workers on this machine.

    `clipmill … --engine spark` sets it to its own for a local Spark. Programs and clusters look for `python3` in PATH.
    """
    name = "python of Spark"
    if version_of("pyspark") is None:
        return not_installed(name, "spark")
    given = os.environ.get("PYSPARK_PYTHON")
    command, source = given or "python3", "PYSPARK_PYTHON" if given else "python3 in PATH"
    hint = f"export PYSPARK_PYTHON={shown_path(sys.executable)}, or on a cluster, the path that its workers have"
    bad = problem if given else warning
    if not os.path.isabs(command) and os.sep in command and not os.path.exists(command):
        return ok(name, f"{source} is {command}, in what workers unpack: it cannot be examined here")
    path = shutil.which(command)
    if path is None:
        return bad(name, f"{source}: {shown_path(command)} not found", hint)
    try:
        done = subprocess.run(
            [path, "-c", _IDENTIFY], capture_output=True, text=True, check=True, timeout=30, cwd=os.sep
        )
        prefix, version, has_clipmill = done.stdout.split("\n")[:3]
    except (OSError, subprocess.SubprocessError, ValueError):
        return bad(name, f"{source}: {shown_path(path)} does not start", hint)
    if prefix == sys.prefix:
        return ok(name, f"{source} is this one")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version != here:
        return bad(name, f"{source} is Python {version}, and this is {here}: Spark refuses to mix them", hint)
    if has_clipmill != "True":
        return bad(name, f"{source} is {shown_path(path)}, which does not have clipmill", hint)
    return ok(name, f"{source} is {shown_path(path)}, which has clipmill")


def _java(version: int | None, spark: str | None, home: str | None) -> Check:
    install = f"install Java {MIN_JAVA} or newer for Spark"
    least = _MIN_JAVA_OF_SPARK_3 if spark is not None and spark.startswith("3.") else MIN_JAVA
    if version is None and home:
        found = "JAVA_HOME is set, and has no bin/java that works"
        return (problem if spark else absent)("java", found, f"correct or unset JAVA_HOME, or {install}")
    if version is None:
        found = "none; only Spark Connect works without" if spark else "none"
        return (warning if spark else absent)("java", found, install)
    if version < least:
        return (problem if spark else absent)("java", f"{version}, which is too old", install)
    return ok("java", str(version))


def threads(allowed: int) -> Check:
    """Check variables that leave cores unused. clipmill sets the threads of models and of Faiss itself."""
    few = {
        name: int(value)
        for name in _THREAD_VARIABLES
        if (value := os.environ.get(name, "")).isdecimal() and int(value) < allowed
    }
    if few:
        return warning(
            "threads",
            f"{', '.join(f'{name}={count}' for name, count in few.items())}, fewer than the {allowed} cores: numpy "
            "computes exact search with so many",
            f"unset {' '.join(few)}; on workers of Spark, set spark.executorEnv.OMP_NUM_THREADS",
        )
    return ok("threads", "no variable of the environment limits them")


def _memory() -> Check:
    limit, whole = limit_of(resource.RLIMIT_AS), memory_bytes()
    found = [f"{whole / 2**30:.1f} GiB"] if whole else ["of unknown size"]
    if limit:
        found.append(f"ulimit -v allows {limit / 2**30:.1f} GiB of addresses")
    if min(filter(None, (limit, whole)), default=_LITTLE_MEMORY) < _LITTLE_MEMORY:
        return warning(
            "memory",
            ", ".join(found) + ": little for a model",
            "a process with ViT-B-32 in float32 takes 1.2 to 1.7 GB: use a larger machine, container or limit, or "
            "fewer workers",
        )
    return ok("memory", ", ".join(found))


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        check_open_files_for_spark()
    except DeviceError as err:
        if version_of("pyspark") is not None:
            return problem("open files", str(err.args[0]), str(err.hint))
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"{soft} (ulimit -n)")


def _cache(folder: Path, writable: bool) -> Check:
    shown = shown_path(folder)
    if not writable:
        return warning(
            "cache",
            f"{shown}, which cannot be written: each process makes the graphs that it lacks again",
            f"set {VARIABLE} to a folder that can be written, or fill it beforehand: clipmill models --prepare NAME",
        )
    return _disk("cache", folder, f"free some, or set {VARIABLE} to a folder on a larger disk")


def _temporary_folder() -> Check:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return problem("temporary folder", "none that can be written", "set TMPDIR to a folder that can be written")
    return _disk("temporary folder", Path(folder), "free some, or set TMPDIR to a folder on a larger disk")


def _disk(name: str, folder: Path, hint: str) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{shown_path(folder)}, {free / 2**30:.1f} GiB free"
    return warning(name, found, hint) if free < _LITTLE_DISK else ok(name, found)

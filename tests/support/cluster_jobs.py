"""Jobs on a Spark cluster under an operator's settings, and with the package brought to executors in other ways."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Mapping
from pathlib import Path

import kills
from places import ROOT
from spark_cluster import SETTINGS as SETTINGS_OF_CLUSTER
from spark_cluster import Cluster, command_options, same_path
from spark_session import CONNECT, MASTER

import clipmill
from clipmill.datasets import read_dataset, summarise
from clipmill.datasets.dataset import read_manifests

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "speculation": {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.3",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.minTaskRuntime": "500ms",
    },
    "dynamic allocation": {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "0",
        "spark.dynamicAllocation.initialExecutors": "1",
        "spark.dynamicAllocation.executorIdleTimeout": "2s",
    },
    "no worker reuse": {"spark.python.worker.reuse": "false"},
    "two cores for a task": {"spark.task.cpus": "2"},
}
"""Settings that an operator may have given, by a name."""
_COMMANDS = ("cli", "cli_messages", "engine_parity", "index_engines", "metrics_engines", "patterns", "rank_demo")
"""Tests of commands that take the session of the tests."""
LINGERING = "lingering_encoder:lingering"

_LINGERING = """
import os, time
from clipmill.encoders.testing import FakeModel
from clipmill.files.processes import started

ATTEMPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attempts")

class Lingering(FakeModel):
    def encode(self, modality, payloads):
        time.sleep(0.2)
        if "text 47" in payloads:
            with open(ATTEMPTS, "a+") as file:
                file.seek(0)
                is_copy = any(started(int(pid)) for pid in file.read().split())
                file.write(f"{os.getpid()} ")
            if not is_copy:
                time.sleep(600)
        return super().encode(modality, payloads)

def lingering():
    return Lingering({})
"""


def write_inputs(folder: Path) -> Path:
    """Write inputs, and encoders, one of which comes to no end at a row unless another process is at it already."""
    folder.mkdir(parents=True, exist_ok=True)
    kills.write_inputs(folder)
    (folder / "lingering_encoder.py").write_text(_LINGERING)
    return folder


def run_job(cluster: Cluster, folder: Path, output: Path, settings: Mapping[str, str], **more: str) -> None:
    """Run a job with the executors' package at the same path, and compare it with an undisturbed one."""
    process = kills.start(folder, output, *_options(cluster, folder, settings), **more)
    check_end(cluster, folder, output, process)


def check_end(cluster: Cluster, folder: Path, output: Path, process: subprocess.Popen) -> None:
    """Wait for the end of a job, and compare it with an undisturbed one."""
    assert process.wait(timeout=300) == 0, kills.said(folder) + cluster.logs()
    kills.check(output)


def _options(cluster: Cluster, folder: Path, settings: Mapping[str, str]) -> list[str]:
    ours = same_path()
    path = f"{folder}{os.pathsep}{ours['spark.executorEnv.PYTHONPATH']}"
    return command_options(cluster, {**ours, "spark.executorEnv.PYTHONPATH": path, **settings})


def check_settings(cluster: Cluster, folder: Path) -> collections.Counter[str]:
    """Run a job under each of the settings; return how many rows there were."""
    write_inputs(folder)
    for name, settings in SETTINGS.items():
        output = folder / name.replace(" ", "-")
        run_job(cluster, folder, output, settings)
        loads = [manifest["loads"] for manifest in read_manifests(str(output))]
        assert (set(loads) == {1}) if name == "no worker reuse" else max(loads) <= 2, name
    output = folder / "lingering"
    check_end(cluster, folder, output, start_speculative_job(cluster, folder, output))
    return collections.Counter(rows=kills.ROWS * (len(SETTINGS) + 1), settings=len(SETTINGS))


def start_speculative_job(cluster: Cluster, folder: Path, output: Path) -> subprocess.Popen:
    """Start a job of which one task ends only as the speculative copy of another one that still runs."""
    return kills.start(folder, output, *_options(cluster, folder, SETTINGS["speculation"]), encoders=LINGERING)


def check_packages(cluster: Cluster, folder: Path) -> collections.Counter[str]:
    """Bring the package to executors that lack it: as a packed environment, and as a zip archive."""
    folder.mkdir(parents=True, exist_ok=True)
    built = build_package(folder)
    archive, environment = zip_package(folder, built), pack_environment(folder, built)
    ways = {
        "archives": {"spark.pyspark.python": "./env/bin/python", "spark.archives": f"{environment}#env"},
        "py-files": {"spark.pyspark.python": str(bare_environment(folder)), "spark.submit.pyFiles": str(archive)},
    }
    (folder / "in.jsonl").write_text("".join(json.dumps({"id": str(n), "text": f"{n} rings"}) + "\n" for n in range(8)))
    for name, settings in ways.items():
        command = [
            "embed",
            str(folder / "in.jsonl"),
            "-o",
            str(folder / name),
            "--model",
            "demo",
            "--precision",
            "fp32",
        ]
        command += ["--rows-per-shard", "2", *command_options(cluster, settings)]
        process = kills.start_command(folder, *command)
        assert process.wait(timeout=300) == 0, kills.said(folder) + cluster.logs()
        assert summarise(str(folder / name)).complete
        assert len(read_dataset(str(folder / name))) == 8
    return collections.Counter({"ways of the package": len(ways)})


def check_contracts(cluster: Cluster, folder: Path, *, connect: bool) -> collections.Counter[str]:
    """Run the tests of functions and commands on the cluster, or those of Connect with a server on it."""
    given = {**SETTINGS_OF_CLUSTER, **same_path()}
    if connect:
        chosen = {CONNECT: cluster.start_connect(**same_path())}
        return run_tests(folder, given, chosen, "tests/udfs", "-m", "connect or connect_only")
    commands = [f"tests/pipelines/test_{name}.py" for name in _COMMANDS]
    return run_tests(folder, given, {MASTER: cluster.url}, "tests/udfs", *commands, "-m", "spark and not connect_only")


def run_tests(
    folder: Path, settings: Mapping[str, str], environment: Mapping[str, str], *tests: str
) -> collections.Counter[str]:
    """Run tests in a process of their own, whose Spark has settings; return how many passed."""
    lines = [f"{name} {value}\n" for name, value in settings.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_CONF_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return collections.Counter({"tests passed": int(passed)})


def build_package(folder: Path) -> Path:
    """Build the package, and return the folder that it can be imported from."""
    built = folder / "built"
    source = Path(clipmill.__file__).parent
    if (source / "udfs").exists():  # installed, or built
        shutil.copytree(source, built / "clipmill", ignore=shutil.ignore_patterns("__pycache__"))
        return built
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "tests", "__pycache__"))
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL)
    return built


def zip_package(folder: Path, built: Path) -> Path:
    """Return the package as a zip archive; a wheel with that ending is one too."""
    return Path(shutil.make_archive(str(folder / "clipmill"), "zip", built, "clipmill"))


def pack_environment(folder: Path, built: Path) -> Path:
    """Return a packed environment with the package.

    Its dependencies come from this environment, which is too large to be packed. Python itself is not in it, as in an
    environment that venv-pack has packed.
    """
    python = bare_environment(folder, "packed")
    (library,) = python.parent.parent.glob("lib/python*/site-packages")
    shutil.copytree(built / "clipmill", library / "clipmill")
    with tarfile.open(folder / "environment.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(python.parent.parent, ".")
    return folder / "environment.tar.gz"


def bare_environment(folder: Path, name: str = "bare") -> Path:
    """Return the interpreter of an environment that has all dependencies of this one, and not the package."""
    venv.create(folder / name, symlinks=True)
    (library,) = (folder / name).glob("lib/python*/site-packages")
    # a line of code, since venv-pack refuses paths; editable installs of this environment have no effect there
    (library / "dependencies.pth").write_text(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n")
    return folder / name / "bin" / "python"

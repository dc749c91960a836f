"""The images' files hold together: what they copy is there, what they start starts, and versions agree.

Nothing here builds an image. The steps that install the packages are run by `make test-installed`, in a fresh
environment; the rest is read, or run beside programs that say what they were given.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
from dockerfiles import (
    Dockerfile,
    copies,
    copy_problems,
    install_problems,
    is_ignored,
    page_problems,
    parse,
    target_problems,
    variable_problems,
)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from places import ROOT

DOCKER = ROOT / "docker"
TEXT = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
IGNORE = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = ("cpu", "gpu")
LAUNCHER = "gcr.io/dataflow-templates-base/python311-template-launcher-base:latest"
FOLDERS = ("pipelines", "transforms", "udfs")


def problems_of(text: str, ignore: str = IGNORE) -> list[str]:
    file = parse(text)
    return [
        *copy_problems(file, ROOT, ignore),
        *variable_problems(file),
        *target_problems(file, (*TARGETS, "flex")),
        *install_problems(file, [target for target in TARGETS if target in file.stages]),
        *version_problems(file, PROJECT),
    ]


def version_problems(file: Dockerfile, project: dict) -> list[str]:
    """Python and the engines have to be releases that pyproject.toml allows, the engines those that are tested."""
    extras = project["optional-dependencies"]
    python = file.arguments["PYTHON_VERSION"]
    problems = [] if Version(python) in SpecifierSet(project["requires-python"]) else [f"Python {python}"]
    for extra, argument in (("beam", "BEAM_VERSION"), ("spark", "SPARK_VERSION")):
        release = file.arguments[argument]
        needed = Requirement(extras[extra][0])
        tested = importlib.metadata.version(needed.name)  # pyproject.toml allows much older ones
        if release not in needed.specifier or Version(release).release[:2] != Version(tested).release[:2]:
            problems.append(f"{argument} {release}, where the tests are run with {tested}")
    launcher = LAUNCHER.replace("311", python.replace(".", ""))
    images = [
        f"python:{python}-slim-bookworm",
        f"apache/beam_python{python}_sdk:{file.arguments['BEAM_VERSION']}",
        launcher,
    ]
    return problems + [f"image {image}" for image in file.images() if image not in images]


def test_the_dockerfile_holds_together() -> None:
    assert problems_of(TEXT) == []
    assert "FROM" in TEXT and len(parse(TEXT).stages) == 7


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("COPY udfs udfs", "COPY udf udfs", "wheel copies udf, which is not in the repository"),
        ("COPY udfs udfs", "COPY tests tests", "wheel copies tests, which is ignored"),
        ("--from=beam", "--from=beem", "base copies from beem, which is no stage"),
        ("ARG PYTHON_VERSION=3.11", "ARG PYTHON=3.11", None),
        ('ARG MODEL=""', "", "RUN of cpu uses MODEL"),
        ("ARG BEAM_VERSION\n", "ARG BEAM\n", "ARG BEAM of cpu has no default"),
        ("ARG BEAM_VERSION\n", "", "cpu does not declare ARG BEAM_VERSION"),
        ("AS gpu", "AS cuda", "there is no target gpu"),
        ("ENTRYPOINT [", "ENTRYPOINT exec [", "cpu has no ENTRYPOINT in exec form: arguments would not reach it"),
        (
            "docker/entrypoint.sh /opt",
            "/opt",
            "cpu starts /opt/clipmill/entrypoint.sh, which is copied nowhere",
        ),
        ("install.sh gpu", "install.sh cpu", "gpu does not run install.sh gpu"),
        ("PYTHON_VERSION=3.11", "PYTHON_VERSION=3.10", "Python 3.10"),
        ("BEAM_VERSION=2.77.0", "BEAM_VERSION=2.76.0", "BEAM_VERSION 2.76.0, where the tests are run with 2.77.0"),
        ("SPARK_VERSION=4.3.0", "SPARK_VERSION=4.2.1", "SPARK_VERSION 4.2.1, where the tests are run with 4.3.0"),
        ("_sdk:${BEAM_VERSION}", "_sdk:2.76.0", "image apache/beam_python3.11_sdk:2.76.0"),
        ("AS flex", "AS template", "there is no target flex"),
        ("python311-template", "python312-template", f"image {LAUNCHER.replace('311', '312')}"),
        ("--from=launcher", "--from=lancher", "flex copies from lancher, which is no stage"),
        ("WORKDIR /source", "WORKDIRS /source", None),
    ],
)
def test_a_dockerfile_that_does_not_is_found_out(old: str, new: str, problem: str | None) -> None:
    """A None stands for what cannot be read at all."""
    assert old in TEXT
    changed = TEXT.replace(old, new)
    if problem is None:
        with pytest.raises((KeyError, ValueError), match=r"PYTHON_VERSION|no instruction starts with 'WORKDIRS'"):
            problems_of(changed)
    else:
        assert problem in problems_of(changed)


def test_only_what_is_copied_goes_to_the_builder() -> None:
    for path in (".venv", ".git", "tests/test_docker.py", "docs", "src/clipmill/__pycache__", "src/clipmill.egg-info"):
        assert is_ignored(path, IGNORE), path
    for path in ("setup.py", "src/clipmill/models/demo/vocabulary.json", "docker/install.sh"):
        assert not is_ignored(path, IGNORE), path


def wheel_of(text: str, folder: Path) -> set[str]:
    """Build the wheel with what the Dockerfile copies, by the command that stands there, and list its modules."""
    stage = parse(text).stages["wheel"]
    source = folder / "source"
    for origin, sources, target in copies(stage):
        assert origin is None
        for name in sources:
            for file in [ROOT / name, *(ROOT / name).rglob("*")]:
                path = file.relative_to(ROOT)
                if file.is_file() and not is_ignored(path.as_posix(), IGNORE):
                    place = source / target / path.relative_to(name if (ROOT / name).is_dir() else path.parent)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.read_bytes())
    (command,) = stage.of("RUN")
    pip = [sys.executable, "-m", *command.replace("/dist", str(folder / "dist")).split(), "--no-build-isolation", "-q"]
    subprocess.run(pip, cwd=source, check=True, capture_output=True, timeout=300)
    (wheel,) = (folder / "dist").glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}


def test_the_wheel_of_the_images_is_whole(tmp_path: Path) -> None:
    modules = {f"clipmill/{file.relative_to(ROOT)}" for name in FOLDERS for file in (ROOT / name).rglob("*.py")}
    modules |= {file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src/clipmill").rglob("*.py")}
    assert wheel_of(TEXT, tmp_path / "all") == modules
    with pytest.raises(subprocess.CalledProcessError):
        wheel_of(TEXT.replace("COPY udfs udfs", ""), tmp_path / "less")


def test_the_page_builds_what_there_is() -> None:
    assert page_problems(PAGE, parse(TEXT)) == []
    assert len(re.findall("^docker build", PAGE, re.MULTILINE)) >= 3
    bad = "docker build --file docker/Dockerfile --target tpu \\\n  --build-arg MODELS=a .\ndocker build ."
    assert page_problems(bad, parse(TEXT)) == ["no target tpu", "no argument MODELS", "no --target in 'docker build .'"]


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_are_bash(script: Path, tmp_path: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text
    (tmp_path / "bad.sh").write_text(text.replace("esac", "", 1))
    checked = [
        subprocess.run(["bash", "-n", file], check=False, capture_output=True) for file in (script, tmp_path / "bad.sh")
    ]
    assert [done.returncode == 0 for done in checked] == [True, False]


def program(place: Path, body: str) -> Path:
    """Write a program that stands in for one of the image."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/usr/bin/env bash\n{textwrap.dedent(body)}\n", encoding="utf-8")
    place.chmod(0o755)
    return place


SAY = """printf '%s\\n' "$(basename "$0")" "$@" """
EXECUTOR = {
    "SPARK_EXECUTOR_MEMORY": "2g",
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.0.0.1:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "4",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_EXECUTOR_POD_NAME": "pod-3",
    "SPARK_CONF_DIR": "/opt/spark/conf",
    **{f"SPARK_JAVA_OPT_{number}": f"-Doption={number} of 11" for number in range(11)},
}


@pytest.fixture
def image(tmp_path: Path) -> dict[str, str]:
    """An environment in which tini does what it does, and the other programs print how they were called."""
    program(tmp_path / "bin/tini", 'shift 2; exec "$@"')
    program(tmp_path / "bin/java", SAY)
    program(tmp_path / "boot", SAY)
    program(tmp_path / "spark/bin/spark-submit", SAY)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPARK", "JAVA_HOME", "HADOOP"))
    }
    path = os.pathsep.join([str(tmp_path / "bin"), environ["PATH"]])
    return environ | {"PATH": path, "BEAM_BOOT": str(tmp_path / "boot"), "SPARK_HOME": str(tmp_path / "spark")}


def start(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = ["bash", DOCKER / "entrypoint.sh", *arguments]
    return subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=60)


def test_options_are_beams(image: dict[str, str]) -> None:
    done = start(image, "--id=1-1", "--provision_endpoint=localhost:1", "a b")
    assert done.stdout.splitlines() == ["boot", "--id=1-1", "--provision_endpoint=localhost:1", "a b"]


def test_driver_is_sparks(image: dict[str, str]) -> None:
    done = start(image | {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.1"}, "driver", "--class", "x", "local:///job.py", "a b")
    said = ["spark-submit", "--conf", "spark.driver.bindAddress=10.0.0.1", "--deploy-mode", "client"]
    assert done.stdout.splitlines() == [*said, "--class", "x", "local:///job.py", "a b"]


def test_executor_gets_its_settings_from_the_environment(image: dict[str, str]) -> None:
    said = start(image | EXECUTOR, "executor").stdout.splitlines()
    assert said[:12] == ["java", *(f"-Doption={number} of 11" for number in range(11))]
    assert said[12:16] == ["-Xms2g", "-Xmx2g", "-cp", f"/opt/spark/conf:{image['SPARK_HOME']}/jars/*"]
    assert said[16].endswith(".k8s.KubernetesExecutorBackend")
    pairs = dict(zip(said[17::2], said[18::2], strict=True))
    assert pairs == {
        "--driver-url": EXECUTOR["SPARK_DRIVER_URL"],
        "--executor-id": "3",
        "--cores": "4",
        "--app-id": "spark-1",
        "--hostname": "10.0.0.2",
        "--resourceProfileId": "0",
        "--podName": "pod-3",
    }


def test_extra_classes_stand_before_the_jars(image: dict[str, str]) -> None:
    more = {"SPARK_CLASSPATH": "/extra/*", "HADOOP_CONF_DIR": "/opt/hadoop/conf", "JAVA_HOME": image["SPARK_HOME"]}
    program(Path(image["SPARK_HOME"]) / "bin/java", f"echo theirs; {SAY}")
    said = start(image | EXECUTOR | more, "executor").stdout.splitlines()
    assert said[0] == "theirs"  # JAVA_HOME names the Java
    assert f"/opt/spark/conf:/opt/hadoop/conf:/extra/*:{image['SPARK_HOME']}/jars/*" in said


def test_other_commands_are_run(image: dict[str, str]) -> None:
    done = start(image, "sh", "-c", 'echo "$1"; exit 7', "sh", "a b")
    assert (done.returncode, done.stdout) == (7, "a b\n")


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        ([], None, "'driver' or 'executor'"),
        (["driver"], None, "SPARK_DRIVER_BIND_ADDRESS: Spark sets it"),
        (["executor"], "SPARK_EXECUTOR_MEMORY", "SPARK_EXECUTOR_MEMORY: Spark sets it"),
        (["executor"], "SPARK_DRIVER_URL", "SPARK_DRIVER_URL: "),
    ],
)
def test_what_cannot_start_says_why(
    arguments: list[str], missing: str | None, message: str, image: dict[str, str]
) -> None:
    environ = {name: value for name, value in (image | EXECUTOR).items() if name != missing}
    done = start(environ, *arguments)
    assert done.returncode != 0 and done.stdout == "" and message in done.stderr


# A driver that has no executors of its own: what its tasks run in is what the image starts.
DRIVER = """
import json, os, shlex, subprocess, sys
from pyspark.sql import SparkSession
from clipmill.udfs import embed_text

builder = SparkSession.builder.master("local-cluster[0,1,512]").config("spark.ui.enabled", "false")
builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
spark = builder.config("spark.executor.memory", "512m").getOrCreate()
context = spark.sparkContext
environ = dict(os.environ, **json.loads(sys.argv[2]))
environ["SPARK_DRIVER_URL"] = f"spark://CoarseGrainedScheduler@127.0.0.1:{context.getConf().get('spark.driver.port')}"
environ["SPARK_APPLICATION_ID"] = context.applicationId
# Spark numbers them so in the pods of executors; Arrow needs the modules that they open.
options = shlex.split(context.getConf().get("spark.executor.extraJavaOptions"))
environ |= {f"SPARK_JAVA_OPT_{number}": option for number, option in enumerate(options)}
executor = subprocess.Popen(["bash", sys.argv[1], "executor"], env=environ)
try:
    rows = spark.createDataFrame([("ab",), (None,), ("",)], "caption string").coalesce(1)
    embedded = rows.select(embed_text("caption", model="fake::dim=8").alias("v")).collect()
    names = context.parallelize([0], 1).map(lambda _: os.environ.get("SPARK_EXECUTOR_POD_NAME")).collect()
    print(json.dumps([names, [row.v and len(row.v) for row in embedded]]))
finally:
    spark.stop()
    try:
        executor.wait(timeout=60)
    finally:
        executor.kill()
"""


@pytest.mark.spark
def test_a_driver_gives_tasks_to_the_executor(tmp_path: Path) -> None:
    """With Spark's real executor, as Kubernetes would start it; only tini is stood in for."""
    import pyspark

    program(tmp_path / "bin/tini", 'shift 2; exec "$@"')
    settings = EXECUTOR | {
        "PATH": os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]),
        "SPARK_HOME": pyspark.__path__[0],
        "SPARK_EXECUTOR_MEMORY": "512m",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
        "SPARK_CONF_DIR": str(tmp_path),
        "PYSPARK_PYTHON": sys.executable,
    }
    command = [sys.executable, "-c", DRIVER, DOCKER / "entrypoint.sh", json.dumps(settings)]
    environ = os.environ | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environ, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [["pod-3"], [8, None, None]]

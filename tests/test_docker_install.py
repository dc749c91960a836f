"""The images' installation asks for what it should and refuses what would make a wrong image.

`make test-installed` runs it for real, in a fresh environment. Here `python` writes down what it was told, so that what
an installation from PyPI cannot show is seen: another index for torch, and failures.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from places import ROOT

INSTALL = ROOT / "docker" / "install.sh"

PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in
    *"pip install"*.whl*) [ -z "${REPLACED:-}" ] || echo "$REPLACED" > "$TORCH" ;;
    *"pip check"*) exit "${CHECK:-0}" ;;
    *version*torch) cat "$TORCH" ;;
    *version*) echo 0.1.0 ;;
    *find_spec*) echo "$PYSPARK" ;;
esac
"""
CLIPMILL = """#!/usr/bin/env bash
echo "clipmill $* in ${CLIPMILL_CACHE:?}" >> "$CALLS"
echo "[0.1, 0.2]"
[ -n "${HALF:-}" ] || echo "[0.3, 0.4]"
"""


class Machine:
    """Programs that write down how they were called, and a folder for Spark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheel = folder / "clipmill-0.1.0-py3-none-any.whl"
        self.wheel.touch()
        (folder / "torch").write_text("2.15.0+cpu\n")
        (folder / "calls").touch()
        (folder / "bin").mkdir()
        for name, text in (("python", PYTHON), ("clipmill", CLIPMILL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for part in ("bin", "jars", "python", "sbin"):
            (folder / "pyspark" / part).mkdir(parents=True)

    def install(self, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess:
        given = {
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]]),
            "TMPDIR": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            "TORCH": str(self.folder / "torch"),
            "PYSPARK": str(self.folder / "pyspark"),
            "BEAM_VERSION": "2.77.0",
            "SPARK_VERSION": "4.3.0",
        }
        return subprocess.run(
            ["bash", INSTALL, *(arguments or ("cpu", self.wheel, self.folder / "spark"))],
            env=given | environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def pip(self) -> list[str]:
        calls = (self.folder / "calls").read_text().splitlines()
        return [call.removeprefix("-m pip ") for call in calls if call.startswith("-m pip ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("flavour", "extras"), [("cpu", "all"), ("gpu", "all-gpu")])
def test_one_installation_of_everything_with_the_engines_versions(flavour: str, extras: str, machine: Machine) -> None:
    done = machine.install(flavour, machine.wheel, machine.folder / "spark")
    assert done.returncode == 0, done.stderr
    assert machine.pip() == [f"install {machine.wheel}[{extras}] apache-beam==2.77.0 pyspark==4.3.0", "check"]
    assert f"[{extras}] with Beam 2.77.0, Spark 4.3.0" in done.stdout


def test_torch_comes_first_where_it_has_an_index_of_its_own(machine: Machine) -> None:
    done = machine.install(TORCH_INDEX="https://example.org/cpu")
    assert done.returncode == 0, done.stderr
    assert machine.pip()[0] == "install --index-url https://example.org/cpu torch torchvision"
    assert len(machine.pip()) == 3


def test_spark_gets_its_folders_and_room_for_its_configuration(machine: Machine) -> None:
    machine.install()
    spark = machine.folder / "spark"
    assert {link.name: link.resolve() for link in spark.iterdir()} == {
        part: machine.folder / "pyspark" / part for part in ("bin", "jars", "python", "sbin")
    }
    assert not spark.is_symlink()


def test_a_model_runs_and_leaves_nothing(machine: Machine) -> None:
    before = {*machine.folder.iterdir()}
    machine.install()
    said = (machine.folder / "calls").read_text()
    scratch = re.search(r"clipmill embed --text a red square --image (\S+)/red.jpg --model demo in (\S+)/cache\n", said)
    assert scratch is not None and scratch[1] == scratch[2], said
    assert {*machine.folder.iterdir()} - before == {machine.folder / "spark"}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TORCH_INDEX": "https://example.org/cpu", "REPLACED": "2.16.0"}, "torch 2.15.0+cpu of https://example.org"),
        ({"CHECK": "1"}, ""),
        ({"HALF": "1"}, "clipmill embed did not print a vector for each of a text and an image"),
        ({"PYSPARK": "/nowhere"}, "pyspark 4.3.0 has no folder 'bin' in /nowhere"),
        ({"BEAM_VERSION": ""}, "BEAM_VERSION is not set"),
        ({"SPARK_VERSION": ""}, "SPARK_VERSION is not set"),
    ],
)
def test_what_would_make_a_wrong_image_ends_the_build(environ: dict[str, str], message: str, machine: Machine) -> None:
    done = machine.install(**environ)
    assert done.returncode != 0 and message in done.stderr
    assert "installed clipmill" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got 1 arguments: cpu"),
        (["x.whl", "/opt/spark"], "there is no wheel 'x.whl'"),
        (["a.whl", "b.whl", "/opt/spark"], "got 4 arguments"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_installed(
    arguments: list[str], message: str, machine: Machine
) -> None:
    done = machine.install("cpu", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert machine.pip() == []


def test_an_unknown_flavour_is_refused(machine: Machine) -> None:
    done = machine.install("tpu", machine.wheel, machine.folder / "spark")
    assert done.returncode == 2 and "cpu or gpu, got 'tpu'" in done.stderr and machine.pip() == []

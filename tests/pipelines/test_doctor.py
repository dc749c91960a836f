"""`clipmill doctor`: a verdict on each finding, its exit code, and nothing secret in what it prints."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_helpers import run
from http_server import LoopbackServer
from huggingface_hub import constants

from clipmill.pipelines import doctor, machine_checks, network_checks, package_checks, runtime_checks
from clipmill.pipelines.check import Check

MACHINE = {
    "python": "3.11.7",
    "platform": "Linux",
    "versions": {"clipmill": "0.1.0", "torch": None},
    "cpus": 8,
    "allowed_cpus": 2,
    "devices": ["cpu"],
    "runtimes": {
        "torch": {"version": None, "problem": None, "precisions": {}},
        "onnx": {"version": "1.32", "problem": None, "precisions": {"cpu": ["fp32"]}, "providers": ["CPU"]},
        "openvino": {"version": None, "problem": None, "precisions": {}},
    },
    "java": 17,
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Examined in no time: a machine with one runtime, and without variables that say something about networks."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name.startswith("SSL_") or name.endswith("CA_BUNDLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime_checks, "may_have_gpu", lambda: False)
    (tmp_path / "cache").mkdir()
    found = {**MACHINE, "cache": {"directory": str(tmp_path / "cache"), "writable": True}}
    monkeypatch.setattr(doctor, "examine", lambda: found)
    return found


def _checks(found: dict, **options: bool) -> dict[str, Check]:
    return {check.name: check for check in doctor.run_checks(found, **options)}


def test_what_is_not_installed_is_no_problem(machine: dict, capsys: pytest.CaptureFixture[str]) -> None:
    found = _checks(machine)
    assert (found["torch"].verdict, found["runtime torch"].verdict, found["gpu"].verdict) == ("absent",) * 3
    assert found["torch"].hint == "pip install 'clipmill[torch]'"
    assert found["runtime onnx"] == Check("runtime onnx", "ok", "works: 1.32, fp32 on cpu (CPU)")
    assert found["cores"].finding.startswith("2 of 8 allowed")
    assert run("doctor") == 0
    assert "1 problem" not in capsys.readouterr().out


def test_a_runtime_that_does_not_work_is_a_problem(machine: dict, capsys: pytest.CaptureFixture[str]) -> None:
    machine["runtimes"] = {**machine["runtimes"], "onnx": {"version": "1.0", "problem": "ImportError: a library"}}
    assert run("doctor", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    (check,) = [check for check in said["checks"] if check["verdict"] == "problem"]
    assert check["name"] == "runtime onnx" and "ImportError: a library" in check["finding"] and check["hint"]
    assert said["cpus"] == 8 and said["versions"] == MACHINE["versions"]
    assert run("doctor") == 1
    *lines, last = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:3] == ["problem", "runtime", "onnx"])
    assert lines[at + 1].strip().startswith("-> pip install") and last.startswith("1 problem")


def test_a_torch_that_cannot_be_imported_beside_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(runtime_checks, "may_have_gpu", lambda: True)
    assert runtime_checks.devices() == ["cpu"]
    found = {check.name: check for check in runtime_checks.runtime_checks(MACHINE["runtimes"], ["cpu"])}
    assert found["gpu"].verdict == "warning"


def test_no_runtime_at_all_is_a_problem(machine: dict) -> None:
    machine["runtimes"] = {name: {"version": None, "problem": None, "precisions": {}} for name in machine["runtimes"]}
    assert _checks(machine)["runtimes"].verdict == "problem"


@pytest.mark.parametrize(
    ("java", "spark", "home", "verdict"),
    [
        (17, "4.3.0", None, "ok"),
        (11, "4.3.0", None, "problem"),
        (11, "3.5.1", None, "ok"),
        (11, None, None, "absent"),
        (None, None, None, "absent"),
        (None, "4.3.0", None, "warning"),
        (None, "4.3.0", "/opt/java", "problem"),
    ],
)
def test_java(java: int | None, spark: str | None, home: str | None, verdict: str) -> None:
    found = machine_checks._java(java, spark, home)
    assert found.verdict == verdict and (found.hint is None) == (verdict == "ok")


def test_a_java_that_does_not_start_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (java := tmp_path / "bin/java").parent.mkdir()
    java.write_bytes(b"\x7fELF of another processor")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert machine_checks.java_version() is None


def test_the_interpreter_of_this_process_suits_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    assert machine_checks.spark_python().verdict == "ok"
    monkeypatch.setenv("PYSPARK_PYTHON", "./environment/bin/python")
    found = machine_checks.spark_python()
    assert found.verdict == "ok" and "./environment/bin/python" in found.finding


def test_an_interpreter_without_clipmill_or_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PYSPARK_PYTHON", str(tmp_path / "bare/bin/python"))
    found = machine_checks.spark_python()
    assert found.verdict == "problem" and found.finding.endswith("which does not have clipmill")
    (other := tmp_path / "python3").write_text("#!/bin/sh\nprintf '/usr\\n3.6\\nTrue\\n'\n")
    other.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(other))
    found = machine_checks.spark_python()
    assert found.verdict == "problem" and "Python 3.6" in found.finding
    other.write_text("#!/bin/sh\nexit 1\n")
    assert machine_checks.spark_python().finding.endswith("does not start")


def test_no_python3_in_path_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clipmill … --engine spark` sets it for a local Spark; one that the user named must be there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYSPARK_PYTHON")
    found = machine_checks.spark_python()
    assert (found.verdict, found.finding) == ("warning", "python3 in PATH: python3 not found")
    monkeypatch.setenv("PYSPARK_PYTHON", "/nowhere/python")
    assert machine_checks.spark_python().verdict == "problem"


def test_variables_that_leave_cores_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine_checks._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert machine_checks.threads(4).verdict == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("MKL_NUM_THREADS", "many")
    assert machine_checks.threads(4).verdict == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = machine_checks.threads(4)
    assert found.verdict == "warning" and "OMP_NUM_THREADS=1" in found.finding and "unset OMP" in str(found.hint)


def test_limits_of_memory_and_open_files(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _checks(machine)["open files"].verdict == "ok"
    limits = {resource.RLIMIT_AS: (2**30, 2**30), resource.RLIMIT_NOFILE: (100, 100)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    found = _checks(machine)
    assert found["memory"].verdict == "warning" and "ulimit -v allows 1.0 GiB" in found["memory"].finding
    assert found["open files"].verdict == "problem" and "100 open files" in found["open files"].finding
    monkeypatch.setattr(machine_checks, "version_of", lambda name: None)
    assert _checks(machine)["open files"].verdict == "ok"


def test_disks(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    found = _checks(machine)
    assert found["cache"].verdict == found["temporary folder"].verdict == "warning"
    assert found["cache"].finding.endswith("1.0 GiB free")
    machine["cache"]["writable"] = False
    assert "cannot be written" in _checks(machine)["cache"].finding

    def none_usable() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    assert _checks(machine)["temporary folder"].verdict == "problem"


def test_the_home_directory_has_a_name_and_is_not_shown(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(machine["cache"]["directory"]).parent
    monkeypatch.setenv("HOME", str(home))
    assert _checks(machine)["cache"].finding.startswith("~/cache, ")


def test_secrets_are_never_printed(
    machine: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://anna:swordfish@proxy.example.com:3128")
    monkeypatch.setenv("HTTP_PROXY", "proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", "intern.example.com, .example.org")
    monkeypatch.setenv("HF_TOKEN", "hf_swordfish")
    found = _checks(machine)
    assert (
        found["proxy"].finding
        == "http:// through a proxy, https:// through a proxy with a user's name; NO_PROXY has 2 entries"
    )
    assert found["hub"].finding.startswith("a token was found")
    for variable in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv("HTTPS_PROXY", raising=False)
        for proxy in (
            "http://anna:swordfish@proxy.example.com:3128",
            "socks5://anna:swordfish@proxy.example.com",
            "http://anna:swordfish@[proxy.example.com",
            "http://anna:swordfish@proxy.example.com:port",
        ):
            monkeypatch.setenv(variable, proxy)
            run("doctor")
            run("doctor", "--json")
            said = capsys.readouterr().out
            assert not [secret for secret in ("swordfish", "anna", "example.com", "example.org") if secret in said]
            assert (f"{variable} is not supported" in said) == (
                proxy[:8] != "http://a" or "[" in proxy or "port" in proxy
            )


def test_certificates(tmp_path: Path, machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_checks.certificates().verdict == "ok"
    (broken := tmp_path / "broken.pem").write_text("no certificate")
    for name in network_checks._BUNDLES:
        for path, reason in ((tmp_path / "gone.pem", "does not exist"), (broken, "cannot be loaded")):
            monkeypatch.setenv(name, str(path))
            found = network_checks.certificates()
            assert found.verdict == "problem" and name in found.finding and reason in found.finding
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "gone"))
    assert network_checks.certificates().verdict == "problem"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert network_checks.certificates().finding == "SSL_CERT_DIR is ~/gone, which is no folder"
    monkeypatch.delenv("SSL_CERT_DIR")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    found = network_checks.certificates()
    assert found.verdict == "warning" and found.hint == 'export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"'
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    nothing = SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(network_checks.ssl, "get_default_verify_paths", lambda: nothing)
    assert network_checks.certificates().verdict == "warning"


@pytest.mark.parametrize(
    ("path", "verdict"),
    [("/photo.jpg", "ok"), ("/status/404", "ok"), ("/status/407", "problem"), ("/status/429", "warning"),
     ("/status/503", "warning"), ("/not-http", "problem")],
)  # fmt: skip
def test_only_online_asks_the_hub(machine: dict, monkeypatch: pytest.MonkeyPatch, path: str, verdict: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_swordfish")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with LoopbackServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url(path))
        assert "hub online" not in _checks(machine) and server.connections == 0
        assert _checks(machine, online=True)["hub online"].verdict == verdict
        assert server.connections == 1 and not any("swordfish" in str(headers) for headers in server.headers)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert _checks(machine, online=True)["hub online"].verdict == "absent" and server.connections == 1


def test_a_hub_that_is_not_reached(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackServer() as server:
        address = server.url("/")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    found = network_checks.ask_hub()
    assert found.verdict == "problem" and "not reached" in found.finding


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("HF_ENDPOINT", "https://anna:swordfish@hub.example.com"),
        ("HF_ENDPOINT", "swordfish:anna@hub.example.com"),
        ("HTTPS_PROXY", "anna:swordfish"),
        ("HTTPS_PROXY", "http://proxy.example.com:swordfish"),
    ],
)
def test_an_invalid_address_is_not_repeated(
    machine: dict, monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address if variable == "HF_ENDPOINT" else "https://hub.example.com")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(variable, address)
    found = network_checks.ask_hub()
    assert found.verdict == "problem" and found.finding == "the address of the hub or of the proxy is invalid"
    assert not [secret for secret in ("swordfish", "anna", "example.com") if secret in f"{found.finding}{found.hint}"]


def test_a_proxy_that_wants_a_password(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refused = OSError("Tunnel connection failed: 407 Proxy Authentication Required")

    def connect(connection: object) -> None:
        raise refused

    monkeypatch.setattr("http.client.HTTPSConnection.connect", connect)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.com")
    assert "password" in network_checks.ask_hub().finding


def test_packages_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package_checks._MODULES, "soundfile", "a_module_that_is_not_there")
    checks = {check.name: check for check in package_checks.package_checks({"soundfile": "0.14", "soxr": "1.1"})}
    assert checks["soundfile"].verdict == "problem" and "ModuleNotFoundError" in checks["soundfile"].finding
    assert checks["soxr"] == Check("soxr", "ok", "1.1")


def test_versions_that_do_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.1.0", "torchvision": "0.29.2", "clipmill": "0.1.0", "numpy": "2.4.6"}
    needs = {
        "torchvision": ["numpy", "torch==2.15.0", "scipy; extra == 'scipy'", "gone>=1"],
        "clipmill": [
            "numpy>=1.26",
            "torch>=2.4; extra == 'torch'",
            "onnx>=1; extra == 'onnx'",
            "numpy<1; extra == 'x'",
        ],
    }

    def metadata(name: str) -> Message:
        found = Message()
        for need in needs.get(name, []):
            found["Requires-Dist"] = need
        for extra in ("torch", "onnx"):
            found["Provides-Extra"] = extra
        return found

    monkeypatch.setattr(package_checks, "version_of", installed.get)
    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    assert package_checks.mismatches() == [
        "clipmill 0.1.0 needs torch>=2.4, and 2.1.0 is installed",
        "torchvision 0.29.2 needs torch==2.15.0, and 2.1.0 is installed",
        "torchvision 0.29.2 needs gone>=1, which is not installed",
    ]
    assert package_checks.matching(package_checks.mismatches()).verdict == "warning"


def test_several_builds_of_onnx_runtime() -> None:
    assert runtime_checks.onnx_builds([]).verdict == "absent"
    assert runtime_checks.onnx_builds(["onnxruntime-gpu"]).verdict == "ok"
    found = runtime_checks.onnx_builds(["onnxruntime", "onnxruntime-gpu"])
    assert found.verdict == "warning" and "pip uninstall onnxruntime onnxruntime-gpu" in str(found.hint)


@pytest.mark.parametrize(
    ("seen", "torch", "providers", "verdict", "part"),
    [
        (["cuda:0 (H200)"], "cuda", ["CUDAExecutionProvider"], "ok", "cuda:0 (H200)"),
        (["cuda:0 (H200)"], "cuda", ["CPUExecutionProvider"], "ok", "ONNX Runtime is a build for CPUs"),
        ([], "cpu", None, "warning", "torch is a build for CPUs"),
        ([], "cuda", None, "warning", "built for cuda, sees none"),
        ([], None, ["CPUExecutionProvider"], "warning", "no runtime"),
        ([], None, None, "warning", "no runtime"),
        ([], None, ["CUDAExecutionProvider"], "ok", "build for CUDA"),
    ],
)
def test_a_gpu_that_the_driver_sees(
    seen: list[str], torch: str | None, providers: list[str] | None, verdict: str, part: str
) -> None:
    found = runtime_checks.gpus(seen, torch, providers, has_driver=True)
    assert found.verdict == verdict and part in found.finding
    assert runtime_checks.gpus(seen, torch, providers, has_driver=False).verdict == "absent"

"""Every message that docs/troubleshooting.md shows is provoked, and is what clipmill says."""

from __future__ import annotations

import json
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, write_pictures
from full_disk import full_after
from http_server import LoopbackServer
from huggingface_hub import constants
from pages import missing
from places import DOCS

from clipmill import load_encoder
from clipmill.encoders import registry
from clipmill.files.lock import DirectoryLock
from clipmill.media import fetch
from clipmill.pipelines import machine_checks, network_checks
from clipmill.pipelines.check import Check
from clipmill.pipelines.console import Terminal
from clipmill.pipelines.doctor import checks_table

FAKE = ("--model", "fake::dim=4", "--device", "cpu")
SECTION = re.compile(r"^### (.+)\n((?:(?!^##).*\n)*)", re.MULTILINE)
TEXT = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = dict(SECTION.findall(PAGE))


class Workshop:
    """A working directory where things go wrong, and what they print."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch = patch
        self._capsys = capsys

    def clipmill(self, *arguments: object) -> str:
        """Run a command and return what it prints, and the messages of rows that failed."""
        self._capsys.readouterr()
        run(*arguments)
        printed = self._capsys.readouterr()
        lines = [line for path in sorted(Path().glob("*/_failures/*.jsonl")) for line in path.read_text().splitlines()]
        return "\n".join([printed.out, printed.err, *(json.loads(line)["message"] for line in lines)])

    def embed_uri(self, uri: str, *more: object) -> str:
        Path("in.jsonl").write_text(json.dumps({"uri": uri}))
        return self.clipmill("embed", "in.jsonl", "-o", "out", *FAKE, *more)


def _shown(check: Check) -> str:
    out = StringIO()
    Terminal(file=out, width=500).print(checks_table([check]))
    return out.getvalue()


def _no_python(shop: Workshop) -> str:
    shop.patch.setenv("PYSPARK_PYTHON", "/nowhere/python3")
    return _shown(machine_checks.spark_python())


def _bare_python(shop: Workshop) -> str:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "bare"], check=True)
    shop.patch.delenv("PYTHONPATH", raising=False)
    shop.patch.setenv("PYSPARK_PYTHON", str(Path("bare/bin/python").absolute()))
    return _shown(machine_checks.spark_python())


def _no_package(shop: Workshop) -> str:
    shop.clipmill("embed", "pictures", "-o", "out", *FAKE)
    shop.patch.setitem(sys.modules, "faiss", None)
    return shop.clipmill("index", "out", "-o", "index")


def _pickled(shop: Workshop) -> str:
    with pytest.raises(TypeError) as refused:
        pickle.dumps(load_encoder("fake::dim=4"))
    return f"TypeError: {refused.value}"


def _no_java(shop: Workshop) -> str:
    shop.patch.setenv("JAVA_HOME", "/nowhere")
    found = {check.name: check for check in machine_checks.machine_checks(
        2, 2, machine_checks.java_version(), Path(), writable=True
    )}  # fmt: skip
    return _shown(found["java"])


def _little_memory(shop: Workshop) -> str:
    shop.patch.setattr(resource, "getrlimit", lambda which: (300 * 2**20, 300 * 2**20))
    return shop.clipmill("embed", "pictures", "-o", "out", *FAKE)


def _full_disk(shop: Workshop) -> str:
    with full_after(1024):
        return shop.clipmill("embed", "pictures", "-o", "full", *FAKE)


def _few_threads(shop: Workshop) -> str:
    for name in machine_checks._THREAD_VARIABLES:
        shop.patch.delenv(name, raising=False)
    shop.patch.setenv("OMP_NUM_THREADS", "1")
    return _shown(machine_checks.threads(8))


def _no_gpu(shop: Workshop) -> str:
    shop.patch.setattr(registry, "may_have_gpu", lambda: False)
    return shop.clipmill("embed", "pictures", "-o", "out", "--model", "demo", "--device", "cuda")


def _proxies(shop: Workshop) -> str:
    shop.patch.setattr(fetch, "_CLIENTS", {})  # a process reads the environment once, for its first fetch
    shop.patch.setenv("HTTPS_PROXY", "socks5://anna:swordfish@proxy.example.com:1080")
    said = shop.embed_uri("https://example.com/a.png")
    with LoopbackServer() as server:
        shop.patch.setattr(fetch, "_CLIENTS", {})
        shop.patch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        said += shop.embed_uri("https://example.com/a.png", "--overwrite")
    return said


def _no_certificates(shop: Workshop) -> str:
    shop.patch.setenv("SSL_CERT_FILE", str(Path("company.pem").absolute()))
    return _shown(network_checks.certificates())


def _busy_server(shop: Workshop) -> str:
    with LoopbackServer() as server:
        return shop.embed_uri(server.url("/status/429"), "--allow-private-addresses")


def _offline(shop: Workshop) -> str:
    shop.patch.setattr(constants, "HF_HUB_OFFLINE", True)
    shop.patch.setattr(constants, "HF_HUB_CACHE", str(Path("hub").absolute()))
    shop.patch.setenv("HOME", str(Path().absolute()))
    return shop.clipmill("models", "--download", "ViT-B-32::openai", "--cache-dir", "cache")


def _wrong_column(shop: Workshop) -> str:
    return shop.clipmill("embed", "rows.parquet", "-o", "out", *FAKE, "--text-column", "captoin")


def _nulls(shop: Workshop) -> str:
    return shop.clipmill("embed", "rows.parquet", "-o", "out", *FAKE, "--text-column", "caption")


def _activation(shop: Workshop) -> str:
    code = re.search(r"^```python\n(.*?)^```$", SECTIONS["Vectors differ from those of another library"], re.M | re.S)
    with redirect_stdout(StringIO()) as said:
        exec(compile(code[1], "example.py", "exec"), {})
    return said.getvalue()


def _two_machines(shop: Workshop) -> str:
    said = shop.clipmill(
        "embed",
        "pictures",
        "-o",
        "out",
        "--model",
        "demo",
        "--runtime",
        "onnx",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    )
    shop.clipmill("embed", "pictures", "-o", "other", "--model", "fake::dim=8")
    return said + shop.clipmill("index", "out", "other", "-o", "index")


def _locked(shop: Workshop) -> str:
    with DirectoryLock("out"):
        return shop.clipmill("embed", "pictures", "-o", "out", *FAKE)


def _not_empty(shop: Workshop) -> str:
    shop.clipmill("embed", "pictures", "-o", "out", *FAKE)
    said = shop.clipmill("embed", "pictures", "-o", "out", *FAKE)
    return said + shop.clipmill("embed", "pictures", "-o", "out", "--model", "fake::dim=8", "--resume")


PROVOKED: dict[str, Callable[[Workshop], str]] = {
    "python3 is not found on executors": _no_python,
    "No module named 'clipmill' on workers": _bare_python,
    "A package is missing": _no_package,
    "Something cannot be pickled": _pickled,
    "Java is missing": _no_java,
    "Out of memory": _little_memory,
    "The disk is full": _full_disk,
    "Workers are slow": _few_threads,
    "cuda was requested, and there is none": _no_gpu,
    "The proxy is not used, or refuses": _proxies,
    "A certificate is not valid": _no_certificates,
    "Servers answer 429": _busy_server,
    "Weights cannot be downloaded": _offline,
    "Local files are forbidden": lambda shop: shop.embed_uri("/etc/hostname"),
    "All rows fail": _wrong_column,
    "Vectors are null": _nulls,
    "Vectors differ from those of another library": _activation,
    "Vectors differ between two machines": _two_machines,
    "Another job is writing": _locked,
    "The directory is not empty": _not_empty,
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workshop:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelled in (name, name.lower()):
            monkeypatch.delenv(spelled, raising=False)
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    pq.write_table(pa.table({"id": [1, 2], "caption": ["a red circle", None]}), "rows.parquet")
    return Workshop(monkeypatch, capsys)


@pytest.mark.parametrize("heading", PROVOKED)
def test_the_page_shows_what_is_printed(heading: str, shop: Workshop) -> None:
    shown = "".join(TEXT.findall(SECTIONS[heading]))
    said = PROVOKED[heading](shop)
    shop.patch.undo()
    assert shown and list(missing(shown, said)) == [], said
    assert "swordfish" not in said


def test_every_message_on_the_page_is_provoked() -> None:
    assert {heading for heading, text in SECTIONS.items() if TEXT.search(text)} == set(PROVOKED)
    assert sum(len(TEXT.findall(text)) for text in SECTIONS.values()) == len(TEXT.findall(PAGE))

"""The README's code runs as it stands there, and its links and names exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import run_example, run_typed
from http_server import LoopbackServer
from pictures import encode, photographs
from places import ROOT

from clipmill.datasets import read_dataset, read_failures
from clipmill.pipelines.gallery import PHOTOGRAPHS, write_gallery

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^(clipmill .*)$", SHELL, re.MULTILINE)
PREPARING = re.findall(r"^((?:cp|echo) .*)$", SHELL, re.MULTILINE)
BROKEN = ("broken-cut-off.jpg", "broken-empty.png", "broken-page.jpg")
WEB_ADDRESS = "https://clip-as-service.jina.ai/_static/favicon.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with what the examples read: what the README's own commands make of `make demo`'s, and apple.png."""
    home = tmp_path_factory.mktemp("readme")
    write_gallery(home / "demo-output" / "gallery")
    for command in PREPARING:
        _run(["bash", "-c", command], home)
    (home / "apple.png").write_bytes(encode(photographs()["coffee"][:64, :64]))
    return home


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and the working directory."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    return place


def _typed(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process; return what it printed."""
    code = run_typed(command)
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    return said.out


def _run(command: list[str], place: Path) -> str:
    """Run a command as a process of its own; return what it printed."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYSPARK_PYTHON": sys.executable,
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _block(*needles: str) -> str:
    (found,) = [block for block in PYTHON_BLOCKS if all(needle in block for needle in needles)]
    return found


def test_every_command_is_known_to_this_test() -> None:
    """A command added to the README is added here."""
    known = ["embed", "embed", "summary", "embed", "models", "doctor", "embed", "embed", "embed"]
    known += ["index", "search", "index", "report", "rank", "rank", "classify"]
    assert [shlex.split(command)[1] for command in COMMANDS] == known


@pytest.mark.spark
def test_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands run in their order; provenance of what they wrote is read by the next example."""
    for name in ("vectors", "captions", "again"):  # of a test that came before
        shutil.rmtree(here / name, ignore_errors=True)
    embedded, captions = (_run(["bash", "-c", command], here) for command in COMMANDS[:2])
    summary, vector, models, doctor = (_typed(command, capsys) for command in COMMANDS[2:6])
    before = {name: (here / "photos" / name).read_bytes() for name in BROKEN}
    for name in BROKEN:  # what failed is mended, and embedded again
        (here / "photos" / name).write_bytes(encode(photographs()["coffee"], "JPEG"))
    again = _typed(COMMANDS[6], capsys)
    for name, content in before.items():
        (here / "photos" / name).write_bytes(content)
    assert re.search(rf"rows in +{len(list((here / 'photos').iterdir()))} *\n", embedded)
    assert re.search(r"rows failed +3 *\n", embedded) and re.search(r"failed: undecodable +2 *\n", embedded)
    assert re.search(r"embedded +1 *\n", captions)
    assert re.search(r"rows in +3 *\n", again) and re.search(r"embedded +[123] *\n", again)
    assert "failed:" not in again
    assert "Documents Summary" in summary and "Attributes Summary" in summary
    assert len(json.loads(vector)) > 8
    assert "ViT-B-32::laion2b_s34b_b79k" in models and "openai" not in models
    assert re.search(r"runtime torch +works", doctor)
    run_example(_block("read_provenance("))
    assert capsys.readouterr().out == "demo\n"


def test_the_commands_that_go_on_and_search(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After those above: nothing is left to do, nothing is new, and what is searched for is found."""
    if not (here / "vectors").exists():  # this test alone
        _typed(COMMANDS[0], capsys)
    resumed, tonight, index, hits, added, _ = (_typed(command, capsys) for command in COMMANDS[7:13])
    assert re.search(r"rows failed +3 *\n", resumed)
    there = len(list((here / "photos").iterdir())) - len(BROKEN)
    assert re.search(r"embedded +0 *\n", tonight) and re.search(rf"skipped +{there} \(in .*vectors\)", tonight)
    assert "recall@10" in index and re.search(r"added +nothing: the index is as it was", added)
    texts, pictures = hits.split("blue-star.png", 1)
    assert "red-circle.png" in texts and "blue-star.png" in pictures
    assert "Content-Security-Policy" in (here / "hits.html").read_text(encoding="utf-8")
    assert (here / "report.html").stat().st_size > 100_000


def test_the_commands_that_rank(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The right caption, picture and label stand first; the broken pictures below, with their reasons."""
    captions, pictures, labels = (_typed(command, capsys) for command in COMMANDS[13:])
    first = [line for line in captions.splitlines() if re.match(r" *1 ", line)]
    assert len(first) == 1 and "a red circle" in first[0]
    (best,) = [line for line in pictures.splitlines() if re.match(r" *1 ", line)]
    assert "red-circle.png" in best and all(name in pictures for name in BROKEN) and "undecodable" in pictures
    assert re.search(r"red-circle\.png +red circle", labels) and re.search(r"blue-star\.png +blue star", labels)


def test_the_beam_example_that_ranks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The better answer first, the empty one at the end with its reason."""
    run_example(_block("import Rank"))
    first, second, failed = capsys.readouterr().out.splitlines()
    assert "a red circle" in first and "a blue star" in second
    assert "'clip_score': None" in failed and "'code': 'empty'" in failed


def test_the_beam_example_on_documents(here: Path) -> None:
    """Photographs become vectors, the broken ones failures beside them. A process of its own, as one would start it."""
    _run([sys.executable, "-c", _block("ReadDocuments(")], here)
    assert len(read_dataset("beam-vectors")) == len(PHOTOGRAPHS)
    failures = sorted((Path(one["row"]).name, one["code"]) for one in read_failures("beam-vectors"))
    assert failures == [("broken-cut-off.jpg", "undecodable"), ("broken-page.jpg", "undecodable")]


def test_the_beam_example_on_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row is whole, one is null, one failed in one column."""
    run_example(_block("photo", "beam.Create(rows)"))
    whole, failed, null = sorted(capsys.readouterr().out.splitlines())
    assert (whole, null) == ("1 ndarray", "3 NoneType")
    assert failed.startswith("2 undecodable at decode: 10 bytes that begin with b'no pictu'")


@pytest.mark.spark
def test_the_spark_example(place: Path) -> None:
    """A column of vectors, and failures where they belong. It stops its session, so that it has its own process."""
    said = _run([sys.executable, "-c", _block("SparkSession")], place)
    assert "caption_embedding" in said
    assert re.search(r"\|2 +\|\[\{caption, tokenize, empty, the text is empty\}\]", said)
    assert re.search(r"\|1 +\|NULL", said)


def test_the_example_without_an_engine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The red circle is nearer to its own sentence."""
    run_example(_block("load_encoder("))
    right, wrong = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out)[:2])
    assert right > wrong


def test_the_six_documents_of_clip_as_service(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own example: text, path, tensor, bytes, web address and data URI all get a vector."""
    with LoopbackServer() as server:
        server.files["/favicon.png"] = (encode(photographs()["chelsea"][:32, :32]), "image/png")
        program = _block(WEB_ADDRESS).replace(WEB_ADDRESS, server.url("/favicon.png"))
        program = program.replace("allow_local_files=True", "allow_local_files=True, allow_private_addresses=True")
        run_example(program)
    said = capsys.readouterr().out
    assert re.search(r"Length +6 ", said)
    assert re.search(r"4 Documents have attributes +\('uri', 'id', 'mime_type', 'embedding'\)", said), said
    assert re.search(r"embedding +\('ndarray',\) +4 ", said), said  # apple.png as path, tensor and bytes: one vector
    assert "FailedRow" not in said


def test_links_and_tests_exist() -> None:
    """Every file that the README names is there."""
    named = re.findall(r"\]\(([\w./-]+?)(?:#\w+)?\)", README) + re.findall(r"`(tests/[\w./]+)`", README)
    assert [name for name in named if name and not (ROOT / name).exists()] == []

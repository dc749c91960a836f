"""The README's code runs as it stands there, and its links and names exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from http_server import LoopbackServer
from pictures import encode, photographs
from places import ROOT

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


def _run(command: list[str], place: Path) -> str:
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
def test_the_command_line(place: Path) -> None:
    """The commands run in their order; provenance of what they wrote is read by the next example."""
    said = [_run(["bash", "-c", command], place) for command in COMMANDS[:6]]
    embedded, captions, summary, vector, models, doctor = said
    before = {name: (place / "photos" / name).read_bytes() for name in BROKEN}
    for name in BROKEN:  # what failed is mended, and embedded again
        (place / "photos" / name).write_bytes(encode(photographs()["coffee"], "JPEG"))
    again = _run(["bash", "-c", COMMANDS[6]], place)
    for name, content in before.items():
        (place / "photos" / name).write_bytes(content)
    assert re.search(rf"rows in +{len(list((place / 'photos').iterdir()))} *\n", embedded)
    assert re.search(r"rows failed +3 *\n", embedded) and re.search(r"failed: undecodable +2 *\n", embedded)
    assert re.search(r"embedded +1 *\n", captions)
    assert re.search(r"rows in +3 *\n", again) and re.search(r"embedded +[123] *\n", again)
    assert "failed:" not in again
    assert "Documents Summary" in summary and "Attributes Summary" in summary
    assert len(json.loads(vector)) > 8
    assert "ViT-B-32::laion2b_s34b_b79k" in models and "openai" not in models
    assert re.search(r"runtime torch +works", doctor)
    assert _run([sys.executable, "-c", _block("read_provenance(")], place) == "demo\n"


@pytest.mark.spark
def test_the_commands_that_go_on_and_search(place: Path) -> None:
    """After those above: nothing is left to do, nothing is new, and what is searched for is found."""
    if not (place / "vectors").exists():  # this test alone
        _run(["bash", "-c", COMMANDS[0]], place)
    resumed, tonight, index, hits, added, _ = (_run(["bash", "-c", command], place) for command in COMMANDS[7:13])
    assert re.search(r"rows failed +3 *\n", resumed)
    there = len(list((place / "photos").iterdir())) - len(BROKEN)
    assert re.search(r"embedded +0 *\n", tonight) and re.search(rf"skipped +{there} \(in .*vectors\)", tonight)
    assert "recall@10" in index and re.search(r"added +nothing: the index is as it was", added)
    texts, pictures = hits.split("blue-star.png", 1)
    assert "red-circle.png" in texts and "blue-star.png" in pictures
    assert "Content-Security-Policy" in (place / "hits.html").read_text(encoding="utf-8")
    assert (place / "report.html").stat().st_size > 100_000


def test_the_commands_that_rank(place: Path) -> None:
    """The right caption, picture and label stand first; the broken pictures below, with their reasons."""
    captions, pictures, labels = (_run(["bash", "-c", command], place) for command in COMMANDS[13:])
    first = [line for line in captions.splitlines() if re.match(r" *1 ", line)]
    assert len(first) == 1 and "a red circle" in first[0]
    (best,) = [line for line in pictures.splitlines() if re.match(r" *1 ", line)]
    assert "red-circle.png" in best and all(name in pictures for name in BROKEN) and "undecodable" in pictures
    assert re.search(r"red-circle\.png +red circle", labels) and re.search(r"blue-star\.png +blue star", labels)


def test_the_beam_example_that_ranks(place: Path) -> None:
    """The better answer first, the empty one at the end with its reason."""
    first, second, failed = _run([sys.executable, "-c", _block("import Rank")], place).splitlines()
    assert "a red circle" in first and "a blue star" in second
    assert "'clip_score': None" in failed and "'code': 'empty'" in failed


def test_the_beam_example_on_documents(place: Path) -> None:
    """Photographs become vectors, the broken ones failures beside them."""
    _run([sys.executable, "-c", _block("ReadDocuments(")], place)
    from clipmill.encoders.storage import read_dataset, read_failures

    assert len(read_dataset(str(place / "beam-vectors"))) == len(PHOTOGRAPHS)
    failures = sorted((Path(one["row"]).name, one["code"]) for one in read_failures(str(place / "beam-vectors")))
    assert failures == [("broken-cut-off.jpg", "undecodable"), ("broken-page.jpg", "undecodable")]


def test_the_beam_example_on_rows(place: Path) -> None:
    """One row is whole, one is null, one failed in one column."""
    said = _run([sys.executable, "-c", _block("photo", "beam.Create(rows)")], place)
    whole, failed, null = sorted(said.splitlines())
    assert (whole, null) == ("1 ndarray", "3 NoneType")
    assert failed.startswith("2 undecodable at decode: 10 bytes that begin with b'no pictu'")


@pytest.mark.spark
def test_the_spark_example(place: Path) -> None:
    """A column of vectors, and failures where they belong."""
    said = _run([sys.executable, "-c", _block("SparkSession")], place)
    assert "caption_embedding" in said
    assert re.search(r"\|2 +\|\[\{caption, tokenize, empty, the text is empty\}\]", said)
    assert re.search(r"\|1 +\|NULL", said)


def test_the_example_without_an_engine(place: Path) -> None:
    """The red circle is nearer to its own sentence."""
    said = _run([sys.executable, "-c", _block("load_encoder(")], place)
    right, wrong = map(float, re.findall(r"-?\d+\.\d+", said)[:2])
    assert right > wrong


def test_the_six_documents_of_clip_as_service(place: Path) -> None:
    """Its own example: text, path, tensor, bytes, web address and data URI all get a vector."""
    with LoopbackServer() as server:
        server.files["/favicon.png"] = (encode(photographs()["chelsea"][:32, :32]), "image/png")
        program = _block(WEB_ADDRESS).replace(WEB_ADDRESS, server.url("/favicon.png"))
        program = program.replace("allow_local_files=True", "allow_local_files=True, allow_private_addresses=True")
        said = _run([sys.executable, "-c", program], place)
    assert re.search(r"Length +6 ", said)
    assert re.search(r"4 Documents have attributes +\('uri', 'id', 'mime_type', 'embedding'\)", said), said
    assert re.search(r"embedding +\('ndarray',\) +4 ", said), said  # apple.png as path, tensor and bytes: one vector
    assert "FailedRow" not in said


def test_links_and_tests_exist() -> None:
    """Every file that the README names is there."""
    named = re.findall(r"\]\(([\w./-]+?)(?:#\w+)?\)", README) + re.findall(r"`(tests/[\w./]+)`", README)
    assert [name for name in named if name and not (ROOT / name).exists()] == []

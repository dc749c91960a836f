"""The tutorials and the README run, block after block, and print what they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from http_server import LoopbackServer
from pages import blocks_of, missing, run_page
from pictures import encode, photographs
from places import DOCS, ROOT

from clipmill.pipelines.cli import cli
from clipmill.pipelines.gallery import write_gallery

WEB_ADDRESS = "https://clip-as-service.jina.ai/_static/favicon.png"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `make demo` leaves, and a picture of the reader's; the working directory."""
    write_gallery(tmp_path / "demo-output" / "gallery")
    (tmp_path / "apple.png").write_bytes(encode(photographs()["coffee"][:64, :64]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.mark.spark
@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(DOCS / f"{name}.md" for name in ("search_photographs", "nightly_index", "rerank_results"))],
    ids=lambda page: page.stem,
)
def test_a_page_prints_what_it_shows(page: Path, home: Path) -> None:
    assert sum(block.shown is not None for block in blocks_of(page)) >= 3
    run_page(page, home)


@pytest.mark.spark
def test_the_first_pipeline(home: Path) -> None:
    """With the six documents of clip-as-service's own example, of which one is on the web."""
    with LoopbackServer() as server:
        server.files["/favicon.png"] = (encode(photographs()["chelsea"][:32, :32]), "image/png")
        run_page(
            DOCS / "first_pipeline.md",
            home,
            {
                WEB_ADDRESS: server.url("/favicon.png"),
                "allow_local_files=True)": "allow_local_files=True, allow_private_addresses=True)",
            },
        )


@pytest.mark.parametrize(
    ("shown", "said", "lacks"),
    [
        ("a … 1", "a   b  1\n", []),
        ("a … 1", "a b 14\n", ["a … 1"]),
        ("one\ntwo", "two\none\n", ["two"]),
        ("| x | 1", "  | x |   1 |\n", []),
        ("embedded", "unembedded\n", ["embedded"]),
    ],
)
def test_what_a_page_shows_is_compared(shown: str, said: str, lacks: list[str]) -> None:
    assert list(missing(shown, said)) == lacks


def test_a_page_that_shows_something_else_is_noticed(home: Path) -> None:
    (page := home / "page.md").write_text("```sh\necho one\n```\n\n```text\ntwo\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="shows the line 'two'"):
        run_page(page, home)


PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(DOCS.glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(((?!https?:|#|mailto:)[^)\s#]+)(?:#[\w-]+)?\)", text)
    tests = re.findall(r"`((?:tests|examples|benchmarks|tools)/[\w./]+\.\w+)", text)
    lost = [name for name in links if not (page.parent / name).exists()] + [
        name for name in tests if not (ROOT / name).exists()
    ]
    assert lost == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def _commands(page: Path) -> list[str]:
    """Return the commands of a page, also of its blocks that no test runs."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    code = "\n".join([*blocks, *re.findall(r"^ {4}(.*)$", text, re.MULTILINE)])
    return re.findall(r"^ *(?:[A-Z_]+=\S+ )*(clipmill [a-z].*)$", code, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page)], ids=lambda page: page.stem)
def test_commands_and_options_of_a_page_are_known(page: Path) -> None:
    """Options from `--runner` on, or behind `--`, are the engine's."""
    for line in _commands(page):
        words = shlex.split(re.split(r"[|>&;]| --runner| -- ", line)[0], comments=True)[1:]
        with cli.make_context("clipmill", words[:1], resilient_parsing=True) as context:
            command = cli.get_command(context, words[0])
        assert command is not None, line
        try:
            command.make_parser(click.Context(command, info_name=words[0])).parse_args(
                [word for word in words[1:] if word != "…"]
            )
        except click.UsageError as err:
            raise AssertionError(f"{page.name}: {line}: {err.message}") from err

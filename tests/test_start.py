"""What starting costs: packages import what they need when it is needed. Times are in `benchmarks/first_vector.py`."""

from __future__ import annotations

import importlib
import random
import string
import subprocess
import sys
from pathlib import Path

import ftfy
import pytest
from pictures import encode, photographs

from clipmill.models.tokenizers.cleaning import clean_whitespace
from clipmill.pipelines.cli import cli, main

HEAVY = {"PIL", "apache_beam", "fsspec", "ftfy", "numpy", "pyarrow", "pyspark", "rich", "torch"}
PACKAGES = (
    *("clipmill", "clipmill.datasets", "clipmill.datasets.inputs", "clipmill.encoders", "clipmill.indexes"),
    *("clipmill.jobs", "clipmill.models.downloads"),
)


def imported_by(code: str, *arguments: str) -> set[str]:
    """Return which of the packages that take long a process has imported after running code."""
    last = "import sys; print('imported', *(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({last!r}))\n{code}", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("imported ")]
    return HEAVY & set(line.split())


COMMAND_LINE = "from clipmill.pipelines.cli import main; main()"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("import clipmill", ()),
        ("import clipmill.datasets.inputs, clipmill.indexes, clipmill.jobs, clipmill.models.downloads", ()),
        (COMMAND_LINE, ("--help",)),
        (COMMAND_LINE, ("--version",)),
    ],
)
def test_packages_and_the_help_import_nothing_that_takes_long(code: str, arguments: tuple[str, ...]) -> None:
    assert imported_by(code, *arguments) == set()


def test_ranking_one_picture_imports_neither_torch_nor_tables_nor_engines(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(encode(next(iter(photographs().values()))))
    found = imported_by(COMMAND_LINE, "rank", "--query", "a cat", "--model", "demo", str(picture))
    assert found == {"PIL", "fsspec", "numpy", "rich"}


def test_the_help_has_the_first_line_of_each_command() -> None:
    """They are written out, so that the list of commands imports none of them."""
    with cli.make_context("clipmill", ["models"]) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.get_short_help_str(1000) == cli.places[name].summary
        assert cli.get_command(context, "nothing") is None


def test_a_misspelt_command_is_answered_with_the_nearest_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    code = COMMAND_LINE.replace("main()", "\ntry: main()\nexcept SystemExit as end: assert end.code == 2, end.code")
    assert imported_by(code, "embd") == set()
    with pytest.raises(SystemExit):
        main(["embd"])
    assert "No such command 'embd'. Did you mean 'embed'?" in capsys.readouterr().err


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'; it has .*{name}"):
        module.nothing  # noqa: B018


def test_texts_that_are_not_given_to_ftfy_are_those_that_it_leaves_alone() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(string.printable, k=draw.randrange(40)))
        if text.isprintable() and "&" not in text:
            assert ftfy.fix_text(text) == text
    assert clean_whitespace("caf\u00c3\u00a9 &amp;amp; tea\x00 \x1b[31m") == "caf\u00e9 & tea"

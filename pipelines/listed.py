"""Files that `clipmill rank` and `classify` process without a job, and the tables that commands print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from rich.table import Table
from rich.text import Text

from ..datasets.inputs.listing import kind_of, list_inputs
from ..encoders.plans.scores import PairScore
from ..errors import DatasetError
from .cli_messages import Refused
from .console import printable

_WEB = ("http://", "https://", "data:")


def list_files(given: Sequence[str]) -> list[str]:
    """Return the files of folders, patterns and paths, in order without duplicates; web addresses are unchanged.

    Raises:
        Refused: If one matches no file, or is a table.
    """
    found: dict[str, None] = {}
    try:
        for one in given:
            is_web = one.lower().startswith(_WEB)
            found.update(dict.fromkeys([one] if is_web else [file.path for file in list_inputs([one])]))
    except DatasetError as err:
        raise Refused(err) from err
    for path in found:
        if not path.lower().startswith(_WEB) and kind_of(path) != "files":
            raise Refused(f"{path} is a table, whose rows a job works on: give --output DIR")
    return list(found)


def table_of(names: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Return a table for the terminal; brackets in names have no meaning, and unprintable characters are escaped."""
    heading = None if title is None else Text(printable(title.strip()))
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    for name in names:
        is_number = name in ("place", "score", *get_args(PairScore))
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell.strip())) for cell in row))
    return table

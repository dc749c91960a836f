"""`--skip-existing`, `--skip-by` and `--content-hash`: the flags, and their value for a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import with_options

if TYPE_CHECKING:
    from ..jobs.skip_existing import SkipExisting

_OPTIONS = (
    click.option(
        "--skip-existing",
        multiple=True,
        metavar="DATASET",
        help="Skip rows that this dataset of the same provenance has; repeatable.",
    ),
    click.option(
        "--skip-by",
        type=click.Choice(["id", "content"]),
        help="Match key of such rows: their id, or a hash of their content. [default: id]",
    ),
    click.option(
        "--content-hash", is_flag=True, help="Write a column with the SHA-256 of each row's content, to skip by later."
    ),
)


def skip_existing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that select the rows to skip."""
    return with_options(_OPTIONS, command)


def skip_existing_of(values: dict[str, Any]) -> SkipExisting | None:
    """Return the datasets whose rows are skipped, or None; raise `click.UsageError` if `--skip-by` is given alone."""
    from ..jobs.skip_existing import SkipExisting

    if values["skip_existing"]:
        return SkipExisting(values["skip_existing"], values["skip_by"] or "id")
    if values["skip_by"]:
        raise click.UsageError(
            "--skip-by has no effect without --skip-existing DATASET; --content-hash alone writes what a later job "
            "skips by"
        )
    return None

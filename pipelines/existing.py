"""`--skip-existing` and what belongs to it: the flags, and what they ask of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--skip-existing",
        multiple=True,
        metavar="DATASET",
        help="Pass over rows that this dataset of the same provenance has; repeatable.",
    ),
    click.option(
        "--skip-by",
        type=click.Choice(["id", "content"]),
        help="What tells such rows: their id, or a hash of their content. [default: id]",
    ),
    click.option(
        "--content-hash", is_flag=True, help="Write a column with the SHA-256 of each row's content, to skip by later."
    ),
)


def existing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which rows are passed over."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def existing_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of `plan_job` that the flags say.

    Raises:
        click.UsageError: If one says nothing without another.
    """
    from ..jobs.existing import Existing

    if values["skip_by"] and not values["skip_existing"]:
        raise click.UsageError(
            "--skip-by says nothing without --skip-existing DATASET; --content-hash alone writes what a later job "
            "skips by"
        )
    existing = Existing.of(values["skip_existing"], values["skip_by"] or "id") if values["skip_existing"] else None
    return {"existing": existing, "content_hash": values["content_hash"]}

"""The command `plan`: measures a sample of the input here, and says what a job takes."""

from __future__ import annotations

from typing import Any

import click

from .cli_messages import Refused
from .commands import Command
from .options import (
    ENGINES,
    FiniteRange,
    embedding_options,
    reading_options,
    refuse_others,
    row_options,
    spec_from,
    spec_options,
)

_WITH_SURVEY = {
    "survey_file",
    "machines",
    "cores_per_machine",
    "price_per_hour",
    "deadline",
    "start",
    "rows",
    "as_json",
}
_NOT_OFFERED = {"content_hash": False, "skip_existing": (), "skip_by": None}
"""Options of `embed` that its job gets with their defaults."""


@click.command(cls=Command)
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option("--engine", type=click.Choice(ENGINES), help="Plan for this engine alone. [default: both]")
@click.option("--machines", type=click.IntRange(min=1), help="How many machines there are. [default: 1]")
@click.option("--deadline", metavar="TIME", help="Say how many machines end in this time, such as 8h or 1h30m.")
@click.option(
    "--cores-per-machine", type=click.IntRange(min=1), help="Cores of each machine. [default: those of this machine]"
)
@click.option(
    "--price-per-hour", type=FiniteRange(min=0, min_open=True), help="Price of a machine, to compute the cost."
)
@click.option(
    "--start",
    type=FiniteRange(min=0),
    metavar="SECONDS",
    help="Seconds of a job with hardly any rows, on your cluster. [default: those of one machine]",
)
@click.option(
    "--rows",
    type=click.IntRange(1, 10**15),
    help="Rows of the whole input, if INPUT is only a part of it, or compressed.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Rows that each process embeds to measure the rate.",
)
@click.option(
    "--from",
    "survey_file",
    metavar="FILE",
    help="Measure nothing, and take what --json printed, here or on a worker of the cluster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print for programs, and for --from.")
@row_options
@reading_options
@embedding_options
@spec_options
@click.pass_context
def plan(context: click.Context, /, inputs: tuple[str, ...], **values: Any) -> None:
    """Say how long embedding an input takes, on how many machines, and at what cost.

    A sample of the rows of INPUT is embedded here, with the model and options of the job; what is written is deleted.
    INPUT and options are those of embed.
    """
    from ..errors import DatasetError
    from .plan import Machines, seconds_of, show
    from .survey import read_survey

    if values["machines"] and values["deadline"]:
        raise click.UsageError("--deadline computes the machines; leave out --machines")
    machines = Machines(
        count=values["machines"],
        cores=values["cores_per_machine"],
        price_per_hour=values["price_per_hour"],
        deadline_s=None if values["deadline"] is None else seconds_of(values["deadline"]),
        start_s=values["start"],
    )
    try:
        if values["survey_file"] is None:
            found = _survey(inputs, values)
        else:
            if inputs:
                raise click.UsageError("--from has what was measured of an input, and takes no INPUT")
            refuse_others(context, _WITH_SURVEY, "with --from, which measures nothing", but_spec=False)
            found = read_survey(values["survey_file"])
            found = found.scaled(values["rows"]) if values["rows"] else found
    except DatasetError as err:
        raise Refused(err) from err
    context.exit(show(found, machines, as_json=values["as_json"]))


def _survey(inputs: tuple[str, ...], values: dict[str, Any]) -> Any:
    from .embed import embed_options
    from .survey import survey

    if not inputs:
        raise click.UsageError("nothing to plan: give an INPUT (a folder, a pattern, a file), or --from FILE")
    spec = spec_from(values)
    return survey(
        inputs,
        spec,
        embed_options(spec, {**values, **_NOT_OFFERED}),
        rows_per_shard=values["rows_per_shard"],
        sample=values["sample"],
        engines=ENGINES if values["engine"] is None else (values["engine"],),
        rows=values["rows"],
    )

"""Commands that refuse what click would take without a word, and their group, which imports them when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from .limits import check_memory

PASSED_UNCHECKED = "clipmill.passed_unchecked"
"""Key of the arguments after `--` in the context of a command."""


_NOT_FOR_ENGINES = {
    "dry_run": "is an option of Beam, which would still start the job; use --dry-run",
    "template_location": "would make a template of a job whose inputs and output are prepared now, which can run only "
    "once; use a flex template of this command, or of a pipeline of your own",
}
"""Options of Beam that make no sense for a command that prepares its job itself, and why."""


class Command(click.Command):
    """A command that refuses repeated options, of which click takes the last, and empty values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse repeated options, empty values, and options that would harm the job if they went to the engine."""
        if not ctx.resilient_parsing:
            if any("--dry-run" in one.opts for one in self.params):
                _refuse_harmful([*args, *ctx.meta.get(PASSED_UNCHECKED, ())], ctx)
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for option in (one for one in order if isinstance(one, click.Option)):
                if order.count(option) > 1 and not (option.multiple or option.is_eager):
                    raise click.UsageError(
                        f"{_flags_of(option)} is given {order.count(option)} times; give it once", ctx
                    )
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            given = ctx.params.get(str(parameter.name))
            if isinstance(parameter, click.Option) and (given == "" or (parameter.multiple and "" in (given or ()))):
                raise click.UsageError(f"{_flags_of(parameter)} is empty; give a value or leave it out", ctx)
        return rest


class Place(NamedTuple):
    """Where a command of a group is.

    Attributes:
        module: The module of this package that has it, under the command's name.
        summary: The first line of its help, so that the list of commands imports none of them.
    """

    module: str
    summary: str


class _Imported(Mapping[str, click.Command]):
    """The commands of a group by name, each imported when it is looked up."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        check_memory()
        command: click.Command = getattr(importlib.import_module(f".{self._places[name].module}", __package__), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class CommandGroup(click.Group):
    """A group whose commands are imported when they are used: most of them need what takes long to import."""

    def __init__(self, *arguments: Any, places: Mapping[str, Place], **settings: Any) -> None:
        """Take the arguments of a `click.Group`, and where the commands are, by name."""
        super().__init__(*arguments, **settings)
        self.places = places
        self.commands = _Imported(places)  # type: ignore[assignment]  # nothing is added to it

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.places[name].summary) for name in self.list_commands(ctx)])


def _refuse_harmful(args: Sequence[str], ctx: click.Context) -> None:
    for token in args:
        flag = token.partition("=")[0]
        why = _NOT_FOR_ENGINES.get(flag.removeprefix("--").replace("-", "_").lower())
        if why is not None and flag.startswith("--") and flag != "--dry-run":
            raise click.UsageError(f"{flag} {why}", ctx)


def _flags_of(option: click.Option) -> str:
    """Return the flags of an option: `--output`, `--normalize/--no-normalize`."""
    return "/".join([max(option.opts, key=len), *option.secondary_opts])

"""Messages as the command line shows them: with flags instead of Python keywords."""

from __future__ import annotations

import click

from ..messages import Setting, render

_FLAGS = {
    "text": "text-column",
    "uri": "uri-column",
    "image": "image-column",
    "audio": "audio-column",
    "id": "id-column",
    "query": "query-column",
    "candidates": "candidates-column",
    "output": "ranked-column",
    "columns": "column",
    "by": "skip-by",
    "tags": "tag-column",
    "k": "top-k",
    "heads": "head",
    "calibration": "calibrate",
}
"""Options that have another name on the command line than in Python."""


def in_flags(said: object) -> str:
    """Return a message, or the message of an error or a failure, with flags for the keywords of Python."""
    return render(said if isinstance(said, str) else getattr(said, "text", str(said)), flag_of)


def flag_of(option: Setting) -> str:
    """Return the flag of an option, with its value: `--overwrite`, `--no-normalize`, `--decode 'slow'`."""
    flag = _FLAGS.get(option.name, option.name.replace("_", "-"))
    if option.value is None or option.value is True:
        return f"--{flag}"
    if option.value is False:
        return f"--no-{flag}"
    if option.value == "…":
        return f"--{flag} NAME=KIND" if option.name == "columns" else f"--{flag} NAME"
    return f"--{flag} {option.value}"


class Refused(click.ClickException):
    """The command is invalid; nothing was run."""

    exit_code = 2

    def __init__(self, said: str | Exception) -> None:
        from .console import printable  # late, since `--help` is fast without rich and numpy

        super().__init__(printable(in_flags(said)))

"""Command line flags made from the fields of `EncoderSpec`: one name in the spec, in keywords, and here."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import click

from ..encoders.spec import RENAMED, EncoderSpec

_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every field of the spec; those that are given arrive as keywords, the others not at all."""
    hints = typing.get_type_hints(EncoderSpec)
    for field in reversed(dataclasses.fields(EncoderSpec)):
        flag = "--" + field.name.replace("_", "-")
        settings: dict[str, Any] = {"default": None, "help": _help(field.name, field.default), "show_default": False}
        if hints[field.name] is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        elif field.name == "uri_schemes":
            settings["metavar"] = "A,B,…"
        elif int in typing.get_args(hints[field.name]) or hints[field.name] is int:
            settings["type"] = int
        elif hints[field.name] is float:
            settings["type"] = float
        command = click.option(flag, field.name, **settings)(command)
    return command


def spec_from(values: dict[str, Any]) -> EncoderSpec:
    """Take the spec's fields out of a command's values and make the spec.

    Raises:
        SpecError: If they cannot work.
    """
    names = [field.name for field in dataclasses.fields(EncoderSpec)]
    given = {name: values.pop(name) for name in names if name in values}
    given = {name: value for name, value in given.items() if value is not None}
    if "uri_schemes" in given:
        given["uri_schemes"] = tuple(given["uri_schemes"].split(","))
    return EncoderSpec(**given)


def renamed_flag(token: str) -> str | None:
    """Return the flag to use instead of one that clip-as-service's option would suggest, or None."""
    name = token.lstrip("-").partition("=")[0].replace("-", "_")
    return "--" + RENAMED[name].replace("_", "-") if name in RENAMED else None


def _help(name: str, default: Any) -> str:
    text = re.sub(r"\s+", " ", _descriptions()[name]).replace("`", "")
    return f"{text} [default: {','.join(default) if isinstance(default, tuple) else default}]"


def _descriptions() -> dict[str, str]:
    section = (inspect.getdoc(EncoderSpec) or "").partition("Attributes:")[2].partition("Raises:")[0]
    return {match.group(1): match.group(2) for match in _ENTRY.finditer(section)}

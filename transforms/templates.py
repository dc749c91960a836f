"""Values of Dataflow's classic templates, which are unknown while a pipeline is built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from apache_beam.options.value_provider import NestedValueProvider, StaticValueProvider, ValueProvider

from ..errors import SpecError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def with_known_values(init: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a transform's `__init__` take values of templates for every option, and in lists, as `_known` does."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        positional = zip(signature.parameters, args, strict=False)
        given = [_known(name, value) for name, value in positional]
        given += args[len(given) :]  # too many, as Python says
        options: Any = {name: _known(name, value) for name, value in kwargs.items()}
        return init(*given, **options)  # type: ignore[arg-type]

    return call


def _known(name: str, value: Any) -> Any:
    """Return the value of an option of a transform; raise `SpecError` if it is only known when the job runs."""
    if isinstance(value, list | tuple):
        return [_known(name, one) for one in value] if any(isinstance(one, ValueProvider) for one in value) else value
    if not isinstance(value, ValueProvider):
        return value
    source = value
    while isinstance(source, NestedValueProvider):
        source = source.value
    if isinstance(source, StaticValueProvider):  # others have a value once any pipeline of this process has run
        return value.get()
    raise SpecError(
        f"{name} is a value of a classic template ({value}), and clipmill needs it when the pipeline is built",
        option=name,
        hint="make a flex template, whose pipeline is built with the values of each run",
    )

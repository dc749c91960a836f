"""Values of Dataflow's classic templates, which are unknown while a pipeline is built."""

from __future__ import annotations

from typing import Any

from apache_beam.options.value_provider import NestedValueProvider, StaticValueProvider, ValueProvider

from ..errors import SpecError


def known(name: str, value: Any) -> Any:
    """Return the value of an option of a transform; raise `SpecError` if it is only known when the job runs."""
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

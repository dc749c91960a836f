"""The modalities, learnt scales and biases, and other facts of a `fake::` model, from the options in its name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...errors import SpecError

_PAIRS = {
    "": frozenset({"text", "image"}),
    "_ai": frozenset({"audio", "image"}),
    "_at": frozenset({"audio", "text"}),
}
"""Suffixes of the options of the fake for scales and biases, and their pairs of modalities."""


def fake_modalities(options: Mapping[str, str]) -> frozenset[str]:
    """Return the modalities of a `fake::` model with these options."""
    return frozenset(options.get("modalities", "text,image").split(","))


def fake_least_dimensions(options: Mapping[str, str]) -> int | None:
    """Return the fewest values that a `fake::` model's vectors may be cut to; None if it is only for whole ones.

    Raises:
        SpecError: If it is not an integer from 1 to the model's dimension.
    """
    given = options.get("least_dimensions")
    if given is None:
        return None
    if not given.isdecimal() or not 1 <= int(given) <= int(options.get("dim", "8")):
        raise SpecError(f"least_dimensions={given!r} is not an integer from 1 to dim={options.get('dim', '8')}")
    return int(given)


def fake_scales(options: Mapping[str, str]) -> dict[frozenset[str], float]:
    """Return the learnt scales of a `fake::` model with these options.

    Raises:
        SpecError: If one is not a finite number above 0, or the model lacks its modalities.
    """
    return _by_pair("scale", options, 0.0, "a finite number above 0")


def fake_biases(options: Mapping[str, str]) -> dict[frozenset[str], float]:
    """Return the learnt biases of a `fake::` model with these options.

    Raises:
        SpecError: If one is not a finite number, or the model lacks its modalities.
    """
    return _by_pair("bias", options, -math.inf, "a finite number")


def _by_pair(name: str, options: Mapping[str, str], above: float, allowed: str) -> dict[frozenset[str], float]:
    found: dict[frozenset[str], float] = {}
    for suffix, pair in _PAIRS.items():
        option = name + suffix
        if option not in options:
            continue
        try:
            number = float(options[option])
        except ValueError:
            number = math.nan
        if not above < number < math.inf:
            raise SpecError(f"{option}={options[option]!r} is not {allowed}")
        if not pair <= (has := fake_modalities(options)):
            raise SpecError(f"{option} is between {' and '.join(sorted(pair))}; modalities={','.join(sorted(has))}")
        found[pair] = number
    return found

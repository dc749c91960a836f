"""The modalities and learnt scales of a `fake::` model, from the options in its name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...errors import SpecError

_FAKE_SCALES = {
    "scale": frozenset({"text", "image"}),
    "scale_ai": frozenset({"audio", "image"}),
    "scale_at": frozenset({"audio", "text"}),
}
"""Options of the fake for scales, and their pairs of modalities."""


def fake_modalities(options: Mapping[str, str]) -> frozenset[str]:
    """Return the modalities of a `fake::` model with these options."""
    return frozenset(options.get("modalities", "text,image").split(","))


def fake_scales(options: Mapping[str, str]) -> dict[frozenset[str], float]:
    """Return the learnt scales of a `fake::` model with these options.

    Raises:
        SpecError: If one is not a finite number above 0, or the model lacks its modalities.
    """
    scales: dict[frozenset[str], float] = {}
    for option, pair in _FAKE_SCALES.items():
        if option not in options:
            continue
        try:
            scale = float(options[option])
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise SpecError(f"{option}={options[option]!r} is not a finite number above 0")
        if not pair <= (has := fake_modalities(options)):
            raise SpecError(f"{option} is between {' and '.join(sorted(pair))}; modalities={','.join(sorted(has))}")
        scales[pair] = scale
    return scales

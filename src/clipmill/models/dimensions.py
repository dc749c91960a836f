"""The number of values in the vectors of a spec, whose `dimensions` may cut them to their leading values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError
from ..messages import setting

if TYPE_CHECKING:
    from .spec import EncoderSpec


def checked_dim(spec: EncoderSpec) -> int:
    """Return the number of values in a vector.

    Models are trained for fewer values by Matryoshka representation learning (Kusupati et al., NeurIPS 2022), which
    adds the losses of the leading values of a few lengths; the lengths between those work as well.

    Raises:
        SpecError: If the model's vectors have fewer values than `dimensions`, or it was not trained for so few.
    """
    facts, dimensions = spec.facts, spec.dimensions
    if dimensions is None:
        return facts.dim
    if dimensions > facts.dim:
        raise SpecError(setting("dimensions", dimensions) + f" is more than the {facts.dim} values of {spec.model}")
    least = facts.dim if facts.least_dimensions is None else facts.least_dimensions
    if dimensions < least and not spec.force_dimensions:
        trained = f"vectors of {facts.dim} values only" if least == facts.dim else f"at least {least} of {facts.dim}"
        raise SpecError(
            setting("dimensions", dimensions) + f": {spec.model} was trained for {trained}",
            hint="leave it out, or cut its vectors nevertheless with " + setting("force_dimensions", True),
        )
    return dimensions

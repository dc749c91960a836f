"""Whether the vectors of a model may be cut to their leading values, as `dimensions` of a spec asks."""

from __future__ import annotations

from ..errors import SpecError
from ..messages import setting
from .catalog import ModelFacts


def check_dimensions(dimensions: int, model: str, facts: ModelFacts, *, force: bool) -> None:
    """Check the number of values that are kept of each vector.

    Models are trained for fewer values by Matryoshka representation learning (Kusupati et al., NeurIPS 2022), which
    adds the losses of the leading values of a few lengths; the lengths between those work as well.

    Args:
        dimensions: The number, at least 1.
        model: The model's name, for the message.
        facts: Facts about it.
        force: Whether it need not have been trained for so few.

    Raises:
        SpecError: If its vectors have fewer values, or it was not trained for so few.
    """
    if dimensions > facts.dim:
        raise SpecError(setting("dimensions", dimensions) + f" is more than the {facts.dim} values of {model}")
    least = facts.dim if facts.least_dimensions is None else facts.least_dimensions
    if dimensions < least and not force:
        trained = f"vectors of {facts.dim} values only" if least == facts.dim else f"at least {least} of {facts.dim}"
        raise SpecError(
            setting("dimensions", dimensions) + f": {model} was trained for {trained}",
            hint="leave it out, or cut its vectors nevertheless with " + setting("force_dimensions", True),
        )

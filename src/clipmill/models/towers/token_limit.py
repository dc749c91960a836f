"""How many tokens of a text a model is given: what the spec says, the default, and what the text tower reads."""

from __future__ import annotations

from ...errors import SpecError
from ...messages import setting
from ..spec import EncoderSpec


def token_limit(spec: EncoderSpec, default: int, longest: int) -> int:
    """Return the number of tokens, special ones included, to which texts are cut.

    Args:
        spec: May set `max_text_tokens`.
        default: The number if it does not.
        longest: What the text tower reads.

    Raises:
        SpecError: If it is more than that.
    """
    limit = spec.max_text_tokens or default
    if limit > longest:
        raise SpecError(setting("max_text_tokens", limit) + f": {spec.model} reads at most {longest}")
    return limit

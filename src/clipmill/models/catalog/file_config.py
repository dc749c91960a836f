"""`FileConfig`: the values of a `config.json` of transformers, which is untrusted, read one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...errors import WeightsError


@dataclasses.dataclass(frozen=True)
class FileConfig:
    """A `config.json`.

    Attributes:
        values: Its object.
        where: Its path, for messages.
    """

    values: dict[str, Any]
    where: str

    def part(self, name: str) -> dict[str, Any]:
        """Return the part of one tower; empty if the file has none."""
        part = self.values.get(name)
        return part if isinstance(part, dict) else {}

    def whole(self, values: dict[str, Any], name: str, default: int) -> int:
        """Return an integer of a part, the default if it is absent or null.

        Raises:
            WeightsError: If it is no integer of at least 1.
        """
        value = default if values.get(name) is None else values[name]
        if type(value) is not int or value < 1:
            raise WeightsError(f"{self.where}: {name} is {value!r}; it must be an integer of at least 1")
        return value

    def padding(self, default: int) -> int:
        """Return the id of the padding, which must not be null.

        Raises:
            WeightsError: If it is no id.
        """
        value = self.part("text_config").get("pad_token_id", default)
        if type(value) is not int or value < 0:
            raise WeightsError(f"{self.where}: pad_token_id of text_config is {value!r}; it must be an id")
        return value

    def positions(self, default: int, *, skipped: int = 0) -> int:
        """Return how many tokens the text tower reads.

        Args:
            default: The default of `max_position_embeddings`.
            skipped: The first positions, which are no token's.

        Raises:
            WeightsError: If it is none.
        """
        found = self.whole(self.part("text_config"), "max_position_embeddings", default)
        if found <= skipped:
            raise WeightsError(f"{self.where}: max_position_embeddings is {found}, too few for a token")
        return found - skipped

"""How many rows a session's micro-batches have, and how many rows and values it takes."""

from __future__ import annotations

import dataclasses
from typing import Self

from ..models.spec import EncoderSpec
from .loaded import Loaded

_GPU_ROWS, _CPU_ROWS = 128, 32
_LEAST_ROWS = 8
"""Rows of a micro-batch at least, however many streams share the default; fewer would cost more each."""
_WINDOW = 4
"""Size of the window in micro-batches of each stream: one being encoded, one ready, two being fetched and decoded."""
_MAX_WAITING = 16
"""Maximum rows in a session, in micro-batches of each stream. Finished rows wait for older ones, as for a slow URI."""
_TEXT_WINDOW = 8
"""Texts that are sorted by length together, in micro-batches of each stream."""
_USUAL_TOKENS = 77
"""Tokens per text that the default rows assume. Calls of shorter texts get more rows, unless the spec sets them."""
_AUDIO_BYTES_PER_S = 4 * 44_100
"""Assumed size of one second of prepared audio, until the first one is prepared."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchSizes:
    """The sizes for a spec and a loaded model.

    Attributes:
        max_rows: Rows of a micro-batch.
        max_tokens: Tokens of a micro-batch of texts, padding included; None if rows alone count.
        window: Values in flight.
        window_bytes: Bytes of them, once prepared.
        waiting: Rows in the session.
        texts: Texts that are sorted by length together.
        audio_bytes: Assumed size of an audio clip, until the first one is prepared.
    """

    max_rows: int
    max_tokens: int | None
    window: int
    window_bytes: int
    waiting: int
    texts: int
    audio_bytes: int

    @classmethod
    def of(cls, spec: EncoderSpec, loaded: Loaded) -> Self:
        """Return the sizes; calls at once share the default rows."""
        usual = _GPU_ROWS if loaded.model.device.startswith("cuda") else _CPU_ROWS
        rows = spec.max_batch_rows or max(_LEAST_ROWS, -(-usual // loaded.streams))
        of_all_streams = rows * loaded.streams
        return cls(
            max_rows=rows,
            max_tokens=None if spec.max_batch_rows else rows * _USUAL_TOKENS,
            window=_WINDOW * of_all_streams,
            window_bytes=_WINDOW * spec.max_batch_bytes,
            waiting=_MAX_WAITING * of_all_streams,
            texts=_TEXT_WINDOW * of_all_streams,
            audio_bytes=int(spec.max_audio_seconds * _AUDIO_BYTES_PER_S),
        )

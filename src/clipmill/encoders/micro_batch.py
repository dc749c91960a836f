"""Calls of the model. A micro-batch that fails is halved until the rows that cause the failure are alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ..errors import ClipmillError, OutOfMemoryError
from ..failures import Code, Failure, Stage
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from .in_flight import Slot
from .loaded import Loaded
from .outcome import Vector

Finish = Callable[[Slot, Vector | Failure], None]


def encode_slots(
    loaded: Loaded,
    key: tuple[str, Hashable],
    slots: Sequence[Slot],
    stats: Stats,
    finish: Finish,
    spec: EncoderSpec,
) -> int:
    """Encode prepared slots, in halves if memory runs out or a row makes the call fail, down to single rows.

    After an out-of-memory error, the number of rows that fit is remembered for all users of the model.

    All slots have the modality and the group of `key`. `finish` is called once for each, with its vector or failure.

    Returns:
        Rows of the largest call that fit into memory; 0 if a row did not fit even alone.

    Raises:
        ClipmillError: For errors that no row caused.
    """

    def encode(some: Sequence[Slot]) -> int:
        return encode_slots(loaded, key, some, stats, finish, spec)

    limit = loaded.row_limit(*key)
    if limit is not None and limit < len(slots):  # the limit is newer than the micro-batch
        fitting = [encode(slots[first : first + limit]) for first in range(0, len(slots), limit)]
        return max(fitting) if all(fitting) else 0
    ran_out = False
    try:
        payloads = [slot.prepared.payload for slot in slots]  # type: ignore[union-attr]
        vectors = call_model(loaded, key[0], payloads, stats, spec)
    except (OutOfMemoryError, MemoryError) as err:
        ran_out = True
        failure = Failure(Stage.ENCODE, Code.OUT_OF_MEMORY, f"even alone: {err}")
    except ClipmillError:
        raise
    except Exception as err:
        failure = Failure(Stage.ENCODE, Code.ENCODE_FAILED, f"{type(err).__name__}: {err}")
    else:
        _finish_all(key[0], slots, vectors, finish)
        return len(slots)
    # Outside of the except clauses: inside, the error's traceback would keep the failed call's memory alive.
    if len(slots) == 1:
        finish(slots[0], failure)
        return 0 if ran_out else 1
    middle = len(slots) // 2
    fitting = [encode(half) for half in (slots[:middle], slots[middle:])]
    if not ran_out:
        return len(slots) if all(fitting) else 0
    stats.out_of_memory_retries += 1
    if all(fitting):  # otherwise a single row was too large, which is no reason to limit the others
        loaded.remember_row_limit(*key, max(fitting))
    return max(fitting) if all(fitting) else 0


def _finish_all(modality: str, slots: Sequence[Slot], vectors: np.ndarray, finish: Finish) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    for slot, values, good in zip(slots, vectors, finite, strict=True):
        prepared = slot.prepared
        assert prepared is not None
        made = Vector(values, prepared.truncated, prepared.media_type, modality, slot.content_hash)
        finish(slot, made if good else Failure(Stage.ENCODE, Code.ENCODE_FAILED, "the vector is not finite"))


def call_model(loaded: Loaded, modality: str, payloads: Sequence[Any], stats: Stats, spec: EncoderSpec) -> np.ndarray:
    """Embed n payloads of one group, from `Model.prepare`, while holding one of the model's streams.

    Returns:
        (n, dim) float32, in the order of the payloads, cut and then scaled as the spec says.

    Raises:
        ClipmillError: If the model returns another shape. Errors of the model itself are passed on.
    """
    model = loaded.model
    with loaded.calls:
        started = time.perf_counter()
        vectors = np.asarray(model.encode(modality, payloads), np.float32)
        stats.encode_msec += (time.perf_counter() - started) * 1000
    stats.count_batch(len(payloads))
    if vectors.shape != (len(payloads), model.dim):
        raise ClipmillError(f"the model returned shape {vectors.shape} for {len(payloads)} rows of dim {model.dim}")
    if spec.dimensions is not None:
        vectors = vectors[:, : spec.dimensions].copy()  # a view would keep the rest in memory
    return normalize_rows(vectors) if spec.normalize else vectors


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, dim) float32 to length 1. Rows of zeros are returned unchanged."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)

"""One call of a loaded model: alone on it, counted, checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ClipmillError
from ..metrics.stats import Stats
from .loaded import Loaded


def call_model(
    loaded: Loaded, modality: str, payloads: Sequence[Any], stats: Stats, *, normalize: bool = False
) -> np.ndarray:
    """Embed a micro-batch.

    Args:
        loaded: The model; other threads wait for it.
        modality: Of all payloads.
        payloads: What `Model.prepare` made, of one group.
        stats: Where the call is counted.
        normalize: Whether vectors are scaled to length 1.

    Returns:
        (n, dim) float32, in the order of the payloads.

    Raises:
        ClipmillError: If the model returns another shape; and whatever it raises itself.
    """
    model = loaded.model
    with loaded.lock:
        started = time.perf_counter()
        vectors = np.asarray(model.encode(modality, payloads), np.float32)
        stats.encode_msec += (time.perf_counter() - started) * 1000
    stats.count_batch(len(payloads))
    if vectors.shape != (len(payloads), model.dim):
        raise ClipmillError(f"the model returned shape {vectors.shape} for {len(payloads)} rows of dim {model.dim}")
    return normalize_rows(vectors) if normalize else vectors


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of zeros stays.

    Args:
        vectors: (n, dim) float32.

    Returns:
        (n, dim) float32.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)

"""`Encoder`: what `load_encoder` returns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import EmbeddingError
from ..failures import Failure
from ..metrics.counts import watch
from ..metrics.stats import Stats
from ..models.model import checked_scales
from ..models.spec import EncoderSpec, Modality
from .item import Item, item_of_value
from .loaded import Loaded
from .outcome import Outcome, Vector
from .session import EmbedSession
from .vector_cache import VectorCache


class Encoder:
    """A loaded model with one spec's options. Safe for many threads; refuses to be pickled: ship the spec.

    >>> from clipmill import load_encoder
    >>> encoder = load_encoder("demo", normalize=True)
    >>> encoder.dim, sorted(encoder.modalities)
    (96, ['image', 'text'])
    >>> [type(outcome).__name__ for outcome in encoder.embed("text", ["a red circle", "", None])]
    ['Vector', 'Failure', 'NoneType']

    Attributes:
        spec: What it was made from.
        dim: Values in a vector.
        modalities: What it embeds.
        device: Where it runs.
        resolved: What was decided at load: runtime, precision, device, weights_sha256.
    """

    def __init__(self, spec: EncoderSpec, loaded: Loaded) -> None:
        """Combine; use `load_encoder` instead."""
        self.spec = spec
        self.dim = loaded.model.dim
        self.modalities = frozenset(loaded.model.modalities)
        self.device = loaded.model.device
        self.resolved = dict(loaded.model.resolved)
        self._loaded = loaded
        self._cache = VectorCache(spec.max_cache_bytes)

    def __repr__(self) -> str:
        return f"Encoder({self.spec.model!r}, dim={self.dim}, device={self.device!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an Encoder stays in its process: send encoder.spec and call load_encoder(spec) there")

    @functools.cached_property
    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """What the model learnt to multiply cosines by before a softmax, by pair of modalities.

        `{frozenset({"text", "image"}): 100.0}`, and for AudioCLIP two pairs more; empty where nothing says it (own
        encoders, directories of clip-as-service). Read from the weights when it is first asked for. SigLIP's models
        add a bias, which softmax cancels: it is not told.

        Raises:
            WeightsError: If the weights cannot be read again, or hold one that is no scale.
        """
        find = getattr(self._loaded.model, "learnt_scales", dict)  # own encoders need not be subclasses of Model
        return MappingProxyType(checked_scales(find(), self.modalities, self.spec.model))

    def session(self, stats: Stats | None = None, *, cached: bool = True, hashed: bool = False) -> EmbedSession:
        """Start pushing rows; see `EmbedSession`. One session for each thread.

        Args:
            stats: Where it counts, for who reports the numbers himself; None for the totals of this process.
            cached: Whether it takes and leaves vectors in the cache: not for values that nobody asks for again.
            hashed: Whether vectors say what their content is told by; it costs a SHA-256 of each value.
        """
        counted = Stats() if stats is None else stats
        cache = self._cache if cached else VectorCache(0)
        session = EmbedSession(self.spec, self._loaded, counted, cache, hashed=hashed)
        if stats is None:
            watch(session, counted)
        return session

    def embed_items(self, items: Iterable[Item], stats: Stats | None = None) -> list[Outcome]:
        """Embed items of any kind.

        Args:
            items: Each becomes one outcome.
            stats: As in `session`.

        Returns:
            For each item, in order, a `Vector`, a `Failure`, or None for null.
        """
        with self.session(stats) as session:
            finished = [done for item in items for done in session.push(None, (item,))]
            return [done.outcomes[0] for done in (*finished, *session.flush())]

    def embed(self, modality: Modality, values: Iterable[Any], stats: Stats | None = None) -> list[Outcome]:
        """Embed values of one modality, as a column of it would hold them.

        Args:
            modality: `text`, `image` or `audio`.
            values: Texts; encoded bytes, arrays, Pillow images and URIs; or encoded bytes, pairs (waveform, sample
                rate) and URIs. None is null.
            stats: As in `session`.

        Returns:
            For each value, in order, a `Vector`, a `Failure`, or None for null.
        """
        return self.embed_items((item_of_value(modality, value) for value in values), stats)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Returns:
            (n, dim) float32, normalised if the spec says so.

        Raises:
            EmbeddingError: If any text fails; `embed` gives failures as data instead.
        """
        return self._matrix(self.embed("text", _checked(texts)))

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embed images: encoded bytes, (H, W, 3) arrays, Pillow images or URIs.

        Returns:
            (n, dim) float32, normalised if the spec says so.

        Raises:
            EmbeddingError: If any image fails; `embed` gives failures as data instead.
        """
        return self._matrix(self.embed("image", _checked(images)))

    def embed_audios(self, audios: Sequence[Any]) -> np.ndarray:
        """Embed sounds.

        Args:
            audios: Encoded bytes (WAV, FLAC, OGG, MP3), URIs, or pairs (waveform, sample rate): (n,) or (2, n), float
                in [-1, 1] or int16, and samples a second.

        Returns:
            (n, dim) float32, normalised if the spec says so.

        Raises:
            EmbeddingError: If any sound fails; `embed` gives failures as data instead.
        """
        return self._matrix(self.embed("audio", _checked(audios)))

    def _matrix(self, outcomes: list[Outcome]) -> np.ndarray:
        failures = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
        if failures:
            raise EmbeddingError(dict(failures))
        matrix = np.empty((len(outcomes), self.dim), np.float32)
        for row, outcome in enumerate(outcomes):
            if not isinstance(outcome, Vector):
                raise ValueError(f"row {row} is None; encoder.embed(...) takes nulls")
            matrix[row] = outcome.values
        return matrix


def _checked(values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str | bytes):
        raise TypeError(f"expected a sequence of values, got one {type(values).__name__}; put it into a list")
    return values

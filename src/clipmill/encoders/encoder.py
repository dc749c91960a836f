"""`Encoder`: a loaded model, ready to embed. Returned by `load_encoder`."""

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
from ..models.model import checked_biases, checked_scales
from ..models.spec import EncoderSpec, Modality
from .item import Item, item_of_value
from .loaded import Loaded
from .outcome import Outcome, Vector
from .session import EmbedSession
from .vector_cache import VectorCache


class Encoder:
    """A loaded model with the options of one spec.

    An encoder may be used by several threads at once. It cannot be pickled: send its spec to other processes instead.

    >>> from clipmill import load_encoder
    >>> encoder = load_encoder("demo", normalize=True)
    >>> encoder.dim, sorted(encoder.modalities)
    (96, ['image', 'text'])
    >>> [type(outcome).__name__ for outcome in encoder.embed("text", ["a red circle", "", None])]
    ['Vector', 'Failure', 'NoneType']

    Attributes:
        spec: The spec it was loaded from.
        dim: Values in a vector, after it was cut to the spec's `dimensions`.
        modalities: The modalities that it embeds: `text`, `image`, `audio`.
        device: The device it runs on: `cpu`, `cuda:0`, …
        resolved: What was resolved at load, for the provenance: runtime, precision, device, weights_sha256.
    """

    def __init__(self, spec: EncoderSpec, loaded: Loaded) -> None:
        """Combine a spec and a loaded model. Call `load_encoder` instead."""
        self.spec = spec
        self.dim: int = spec.dimensions or loaded.model.dim
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
        """The learnt scales that multiply cosines before the softmax, by pair of modalities.

        For CLIP `{frozenset({"text", "image"}): 100.0}`; AudioCLIP has two more pairs. Empty if the model's files
        contain none, as for custom encoders and directories of clip-as-service. The scales are read from the weights
        on first use.

        Raises:
            WeightsError: If the weights cannot be read again, or a scale in them is invalid.
        """
        find = getattr(self._loaded.model, "learnt_scales", dict)  # custom encoders need not be subclasses of Model
        return MappingProxyType(checked_scales(find(), self.modalities, self.spec.model))

    @functools.cached_property
    def learnt_biases(self) -> Mapping[frozenset[str], float]:
        """The learnt biases that are added to scaled cosines, by pair of modalities, as SigLIP's models have one.

        The sigmoid of `scale * cosine + bias` is then the probability that a pair matches. Empty for all other models.

        Raises:
            WeightsError: If the weights cannot be read again, or a bias in them is invalid.
        """
        find = getattr(self._loaded.model, "learnt_biases", dict)  # as above
        return MappingProxyType(checked_biases(find(), self.modalities, self.spec.model))

    def session(self, stats: Stats | None = None, *, cached: bool = True, hashed: bool = False) -> EmbedSession:
        """Return a new session for pushing rows; see `EmbedSession`. Use one session per thread.

        Args:
            stats: Counts rows and times, if the caller reports them. By default, they are added to the totals of this
                process.
            cached: Whether to use the vector cache. Turn it off for values that won't be embedded again.
            hashed: Whether vectors have a `content_hash`, which costs one SHA-256 per value.
        """
        counted = Stats() if stats is None else stats
        cache = self._cache if cached else VectorCache(0)
        session = EmbedSession(self.spec, self._loaded, counted, cache, hashed=hashed)
        if stats is None:
            watch(session, counted)
        return session

    def embed_items(self, items: Iterable[Item], stats: Stats | None = None) -> list[Outcome]:
        """Embed items of any kind.

        >>> from clipmill.encoders import Item, load_encoder
        >>> items = [Item("text", "a dog"), Item("text", None)]
        >>> vector, null = load_encoder("fake::dim=4").embed_items(items)
        >>> vector.values, null
        (array([  5.,  97.,  32., 100.], dtype=float32), None)

        Args:
            items: The values to embed.
            stats: See `session`.

        Returns:
            One outcome for each item, in order: a `Vector`, a `Failure`, or None for null.
        """
        with self.session(stats) as session:
            finished = [done for item in items for done in session.push(None, (item,))]
            return [done.outcomes[0] for done in (*finished, *session.flush())]

    def embed(self, modality: Modality, values: Iterable[Any], stats: Stats | None = None) -> list[Outcome]:
        """Embed values of one modality. Failures are returned, not raised.

        >>> from clipmill import load_encoder
        >>> encoder = load_encoder("fake::dim=4")
        >>> [type(outcome).__name__ for outcome in encoder.embed("text", ["a dog", "", None])]
        ['Vector', 'Failure', 'NoneType']

        Args:
            modality: `text`, `image` or `audio`.
            values: Texts; for images encoded bytes, arrays, Pillow images and URIs; for audio encoded bytes, pairs
                (waveform, sample rate) and URIs. None is null.
            stats: See `session`.

        Returns:
            One outcome for each value, in order: a `Vector`, a `Failure`, or None for null.
        """
        return self.embed_items((item_of_value(modality, value) for value in values), stats)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        >>> from clipmill import load_encoder
        >>> load_encoder("fake::dim=4").embed_texts(["a dog", "a cat"])
        array([[  5.,  97.,  32., 100.],
               [  5.,  97.,  32.,  99.]], dtype=float32)

        Args:
            texts: n strings.

        Returns:
            (n, dim) float32; rows have length 1 if the spec has `normalize=True`.

        Raises:
            EmbeddingError: If any text fails. `embed` returns failures as data instead.
        """
        return self._matrix(self.embed("text", _checked(texts)))

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embed images.

        >>> import numpy as np
        >>> from clipmill import load_encoder
        >>> image = np.full((20, 30, 3), 255, np.uint8)
        >>> load_encoder("fake::dim=4").embed_images([image])
        array([[ 20.,  30., 255., 255.]], dtype=float32)

        As `embed_texts`, for n images: encoded bytes, (H, W, 3) arrays, Pillow images or URIs.
        """
        return self._matrix(self.embed("image", _checked(images)))

    def embed_audios(self, audios: Sequence[Any]) -> np.ndarray:
        """Embed audio clips.

        >>> import numpy as np
        >>> from clipmill import load_encoder
        >>> silence = np.zeros(16_000, np.float32)
        >>> load_encoder("fake::dim=4&modalities=audio").embed_audios([(silence, 16_000)]).tolist()
        [[1.0, 16000.0, 16000.0, 0.0]]

        As `embed_texts`, for n clips: encoded bytes (WAV, FLAC, OGG, MP3), URIs, or pairs (waveform, sample rate). A
        waveform is (samples,) or (2, samples), float in [-1, 1] or int16; the sample rate is in Hz.
        """
        return self._matrix(self.embed("audio", _checked(audios)))

    def _matrix(self, outcomes: list[Outcome]) -> np.ndarray:
        failures = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
        if failures:
            raise EmbeddingError(dict(failures))
        matrix = np.empty((len(outcomes), self.dim), np.float32)
        for row, outcome in enumerate(outcomes):
            if not isinstance(outcome, Vector):
                raise ValueError(f"row {row} is None; encoder.embed(...) accepts nulls")
            matrix[row] = outcome.values
        return matrix


def _checked(values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str | bytes):
        raise TypeError(f"expected a sequence of values, got one {type(values).__name__}; put it into a list")
    return values

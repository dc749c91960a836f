"""The frozen description of an encoder: the only object that is sent to workers."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, Self, TypeVar

from ..errors import DatasetError, SpecError, check_choice, check_flags, check_integer
from ..files.file_systems import local_directory
from ..media.fetch_policy import DOCUMENT_SCHEMES, checked_buckets, checked_schemes
from ..messages import setting
from .catalog import ModelFacts, ModelRef, facts_of, resolve_model
from .catalog.facts import KNOWN_BY_NAME
from .catalog.mclip import image_model
from .catalog.names import absolute_if_path
from .dimensions import check_dimensions
from .support_matrix import PRECISIONS, RUNTIMES, check_combination

Modality = Literal["text", "image", "audio"]

DEFAULT_MODEL = "ViT-B-32::openai"

IDENTITY = (
    "model",
    "mode",
    "image_weights",
    "base_tokenizer",
    "base_image_processor",
    "max_text_tokens",
    "cache_dir",
)
"""Options that select a model, apart from runtime, precision and device."""

RENAMED = {
    "name": "model",
    "model_name": "model",
    "pretrained_model_name_or_path": "model",
    "model_path": "model",
    "minibatch_size": "max_batch_rows",
    "default_batch_size": "max_batch_rows",
    "batch_size": "max_batch_rows",
    "num_worker_preprocess": "preprocess_threads",
    "use_default_preprocessing": "preprocess",
    "use_preprocessing": "preprocess",
    "traversal_paths": "access_paths",
    "default_traversal_paths": "access_paths",
    "drop_image_content": "keep_content",
    "default_device": "device",
    "dtype": "precision",
    "base_tokenizer_model": "base_tokenizer",
    "base_feature_extractor": "base_image_processor",
    "max_length": "max_text_tokens",
}
"""Option names of clip-as-service and the Jina executors, and the names here."""

_RENAMED_NOTES = {
    "keep_content": ", with the opposite meaning: content is dropped by default; it belongs to Embed, not to a spec",
    "access_paths": "; it belongs to Embed, not to a spec",
}
_UNSUPPORTED_HINTS = {
    "jit": "there is one network, whose activation follows the weights",
    "finetuned_checkpoint_path": "save the tuned model with save_pretrained, and pass model='hf:./directory'",
    "overwrite_embeddings": "documents are always embedded again",
    "download_model": "weights are downloaded when needed, or in advance with `clipmill models --download NAME`",
    "min_score": 'filter the column of scores, such as df.where("clip_similarity >= 0.3")',
    "tokenizer_path": "CLIP's table of merges comes with the package",
}
"""Options that clip-as-service, the Jina executors or other functions here have, and what to do without them."""

MAX_PILLOW_PIXELS = 178_956_970
"""Pillow refuses larger images as decompression bombs."""

_MIB = 2**20
_P = ParamSpec("_P")
_R = TypeVar("_R")


def reject_unknown_options(given: Any, allowed: Any) -> None:
    """Raise `TypeError` for the first name in `given` that is not in `allowed`, with the name to use instead."""
    for name in given:
        if name in allowed:
            continue
        if name in RENAMED:
            raise TypeError(f"option {name!r} is called {RENAMED[name]!r} here{_RENAMED_NOTES.get(RENAMED[name], '')}")
        if name in _UNSUPPORTED_HINTS:
            raise TypeError(f"there is no option {name!r} here: {_UNSUPPORTED_HINTS[name]}")
        near = difflib.get_close_matches(name, list(allowed), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(sorted(allowed))}"
        raise TypeError(f"unknown option {name!r}{hint}")


def reject_unknown_keywords(given: Mapping[str, Any], called: Callable[..., Any]) -> None:
    """Raise `TypeError` for the first name in `given` that is neither a field of the spec nor a keyword of `called`."""
    own = {name for name, one in inspect.signature(called).parameters.items() if one.kind is not one.VAR_KEYWORD}
    reject_unknown_options(given, own | EncoderSpec.__dataclass_fields__.keys())


def explains_slips(called: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function with required arguments and options of the spec name a misspelt keyword, not what it replaced.

    Without it, Python reports only that the required argument is missing.
    """
    signature = inspect.signature(called)

    @functools.wraps(called)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            reject_unknown_keywords(kwargs, called)
            raise
        return called(*args, **kwargs)

    return call


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderSpec:
    """A model, how it runs, and the limits for its rows.

    A spec is validated when it is created, needs no torch and no weights, pickles to its fields, and compares by them.
    Relative paths in `model` become absolute, and `model` gets the spelling of the catalog.

    >>> from clipmill import EncoderSpec
    >>> spec = EncoderSpec("ViT-B-32::openai", normalize=True)
    >>> spec.dim, sorted(spec.modalities)
    (512, ['image', 'text'])

    Attributes:
        model: `<architecture>::<weights>` and the other names of docs/models.md.
        device: `auto` (a GPU if the worker has one), `cpu`, `cuda` or `cuda:X`. Resolved on the worker.
        runtime: Executes the towers: `torch`, `onnx` or `openvino`; `auto` takes the fastest one on the worker.
        precision: `fp32`, `bf16`, `fp16` or `int8`; `auto` takes the fastest of fp32 and bf16 whose vectors have a
            cosine of at least 0.999 to those of fp32, checked on the worker once for each model and machine.
        mode: How AudioCLIP runs: `reference` (as trained) or `jina` (like Jina's last executor).
        image_weights: M-CLIP's image tower, if not the published pairing: a tag of its architecture, or a file.
        base_tokenizer: Repository or directory whose tokenizer an `hf:` model without one uses.
        base_image_processor: Repository or directory whose preprocessing an `hf:` model without one uses.
        max_text_tokens: The most tokens of a text, special tokens included; None means the default of the model.
        normalize: Whether vectors are scaled to length 1. Off by default, as in clip-as-service.
        dimensions: Number of leading values that are kept of each vector; None keeps all. Models that were trained for
            it (Matryoshka representation learning) allow any number down to the least that they were trained for. The
            vector is cut before it is scaled: with `normalize`, what is left of it has length 1; without, its values
            are as the model computes them.
        force_dimensions: Whether `dimensions` may be any number below the model's, also of a model that was not trained
            for it, whose vectors then lose more the more is cut.
        preprocess: False if images are normalised float32 arrays of the model's size. It has no effect on texts and
            audio.
        decode: `exact` is bit-identical to the reference. `fast` may differ by one grey level, rarely two, and decodes
            JPEG files at a reduced scale that is at least twice the size the model needs.
        apply_exif: Whether images are rotated by their EXIF orientation. The references ignore it.
        on_long_text: `truncate` cuts texts over the context length and counts them; `fail` makes them failures.
        max_batch_rows: Rows of a call; None means 128 on a GPU, 32 of all calls at once on a CPU, more for short texts.
        max_batch_bytes: Input bytes per model call (crops, tokens, samples).
        max_batch_pixels: Input pixels per model call, and pixels that are decoded at the same time; for audio, values
            in the model's largest layer, some 440,000 per second and channel for AudioCLIP, and 1.6 million per window
            of ten seconds for CLAP.
        max_cache_bytes: Size of a process's cache of vectors, which spares embedding equal texts, files and URIs again;
            0 turns it off.
        preprocess_threads: Threads that decode; None means one for each core that this worker may use.
        fetch_threads: Threads that fetch URIs.
        encoder_process: Where the model runs: `off`, in the worker; `per_host`, in one process for all workers of a
            host, which saves their copies of the weights; `auto` takes that process where the engine says how many
            workers share the host, and their copies would take over a quarter of its memory.
        cache_dir: Folder for downloads and graphs made from them; None means $CLIPMILL_CACHE, or ~/.cache/clipmill.
        allow_local_files: Whether a document's or row's URI may be a file on this machine.
        allow_private_addresses: Whether http(s) may connect to loopback, private and link-local addresses.
        allow_buckets: Buckets of object stores (`gs://photos`) and repositories of a hub (`hf://datasets/owner/name`)
            that a document's or row's URI may name. They are read with the job's own credentials.
        uri_schemes: Allowed schemes of a document's or row's URI. One of an object store (`gs`) allows all buckets that
            the job's credentials open.
        fetch_timeout_s: Seconds for one URI, retries included.
        max_fetch_bytes: Bytes of one URI's content, and of one file in a tar; a sample's files may have twice as many.
        max_redirects: Redirects that are followed for one http(s) URI.
        max_image_pixels: Pixels of one image, checked before it is decoded.
        max_text_chars: Characters of one text.
        max_audio_seconds: Seconds of one audio clip, checked before it is decoded if its header has the length.

    Raises:
        SpecError: If a value is invalid; `UnknownModelError` (with the nearest names) for an unknown model.
        TypeError: If an option is unknown, or is an old name from clip-as-service.
    """

    model: str = DEFAULT_MODEL
    device: str | None = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    mode: str = "reference"
    image_weights: str | None = None
    base_tokenizer: str | None = None
    base_image_processor: str | None = None
    max_text_tokens: int | None = None
    normalize: bool = False
    dimensions: int | None = None
    force_dimensions: bool = False
    preprocess: bool = True
    decode: str = "fast"
    apply_exif: bool = False
    on_long_text: str = "truncate"
    max_batch_rows: int | None = None
    max_batch_bytes: int = 64 * _MIB
    max_batch_pixels: int = 100_000_000
    max_cache_bytes: int = 64 * _MIB
    preprocess_threads: int | None = None
    fetch_threads: int = 16
    encoder_process: str = "auto"
    cache_dir: str | None = None
    allow_local_files: bool = False
    allow_private_addresses: bool = False
    allow_buckets: str | tuple[str, ...] = ()
    uri_schemes: tuple[str, ...] = DOCUMENT_SCHEMES
    fetch_timeout_s: float = 30.0
    max_fetch_bytes: int = 64 * _MIB
    max_redirects: int = 5
    max_image_pixels: int = 100_000_000
    max_text_chars: int = 1_000_000
    max_audio_seconds: float = 60.0

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse unknown options with a hint, before dataclasses raises its shorter error."""
        reject_unknown_options(options, cls.__dataclass_fields__)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        """Validate every field; normalise `model`, `device`, `cache_dir`, `allow_buckets`, `uri_schemes`."""
        if not isinstance(self.model, str):
            raise SpecError(f"model is a name such as {DEFAULT_MODEL!r}, got {self.model!r}")
        put = object.__setattr__  # the object is frozen from here on
        put(self, "model", resolve_model(self.model).name)
        put(self, "device", "auto" if self.device is None else self.device)
        if self.cache_dir is not None:
            if not isinstance(self.cache_dir, str | os.PathLike) or not os.fspath(self.cache_dir):
                raise SpecError(
                    setting("cache_dir", self.cache_dir) + " is no path; None means the platform's own place"
                )
            try:
                put(self, "cache_dir", str(local_directory(self.cache_dir, "the cache directory")))
            except DatasetError as err:
                raise SpecError(setting("cache_dir", os.fspath(self.cache_dir)) + f" cannot be used: {err}") from err
        put(self, "allow_buckets", checked_buckets(self.allow_buckets))
        put(self, "uri_schemes", checked_schemes(self.uri_schemes))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(self.device)):
            raise SpecError(setting("device", self.device) + " must be one of 'auto', 'cpu', 'cuda', 'cuda:X'")
        check_choice("runtime", self.runtime, RUNTIMES)
        check_choice("precision", self.precision, PRECISIONS)
        check_combination(self.runtime, self.precision, str(self.device))
        check_choice("mode", self.mode, ("reference", "jina"))
        self._check_family_options()
        check_choice("decode", self.decode, ("fast", "exact"))
        check_choice("encoder_process", self.encoder_process, ("auto", "per_host", "off"))
        check_choice("on_long_text", self.on_long_text, ("truncate", "fail"))
        for field in dataclasses.fields(self):
            self._check_type(field.name, str(field.type))
        if self.max_image_pixels > MAX_PILLOW_PIXELS:
            raise SpecError(
                setting("max_image_pixels", self.max_image_pixels)
                + f" is over {MAX_PILLOW_PIXELS:,}, Pillow's own limit"
            )
        if self.force_dimensions and self.dimensions is None:
            raise SpecError(setting("force_dimensions", True) + " has no effect without " + setting("dimensions"))
        if self.ref.family in KNOWN_BY_NAME:
            self.check_dimensions()

    def _check_type(self, name: str, annotation: str) -> None:
        """Check the value of a flag, a count or a number of seconds."""
        value = getattr(self, name)
        if annotation == "bool":
            check_flags(**{name: value})
        if annotation == "int" or (annotation == "int | None" and value is not None):
            check_integer(name, value, least=_LEAST.get(name, 1))
        if annotation == "float" and (
            not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf
        ):
            raise SpecError(setting(name, value) + " is not a number of seconds above 0")

    def _check_family_options(self) -> None:
        """Refuse options that do not apply to the model's family; make their paths absolute."""
        family = self.ref.family
        for name, families in _FAMILY_OPTIONS.items():
            value = getattr(self, name)
            if value == type(self).__dataclass_fields__[name].default:
                continue
            if family not in families:
                raise SpecError(
                    setting(name, value) + f" is an option of {' and '.join(families)} models, not of {self.model}"
                )
            if name != "mode":
                if not isinstance(value, str) or not value:
                    raise SpecError(setting(name, value) + " is no name and no path")
                object.__setattr__(self, name, absolute_if_path(value))
        if self.image_weights:
            resolve_model(image_model(self.ref.architecture, self.image_weights))  # an unknown tag fails here

    @classmethod
    def of(cls, model: str | EncoderSpec | None = None, /, **options: Any) -> EncoderSpec:
        """Return a spec for a name, a spec or neither, with options that override those of the spec."""
        if isinstance(model, EncoderSpec):
            reject_unknown_options(options, cls.__dataclass_fields__)
            return dataclasses.replace(model, **options) if options else model
        return cls(**options) if model is None else cls(model, **options)

    @property
    def ref(self) -> ModelRef:
        """The parsed name of the model."""
        return resolve_model(self.model)

    @property
    def facts(self) -> ModelFacts:
        """Facts about the model that are known without loading it."""
        return facts_of(self.ref, self.cache_dir, self.base_image_processor, self.image_weights)

    @property
    def dim(self) -> int:
        """Number of values in a vector, known without loading the model; raises as `check_dimensions` does."""
        self.check_dimensions()
        return self.dimensions or self.facts.dim

    def check_dimensions(self) -> None:
        """Raise `SpecError` if the model's vectors cannot be cut to `dimensions`."""
        if self.dimensions is not None:
            check_dimensions(self.dimensions, self.model, self.facts, force=self.force_dimensions)

    @property
    def modalities(self) -> frozenset[str]:
        """Modalities that can be embedded (`text`, `image`, `audio`), known without loading the model."""
        return self.facts.modalities

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `EncoderSpec(**spec.as_dict())` equals the spec."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


_FAMILY_OPTIONS = {
    "mode": ("audioclip",),
    "image_weights": ("m-clip",),
    "base_tokenizer": ("hf",),
    "base_image_processor": ("hf",),
}
"""Options that apply only to some families of models."""

_LEAST = {"max_redirects": 0, "max_cache_bytes": 0, "max_text_tokens": 2}
"""The smallest values of counts that are not 1."""

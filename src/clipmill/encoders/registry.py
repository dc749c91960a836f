"""Load once: every worker process keeps one copy of a model for each device.

The key is what makes the model: its name and its family's options, runtime, precision, device and cache. Specs that
differ only in limits, normalising, preprocessing or decoding share the copy, its lock and its threads; so do a spec
that says `auto` and one that names what `auto` means here.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable

from ..errors import DeviceError, WeightsError
from ..messages import setting
from ..metrics.counts import record_load
from ..metrics.env_exporter import start_from_environment
from ..models.model import ClipModel, Model
from ..models.spec import EncoderSpec
from ..models.support_matrix import Combination, may_have_gpu
from ..threads import allowed_cpus
from .encoder import Encoder
from .loaded import Loaded

_log = logging.getLogger("clipmill")

_Asked = tuple[Hashable, ...]
"""What a spec says of its model, `auto` as it stands, and the device."""

_Key = tuple[Hashable, str]
"""What makes a model but for the device, `auto` resolved; and the device."""

_lock = threading.Lock()  # guards the dicts; loading happens under a lock of its own, so that two models load at once
_load_locks: dict[Hashable, threading.Lock] = {}
_keys: dict[_Asked, _Key] = {}
_models: dict[_Key, Loaded] = {}
_encoders: dict[tuple[EncoderSpec, _Key], Encoder] = {}
_loads = 0


def load_encoder(
    spec: EncoderSpec | str | None = None, /, *, cpus: int | None = None, exclusive: bool = False, **options: object
) -> Encoder:
    """Return the encoder of a spec, loading its model if this process has not loaded it yet.

    >>> from clipmill import load_encoder
    >>> encoder = load_encoder("demo")
    >>> encoder is load_encoder("demo")
    True
    >>> encoder.embed_texts(["a red circle"]).shape
    (1, 96)

    Args:
        spec: A spec or a model's name; the default model without one.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.
        exclusive: Let go of the same model on another GPU: for workers that an engine moves between devices.
        **options: Fields of the spec.

    Returns:
        The same object for an equal spec and device.

    Raises:
        WeightsError: If the weights cannot be had or do not fit.
        DeviceError: If the device asked for is not here.
    """
    spec = EncoderSpec.of(spec, **options)
    device = _resolve_device(spec)
    asked = (_identity(spec), spec.runtime, spec.precision, device)
    with _lock:
        known = _keys.get(asked)
        if known is not None and (spec, known) in _encoders:
            return _encoders[spec, known]
        # one model at a time: specs that say it differently may mean the same copy
        load_lock = _load_locks.setdefault((_identity(spec), device), threading.Lock())
    with load_lock:
        key = _keys.get(asked)
        if key is None or key not in _models:
            if exclusive:
                _drop_others(_identity(spec), device)
            key = _load(spec, device, cpus or allowed_cpus())
        with _lock:
            _keys[asked] = key
            return _encoders.setdefault((spec, key), Encoder(spec, _models[key]))


def _load(spec: EncoderSpec, device: str, threads: int) -> _Key:
    """Load a model, or find that it is loaded under another way of asking for it; the caller holds its lock."""
    global _loads
    start_from_environment()
    started = time.perf_counter()
    identity = _identity(spec)

    def key_of(way: Combination | None) -> _Key:
        return ((*identity, way), device)

    own = {"fake": _load_fake, "custom": _load_custom}.get(spec.ref.family)
    if own is not None:
        key, model = key_of(None), None if key_of(None) in _models else own(spec)
    else:
        way, model = _load_catalog(spec, device, threads, lambda way: key_of(way) in _models)
        key = key_of(way)
    if model is not None:
        _log.info(
            "loaded %s on %s in %.1f s, %d threads; %s",
            spec.model, model.device, time.perf_counter() - started, threads, model.resolved,
        )  # fmt: skip
        with _lock:
            _models[key] = Loaded(model, threads)
            _loads += 1
        record_load()
    return key


def count_loads() -> int:
    """Return how many models this process has loaded."""
    return _loads


def unload_all() -> None:
    """Forget every model: for tests, and for notebooks that want their memory back. The count of loads stays."""
    with _lock:
        for loaded in _models.values():
            loaded.close()
        _models.clear()
        _encoders.clear()
    _give_memory_back()


def _drop_others(identity: tuple[Hashable, ...], device: str) -> None:
    """Let go of a model on other GPUs, in every precision; a copy on the CPU was asked for by another spec."""
    with _lock:
        for key in [k for k in _models if k[0][:-1] == identity and k[1] not in ("cpu", device)]:  # type: ignore[index]
            _log.warning("moved to %s: letting go of the copy on %s", device, key[1])
            _models.pop(key).close()
            for pair in [p for p in _encoders if p[1] == key]:
                del _encoders[pair]
    _give_memory_back()


def _give_memory_back() -> None:
    """Let torch return what it keeps of a GPU for later, now that the models on it are gone."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _identity(spec: EncoderSpec) -> tuple[Hashable, ...]:
    """Return what makes a model beside runtime, precision and device."""
    return (
        spec.model,
        spec.mode,
        spec.image_weights,
        spec.base_tokenizer,
        spec.base_image_processor,
        spec.max_text_tokens,
        spec.cache_dir,
    )


def _resolve_device(spec: EncoderSpec) -> str:
    """Return `cpu` or `cuda:X`; torch is asked only where there may be a GPU that the spec can use."""
    if spec.ref.family in ("fake", "custom"):
        return "cpu"  # what an own encoder runs on is its own affair
    device = str(spec.device)
    if device == "cpu" or (device == "auto" and (spec.runtime == "openvino" or spec.precision == "int8")):
        return "cpu"
    if not may_have_gpu():
        if device == "auto":
            return "cpu"
        raise DeviceError(setting("device", device) + " was asked for; CUDA devices here: none (no driver is loaded)")
    if spec.runtime == "onnx" or spec.ref.family == "onnx":
        from ..models.runtimes.onnx import resolve_device
    else:
        from ..models.runtimes.pytorch import resolve_device
    return resolve_device(device)


def _load_catalog(
    spec: EncoderSpec, device: str, threads: int, is_loaded: Callable[[Combination], bool]
) -> tuple[Combination, Model | None]:
    """Return what `auto` means here, and the model, or None where it is loaded already."""
    from ..models.runtimes import start_runtime
    from ..models.runtimes.choice import decide
    from ..models.runtimes.store import Store
    from ..models.towers import find_source

    source = find_source(spec)
    store = Store(source, spec.cache_dir)
    decision = decide(store, spec, device, threads, is_loaded)
    if is_loaded(decision.combination):
        return decision.combination, None
    runtime = decision.runtime or start_runtime(store, decision.combination, device, threads)
    resolved = {"weights_sha256": source.weights_sha256, **source.resolved, **decision.figures}
    return decision.combination, ClipModel(source.frontend, runtime, resolved, source.scales)


def _load_custom(spec: EncoderSpec) -> Model:
    from ..models.catalog.facts import load_factory

    try:
        model = load_factory(spec.ref)()
    except WeightsError:
        raise
    except Exception as err:  # whatever somebody's factory raises: its model is not here
        raise WeightsError(
            f"{spec.model!r} could not be made: {type(err).__name__}: {err}; the factory is called without arguments"
            " and returns a clipmill.encoders.Model"
        ) from err
    needed = ("dim", "modalities", "device", "resolved", "prepare", "encode")
    if missing := [name for name in needed if not hasattr(model, name)]:
        raise WeightsError(
            f"{spec.model!r} made {type(model).__name__}, which has no {', '.join(missing)}: an own encoder is a"
            " subclass of clipmill.encoders.Model"
        )
    return model


def _load_fake(spec: EncoderSpec) -> Model:
    from ..models.fake import FakeModel

    return FakeModel(spec.ref.options)

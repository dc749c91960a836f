"""The load-once registry: each worker process keeps one copy of a model per device.

A copy's key consists of the model's name and the options of its family, the runtime, the precision, the device and the
cache directory. Specs that differ only in limits, dimensions, normalisation, preprocessing or decoding share the copy,
its lock and its threads. So do a spec with `auto` and one that names the value to which `auto` resolves here.

With `encoder_process`, the copy holds no weights: it is the connection to the process that has them for all workers of
this host (`clipmill.models.encoder_process`). A load counts in the worker that caused it.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..errors import DeviceError, WeightsError, is_installed
from ..messages import setting
from ..metrics.counts import record_load
from ..metrics.env_exporter import start_from_environment
from ..models.encoder_process.choice import say_in_process, takes_process
from ..models.encoder_process.client import HostRuntime
from ..models.encoder_process.place import Unavailable
from ..models.model import ClipModel, Model
from ..models.spec import IDENTITY, EncoderSpec
from ..models.support_matrix import Combination, may_have_gpu
from ..threads import allowed_cpus, cpus_of_host, streams_of_host
from .encoder import Encoder
from .loaded import Loaded

if TYPE_CHECKING:
    from ..models.runtimes.store import Store

_log = logging.getLogger("clipmill")

_Request = tuple[Hashable, ...]
"""The options that select a model, with `auto` unresolved, and the device."""

_Key = tuple[Hashable, str, bool]
"""The options that select a model, with `auto` resolved, the device, and whether it is in the encoder process."""

_lock = threading.Lock()  # guards the dicts; each model has a lock for loading, so that two models can load at once
_load_locks: dict[Hashable, threading.Lock] = {}
_keys: dict[_Request, _Key] = {}
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
        spec: A spec or a model's name. The default model if omitted.
        cpus: Cores that this worker may use, if its engine knows better than the operating system; a `CpuShare` if the
            engine also knows how many workers share this host.
        exclusive: Whether to unload the same model from other GPUs, for workers that an engine moves between devices.
        **options: Fields of the spec.

    Returns:
        The encoder, the same object for an equal spec and device.

    Raises:
        SpecError: If the model's vectors cannot be cut to the spec's `dimensions`.
        WeightsError: If the weights cannot be obtained or do not match the model.
        DeviceError: If the requested device does not exist.
    """
    spec = EncoderSpec.of(spec, **options)
    device = _resolve_device(spec)
    request = (_identity(spec), spec.runtime, spec.precision, spec.encoder_process, device)
    with _lock:
        known = _keys.get(request)
        if known is not None and (spec, known) in _encoders:
            return _encoders[spec, known]
    spec.check_dimensions()  # before the weights are loaded
    with _lock:
        # one load at a time for each model and device: different requests may resolve to the same copy
        load_lock = _load_locks.setdefault((_identity(spec), device), threading.Lock())
    with load_lock:
        key = _keys.get(request)
        if key is None or key not in _models:
            if exclusive:
                _drop_others(_identity(spec), device)
            key = _load(spec, device, cpus)
        with _lock:
            _keys[request] = key
            return _encoders.setdefault((spec, key), Encoder(spec, _models[key]))


def _load(spec: EncoderSpec, device: str, cpus: int | None) -> _Key:
    """Load a model, unless an equivalent request has loaded it, and return its key. The caller holds its lock."""
    start_from_environment()
    started = time.perf_counter()
    threads = int(cpus or allowed_cpus())
    load = {"fake": _load_fake, "custom": _load_custom}.get(spec.ref.family)
    if load is not None:
        key = _key(spec, None, device)
        model = None if key in _models else load(spec)
        if spec.encoder_process == "per_host":
            say_in_process(spec, f"{spec.ref.family} models have no towers")
    else:
        key, model = _load_catalog(spec, device, cpus)
    if model is not None:
        loaded = Loaded(model, threads)
        _log.info(
            "loaded %s on %s in %.1f s, %d threads, calls at once: %d; %s",
            spec.model, model.device, time.perf_counter() - started, threads, loaded.streams, model.resolved,
        )  # fmt: skip
        with _lock:
            _models[key] = loaded
        if not key[-1]:
            _count_load()
    return key


def _key(spec: EncoderSpec, combination: Combination | None, device: str, *, in_process: bool = True) -> _Key:
    return (*_identity(spec), combination), device, not in_process


def _count_load() -> None:
    global _loads
    with _lock:
        _loads += 1
    record_load()


def count_loads() -> int:
    """Return how many models this process has loaded."""
    return _loads


def unload_all() -> None:
    """Unload all models, for tests and for notebooks that need the memory. The count of loads is not reset."""
    with _lock:
        for loaded in _models.values():
            loaded.close()
        _models.clear()
        _encoders.clear()
    _free_gpu_memory()


def _drop_others(identity: tuple[Hashable, ...], device: str) -> None:
    """Unload a model from other GPUs, in every precision. A copy on the CPU stays, since it belongs to another spec."""
    with _lock:
        for key in [k for k in _models if k[0][:-1] == identity and k[1] not in ("cpu", device)]:  # type: ignore[index]
            _log.warning("moved to %s: unloading the copy on %s", device, key[1])
            _models.pop(key).close()
            for pair in [p for p in _encoders if p[1] == key]:
                del _encoders[pair]
    _free_gpu_memory()


def _free_gpu_memory() -> None:
    """Return torch's cached GPU memory to the driver, after models were unloaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _identity(spec: EncoderSpec) -> tuple[Hashable, ...]:
    return tuple(getattr(spec, name) for name in IDENTITY)


def _resolve_device(spec: EncoderSpec) -> str:
    """Return `cpu` or `cuda:X`. Import torch only if there may be a GPU that the spec can use."""
    if spec.ref.family in ("fake", "custom"):
        return "cpu"  # custom encoders choose their device themselves
    device = str(spec.device)
    if device == "cpu" or (device == "auto" and (spec.runtime == "openvino" or spec.precision == "int8")):
        return "cpu"
    if not may_have_gpu():
        if device == "auto":
            return "cpu"
        raise DeviceError(setting("device", device) + " was requested; CUDA devices here: none (no driver is loaded)")
    if spec.runtime == "onnx" or spec.ref.family == "onnx" or not is_installed("torch"):
        from ..models.runtimes.onnx import resolve_device
    else:
        from ..models.runtimes.pytorch import resolve_device
    return resolve_device(device)


def _load_catalog(spec: EncoderSpec, device: str, cpus: int | None) -> tuple[_Key, Model | None]:
    """Resolve `auto`, and load the model, here or in the encoder process. Return None instead of one that is loaded."""
    from ..models.runtimes.choice import Decision, decide
    from ..models.runtimes.store import Store
    from ..models.towers import check_runnable, find_source

    check_runnable(spec)
    source = find_source(spec)
    store = Store(source, spec.cache_dir, spec.model)
    remote = _connect(spec, device, store, cpus) if takes_process(spec, source, cpus) else None
    if remote is not None:
        decision = Decision(Combination(remote.name, remote.precision), remote.figures, remote)
    else:
        threads = int(cpus or allowed_cpus())
        decision = decide(store, spec, device, threads, lambda one: _key(spec, one, device) in _models)
    key = _key(spec, decision.combination, device, in_process=remote is None)
    if remote is not None and key in _models:
        remote.close()
        return key, None
    if decision.runtime is None:
        return key, None
    resolved = {"weights_sha256": source.weights_sha256, **source.resolved, **decision.figures}
    return key, ClipModel(source.frontend, decision.runtime, resolved, source.scales, source.biases)


def _connect(spec: EncoderSpec, device: str, store: Store, cpus: int | None) -> HostRuntime | None:
    """Connect to the encoder process of this host; return None, and log why, if there can be none."""
    from ..models.runtimes import start_runtime
    from ..models.runtimes.choice import check_files

    check_files(store.source)
    threads = int(cpus or allowed_cpus())
    try:
        return HostRuntime(
            spec,
            device,
            store.key("float"),
            dim=store.source.frontend.dim,
            threads=cpus_of_host(cpus),
            streams=streams_of_host(cpus) if device == "cpu" else 1,
            start_here=lambda combination: start_runtime(store, combination, device, threads),
            on_load=_count_load,
        )
    except Unavailable as err:
        say_in_process(spec, str(err))
        return None


def _load_custom(spec: EncoderSpec) -> Model:
    from ..models.catalog.facts import load_factory

    try:
        model = load_factory(spec.ref)()
    except WeightsError:
        raise
    except Exception as err:  # the factory is user code and may raise anything
        raise WeightsError(
            f"{spec.model!r} could not be created: {type(err).__name__}: {err}; the factory is called without arguments"
            " and returns a clipmill.encoders.Model"
        ) from err
    needed = ("dim", "modalities", "device", "resolved", "prepare", "encode")
    if missing := [name for name in needed if not hasattr(model, name)]:
        raise WeightsError(
            f"{spec.model!r} returned {type(model).__name__}, which has no {', '.join(missing)}: a custom encoder is a"
            " subclass of clipmill.encoders.Model"
        )
    streams = getattr(model, "streams", 1)
    if type(streams) is not int or streams < 1:
        raise WeightsError(
            f"{spec.model!r} has streams={streams!r}; it is the number of calls of `encode` at once, an integer from 1"
        )
    return model


def _load_fake(spec: EncoderSpec) -> Model:
    from ..models.fake import FakeModel

    return FakeModel(spec.ref.options)

"""Load once: every worker process keeps one copy of a model for each device.

The key is what makes the model: its name, runtime, precision, device and cache. Specs that differ only in limits,
normalising, preprocessing or decoding share the copy, its lock and its threads.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable

from .encoder import Encoder
from .errors import WeightsError
from .loaded import Loaded
from .model import ClipModel, Model
from .spec import EncoderSpec
from .threads import allowed_cpus

_log = logging.getLogger("clipmill")

_lock = threading.Lock()  # guards the dicts; loading happens under the key's own lock, so that two models load at once
_key_locks: dict[Hashable, threading.Lock] = {}
_models: dict[Hashable, Loaded] = {}
_encoders: dict[tuple[EncoderSpec, Hashable], Encoder] = {}
_loads = 0


def load_encoder(
    spec: EncoderSpec | str | None = None, /, *, cpus: int | None = None, exclusive: bool = False, **options: object
) -> Encoder:
    """Return the encoder of a spec, loading its model if this process has not loaded it yet.

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
    global _loads
    spec = EncoderSpec.of(spec, **options)
    load = _loader(spec)
    device = _resolve_device(spec)
    identity = (spec.model, *_choose(spec), spec.cache_dir)
    key = (identity, device)
    with _lock:
        if (spec, key) in _encoders:
            return _encoders[spec, key]
        key_lock = _key_locks.setdefault(key, threading.Lock())
    with key_lock:
        if key not in _models:
            if exclusive:
                _drop_others(identity, device)
            started = time.perf_counter()
            threads = cpus or allowed_cpus()
            model = load(spec, device, threads)
            _log.info(
                "loaded %s on %s in %.1f s, %d threads; %s",
                spec.model, model.device, time.perf_counter() - started, threads, model.resolved,
            )  # fmt: skip
            with _lock:
                _models[key] = Loaded(model, threads)
                _loads += 1
        with _lock:
            return _encoders.setdefault((spec, key), Encoder(spec, _models[key]))


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


def _drop_others(identity: Hashable, device: str) -> None:
    with _lock:
        for key in [k for k in _models if k[0] == identity and k[1] != device]:  # type: ignore[index]
            _log.warning("moved to %s: letting go of the copy on %s", device, key[1])  # type: ignore[index]
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


def _choose(spec: EncoderSpec) -> tuple[str, str]:
    """Return the runtime and precision that a spec means here: `auto` is one of the others, not a model of its own."""
    return "torch" if spec.runtime == "auto" else spec.runtime, "fp32" if spec.precision == "auto" else spec.precision


def _resolve_device(spec: EncoderSpec) -> str:
    if spec.ref.family in ("fake", "custom"):
        return "cpu"  # what an own encoder runs on is its own affair
    if spec.device == "cpu":
        return "cpu"
    from .runtimes.pytorch import resolve_device

    return resolve_device(str(spec.device))


def _loader(spec: EncoderSpec) -> Callable[[EncoderSpec, str, int], Model]:
    return {"fake": _load_fake, "custom": _load_custom}.get(spec.ref.family, _load_catalog)


def _load_catalog(spec: EncoderSpec, device: str, threads: int) -> Model:
    from .runtimes import start_runtime
    from .towers import find_source

    source = find_source(spec)
    runtime = start_runtime(source, spec, device, threads)
    return ClipModel(source.frontend, runtime, {"weights_sha256": source.weights_sha256, **source.resolved})


def _load_custom(spec: EncoderSpec, device: str, threads: int) -> Model:
    from .catalog.names import load_factory

    model = load_factory(spec.ref)()
    needed = ("dim", "modalities", "device", "resolved", "prepare", "encode")
    if missing := [name for name in needed if not hasattr(model, name)]:
        raise WeightsError(
            f"{spec.model!r} made {type(model).__name__}, which has no {', '.join(missing)}: an own encoder is a"
            " subclass of clipmill.encoders.Model"
        )
    return model


def _load_fake(spec: EncoderSpec, device: str, threads: int) -> Model:
    from .testing import FakeModel

    return FakeModel(spec.ref.options)

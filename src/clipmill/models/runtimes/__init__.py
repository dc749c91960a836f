"""What executes the towers.

- `pytorch`: torch, on CPU and CUDA
- `onnx`, `openvino`: graphs, on ONNX Runtime (CPU and CUDA) and OpenVINO (CPU); `feeding` is what both share
- `graphs`, `reduced`: making graphs from towers, and smaller ones from those; `store` keeps them between processes
- `choice`: which runtime and precision a spec means on this machine; `probes`: what that is checked on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DeviceError, WeightsError
from ..support_matrix import Combination

if TYPE_CHECKING:
    from ..model import Runtime
    from ..source import ModelSource
    from .store import Store

GRAPH_KINDS = {
    ("onnx", "fp32"): "float",
    ("onnx", "fp16"): "fp16",
    ("onnx", "int8"): "int8",
    ("openvino", "fp32"): "float",
    ("openvino", "bf16"): "float",
    ("openvino", "int8"): "int8-openvino",
}
"""Which graphs a runtime executes in a precision."""


def start_runtime(store: Store, combination: Combination, device: str, threads: int) -> Runtime:
    """Start what executes a model's towers.

    Args:
        store: The model, and where its graphs are kept.
        combination: Runtime and precision.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.

    Raises:
        WeightsError: If the weights do not fit, or no graph can be made of them.
        DeviceError: If this machine does not compute so.
        MissingExtraError: If the runtime is not installed.
    """
    runtime, precision = combination
    preprocessing = store.source.frontend.image
    if runtime == "torch":
        from .pytorch import TorchRuntime, use_threads

        if device == "cpu":
            use_threads(threads)
        towers = store.towers
        store.drop_towers()  # they are the runtime's from here on, and may be changed by it
        return TorchRuntime(towers, preprocessing, device, precision)
    kind = GRAPH_KINDS[combination]
    graphs, cache = store.graphs(kind), store.compiled(kind)
    started: Runtime
    if runtime == "onnx":
        from .onnx import OnnxRuntime

        started = OnnxRuntime(graphs, preprocessing, device, precision, threads, cache)
    else:
        from .openvino import OpenVinoRuntime

        started = OpenVinoRuntime(graphs, preprocessing, precision, threads, cache)
    if store.source.graphs is not None:
        _try_out(started, store.source)
    return started


def _try_out(runtime: Runtime, source: ModelSource) -> None:
    """Run two rows through every graph that we have not made: it may be another model's, or for one row alone.

    Raises:
        WeightsError: If a graph does not do what the model should.
    """
    from .probes import probes_of

    for entrance in sorted(source.frontend.modalities):
        told = f"the {entrance} graph of {str(source.graphs.folder)!r}" if source.graphs else entrance
        try:
            vectors = runtime.encode(entrance, probes_of(source.frontend, entrance, rows=2))
        except (MemoryError, DeviceError):
            raise
        except Exception as err:  # the runtimes' own: shapes and types that do not fit
            raise WeightsError(f"{told} does not take what its model is given: {err}") from err
        if vectors.shape != (2, source.frontend.dim):
            raise WeightsError(f"{told} returns {vectors.shape} for 2 rows; its model has {source.frontend.dim} values")

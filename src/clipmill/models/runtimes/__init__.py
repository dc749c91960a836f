"""The runtimes, which execute the towers.

- `pytorch`: torch, on CPU and CUDA
- `onnx`, `openvino`: graphs, on ONNX Runtime (CPU and CUDA) and OpenVINO (CPU); `feeding`: code that both share
- `graphs`, `reduced`: make graphs from towers, and graphs with smaller weights from those; `store` caches them
- `choice`: selects a runtime and precision for a spec on this machine, of its `candidates`; `probes`: inputs to check
  them with; `streams`: how many calls run at once
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DeviceError, WeightsError
from ...messages import setting
from ..installed import require_torch
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
"""The kind of graphs for each runtime and precision."""


def start_runtime(store: Store, combination: Combination, device: str, threads: int, streams: int = 1) -> Runtime:
    """Start the runtime of a model.

    Args:
        store: The model and its cached graphs.
        combination: Runtime and precision.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.
        streams: Calls that run at once on a CPU, from as many threads, on an equal part of the cores each.

    Raises:
        WeightsError: If the weights do not fit, or no graph can be made from them.
        DeviceError: If this machine does not support the combination.
        MissingExtraError: If the runtime is not installed.
    """
    runtime, precision = combination
    preprocessing = store.source.frontend.image
    if runtime == "torch":
        require_torch(setting("runtime", "torch"))
        from .pytorch import TorchRuntime, use_threads

        if device == "cpu":
            use_threads(max(1, threads // streams))
        towers = store.towers
        store.drop_towers()  # the runtime owns them from here on, and may change them
        return TorchRuntime(towers, preprocessing, device, precision)
    kind = GRAPH_KINDS[combination]
    graphs, cache = store.graphs(kind), store.compiled(kind)
    started: Runtime
    if runtime == "onnx":
        from .onnx import OnnxRuntime

        started = OnnxRuntime(graphs, preprocessing, device, precision, max(1, threads // streams), cache, streams)
    elif runtime == "openvino":
        from .openvino import OpenVinoRuntime

        started = OpenVinoRuntime(graphs, preprocessing, precision, threads, cache, streams)
    else:
        raise NotImplementedError(runtime)
    if store.source.graphs is not None:
        _check_graphs(started, store.source)
    return started


def _check_graphs(runtime: Runtime, source: ModelSource) -> None:
    """Run two rows through every given graph: it may belong to another model, or accept a single row only.

    Raises:
        WeightsError: If a graph does not fit its model.
    """
    from .probes import probes_of

    for model_input in sorted(source.frontend.modalities):
        name = f"the {model_input} graph of {str(source.graphs.folder)!r}" if source.graphs else model_input
        try:
            vectors = runtime.encode(model_input, probes_of(source.frontend, model_input, rows=2))
        except (MemoryError, DeviceError):
            raise
        except Exception as err:  # the runtimes' errors, for shapes and types that do not fit
            raise WeightsError(f"{name} does not accept the inputs of its model: {err}") from err
        if vectors.shape != (2, source.frontend.dim):
            raise WeightsError(f"{name} returns {vectors.shape} for 2 rows; its model has {source.frontend.dim} values")

"""What executes the towers.

- `pytorch`: torch, on CPU and CUDA
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Runtime
    from ..spec import EncoderSpec
    from ..towers.source import Source


def start_runtime(source: Source, spec: EncoderSpec, device: str, threads: int) -> Runtime:
    """Start what executes a model's towers, as the spec wants it.

    Args:
        source: The model.
        spec: Whose `runtime` and `precision` hold.
        device: `cpu` or `cuda:X`.
        threads: Cores that this worker may use.

    Raises:
        WeightsError: If the weights do not fit.
    """
    from .pytorch import TorchRuntime, use_threads

    if device == "cpu":
        use_threads(threads)
    return TorchRuntime(source.build(), source.frontend.image, device)
